"""A file of a web server comes whole, in one version, however often the connection breaks."""

import errno
import os
import pickle
from io import BytesIO
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from tests.file_server import FileServer
from utils import urls
from utils.urls import UrlError, UrlFileError, download_url, read_url, show_url, stamp_url

CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(urls, "FIRST_WAIT_SECONDS", 0.001)
    with FileServer({"/a.mp4": CONTENT, "/empty": b""}) as server:
        yield server


def fetched(server: FileServer, tmp_path, name: str = "/a.mp4") -> bytes:
    download_url(server.url + name, tmp_path / "file")
    return (tmp_path / "file").read_bytes()


def ranges(server: FileServer) -> list[str | None]:
    return [asked for _, asked in server.requests]


# --- whole files


def test_file_comes_as_it_is(server, tmp_path):
    assert fetched(server, tmp_path) == read_url(f"{server.url}/a.mp4") == CONTENT
    assert fetched(server, tmp_path, "/empty") == b""


@pytest.mark.parametrize("path", ["/a b ü.mp4", "/a%20b%20%C3%BC.mp4", "/a b%20ü.mp4?x=1"])
def test_blanks_and_umlauts_may_be_written_as_they_are(server, tmp_path, path):
    server.files["/a b ü.mp4"] = b"content"
    assert fetched(server, tmp_path, path) == b"content"


def test_file_of_unknown_size_comes_as_it_is(server, tmp_path):
    server.says_size = False
    assert fetched(server, tmp_path) == CONTENT


@pytest.mark.parametrize("version", ["etag", "date"])
def test_broken_connection_is_taken_up_where_it_broke(server, tmp_path, version):
    if version == "date":
        server.etag, server.date = None, "Sat, 21 Nov 2026 10:00:00 GMT"
    server.break_after = [1000, 2000]
    assert fetched(server, tmp_path) == CONTENT
    assert ranges(server) == [None, "bytes=1000-", "bytes=3000-"]


def test_server_that_can_not_resume_is_asked_for_all_again(server, tmp_path):
    server.resumes = False
    server.break_after = [1000, 2000]
    assert fetched(server, tmp_path) == CONTENT
    assert len(server.requests) == 3


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_nothing_is_put_together_where_no_version_says_that_it_belongs_together(
    server, tmp_path, etag
):
    server.etag = etag
    server.break_after = [1000]
    assert fetched(server, tmp_path) == CONTENT
    assert ranges(server) == [None, None]


@pytest.mark.parametrize("size", [len(CONTENT), 700, 10_000])
def test_file_replaced_between_two_parts_is_read_anew(server, tmp_path, monkeypatch, size):
    new = bytes(size)

    def replace(seconds: float) -> None:
        server.files["/a.mp4"], server.etag = new, '"2"'

    monkeypatch.setattr(urls.time, "sleep", replace)
    server.break_after = [1000]
    assert fetched(server, tmp_path) == new


def test_server_that_ignores_the_version_asked_for_gives_no_mixture(server, tmp_path, monkeypatch):
    new = bytes(len(CONTENT))

    def replace(seconds: float) -> None:
        server.files["/a.mp4"], server.etag, server.date = new, '"2"', '"1"'  # takes either

    monkeypatch.setattr(urls.time, "sleep", replace)
    server.break_after = [1000]
    assert fetched(server, tmp_path) == new
    assert ranges(server) == [None, "bytes=1000-", None]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_server_is_asked_again(server, tmp_path, status):
    server.answers = [status] * 3
    assert fetched(server, tmp_path) == CONTENT


def test_wait_is_what_the_server_asks_for_and_bounded(server, monkeypatch):
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    fake = SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep)
    monkeypatch.setattr(urls, "time", fake)
    monkeypatch.setattr(urls, "ATTEMPTS", 2)
    for asked_seconds, waited_seconds in ((7, 7), (10_000, urls.LONGEST_WAIT_SECONDS)):
        clock[0] = 0.0
        busy = urls._Broken("busy", asked_seconds)
        monkeypatch.setattr(urls, "_open", Mock(side_effect=busy))
        with pytest.raises(UrlError):
            read_url(f"{server.url}/a.mp4")
        assert clock[0] == pytest.approx(waited_seconds)


def test_connection_that_breaks_often_goes_on_for_as_long_as_something_comes(server, tmp_path):
    server.break_after = [10_000] * 50
    assert fetched(server, tmp_path) == CONTENT


def test_connection_that_brings_nothing_more_is_given_up(server, tmp_path):
    server.resumes = False
    server.break_after = [1000] * 100
    with pytest.raises(UrlError, match=r"can't be read .*check the network"):
        fetched(server, tmp_path)
    assert len(server.requests) == urls.ATTEMPTS + 1


