"""A training as a child is the script itself, is found again, and ends when we do."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.steady import wait_until
from tests.trainings import ROOT
from training.child import find_trainings, is_finished, start_training, was_stopped

SCRIPT = """
import json, os, sys, time
from pathlib import Path
from multiprocessing import current_process

if __name__ == "__main__":
    told = {
        "words": sys.argv[1:],
        "file": __file__,
        "first place": sys.path[0],
        "policy": os.environ["OMP_WAIT_POLICY"],
        "sibling": __import__("sibling").NAME,
    }
    Path("told.json").write_text(json.dumps(told))
    if "--wait" in sys.argv:
        time.sleep(60)
"""


@pytest.fixture
def script(tmp_path) -> Path:
    (tmp_path / "sibling.py").write_text("NAME = 'beside it'")
    path = tmp_path / "train_something.py"
    path.write_text(SCRIPT)
    return path


def wait_for(path: Path) -> None:
    wait_until(lambda: path.exists() and path.read_bytes(), what=lambda: path)


def test_child_is_the_script_with_its_words(script, tmp_path):
    child = start_training(script, ["--epochs=3"], resume=Path("runs/one"), cwd=tmp_path)
    assert child.wait(60) == 0
    told = json.loads((tmp_path / "told.json").read_text())
    assert told == {
        "words": ["--epochs=3", "--resume", "runs/one"],
        "file": str(script),
        "first place": str(script.parent),
        "policy": "PASSIVE",
        "sibling": "beside it",
    }


def test_child_is_told_to_end_when_its_parent_is_killed(script, tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from training.child import start_training
child = start_training(Path({str(script)!r}), ["--wait"])
print(child.pid, flush=True)
child.wait()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())
    wait_for(tmp_path / "told.json")
    parent.kill()
    parent.wait()
    wait_until(lambda: not _lives(pid), what=lambda: "the end of a child after its parent's")


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_codes_of_a_stopped_training_are_told_from_a_failed_one(script, tmp_path):
    child = start_training(script, ["--wait"], cwd=tmp_path)
    wait_for(tmp_path / "told.json")
    child.terminate()
    assert was_stopped(child.wait(60))
    assert was_stopped(130)
    assert not was_stopped(0)
    assert not was_stopped(1)
    assert not was_stopped(-signal.SIGKILL)


def test_trainings_are_found_by_script_data_and_what_makes_the_result(tmp_path):
    constants = {"DATA_DIR": "data", "EPOCHS": 3, "FRAME_SIZE": (32, 32), "WORKERS": 0}

    def leave(name: str, script: str = "train.py", **changes: object) -> None:
        folder = tmp_path / name
        folder.mkdir()
        config = {"script": script, "constants": {**constants, **changes}}
        (folder / "config.json").write_text(json.dumps(config))

    leave("1-same")
    leave("2-other-workers", WORKERS=3, RUNS_DIR="elsewhere")
    leave("3-other-epochs", EPOCHS=4)
    leave("4-other-data", DATA_DIR="more")
    leave("5-other-script", "cost_optimized_train.py")
    (tmp_path / "6-damaged").mkdir()
    (tmp_path / "6-damaged" / "config.json").write_text("{")
    os.symlink("1-same", tmp_path / "latest")
    found = find_trainings(tmp_path, "train.py", constants)
    assert [path.name for path in found] == ["1-same", "2-other-workers"]


def test_run_is_finished_when_its_report_is_there(tmp_path):
    for name in ("best.safetensors", "metrics.json"):
        (tmp_path / name).write_text("x")
        assert not is_finished(tmp_path)
    (tmp_path / "report.html").write_text("x")
    assert is_finished(tmp_path)
