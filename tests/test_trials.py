"""Trials notice what must never happen: what the tests of faults are worth depends on it."""

import json
import time

import pytest

from benchmarks import figures
from tests.aws_world import CPU_IMAGE, SECRET
from tests.machines import wait_for
from tests.trials import Book, Row, Trial, chain, write_table

GONE = (0, "done")


@pytest.fixture
def trial(tmp_path):
    trial = Trial(tmp_path)
    yield trial
    trial.close()


def start(trial, text):
    trial.world.client("ec2").run_instances(
        ImageId=CPU_IMAGE,
        InstanceType="c7i.2xlarge",
        MinCount=1,
        MaxCount=1,
        UserData=f"#!/bin/bash\n{text}\n",
        InstanceInitiatedShutdownBehavior="terminate",
    )
    return trial.world.machines[-1]


def add_state(machine, epoch):
    state = {"epoch": epoch, "step": 0, "state": chain(epoch, 0)}
    rows = [{"epoch": number + 1, "time": time.time() - 5} for number in range(epoch)]
    path = machine.home / "runs" / "a" / "last.ckpt"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(state | {"history": rows}))


def test_trial_fails_where_an_instance_is_left(trial):
    start(trial, "sleep 60")
    with pytest.raises(AssertionError, match="left after"):
        trial.check("left", GONE, code=0, bound_seconds=0.3)


def test_trial_fails_where_an_epoch_is_lost(trial):
    machine = start(trial, "sleep 1; shutdown -P now")
    add_state(machine, 3)
    with pytest.raises(AssertionError, match="3 epochs were finished and 0 are kept"):
        trial.check("lost", GONE, code=0)
    trial.check("as it was too young to be sent", GONE, code=0, grace_seconds=30)


def test_trial_fails_where_two_instances_ran_at_once(trial):
    first, second = start(trial, "sleep 1; shutdown -P now"), start(trial, "shutdown -P now")
    assert wait_for(lambda: first.ended and second.ended, 20)
    with pytest.raises(AssertionError, match="two instances at the same time"):
        trial.check("two", GONE, code=0)


@pytest.mark.parametrize(
    ("said", "why"),
    [((1, "done"), "exit code"), ((0, "Traceback (most"), "Traceback"), ((0, "no"), "say 'done'")],
)
def test_trial_fails_for_another_code_a_traceback_and_other_words(trial, said, why):
    with pytest.raises(AssertionError, match=why.replace("(", "\\(")):
        trial.check("words", said, code=0, says="done")


def test_trial_fails_where_a_secret_is_seen(trial):
    start(trial, f"echo {SECRET}; shutdown -P now")
    with pytest.raises(AssertionError):
        trial.check("secret", GONE, code=0)
    trial.world.machines.clear()
    trial.check("none", GONE, code=0)
    trial.world.put(trial.bucket, "runs/a/log", SECRET.encode())
    with pytest.raises(AssertionError, match="runs/a/log"):
        trial.check("secret", GONE, code=0)


def test_table_counts_each_fault_once_by_its_worst_row(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FOLDER", tmp_path / "runs")
    (tmp_path / "rows").mkdir()
    book = Book(tmp_path / "rows", "test")
    good = {"outcome": "well | done", "exit_code": 0, "seconds": 1.0, "bound_seconds": 2.0}
    for fault, left, lost in (("a", 0, 0), ("a", 1, 2), ("a", 0, 0), ("b", 0, 0)):
        book.note(
            Row(fault, **good, instances_left=left, epochs_done=3, epochs_lost=lost, test="test")
        )
    write_table(Book(tmp_path / "rows").all_rows())
    found = json.loads((tmp_path / "runs" / "aws_faults.json").read_text())["figures"]
    assert found == {"fault_points": 2, "instances_left": 1, "checkpoints_lost": 2}
    table = (tmp_path / "runs" / "aws_faults.md").read_text().splitlines()
    assert sum(line.startswith("| ") for line in table) == 3
    assert "| a | 0 | 3, 2 | 1, 1 s | well / done |" in table
