"""A user's mistake is one line and an exit code; our own bugs keep their traceback."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.errors import STOPPED, Interrupted, UserError, describe_os_error, run_main

ROOT = Path(__file__).resolve().parent.parent


def outcome(main, monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    """The exit code of a script whose main is `main`, and what it says on stderr."""
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    with pytest.raises(SystemExit) as left:
        run_main(main)
    return left.value.code, capsys.readouterr().err


def failing(error: BaseException):
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize("code", [0, 1, 3])
def test_code_of_main_is_the_exit_code(monkeypatch, capsys, code):
    assert outcome(lambda: code, monkeypatch, capsys) == (code, "")


def test_users_mistake_is_one_line_and_code_1(monkeypatch, capsys):
    found = outcome(failing(UserError("no video: put one there")), monkeypatch, capsys)
    assert found == (1, "error: no video: put one there\n")


def test_debug_shows_the_traceback_of_a_mistake(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py", "--debug"])
    with pytest.raises(UserError):
        run_main(failing(UserError("no video")))


@pytest.mark.parametrize("stop", [Interrupted("saved; go on with --resume"), KeyboardInterrupt()])
def test_ctrl_c_is_code_130_and_says_how_to_go_on(monkeypatch, capsys, stop):
    code, said = outcome(failing(stop), monkeypatch, capsys)
    assert code == 130
    assert said.strip() == (str(stop) or STOPPED)


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "change its owner or mode"),
        (errno.EROFS, "change its owner or mode"),
        (errno.EEXIST, "rename it"),
        (errno.ENOTDIR, "rename it"),
        (errno.EIO, ""),
    ],
)
def test_error_of_a_file_is_one_line_with_the_file_and_the_cure(monkeypatch, capsys, number, cure):
    error = OSError(number, "what the system says", "runs/x")
    code, said = outcome(failing(error), monkeypatch, capsys)
    assert code == 1
    assert said.count("\n") == 1
    assert "runs/x" in said
    assert cure in said


def test_full_disk_is_said_without_a_file():
    assert describe_os_error(OSError(errno.ENOSPC, "no space")).startswith("the disk is full: ")


@pytest.mark.parametrize("bug", [OSError("no file, no number"), ValueError("a bug")])
def test_our_own_bug_keeps_its_traceback(monkeypatch, bug):
    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(type(bug)):
        run_main(failing(bug))


@pytest.mark.parametrize("lines", [1, 100_000])
def test_reader_that_leaves_a_pipe_ends_a_script_quietly(lines):
    script = (
        "from utils.errors import run_main\n"
        "def main():\n"
        f"    for k in range({lines}): print(k)\n"
        "    return 0\n"
        "run_main(main)\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