# --- stamps


def test_stamp_costs_one_byte_and_changes_with_the_version(server):
    old = stamp_url(f"{server.url}/a.mp4")
    assert ranges(server) == ["bytes=0-0"]
    assert old == stamp_url(f"{server.url}/a.mp4") == [len(CONTENT), '"1"']
    server.etag = '"2"'
    assert stamp_url(f"{server.url}/a.mp4") != old
    server.etag, server.files["/a.mp4"] = '"1"', b"shorter"
    assert stamp_url(f"{server.url}/a.mp4") == [7, '"1"']


@pytest.mark.parametrize("resumes", [True, False])
def test_stamp_of_an_empty_file(server, resumes):
    server.resumes = resumes
    assert stamp_url(f"{server.url}/empty") == [0, '"1"']


def test_stamp_is_the_date_or_a_weak_etag_where_that_is_all_there_is(server):
    server.etag, server.resumes = 'W/"1"', False
    assert stamp_url(f"{server.url}/a.mp4") == [len(CONTENT), 'W/"1"']
    server.date = "Sat, 21 Nov 2026 10:00:00 GMT"
    assert stamp_url(f"{server.url}/a.mp4") == [len(CONTENT), server.date]


def test_stamp_is_never_the_same_where_the_server_says_nothing(server):
    server.etag = None
    assert stamp_url(f"{server.url}/a.mp4") != stamp_url(f"{server.url}/a.mp4")


# --- refusals


@pytest.mark.parametrize(
    ("status", "cure"), [(404, "correct or remove"), (410, "remove"), (403, "get a URL that")]
)
def test_refused_file_is_one_files_mistake(server, tmp_path, status, cure):
    for ask in (lambda: fetched(server, tmp_path), lambda: stamp_url(f"{server.url}/a.mp4?key=x")):
        server.answers = [status]
        with pytest.raises(FileNotFoundError, match=cure) as error:
            ask()
        assert error.value.filename == f"{server.url}/a.mp4"
        assert error.value.errno == errno.ENOENT
        assert "\n" not in error.value.strerror


def test_url_that_is_none_is_one_files_mistake(tmp_path):
    with pytest.raises(UrlFileError, match="is no URL"):
        download_url("http://host:port/a.mp4", tmp_path / "file")


def test_server_that_is_not_there_is_no_files_mistake(server, tmp_path):
    with pytest.raises(UrlError, match=r"refused.*check the network") as error:
        download_url("http://127.0.0.1:9/a.mp4", tmp_path / "file")
    assert not isinstance(error.value, FileNotFoundError)


def test_redirections_are_followed_to_the_web_alone(server, tmp_path):
    server.redirections = {"/b": "/c", "/c": f"{server.url}/a.mp4"}
    assert fetched(server, tmp_path, "/b") == CONTENT
    for target in ("file:///etc/hostname", "ftp://127.0.0.1/x"):
        server.redirections = {"/b": target}
        with pytest.raises(UrlFileError):
            fetched(server, tmp_path, "/b")


def test_endless_redirections_are_refused(server, tmp_path):
    server.redirections = {f"/{k}": f"/{k + 1}" for k in range(100)} | {"/loop": "/loop"}
    for start in ("/0", "/loop"):
        server.requests.clear()
        with pytest.raises(UrlFileError):
            fetched(server, tmp_path, start)
        assert len(server.requests) <= urls.MAX_REDIRECTS + 1


def test_full_disk_stays_a_full_disk_and_is_not_tried_again(server):
    class FullDisk(BytesIO):
        def write(self, _) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        urls._download(f"{server.url}/a.mp4", FullDisk())
    assert len(server.requests) == 1


def test_what_progress_raises_ends_a_download_and_a_wait(server, tmp_path, monkeypatch):
    def stop(_: int) -> None:
        raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        download_url(f"{server.url}/a.mp4", tmp_path / "file", stop)
    monkeypatch.setattr(urls, "FIRST_WAIT_SECONDS", 1000)
    with pytest.raises(InterruptedError, match="enough"):
        download_url("http://127.0.0.1:9/a.mp4", tmp_path / "file", stop)


def test_secrets_of_a_url_are_not_shown():
    assert show_url("https://h/a%20b.mp4?X-Amz-Signature=abc#t=1") == "https://h/a%20b.mp4"


def test_errors_survive_the_way_between_processes():
    error = UrlFileError("is gone", "http://h/x?secret")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.errno, copy.strerror, copy.filename) == (
        UrlFileError,
        errno.ENOENT,
        "is gone",
        "http://h/x",
    )
