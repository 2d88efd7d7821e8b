"""Folders, lists and S3 are sources: files are listed by name, stamped, read and handed out."""

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from file_server import FileServer

from cloud.s3 import S3Folder
from utils.recordings import find_recordings
from utils.sources import Fetching, FileList, Folder, Source, SourceError, open_source

ROOT = Path(__file__).resolve().parent.parent


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_files_are_listed_by_their_names_in_order(tmp_path):
    make(tmp_path, "b/2.mp4", "b/1/z.txt", "a.mp4", "b/10.mp4")
    source: Source = Folder(tmp_path)
    assert source.list_files() == ["a.mp4", "b/1/z.txt", "b/10.mp4", "b/2.mp4"]
    assert source.name == str(tmp_path)
    assert not source.is_remote


def test_hidden_files_and_folders_are_left_out(tmp_path):
    make(tmp_path, "a/b.mp4", "a/.c.mp4", ".d/e.mp4")
    assert Folder(tmp_path).list_files() == ["a/b.mp4"]


def test_empty_folder_is_a_name_that_ends_in_a_slash(tmp_path):
    make(tmp_path, "a/b.mp4", "c/.hidden")
    (tmp_path / "d" / "e").mkdir(parents=True)
    assert Folder(tmp_path).list_files() == ["a/b.mp4", "c/", "d/e/"]


def test_folder_that_is_itself_empty_lists_nothing(tmp_path):
    assert Folder(tmp_path).list_files() == []


def test_missing_folder_is_refused_with_the_cure(tmp_path):
    with pytest.raises(SourceError) as error:
        Folder(tmp_path / "nowhere").list_files()
    assert "\n" not in str(error.value)
    assert str(tmp_path / "nowhere") in str(error.value)
    assert "--data-dir" in str(error.value)


def test_link_to_one_folder_in_two_classes_is_seen_in_both(tmp_path):
    elsewhere = make(tmp_path / "disk", "far.mp4")
    data = make(tmp_path / "data", "ads/a.mp4", "games/b.mp4")
    for name in ("ads/one", "ads/two", "games/one"):
        (data / name).symlink_to(elsewhere)
    names = ["ads/a.mp4", "ads/one/far.mp4", "games/b.mp4", "games/one/far.mp4"]
    assert Folder(data).list_files() == names


def test_stamp_changes_with_the_content_even_where_the_old_time_is_set_back(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"one")
    source = Folder(tmp_path)
    before, times = source.stamp("a.mp4"), path.stat()
    assert source.stamp("a.mp4") == before
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert source.stamp("a.mp4") != before


def test_fetch_hands_out_the_folder_itself_and_leaves_it(tmp_path):
    make(tmp_path, "ads/a.mp4").joinpath("ads/a.mp4").write_bytes(b"bytes")
    source = Folder(tmp_path)
    with source.fetch(["ads/a.mp4"]) as folder:
        assert (folder / "ads/a.mp4").read_bytes() == source.read_bytes("ads/a.mp4") == b"bytes"
    assert (tmp_path / "ads/a.mp4").exists()


# --- lists


@pytest.fixture
def server():
    with FileServer(
        {"/v/ads/a b.mp4": b"spot", "/x.mp4": b"match", "/x.csv": b"0,1,ads"}
    ) as server:
        yield server


def write_list(folder: Path, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder / "list.txt"


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
        ("ftp://host/ads/x.mp4", "http://, https:// and paths"),
        ("s3://bucket/ads/x.mp4", "http://, https:// and paths"),
        ("https://me:secret@host/ads/x.mp4", "password"),
    ],
)
def test_line_that_says_too_little_is_refused_by_its_number(tmp_path, line, said):
    path = write_list(tmp_path, "# mine", line)
    with pytest.raises(SourceError, match=said) as error:
        FileList(path)
    assert str(error.value).startswith(f"{path}, line 2")
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_two_lines_of_one_name_are_refused_by_their_numbers(tmp_path):
    path = write_list(tmp_path, "/a/ads/x.mp4", "", "http://host/b/ads/x.mp4")
    with pytest.raises(SourceError, match=r"line 3 and line 1 are both ads/x.mp4.*behind a tab"):
        FileList(path)


def test_binary_file_is_no_list(tmp_path):
    (tmp_path / "x.mp4").write_bytes(bytes(range(256)))
    with pytest.raises(SourceError, match="not a text file"):
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
    assert files.stamp("ads/x.mp4") != stamp


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


# --- fetching


class SlowPlace:
    """Two files that take as long as a test likes."""

    name, is_remote = "slow", True

    def __init__(self, meanwhile=lambda: None):
        self.meanwhile = meanwhile

    def list_files(self) -> list[str]:
        return ["ads/a.mp4", "ads/b.mp4"]

    def download(self, name: str, path: Path) -> None:
        path.write_bytes(name.encode())
        self.meanwhile()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_fetched_files_are_deleted_whatever_ends_their_use(tmp_path, error):
    def use() -> None:
        with Fetching(SlowPlace(), tmp_path).fetch(["ads/a.mp4"]) as folder:
            assert (folder / "ads/a.mp4").read_bytes() == b"ads/a.mp4"
            raise error

    with pytest.raises(error):
        use()
    assert os.listdir(tmp_path) == []


