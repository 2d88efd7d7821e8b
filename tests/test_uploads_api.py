"""Uploads go to disk in bounds, are kept where they decode, and leave nothing where they do not."""

import contextlib
import re
import socket
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.crashing import crash
from tests.pages import make_settings, open_page
from tests.steady import Stopwatch, wait_until
from tests.trainings import write_clip
from web import reception, uploads_api

NAMES = [  # what a name may not be
    "../game.mp4",
    "..%2fgame.mp4",
    "..\\game.mp4",
    "/etc/game.mp4",
    "C:game.mp4",
    "a/b.mp4",
    "a\x00.mp4",
    "a\n.mp4",
    ".mp4",
    ".hidden.mp4",
    "...mp4",
    " .mp4",
    "x" * 250 + ".mp4",
    "ü" * 120 + ".mp4",
]


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> bytes:
    return write_clip(tmp_path_factory.mktemp("video") / "game.mp4", "games", 1, 1.0).read_bytes()


@pytest.fixture(scope="module")
def open_for_all(tmp_path_factory):
    with open_page(make_settings(tmp_path_factory.mktemp("page"))) as client:
        yield client


@pytest.fixture
def page(open_for_all):
    """A page to which nothing was uploaded; its workers are those of the tests before."""
    folder = open_for_all.app.state.services.settings.uploads.path
    for path in folder.iterdir():
        path.unlink()
    return open_for_all


@pytest.fixture
def made(tmp_path):
    """Opens a page with these settings; all are closed in the end."""
    with contextlib.ExitStack() as stack:
        yield lambda **more: stack.enter_context(open_page(make_settings(tmp_path, **more)))


def folder_of(page) -> Path:
    return page.app.state.services.settings.uploads.path


def left(page) -> list[str]:
    """Everything that lies in the folder of uploads."""
    return sorted(path.name for path in folder_of(page).iterdir())


def upload(page, name: str, content, **how):
    return page.post("/api/uploads", params={"name": name}, content=content, **how)


def test_upload_is_a_recording_of_its_folder(page, video):
    found = upload(page, "Größe 1.MP4", video)
    assert found.status_code == 201, found.text
    assert (found.json()["name"], found.json()["folder"]) == ("Größe 1.mp4", "uploads")
    assert left(page) == ["Größe 1.mp4"]
    assert (folder_of(page) / "Größe 1.mp4").read_bytes() == video
    recording = page.app.state.services.library.find(found.json()["id"])
    assert recording.path == folder_of(page) / "Größe 1.mp4"


