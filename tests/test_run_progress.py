"""What is said of a run is what its files hold, also of one that was killed."""

import json
import os
from datetime import datetime
from pathlib import Path

import pytest

from training.monitor import Monitor
from training.run_progress import (
    SILENT_SECONDS,
    epoch_words,
    format_clock,
    list_runs,
    read_json_lines,
    read_progress,
)
from utils.errors import Interrupted

NOW = 1_800_000_000.0


def write_run(
    folder: Path, *, epochs: int = 3, age: float = 100.0, silent: float = 0.0, now: float = NOW
) -> Path:
    """A run that began `age` seconds before `now` and last wrote `silent` seconds before it."""
    folder.mkdir(parents=True)
    started = datetime.fromtimestamp(now - age).astimezone().isoformat(timespec="seconds")
    config = {"script": "train.py", "started": started, "constants": {"EPOCHS": 10}}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [make_row(epoch + 1) for epoch in range(epochs)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "monitor.jsonl").write_text('{"seconds": 1.0, "cpu_percent": 50}\n{"seco')
    for path in folder.iterdir():
        os.utime(path, (now - silent, now - silent))
    return folder


def make_row(epoch: int, **changes) -> dict:
    row = {"phase": "heads", "epoch": epoch, "epochs": 10, "seconds": 20.0}
    row |= {"val_auc": 0.8 + epoch / 100, "clips_per_second": 12.5}
    return row | changes


def end_with(folder: Path, error: BaseException | None) -> None:
    """What the monitor leaves when a training ends so."""
    monitor = Monitor(folder / "monitor.jsonl", interval_seconds=60)
    monitor.__enter__()
    monitor.__exit__(type(error) if error else None, error, None)


def test_run_that_writes_is_running_and_knows_how_long_it_will(tmp_path):
    run = read_progress(write_run(tmp_path / "a"), NOW + 5)
    assert (run.state, run.script, run.epoch, run.epochs) == ("running", "train.py", 3, 10)
    assert run.best == "AUC 0.830"
    assert run.clips_per_second == 12.5
    assert run.age_seconds == pytest.approx(105, abs=1)
    assert run.eta_seconds == pytest.approx(7 * 20 - 5)
    assert [line["cpu_percent"] for line in run.machine] == [50]


def test_rate_is_that_of_the_phase_that_goes_on(tmp_path):
    folder = write_run(tmp_path / "a", epochs=4)
    rows = [make_row(n, seconds=1.0) for n in (1, 2, 3)]
    rows += [make_row(4, seconds=50.0, phase="fine-tune")]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.utime(folder / "metrics.jsonl", (NOW, NOW))
    assert read_progress(folder, NOW).eta_seconds == pytest.approx(6 * 50)


def test_run_before_its_first_epoch_is_running_without_numbers(tmp_path):
    folder = write_run(tmp_path / "a", epochs=0)
    (folder / "monitor.jsonl").unlink()
    run = read_progress(folder, NOW)
    assert (run.state, run.epoch, run.epochs, run.best) == ("running", 0, 10, "")
    assert run.eta_seconds is None
    assert epoch_words(run) == "0/10"


def test_run_that_was_killed_is_interrupted_once_it_is_silent(tmp_path):
    folder = write_run(tmp_path / "a")
    assert read_progress(folder, NOW + SILENT_SECONDS - 1).state == "running"
    run = read_progress(folder, NOW + SILENT_SECONDS + 1)
    assert (run.state, run.reason) == ("interrupted", "ended without a word")
    assert run.eta_seconds is None


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (None, "finished", ""),
        (Interrupted("stopped after 3 of 10 epochs"), "interrupted", "stopped after 3 of 10"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (ValueError("no\nnumber"), "failed", "no"),
        (MemoryError(), "failed", "MemoryError"),
    ],
)
def test_end_of_a_run_is_told_by_its_monitor(tmp_path, error, state, reason):
    folder = write_run(tmp_path / "a")
    end_with(folder, error)
    run = read_progress(folder)
    assert run.state == state
    assert run.reason.startswith(reason)
    assert bool(run.reason) == bool(reason)


def test_run_that_goes_on_after_its_end_is_running_again(tmp_path):
    folder = write_run(tmp_path / "a")
    end_with(folder, Interrupted("stopped"))
    with (folder / "monitor.jsonl").open("a") as file:
        file.write('{"seconds": 2.0}\n')
    assert read_progress(folder).state == "running"


def test_finished_run_shows_what_it_was_judged_at(tmp_path):
    folder = write_run(tmp_path / "a", silent=9999)
    (folder / "metrics.json").write_text('{"auc": 0.5, "balanced_accuracy": 0.6}')
    assert read_progress(folder, NOW).best == "AUC 0.500"
    (folder / "metrics.json").write_text('{"auc": null, "balanced_accuracy": 0.6}')
    run = read_progress(folder, NOW)
    assert (run.best, run.state) == ("balanced 0.600", "finished")


def test_running_after_its_last_epoch_is_judging(tmp_path):
    run = read_progress(write_run(tmp_path / "a", epochs=10), NOW)
    assert epoch_words(run) == "judging"
    assert epoch_words(read_progress(tmp_path / "a", NOW + 999)) == "10/10 heads"


def test_runs_are_listed_once_and_the_newest_first(tmp_path):
    for name, age in (("old", 500), ("new", 5), ("middle", 50)):
        write_run(tmp_path / name, age=age)
    (tmp_path / "latest").symlink_to("new")
    (tmp_path / "notes").mkdir()
    names = [run.folder.name for run in list_runs(tmp_path, NOW)]
    assert names == ["new", "middle", "old"]
    assert list_runs(tmp_path / "none") == []


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"started": "yesterday"}', "\x00"])
def test_damaged_files_leave_numbers_out(tmp_path, damage):
    folder = write_run(tmp_path / "a")
    for name in ("config.json", "metrics.json", "metrics.jsonl", "monitor.jsonl"):
        (folder / name).write_text(damage)
    run = read_progress(folder)
    assert run.epoch == 0
    assert run.age_seconds is None
    assert list_runs(tmp_path)[0].folder == folder


def test_the_end_of_a_long_file_is_read_alone(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(1000)))
    lines = read_json_lines(path, last_bytes=100)
    assert 5 < len(lines) < 12
    assert lines[-1] == {"n": 999}
    assert len(read_json_lines(path, last_bytes=10**6)) == 1000


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (0, "0:00:00"), (59.6, "0:01:00"), (90_061, "25:01:01"), (200_000, "2 days")],
)
def test_times_are_told_in_hours_and_then_in_days(seconds, words):
    assert format_clock(seconds) == words
