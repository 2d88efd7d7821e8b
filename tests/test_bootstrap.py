"""The start script sets its stops first, sends what it can, and powers off whatever happens."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloud.run_record import DONE, FAILED, INTERRUPTED
from tests.short_train import final_state

SCRIPT = Path(__file__).resolve().parent.parent / "cloud" / "bootstrap.sh"
SHELLCHECK = Path(sys.executable).parent / "shellcheck"
LONG = ("--epochs", "200", "--epoch-seconds", "0.2")
OFF = "shut itself down"


def wait_until_off(instance, seconds: float = 40) -> None:
    assert instance.machine.wait(seconds), instance.machine.console
    assert instance.machine.ended == OFF
    assert not list(instance.machine.processes())


def shorten_sleep(instance) -> None:
    """Waits between tries take a moment."""
    instance.machine.add_tool("sleep", f"#!/bin/bash\nexec {shutil.which('sleep')} 0.1\n")


# --- as it reads


def test_stops_are_the_first_commands():
    lines = [line.strip() for line in SCRIPT.read_text().splitlines()]
    commands = [line for line in lines if line and not line.startswith("#")]
    kinds = [re.match(r"set|export|shutdown|systemd-run|trap", line)[0] for line in commands[:5]]
    assert kinds == ["set", "export", "shutdown", "systemd-run", "trap"]


def test_script_is_clean_under_shellcheck():
    done = subprocess.run([SHELLCHECK, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# --- as it runs


@pytest.mark.slow
def test_attempt_runs_from_start_to_power_off(small_instance):
    command = small_instance.folder / "bin" / "aws"
    command.unlink()
    command.symlink_to(Path(sys.executable).parent / "aws")  # the real one
    small_instance.boot("--epochs", "3")
    wait_until_off(small_instance)
    assert small_instance.end.state == DONE, small_instance.machine.console
    assert final_state(3) in small_instance.read("metrics.json").decode()
    asked = [" ".join(words) for words in small_instance.machine.asked]
    assert re.fullmatch(r"shutdown -P \+60 .*", asked[0])
    assert re.fullmatch(r"systemd-run .*--on-active=60m shutdown -P now", asked[1])
    log = small_instance.s3_text("attempts/1.log")
    assert "the environment is there" in log
    assert "epoch 3/3" in log
    assert "epoch 3/3" in small_instance.machine.console


def test_killed_script_is_followed_by_its_watcher(small_instance):
    small_instance.boot(*LONG)
    small_instance.wait_for_epoch(2)
    assert small_instance.machine.signal(small_instance.script)
    wait_until_off(small_instance)
    assert small_instance.end.state == FAILED
    assert small_instance.end.reason.startswith("the start script was killed; saved after epoch")
    assert small_instance.epochs_on_s3() >= 2


def test_killed_attempt_is_told_by_the_script(small_instance):
    small_instance.boot(*LONG, final_upload_seconds=5)
    small_instance.wait_for_epoch(2)
    small_instance.kill("attempt")
    wait_until_off(small_instance)
    assert small_instance.end.state == FAILED
    assert re.search("ended with code 137|was killed", small_instance.end.reason)
    assert small_instance.epochs_on_s3() >= 2


def test_script_that_is_asked_to_end_saves_first(small_instance):
    small_instance.boot(*LONG)
    small_instance.wait_for_epoch(1)
    assert small_instance.machine.signal(small_instance.script, number=signal.SIGTERM)
    wait_until_off(small_instance)
    assert small_instance.end.state == INTERRUPTED
    assert small_instance.epochs_on_s3() >= 1


# --- steps that fail


def test_damaged_code_is_not_run(small_instance):
    shorten_sleep(small_instance)
    small_instance.boot(damage=b"!")
    wait_until_off(small_instance)
    assert small_instance.end.state == FAILED
    assert "fetching the code failed" in small_instance.end.reason
    assert "can't be had whole" in small_instance.end.reason
    assert not (small_instance.home / "cloud").exists()


def test_failing_set_up_is_told_without_python(small_instance):
    shutil.rmtree(small_instance.home / ".venv")
    small_instance.launcher = "#!/bin/bash\necho 'the disk \"x\" is too small' >&2\nexit 1\n"
    small_instance.boot()
    wait_until_off(small_instance)
    end = small_instance.end
    assert (end.state, end.exit_code) == (FAILED, 1)
    assert "setting up the environment failed" in end.reason
    assert "is too small" in end.reason
    assert 0 <= end.dollars < 0.01  # by whole seconds, of which there may have been none
    assert "the disk" in small_instance.s3_text("attempts/1.log")


def test_long_set_up_is_seen_from_the_laptop(small_instance):
    small_instance.launcher = "#!/bin/bash\necho \"installing 'torch'\"\nsleep 60\n"
    small_instance.boot()
    small_instance.wait_for(small_instance.record.read_heartbeat)
    heartbeat = small_instance.record.read_heartbeat()
    assert (heartbeat.attempt, heartbeat.stage) == (1, "setting up")
    assert heartbeat.line == "installing 'torch'"
    assert "finding a Python" in small_instance.s3_text("attempts/1.log")


def test_set_up_that_takes_too_long_is_ended(small_instance):
    small_instance.launcher = "#!/bin/bash\nsleep 60\n"
    small_instance.boot(set_up_minutes=0.05)
    wait_until_off(small_instance)
    assert "setting up the environment failed: it took more than" in small_instance.end.reason


def test_missing_python_is_installed_or_told(small_instance):
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        small_instance.machine.add_tool(name, "#!/bin/bash\nexit 1\n")
    small_instance.boot()
    wait_until_off(small_instance)
    assert "finding a Python failed" in small_instance.end.reason
    asked = [" ".join(words) for words in small_instance.machine.asked]
    assert any("install python3.12 python3.12-venv" in words for words in asked)


def test_script_killed_during_set_up_is_followed_by_its_watcher(small_instance):
    small_instance.launcher = "#!/bin/bash\nsleep 60\n"
    small_instance.boot()
    small_instance.wait_for(lambda: "setting up the environment" in small_instance.machine.console)
    assert small_instance.machine.signal(small_instance.script)
    wait_until_off(small_instance)
    assert small_instance.end.reason == "the start script was killed"


def test_instance_that_never_reaches_s3_is_powered_off(small_instance):
    shorten_sleep(small_instance)
    small_instance.variables["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
    small_instance.variables["AWS_MAX_ATTEMPTS"] = "1"
    small_instance.boot()
    wait_until_off(small_instance)
    assert small_instance.end is None
    assert "can't be had whole" in small_instance.machine.console


def test_timer_powers_off_what_nothing_else_does(small_instance):
    small_instance.machine.clock.minute_seconds = 0.1
    small_instance.launcher = "#!/bin/bash\nsleep 60\n"
    small_instance.boot()  # 60 minutes, in 6 seconds
    assert small_instance.machine.wait(40)
    assert small_instance.machine.ended == "shutdown timer"


def test_script_without_its_variables_powers_off(small_instance):
    small_instance.machine.start(SCRIPT.read_bytes(), {"AWS_MAX_ATTEMPTS": "1"})
    shorten_sleep(small_instance)
    wait_until_off(small_instance)
    assert [words[0] for words in small_instance.machine.asked][:2] == ["shutdown", "systemd-run"]
