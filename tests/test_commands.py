"""Commands of changes: run beside the watching, one at a time, the newest change last."""

import contextlib
import json
import shlex
import sys

import psutil
import pytest

from tests.steady import wait_until
from timeline.commands import ChangeCommand
from utils.errors import UserError

LOG = """
import json, os, sys, time
from pathlib import Path
event = json.loads(sys.argv[-1])
with open(sys.argv[1], "a") as file:
    print(event["label"], os.environ["CHANGE_LABEL"], os.environ["CHANGE_ID"], file=file)
while Path(sys.argv[2]).exists():
    time.sleep(0.01)
sys.exit(int(sys.argv[3]))
"""


def command_of(tmp_path, *, code=0) -> ChangeCommand:
    """One that does not end while there is a file `held`."""
    script = tmp_path / "log it.py"
    script.write_text(LOG)
    words = [sys.executable, script, tmp_path / "log", tmp_path / "held", code]
    return ChangeCommand(shlex.join(map(str, words)), time_limit_seconds=60.0)


def event(number: int, label: str = "ads") -> dict:
    return {"event": "enter_break", "id": number, "label": label}


def test_command_gets_the_change_as_json_and_in_the_environment(tmp_path):
    command = command_of(tmp_path)
    command.run(event(7))
    command.close()
    assert (tmp_path / "log").read_text() == "ads ads 7\n"
    assert command.taken_reports() == []


def test_no_shell_sees_what_a_label_holds(tmp_path):
    command = command_of(tmp_path)
    label = f"$(touch {tmp_path}/owned); touch {tmp_path}/owned"
    command.run(event(1, label))
    command.close()
    assert label in (tmp_path / "log").read_text()
    assert not (tmp_path / "owned").exists()


def test_while_one_runs_only_the_newest_change_waits(tmp_path):
    (tmp_path / "held").touch()
    command = command_of(tmp_path)
    command.run(event(1, "ads"))
    wait_until((tmp_path / "log").exists)
    for number in range(2, 6):  # none of which waits for the first one
        command.run(event(number, f"label{number}"))
    (tmp_path / "held").unlink()
    command.close()
    assert [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()] == [
        "ads",
        "label5",
    ]
    assert [(r["id"], r["status"]) for r in command.taken_reports()] == [
        (2, "skipped"),
        (3, "skipped"),
        (4, "skipped"),
    ]


def test_failures_are_reported(tmp_path):
    command = command_of(tmp_path, code=3)
    command.run(event(1))
    command.close()
    (report,) = command.taken_reports()
    assert (report["status"], report["reason"], report["id"]) == ("failed", "its exit code is 3", 1)
    assert json.dumps(report)
    assert command.taken_reports() == []


def test_what_takes_too_long_is_ended_with_all_that_it_started(tmp_path):
    script = tmp_path / "slow.sh"
    started = tmp_path / "started"
    started.touch()
    script.write_text(f"sleep 1000 & echo $! > {started}; wait\n")
    command = ChangeCommand(f"sh {shlex.quote(str(script))}", time_limit_seconds=1)
    command.run(event(1))
    command.close()
    (report,) = command.taken_reports()
    assert report["reason"] == "it took more than 1 s and was ended"
    for number in map(int, started.read_text().split()):  # none, where all was ended before
        wait_until(lambda number=number: has_ended(number))


def has_ended(number: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    return True


def test_what_does_not_exist_or_can_not_be_split_is_said_at_once():
    with pytest.raises(UserError, match="no program that can be found"):
        ChangeCommand("no-such-program --mute")
    with pytest.raises(UserError, match="can't be split"):
        ChangeCommand("mute 'now")
    with pytest.raises(UserError, match="no program"):
        ChangeCommand("")
