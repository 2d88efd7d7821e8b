"""A file is written whole or not at all."""

import errno
import os

import pytest

from utils import files
from utils.files import write_whole


def test_file_holds_the_bytes_and_nothing_lies_beside_it(tmp_path):
    write_whole(tmp_path / "a.json", b"old, and longer")
    write_whole(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch, step):
    def fail(*_):
        raise OSError(errno.ENOSPC, "no space")

    write_whole(tmp_path / "a.json", b"old")
    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(OSError, match="no space"):
        write_whole(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_ctrl_c_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    write_whole(tmp_path / "a.json", b"old")
    monkeypatch.setattr(files.os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    done = []

    def fsync(number):
        done.append(("fsync", os.fstat(number).st_size))

    def replace(source, target):
        done.append(("replace", os.path.getsize(source)))

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "replace", replace)
    write_whole(tmp_path / "a.json", b"12345")
    assert done == [("fsync", 5), ("replace", 5)]


def test_folder_of_that_name_is_refused_and_kept(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(tmp_path / "a.json", b"new")
    assert os.listdir(tmp_path) == ["a.json"]
