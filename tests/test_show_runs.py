"""Trainings are shown as they stand, at once, and without the libraries of a training."""

import io
import json
import subprocess
import sys
import time

import pytest

import show_runs
import watch_run
from tests.steady import Stopwatch
from tests.test_run_progress import end_with, write_run
from tests.trainings import ROOT, run_script
from training.run_progress import read_progress
from utils.errors import Interrupted


@pytest.fixture
def runs(tmp_path):
    """A finished, an interrupted and a failed run, the last of which is the newest."""
    ends = {"a": None, "b": Interrupted("stopped after 3 of 10 epochs"), "c": ValueError("no GPU")}
    for number, (name, error) in enumerate(ends.items()):
        end_with(write_run(tmp_path / name, age=1000 - 60 * number, now=time.time()), error)
    return tmp_path


def test_table_has_a_line_for_each_run_and_the_reasons_below(runs):
    done = run_script(show_runs, "--runs-dir", runs)
    assert done.code == 0, done.err
    heads, *lines = done.out.splitlines()
    assert heads.split() == ["run", "script", "state", "epoch", "best", "clips/s", "ETA", "age"]
    assert [line.split()[:5] for line in lines[:3]] == [
        ["c", "train.py", "failed", "3/10", "heads"],
        ["b", "train.py", "interrupted", "3/10", "heads"],
        ["a", "train.py", "finished", "3/10", "heads"],
    ]
    assert len({line.index("train.py") for line in lines[:3]}) == 1  # aligned
    assert lines[3:] == ["c failed: no GPU", "b interrupted: stopped after 3 of 10 epochs"]


def test_json_holds_the_same(runs):
    found = json.loads(run_script(show_runs, "--runs-dir", runs, "--json").out)
    assert [run["state"] for run in found] == ["failed", "interrupted", "finished"]
    assert found[0]["folder"] == str(runs / "c")
    assert found[0]["best"] == "AUC 0.830"


def test_only_the_newest_are_shown_unless_all_are_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr(show_runs, "SHOWN", 2)
    for number in range(4):
        end_with(write_run(tmp_path / str(number), age=60 * number, now=time.time()), None)
    said = run_script(show_runs, "--runs-dir", tmp_path).out.splitlines()
    assert len(said) == 1 + 2 + 1
    assert said[-1] == "2 older runs are not shown: --all shows them"
    assert len(run_script(show_runs, "--runs-dir", tmp_path, "--all").out.splitlines()) == 5


def test_without_a_run_it_says_how_to_begin_one(tmp_path):
    done = run_script(show_runs, "--runs-dir", tmp_path / "none")
    assert (done.code, done.err) == (0, "")
    assert "./run_training.sh local" in done.out
    assert run_script(show_runs, "--runs-dir", tmp_path, "--json").out == "[]\n"


def test_watching_shows_losses_and_machine_and_ends_with_the_training(runs):
    done = run_script(watch_run, runs / "c")
    assert done.code == 0, done.err
    assert "\x1b" not in done.out  # no terminal
    for words in ("c  failed: no GPU", "3/10 heads", "AUC 0.830", "val AUC", "processor"):
        assert words in done.out


def test_picture_fits_the_terminal_and_shows_each_gpu(tmp_path):
    folder = write_run(tmp_path / "a")
    gpus = [{"utilization_percent": 87, "memory_bytes": 34e9, "power_watts": None}]
    gpus += [{"utilization_percent": None, "temperature_celsius": 61}]
    lines = [{"seconds": n, "cpu_percent": n, "gpus": gpus} for n in range(300)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "monitor.jsonl").write_text(text)
    run = read_progress(folder)
    for width in (20, 60, 200):
        picture = watch_run.draw(run, width)
        assert max(map(len, picture)) <= width
    gpu = next(line for line in picture if line.startswith("GPU 0"))
    assert "87% 34.0 GB" in gpu
    processor = next(line for line in picture if line.startswith("processor"))
    assert processor.endswith(watch_run.BARS[-1])
    assert "▁" in processor


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_is_drawn_again_until_the_training_ends(tmp_path, monkeypatch):
    folder, terminal = write_run(tmp_path / "d", now=time.time()), Terminal()
    monkeypatch.setattr("time.sleep", lambda seconds: end_with(folder, None))
    monkeypatch.setattr("sys.argv", ["watch_run.py", str(folder)])
    monkeypatch.setattr("sys.stdout", terminal)
    assert watch_run.main() == 0
    drawn = terminal.getvalue().split(watch_run.HOME_AND_CLEAR)[1:]
    assert [picture.splitlines()[0] for picture in drawn] == ["d  running", "d  finished"]


def test_folder_of_no_run_is_refused_with_the_cure(tmp_path):
    done = run_script(watch_run, tmp_path)
    assert done.code == 1
    assert done.last == (
        f"error: {tmp_path} is not the folder of a run: ./run_training.sh status lists them, "
        "./run_training.sh local begins one"
    )


@pytest.mark.parametrize("script", ["show_runs.py", "watch_run.py"])
def test_looking_at_runs_needs_nothing_installed_and_starts_at_once(script, runs):
    where = ["--runs-dir", runs] if script == "show_runs.py" else [runs / "c"]
    command = [sys.executable, "-I", "-S", "-c"]  # -S: no installed package can be imported
    code = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = sys.argv[1:]; "
    code += f"runpy.run_path({str(ROOT / script)!r}, run_name='__main__')"
    took = []
    for _ in range(3):
        with Stopwatch() as watch:
            done = subprocess.run([*command, code, script, *where], capture_output=True, text=True)
        took.append(watch.seconds)
        assert done.returncode == 0, done.stderr
        assert "failed" in done.stdout
    assert min(took) < 1
