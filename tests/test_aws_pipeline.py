"""run_pipeline.py on made instances of AWS, one after the other, which share nothing but S3."""

import json
import re
import shutil

import pytest

from tests.laptops import Laptop
from tests.trainings import SMALL, flags, write_clip
from tests.trials import Trial

ROOMS = ("cloud", "utils", "training", "models", "pipeline", "search")
TRAINING = {
    **SMALL,
    "weights": "trunk.safetensors",
    "fine_tune_blocks": 0,
    "folds": 0,
    "epochs": 8,
    "head_learning_rate": 0.01,
    "workers": 1,
}


@pytest.fixture
def trial(tmp_path, clips_folder, trunk_file):
    """With the real scripts; the laptop's clone holds the weights of the trunk, S3 the videos."""
    trial = Trial(tmp_path)
    trial.laptop = Laptop(trial.world, tmp_path / "clone", ROOMS)
    shutil.copy(trunk_file, trial.laptop.folder)
    trial.limit(save_seconds=20)
    trial.bucket = trial.world.new_bucket()
    for path in sorted(clips_folder.rglob("*.mp4")):
        put(trial, path)
    yield trial
    trial.close()


def put(trial, path):
    trial.world.put(trial.bucket, f"data/{path.parent.name}/{path.name}", path.read_bytes())


def retrain(trial) -> str:
    """Does what retrain.yml does, and returns what the instance said."""
    settings = [f"--train-flags={' '.join(flags(**TRAINING))}", *flags(min_class_minutes=0.1)]
    words = ("run", trial.bucket, "--yes", "--spot-only", "--script", "run_pipeline.py")
    code, said = trial.laptop.run(*words, "--", *settings)
    log = trial.world.machines[-1].console
    assert code == 0, (said, log)
    return log


def champion_of(trial) -> dict:
    found = trial.world.objects(trial.bucket, "store/pipeline/champion.json")
    return json.loads(next(iter(found.values())))


@pytest.mark.slow
def test_instances_go_on_with_what_the_last_one_published(trial, tmp_path):
    log = retrain(trial)
    assert "is promoted: better by" in log
    assert "prepared 0.01 h" in log.partition("ingest ")[0], "decoded before, as training wants it"
    assert "prepared 0.01 h" not in log.partition("ingest ")[2]
    first = champion_of(trial)
    run = trial.laptop.folder / "runs" / trial.run_name
    assert "is promoted" in (run / "pipeline.md").read_text()
    assert (run / "report.html").exists()

    log = retrain(trial)
    assert f"champion    {first['champion']} is taken over" in log
    for step in ("train", "evaluate", "promote", "embed", "index"):
        assert re.search(f"(?m)^{step} +nothing changed", log), log
    assert champion_of(trial)["champion"] == first["champion"]

    for number, kind in enumerate(("ads", "games")):
        put(trial, write_clip(tmp_path / kind / f"{7 + number}.mp4", kind, 7 + number))
    log = retrain(trial)
    assert f"champion    {first['champion']} is taken over" in log
    assert re.search(r"evaluate +done .* challenger [\d.]+, champion [\d.]+ on \d+ clips", log), log
    assert champion_of(trial)["champion"] == first["champion"], "as good is not better"
    run = trial.laptop.folder / "runs" / trial.run_name
    assert "is not promoted" in (run / "pipeline.md").read_text()
