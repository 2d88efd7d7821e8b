"""A list is a source: each line puts a file, from wherever it is, into a data folder."""

import os

import pytest

import prepare_data
from cloud.s3 import S3Folder
from tests.file_server import FileServer
from tests.test_sources import make, write_list
from tests.trainings import flags, run_script
from utils import urls
from utils.file_list import FileList, ListError
from utils.recordings import find_recordings
from utils.sources import Folder, open_source


@pytest.fixture
def server():
    with FileServer(
        {"/v/ads/a b.mp4": b"spot", "/x.mp4": b"match", "/x.csv": b"0,1,ads"}
    ) as server:
        yield server


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("ads/x.mp4", "ads/x.mp4"),
        ("/mnt/archive/ads/x.mp4", "ads/x.mp4"),
        ("../videos/games/a b, c.mp4", "games/a b, c.mp4"),
        ("/mnt/validation/ads/x.mp4", "validation/ads/x.mp4"),
        ("/mnt/validation/2024/ads/x.mp4", "ads/x.mp4"),
        ("x.mp4\tads", "ads/x.mp4"),
        ("/mnt/games/x.mp4\tads/channel5", "ads/channel5/x.mp4"),
        ("x.mp4\tvalidation/ads", "validation/ads/x.mp4"),
        ("x.ts\trecordings", "recordings/x.ts"),
        ("  ads/x.mp4 \t games/ \r", "games/x.mp4"),
        ("https://host/a/ads/x%20y.mp4?X-Amz-Signature=a/b", "ads/x y.mp4"),
        ("http://host/x.mp4\tgames", "games/x.mp4"),
    ],
)
def test_line_puts_a_file_where_it_would_lie_in_a_data_folder(tmp_path, line, name):
    assert FileList(write_list(tmp_path, line)).list_files() == [name]


def test_list_of_a_folders_own_files_names_them_as_the_folder_does(tmp_path):
    make(tmp_path, "ads/a.mp4", "games/b.mp4", "validation/ads/c.mp4", "recordings/d.ts")
    names = Folder(tmp_path).list_files()
    assert FileList(write_list(tmp_path, *reversed(names))).list_files() == names


def test_comments_and_empty_lines_say_nothing_and_a_byte_order_mark_neither(tmp_path):
    write_list(tmp_path, "\ufeff# mine", "", "  ", "ads/#1.mp4", "#ads/2.mp4")
    assert FileList(tmp_path / "list.txt").list_files() == ["ads/#1.mp4"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x.mp4", "behind a tab"),
        ("/x.mp4", "behind a tab"),
        ("../x.mp4", "behind a tab"),
        ("~/x.mp4", "behind a tab"),
        ("https://host/x.mp4", "behind a tab"),
        ("https://host/.mp4\tads", "behind a tab"),
        ("x.mp4\t../ads", "behind a tab"),
        ("x.mp4\tads//y", "behind a tab"),
        ("ftp://host/ads/x.mp4", "http://, https://, s3:// and paths"),
        ("s3://bucket/ads/x.mp4", "which is not read here"),
        ("https://me:secret@host/ads/x.mp4", "password"),
    ],
)
def test_line_that_says_too_little_is_refused_by_its_number(tmp_path, line, said):
    path = write_list(tmp_path, "# mine", line)
    with pytest.raises(ListError, match=said) as error:
        FileList(path)
    assert str(error.value).startswith(f"{path}, line 2")
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_two_lines_of_one_name_are_refused_by_their_numbers(tmp_path):
    path = write_list(tmp_path, "/a/ads/x.mp4", "", "http://host/b/ads/x.mp4")
    with pytest.raises(ListError, match=r"line 3 and line 1 are both ads/x.mp4.*behind a tab"):
        FileList(path)


def test_binary_file_is_no_list(tmp_path):
    (tmp_path / "x.mp4").write_bytes(bytes(range(256)))
    with pytest.raises(ListError, match="not a text file"):
        open_source(str(tmp_path / "x.mp4"), tmp_path)


def test_files_of_a_list_lie_at_their_names_while_they_are_used(tmp_path, server):
    make(tmp_path / "videos", "g.mp4").joinpath("g.mp4").write_bytes(b"game")
    path = write_list(
        tmp_path / "lists", "../videos/g.mp4\tgames/one", f"{server.url}/v/ads/a%20b.mp4"
    )
    source = open_source(str(path), tmp_path / "work")
    assert source.is_remote
    assert source.list_files() == ["ads/a b.mp4", "games/one/g.mp4"]
    with source.fetch(source.list_files()) as folder:
        assert (folder / "ads/a b.mp4").read_bytes() == b"spot"
        assert (folder / "games/one/g.mp4").read_bytes() == b"game"
    assert os.listdir(tmp_path / "work") == []
    assert (tmp_path / "videos/g.mp4").read_bytes() == b"game"
    assert source.read_bytes("ads/a b.mp4") == b"spot"
    assert source.read_bytes("games/one/g.mp4") == b"game"


def test_list_of_local_files_is_not_remote(tmp_path):
    make(tmp_path, "ads/a.mp4")
    assert not open_source(str(write_list(tmp_path, "ads/a.mp4")), tmp_path / "work").is_remote


