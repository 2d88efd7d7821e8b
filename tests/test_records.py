"""Records say why a step is to be done, and no half-written one is ever read."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.records import (
    PipelineError,
    StepRecord,
    changed_inputs,
    digest,
    only_one,
    read_json,
    read_record,
    write_json,
    write_record,
)

ROOT = Path(__file__).resolve().parent.parent
RECORD = StepRecord("train", {"clips": 3, "seed": 1}, {"run": "x"}, "well", ["odd"], "now", 1.5)


def test_record_comes_back_as_it_was(tmp_path):
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path, "train") == RECORD


def test_step_without_a_record_or_with_one_of_another_version_is_not_done(tmp_path):
    assert read_record(tmp_path, "train") is None
    (tmp_path / "train.json").write_text('{"step": "train", "colour": 1}')
    assert read_record(tmp_path, "train") is None
    (tmp_path / "train.json").write_text('{"step": "tra')
    assert read_record(tmp_path, "train") is None
    assert changed_inputs(None, {"clips": 3}) == "not done yet"


def test_what_changed_is_named():
    assert changed_inputs(RECORD, {"clips": 3, "seed": 1}) is None
    assert changed_inputs(RECORD, {"clips": 4, "seed": 1}) == "other clips"
    assert changed_inputs(RECORD, {"clips": 3, "rate": 1}) == "other rate and seed"


def test_digest_depends_on_values_and_not_on_their_order():
    assert digest({"a": 1, "b": [1.5, None]}) == digest({"b": [1.5, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_json_file_is_written_whole_and_known_by_its_hash(tmp_path):
    path = tmp_path / "folder" / "x.json"
    first, again = write_json(path, {"a": 1}), write_json(path, {"a": 1})
    assert first == again != write_json(path, {"a": 2})
    assert read_json(path) == {"a": 2}
    assert read_json(tmp_path / "none.json") == {}
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_second_pipeline_is_refused_while_the_first_is_alive(tmp_path):
    mine = f"process {os.getpid()}"
    with only_one(tmp_path), pytest.raises(PipelineError, match=mine), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass


def test_training_that_a_killed_pipeline_left_behind_is_waited_for(tmp_path, capsys):
    # The killed one is a process that is gone; its child holds the lock for a moment.
    lock = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    os.pwrite(lock, str(gone.pid).encode(), 0)
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(lock,))
    os.close(lock)
    ends = threading.Timer(0.5, child.stdin.close)
    ends.start()
    with only_one(tmp_path):
        assert child.stdin.closed
    child.wait()
    assert "waits" in capsys.readouterr().out