def test_download_that_fails_leaves_nothing(tmp_path):
    def fail() -> None:
        raise OSError("broken")

    with (
        pytest.raises(OSError, match="broken"),
        Fetching(SlowPlace(fail), tmp_path).fetch(["ads/a.mp4"]),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_fetches_side_by_side_keep_out_of_each_others_way(tmp_path):
    source = Fetching(SlowPlace(), tmp_path)
    with source.fetch(["ads/a.mp4"]) as one, source.fetch(["ads/a.mp4"]) as other:
        assert one != other
        assert (one / "ads/a.mp4").exists()
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_fetched_is_deleted_by_the_next(tmp_path):
    code = (
        "import os, signal, sys; sys.path.insert(0, 'tests')\n"
        "from test_sources import Fetching, SlowPlace\n"
        "with Fetching(SlowPlace(), sys.argv[1]).fetch(['ads/a.mp4']):\n"
        "    print('fetched', flush=True)\n"
        "    input()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout.readline() == b"fetched\n"
    left = os.listdir(tmp_path)
    with Fetching(SlowPlace(), tmp_path).fetch([]):
        assert set(left) < set(os.listdir(tmp_path))  # it is still in use
    child.kill()
    child.wait()
    assert os.listdir(tmp_path) == left
    with Fetching(SlowPlace(), tmp_path).fetch([]):
        assert not set(left) & set(os.listdir(tmp_path))
    child.stdin.close()
    child.stdout.close()


def test_many_threads_fetch_and_clean_up_at_once(tmp_path):
    source = Fetching(SlowPlace(), tmp_path)

    def use(_: int) -> bool:
        with source.fetch(["ads/a.mp4", "ads/b.mp4"]) as folder:
            return (folder / "ads/a.mp4").exists() and (folder / "ads/b.mp4").exists()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(200)))
    assert os.listdir(tmp_path) == []


# --- what a text names


def test_text_names_a_folder_a_list_or_s3(tmp_path):
    path = write_list(tmp_path, "ads/x.mp4")
    assert isinstance(open_source(str(tmp_path), tmp_path), Folder)
    assert isinstance(open_source("not-there", tmp_path), Folder)  # which says so when it is listed
    assert open_source(str(path), tmp_path).list_files() == ["ads/x.mp4"]
    asked = []
    source = open_source(
        "s3://b/p", tmp_path, s3_folder=lambda url: asked.append(url) or SlowPlace()
    )
    assert asked == ["s3://b/p"]
    assert source.list_files() == ["ads/a.mp4", "ads/b.mp4"]


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("s3://bucket/prefix", "pass a folder"),
        ("https://host/x.mp4?secret", "write URLs into a text file"),
        ("gs://bucket/prefix", "pass a folder, a list"),
        ("not-there.txt", "there is no list not-there.txt"),
    ],
)
def test_text_that_names_none_of_these_is_refused_with_the_cure(tmp_path, text, cure):
    with pytest.raises(SourceError, match=cure) as error:
        open_source(text, tmp_path)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


# --- S3


def test_s3_is_a_source_whose_files_are_fetched_and_deleted(s3, tmp_path):
    bucket = s3.new_bucket()
    s3.put(bucket, **{"d/ads/a.mp4": b"spot", "d/ads/a.wav": b"sound", "d/games/b.mp4": b"game"})
    source = open_source(f"s3://{bucket}/d/", tmp_path, s3_folder=S3Folder)
    assert (source.name, source.is_remote) == (f"s3://{bucket}/d", True)
    recordings = find_recordings(source)
    assert [r.files for r in recordings] == [("ads/a.mp4", "ads/a.wav"), ("games/b.mp4",)]
    with pickle.loads(pickle.dumps(source)).fetch(recordings[0].files) as folder:
        assert (folder / "ads/a.mp4").read_bytes() == b"spot"
        assert (folder / "ads/a.wav").read_bytes() == source.read_bytes("ads/a.wav") == b"sound"
    assert os.listdir(tmp_path) == []


def test_object_that_is_gone_leaves_nothing_and_is_its_own_mistake(s3, tmp_path):
    bucket = s3.new_bucket()
    s3.put(bucket, **{"d/ads/a.mp4": b"spot"})
    source = open_source(f"s3://{bucket}/d", tmp_path, s3_folder=S3Folder)
    source.list_files()
    s3.client.delete_object(Bucket=bucket, Key="d/ads/a.mp4")
    with pytest.raises(FileNotFoundError, match="no such object"), source.fetch(["ads/a.mp4"]):
        pass
    assert os.listdir(tmp_path) == []