def test_stamp_of_a_list_is_that_of_the_file(tmp_path, server):
    make(tmp_path, "ads/a.mp4")
    files = FileList(write_list(tmp_path, "ads/a.mp4", f"{server.url}/x.mp4?sig=1\tads"))
    assert files.stamp("ads/a.mp4") == Folder(tmp_path).stamp("ads/a.mp4")
    stamp = files.stamp("ads/x.mp4")
    # A signature is another one each day.
    again = FileList(write_list(tmp_path, f"{server.url}/x.mp4?sig=2\tads"))
    assert again.stamp("ads/x.mp4") == stamp
    server.etag = '"2"'
    assert FileList(again.name).stamp("ads/x.mp4") != stamp


def test_stamp_of_a_url_is_that_of_the_content_which_was_fetched_last(tmp_path, server):
    files = FileList(write_list(tmp_path, f"{server.url}/x.mp4\tads"))
    old = files.stamp("ads/x.mp4")
    server.etag, server.files["/x.mp4"] = '"2"', b"another match"
    assert files.stamp("ads/x.mp4") == old
    assert files.size_bytes("ads/x.mp4") == 5
    files.download("ads/x.mp4", tmp_path / "x")
    server.etag = '"3"'
    assert files.stamp("ads/x.mp4") == [f"{server.url}/x.mp4", 13, '"2"']


def test_servers_are_asked_for_all_stamps_once(tmp_path, server):
    server.files |= {f"/{k}.mp4": bytes(k) for k in range(20)}
    lines = [f"{server.url}/{k}.mp4\tads" for k in range(20)] + [f"{server.url}/gone.mp4\tads"]
    files = FileList(write_list(tmp_path, *lines))
    for _ in range(2):
        for k in range(20):
            assert files.stamp(f"ads/{k}.mp4")[1] == k
        with pytest.raises(FileNotFoundError, match="404"):
            files.stamp("ads/gone.mp4")
    # An empty file has no first byte to ask for.
    assert len(server.requests) == 21 + 1


def test_unreachable_server_is_said_before_each_of_its_files_was_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(urls, "FIRST_WAIT_SECONDS", 0.01)
    lines = [f"http://127.0.0.1:9/{k}.mp4\tads" for k in range(1000)]
    files = FileList(write_list(tmp_path, *lines))
    with pytest.raises(urls.UrlError, match="check the network"):
        files.stamp("ads/0.mp4")


@pytest.mark.parametrize(
    ("line", "cure"), [("ads/gone.mp4", "correct the line"), ("ads/gone.mp4 ads", "put a tab")]
)
def test_file_of_a_list_that_is_not_there_is_its_own_mistake(tmp_path, line, cure):
    source = open_source(str(write_list(tmp_path, line)), tmp_path / "work")
    name = source.list_files()[0]
    for ask in (lambda: source.stamp(name), lambda: source.fetch([name]).__enter__()):
        with pytest.raises(FileNotFoundError, match=cure) as error:
            ask()
        assert error.value.filename.endswith(name)


def test_recordings_of_a_list_are_found_with_their_sound(tmp_path):
    path = write_list(tmp_path, "/a/ads/x.mp4", "/b/audio/x.wav\tads", "/c/y.mp4\tgames/match1")
    recordings = find_recordings(open_source(str(path), tmp_path))
    assert [(r.files, r.labels, r.group) for r in recordings] == [
        (("ads/x.mp4", "ads/x.wav"), ("ads",), "ads/x.mp4"),
        (("games/match1/y.mp4",), ("games",), "games/match1"),
    ]


def test_list_of_paths_and_urls_is_prepared(tmp_path, server, clips_folder):
    videos = [path.relative_to(clips_folder).as_posix() for path in clips_folder.rglob("0.mp4")]
    server.files |= {"/new spots/1.mp4": (clips_folder / "ads/1.mp4").read_bytes()}
    lines = [clips_folder / video for video in videos]
    path = write_list(tmp_path, *map(str, lines), f"{server.url}/new spots/1.mp4\tads/channel 5")
    small = flags(frame_size="32,32", fps=2, workers=1, cache_dir=tmp_path / "cache")
    done = run_script(prepare_data, path, *small)
    assert done.code == 0, done.err
    assert "ready       3 recordings" in done.out
    assert os.listdir(tmp_path / "cache/fetched") == []
    server.requests.clear()
    again = run_script(prepare_data, path, *small)
    assert "ready       3 recordings" in again.out
    assert [asked for _, asked in server.requests] == ["bytes=0-0"]


def test_list_may_name_objects_on_s3(tmp_path, s3):
    bucket = s3.new_bucket()
    s3.put(bucket, **{"archive/ads/a.mp4": b"spot", "archive/x.mp4": b"match"})
    lines = (f"s3://{bucket}/archive/ads/a.mp4", f"s3://{bucket}/archive/x.mp4\tgames")
    source = open_source(str(write_list(tmp_path, *lines)), tmp_path / "work", S3Folder)
    assert source.is_remote
    assert source.list_files() == ["ads/a.mp4", "games/x.mp4"]
    assert source.place("games/x.mp4") == f"s3://{bucket}/archive/x.mp4"
    folder = S3Folder(f"s3://{bucket}/archive")
    assert source.stamp("ads/a.mp4") == folder.stamp("ads/a.mp4")
    assert source.read_bytes("ads/a.mp4") == b"spot"
    with source.fetch(["ads/a.mp4", "games/x.mp4"]) as place:
        assert (place / "games" / "x.mp4").read_bytes() == b"match"


def test_files_lie_where_the_list_and_a_folder_say(tmp_path, monkeypatch):
    make(tmp_path, "ads/a.mp4")
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / "ads" / "a.mp4")
    assert Folder(".").place("ads/a.mp4") == path
    assert FileList(write_list(tmp_path, "ads/a.mp4")).place("ads/a.mp4") == path
