"""The short training: that it is to its surroundings what the real scripts are."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.machines import wait_for
from tests.short_train import final_state
from training.run_progress import read_progress

SCRIPT = Path(__file__).with_name("short_train.py")


def start(folder, *words):
    command = [sys.executable, SCRIPT, "--runs-dir", folder / "runs", *words]
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def first_object(path):
    return json.JSONDecoder().raw_decode(path.read_text())[0]


def test_it_writes_the_files_of_a_real_run(trained_run, tmp_path):
    assert start(tmp_path, "--epoch-seconds", 0).wait() == 0
    run = tmp_path / "runs" / "latest"
    names = {path.name for path in trained_run.iterdir()} - {"said"}
    assert {path.name for path in run.iterdir()} == names
    for name in ("config.json", "metrics.jsonl", "metrics.json"):
        ours = first_object(run / name).keys() - {"state", "time"}  # which tests go by
        assert ours <= first_object(trained_run / name).keys()
    real, ours = read_progress(trained_run), read_progress(run)
    assert (ours.state, ours.reason) == (real.state, real.reason)
    assert ours.epoch == ours.epochs


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_resumed_exactly_it_ends_where_an_unbroken_one_does(tmp_path, number):
    training = start(tmp_path, "--epoch-seconds", 1, "--epochs", 4)
    state = tmp_path / "runs" / "latest" / "last.ckpt"
    assert wait_for(state.exists, 60)
    time.sleep(0.3)  # into the middle of an epoch
    training.send_signal(number)
    assert training.wait() == (130 if number != signal.SIGKILL else -signal.SIGKILL)
    assert json.loads(state.read_text())["epoch"] < 4
    assert start(tmp_path, "--epochs", 4, "--resume", state.parent).wait() == 0
    assert (state.parent / "best.safetensors").read_text() == final_state(4)


def test_step_done_twice_shows_in_the_end(tmp_path):
    start(tmp_path, "--epoch-seconds", 0, "--epochs", 2).wait()
    state = tmp_path / "runs" / "latest" / "last.ckpt"
    state.write_text(json.dumps({**json.loads(state.read_text()), "epoch": 1}))
    start(tmp_path, "--epochs", 2, "--resume", state.parent).wait()
    assert (state.parent / "best.safetensors").read_text() != final_state(2)


@pytest.mark.parametrize(
    ("fault", "said"), [("fail", "a mistake in the training"), ("disk-full", "the disk is full")]
)
def test_it_fails_in_one_line_and_keeps_what_it_has(tmp_path, fault, said):
    training = start(tmp_path, "--epoch-seconds", 0, f"--{fault}-at", 2)
    output, _ = training.communicate()
    assert training.returncode == 1
    assert output.splitlines()[-1].startswith("error: ")
    assert said in output
    run = tmp_path / "runs" / "latest"
    assert read_progress(run).state == "failed"
    assert json.loads((run / "last.ckpt").read_text())["epoch"] == 2 - (fault == "disk-full")


@pytest.mark.parametrize("how", ["hang", "spin"])
def test_hung_it_does_not_hear_sigterm_and_its_monitor_goes_on(tmp_path, how):
    training = start(tmp_path, "--epoch-seconds", 0, f"--{how}-at", 1)
    lines = tmp_path / "runs" / "latest" / "monitor.jsonl"
    assert wait_for(lines.exists, 60)
    training.terminate()
    before = lines.stat().st_size
    assert wait_for(lambda: lines.stat().st_size > before, 60)
    assert training.poll() is None
    training.kill()
    training.communicate()