def test_upload_replaces_none_of_that_name(page, video):
    ids = {upload(page, "a.mp4", video).json()["id"] for _ in range(3)}
    assert len(ids) == 3
    assert left(page) == ["a (2).mp4", "a (3).mp4", "a.mp4"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_elsewhere_are_refused(page, video, name):
    before = paths_of(page)
    for path in ("/api/uploads", "/api/classify"):
        found = page.post(path, params={"name": name}, content=video)
        assert found.status_code in (400, 415, 422), found.text
        assert set(found.json()) == {"error", "kind"}
    assert paths_of(page) == before


def paths_of(page) -> list[Path]:
    """All that is there, but the page's list of recordings, which it writes when it has time."""
    settings = page.app.state.services.settings
    own = re.compile(r"recordings\.json|\.recordings\.json\.\d+\.partial")
    return sorted(
        path
        for path in settings.cache_dir.parent.rglob("*")
        if path.parent != settings.review_dir or not own.fullmatch(path.name)
    )


@pytest.mark.parametrize("name", ["game.txt", "game", "game.mp4.exe", "game.json"])
def test_only_videos_are_taken_by_name(page, video, name):
    assert upload(page, name, video).status_code == 415
    assert left(page) == []


@pytest.mark.parametrize(
    "content",
    [b"no video" * 1000, b"\x00" * 100_000, b"<html></html>", b"RIFF\x00\x00\x00\x00AVI "],
)
def test_what_does_not_decode_is_refused_and_gone(page, content):
    found = upload(page, "game.mp4", content)
    assert (found.status_code, found.json()["kind"]) == (415, "no_video")
    assert "game.mp4" in found.json()["error"]
    assert str(folder_of(page)) not in found.json()["error"]
    assert left(page) == []


def test_empty_upload_is_refused(page):
    assert upload(page, "game.mp4", b"").status_code == 400
    assert left(page) == []


def test_upload_that_crashes_the_decoder_is_refused_and_the_page_goes_on(page, video, monkeypatch):
    monkeypatch.setattr(uploads_api, "probe_file", crash)
    found = upload(page, "game.mp4", video)
    assert found.status_code == 415
    assert left(page) == []
    monkeypatch.undo()
    assert upload(page, "game.mp4", video).status_code == 201


def test_uploads_are_bounded_in_size_said_or_not(made, video):
    page = made(max_upload_bytes=len(video) - 1)
    said = upload(page, "game.mp4", video)
    unsaid = upload(page, "game.mp4", iter([video[:100], video[100:]]))
    for found in (said, unsaid):
        assert (found.status_code, found.json()["kind"]) == (413, "too_large")
        assert "--max-upload-gb" in found.json()["error"]
    assert left(page) == []


def test_uploads_are_bounded_in_number(made, video):
    page = made(max_uploads=2)
    assert [upload(page, "a.mp4", video).status_code for _ in range(3)] == [201, 201, 429]
    assert len(left(page)) == 2
    (folder_of(page) / "a.mp4").unlink()
    assert upload(page, "b.mp4", video).status_code == 201


def test_upload_is_refused_where_the_disk_has_no_room(page, video, monkeypatch):
    monkeypatch.setattr(reception, "SPARE_BYTES", 1 << 62)
    found = upload(page, "game.mp4", video)
    assert (found.status_code, found.json()["kind"]) == (507, "disk_full")
    assert left(page) == []


def test_disk_that_gets_full_meanwhile_refuses_and_leaves_nothing(page, video, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reception, "_write", full)
    found = upload(page, "game.mp4", video)
    assert (found.status_code, found.json()["kind"]) == (507, "disk_full")
    assert left(page) == []


def test_sender_that_falls_silent_is_not_waited_for(page, video, monkeypatch):
    monkeypatch.setattr(reception, "PATIENCE_SECONDS", 0.3)
    with Served(page.app) as address:
        answer = send_slowly(address, [video[:100]], len(video))
    assert "408" in answer
    assert "nothing came" in answer
    assert left(page) == []


def test_what_a_killed_process_left_is_removed_at_the_start(made, tmp_path):
    folder = tmp_path / "cache" / "uploads"
    folder.mkdir(parents=True)
    (folder / ".0123.partial").write_bytes(b"half")
    (folder / "mine.mp4").write_bytes(b"mine")
    assert left(made()) == ["mine.mp4"]


def test_sender_that_leaves_leaves_nothing(page, video):
    with Served(page.app) as address:
        connection = socket.create_connection(address)
        connection.sendall(upload_head(10**6) + video[:500])
        wait_until(lambda: len(left(page)) == 1)
        connection.close()
        wait_until(lambda: left(page) == [])


def test_slow_senders_and_idle_connections_stop_nobody(page, video):
    with Served(page.app) as address:
        head = upload_head(9999)
        slow = [socket.create_connection(address) for _ in range(reception.AT_ONCE)]
        for connection in slow:
            connection.sendall(head + b"x")
        idle = [socket.create_connection(address) for _ in range(200)]
        half = [socket.create_connection(address) for _ in range(50)]
        for connection in half:
            connection.sendall(b"GET /api/hea")
        readers = [socket.create_connection(address) for _ in range(20)]
        for connection in readers:  # of events, which they never read
            connection.sendall(b"GET /api/jobs/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        wait_until(lambda: len(left(page)) == reception.AT_ONCE)
        with Stopwatch() as watch:
            for _ in range(20):
                assert ask(
                    address, b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
                ).startswith(b"HTTP/1.1 200")
        assert watch.seconds < 5
        fifth = ask(address, head + b"x")
        assert fifth.startswith(b"HTTP/1.1 429")
        for connection in [*slow, *idle, *half, *readers]:
            connection.close()
        wait_until(lambda: left(page) == [])


def test_large_upload_is_never_whole_in_memory(page, monkeypatch):
    held, write = [], reception._write

    def watch(file, piece):
        held.append(len(piece))
        write(file, piece)

    monkeypatch.setattr(reception, "_write", watch)
    with Served(page.app) as address:
        answer = send_slowly(address, (b"x" * 65536 for _ in range(800)), 65536 * 800)
    assert "415" in answer
    assert sum(held) == 65536 * 800
    assert max(held) <= 2 * reception.PIECE_BYTES
    assert left(page) == []


class Served:
    """The app at a port of its own, in a thread."""

    def __init__(self, app):
        import uvicorn

        self._socket = socket.create_server(("127.0.0.1", 0), backlog=500)
        how = {"log_config": None, "lifespan": "off", "timeout_graceful_shutdown": 1}
        self._server = uvicorn.Server(uvicorn.Config(app, **how))
        run = self._server.run
        self._thread = threading.Thread(target=run, kwargs={"sockets": [self._socket]})

    def __enter__(self) -> tuple[str, int]:
        self._thread.start()
        return self._socket.getsockname()

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()


def ask(address: tuple[str, int], request: bytes) -> bytes:
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(request)
        return connection.recv(65536)


def upload_head(length: int) -> bytes:
    lines = "POST /api/uploads?name=a.mp4 HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}"
    return "\r\n".join([*lines, "", ""]).encode()


def send_slowly(address: tuple[str, int], pieces: Iterable[bytes], length: int) -> str:
    """What comes back of an upload in pieces, which may be fewer than it says."""
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(upload_head(length))
        for piece in pieces:
            connection.sendall(piece)
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
            piece = connection.recv(4096)
            assert piece, answer
            answer += piece
        return answer.decode()
