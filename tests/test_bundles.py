"""Files that belong together are read together or not at all."""

import os

import pytest

from utils.bundles import forget_bundles, read_bundle, write_bundle

FILES = {"a.bin": b"first", "b.bin": b""}
INFO = {"version": 3, "names": ["x"]}


@pytest.fixture
def index(tmp_path):
    return tmp_path / "made" / "index.json"


def test_what_was_written_is_read(index):
    write_bundle(index, FILES, INFO)
    assert read_bundle(index) == (FILES, INFO)
    assert sorted(path.name for path in index.parent.iterdir()) == ["a.bin", "b.bin", "index.json"]


def test_the_last_one_written_is_read(index):
    write_bundle(index, FILES, INFO)
    write_bundle(index, {"a.bin": b"second"}, {})
    assert read_bundle(index) == ({"a.bin": b"second"}, {})


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"files": 1}', b'{"files": ["a.bin"]}'])
def test_what_is_no_index_is_nothing(index, content):
    assert read_bundle(index) is None
    write_bundle(index, FILES, INFO)
    index.write_bytes(content)
    assert read_bundle(index) is None


@pytest.mark.parametrize("content", [None, b"", b"firsT", b"first and more"])
def test_file_that_is_lost_or_another_spoils_all(index, content):
    write_bundle(index, FILES, INFO)
    file = index.parent / "a.bin"
    file.unlink() if content is None else file.write_bytes(content)
    assert read_bundle(index) is None


def test_writing_that_ends_midway_leaves_no_mixture(index, monkeypatch):
    write_bundle(index, FILES, INFO)
    write = write_bundle.__globals__["write_whole"]

    def fail(path, content):
        if path.name == "b.bin":
            raise OSError("the disk is full")
        write(path, content)

    monkeypatch.setattr("utils.bundles.write_whole", fail)
    with pytest.raises(OSError, match="full"):
        write_bundle(index, {"a.bin": b"new", "b.bin": b"new"}, INFO)
    assert read_bundle(index) is None


def test_only_the_newest_are_left(tmp_path):
    forget_bundles(tmp_path / "nothing", "index.json", most=2)
    for age, name in enumerate("dbca"):
        index = tmp_path / name / "index.json"
        write_bundle(index, FILES, INFO)
        os.utime(index, (1000 - age, 1000 - age))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("somebody's")
    forget_bundles(tmp_path, "index.json", most=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "d", "other"]
    assert read_bundle(tmp_path / "b" / "index.json") == (FILES, INFO)
