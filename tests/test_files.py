"""A file is written whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils import files
from utils.files import replacing, write_whole

WRITER = """
import sys
from pathlib import Path
from utils.files import replacing
with replacing(Path(sys.argv[1])) as path:
    path.write_bytes(b"of the other")
    print("writing", flush=True)
    sys.stdin.read()
"""


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


def test_what_a_killed_process_left_is_deleted_and_what_another_writes_is_not(tmp_path):
    target = tmp_path / "a[1].json"
    (tmp_path / ".a[1].json.other").write_bytes(b"somebody's")
    command = [sys.executable, "-c", WRITER, target]
    root = Path(files.__file__).resolve().parent.parent
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "writing\n"
        write_whole(target, b"ours")
        assert target.read_bytes() == b"ours"
        assert len(os.listdir(tmp_path)) == 3
        other.send_signal(signal.SIGKILL)
    assert len(os.listdir(tmp_path)) == 3  # it is still there
    write_whole(target, b"ours again")
    assert sorted(os.listdir(tmp_path)) == [".a[1].json.other", "a[1].json"]


def test_two_processes_that_write_the_same_file_both_end_well(tmp_path):
    target = tmp_path / "a.json"
    command = [sys.executable, "-c", WRITER, target]
    root = Path(files.__file__).resolve().parent.parent
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "writing\n"
        for _ in range(20):
            write_whole(target, b"ours")
        other.stdin.close()
        assert other.wait() == 0
    assert target.read_bytes() == b"of the other"
    assert os.listdir(tmp_path) == ["a.json"]


def test_disk_without_locks_will_do(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    (tmp_path / ".a.json.1.partial").write_bytes(b"another writes, or was killed")
    with replacing(tmp_path / "a.json") as path:
        path.write_bytes(b"new")
    assert (tmp_path / "a.json").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == [".a.json.1.partial", "a.json"]
