"""Folders, lists and S3 are sources: files are listed by name, stamped, read and handed out."""

import os
import pickle
from pathlib import Path

import pytest

from cloud.s3 import S3Folder
from utils.recordings import find_recordings
from utils.sources import Folder, Source, SourceError, open_source

ROOT = Path(__file__).resolve().parent.parent


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def write_list(folder: Path, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder / "list.txt"


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


# --- what a text names


def test_text_names_a_folder_a_list_or_s3(tmp_path):
    path = write_list(tmp_path, "ads/x.mp4")
    assert isinstance(open_source(str(tmp_path), tmp_path), Folder)
    assert isinstance(open_source("not-there", tmp_path), Folder)  # which says so when it is listed
    assert open_source(str(path), tmp_path).list_files() == ["ads/x.mp4"]
    assert open_source("s3://bucket/p", tmp_path, s3_folder=S3Folder).name == "s3://bucket/p"


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
