"""Both training scripts, from videos to a report, and what stands at their top."""

import csv
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import cost_optimized_train
import label_recording
import train
from tests.trainings import ROOT, SMALL, flags, link_clips, run_script, write_clip, write_clips
from training import results
from training.checkpoint import load_checkpoint
from utils import training_data
from utils.config import Config

SCRIPTS = [cost_optimized_train, train]
RUN_FILES = {
    *("best.safetensors", "last.ckpt", "config.json", "data.json", "metrics.json"),
    *("metrics.jsonl", "monitor.jsonl", "predictions.csv", "rejected.csv"),
    *("report.html", "run.log", "tensorboard"),
}


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


# What a training leaves


def assert_far_above_chance(run: Path) -> None:
    metrics = read(run, "metrics.json")
    assert metrics["cross_validated"]
    assert metrics["groups"] == 10
    for name in ("accuracy", "balanced_accuracy", "auc"):
        assert metrics[name] >= 0.9, name
    for half in ("video_only", "sound_only"):
        assert metrics[f"{half}_balanced_accuracy"] >= 0.75, half


def test_cost_optimized_training_beats_chance_by_far_on_groups_it_never_saw(trained_run):
    assert_far_above_chance(trained_run)


def test_train_beats_chance_by_far_on_groups_it_never_saw(small_flags, tmp_path):
    done = run_script(train, *small_flags, "--runs-dir", tmp_path)
    assert done.code == 0, done.err
    run = (tmp_path / "latest").resolve()
    assert run.name.endswith("-train")
    assert {path.name for path in run.iterdir()} == RUN_FILES
    assert_far_above_chance(run)


def test_run_folder_is_complete_and_says_where_everything_is(trained_run):
    assert {path.name for path in trained_run.iterdir()} == RUN_FILES
    said = (trained_run.parent / "said").read_text(encoding="utf-8")
    log = (trained_run / "run.log").read_text(encoding="utf-8")
    assert said.endswith(log)
    assert f"report      {trained_run / 'report.html'}" in log
    assert f"--checkpoint {trained_run / 'best.safetensors'}" in log
    epochs = [line for line in log.splitlines() if line.startswith("heads ") and "/8 " in line]
    assert len(epochs) == len((trained_run / "metrics.jsonl").read_text().splitlines())
    assert len({line.index("val loss") for line in epochs}) == 1  # aligned
    data = read(trained_run, "data.json")
    assert data["demo"] is False
    assert data["weights"] == "the file trunk.safetensors"
    assert (
        sum(
            side[name]["recordings"]
            for side in (data["train"], data["validation"])
            for name in ("ads", "games")
        )
        == 10
    )
    with open(trained_run / "predictions.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == read(trained_run, "metrics.json")["clips"]


def test_report_shows_the_metrics(trained_run):
    html = (trained_run / "report.html").read_text(encoding="utf-8")
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html
    assert "confusion" in html.lower()


def test_checkpoint_carries_the_metrics_of_the_run(trained_run):
    loaded = load_checkpoint(trained_run / "best.safetensors")
    assert loaded.recipe["metrics"] == read(trained_run, "metrics.json")
    assert loaded.recipe["constants"] == read(trained_run, "config.json")["constants"]
    assert loaded.recipe["data"] == read(trained_run, "data.json")
    assert loaded.recipe["model"]["trunk"]["padding"] == "tensorflow"


def test_second_training_decodes_and_embeds_nothing(
    trained_run, small_flags, tmp_path, monkeypatch
):
    monkeypatch.setattr("utils.preparation._Preparation.run", lambda *a: pytest.fail("decoded"))
    monkeypatch.setattr("training.embedding._embed", lambda *a: pytest.fail("embedded"))
    done = run_script(cost_optimized_train, *small_flags, "--runs-dir", tmp_path)
    assert done.code == 0, done.err
    again = read(tmp_path / "latest", "metrics.json")
    clock = ("training_seconds", "wait_fraction")
    first = read(trained_run, "metrics.json")
    assert {k: v for k, v in again.items() if k not in clock} == {
        k: v for k, v in first.items() if k not in clock
    }


def test_three_classes_are_trained_from_scratch_and_labelled(clips_folder, shared_cache, tmp_path):
    data = link_clips(clips_folder, tmp_path / "data")
    write_clips(data, range(3), ("news",))
    constants = {**SMALL, "weights": "none", "epochs": 1, "fine_tune_blocks": 0}
    folders = {"data_dir": data, "cache_dir": shared_cache, "runs_dir": tmp_path / "runs"}
    done = run_script(train, *flags(**constants, **folders))
    assert done.code == 0, done.err
    assert "trained from scratch" in done.out
    run = tmp_path / "runs" / "latest"
    assert read(run, "data.json")["from_scratch"] is True
    assert "from scratch" in (run / "report.html").read_text(encoding="utf-8")
    assert load_checkpoint(run / "best.safetensors").recipe["data"]["from_scratch"]
    metrics = read(run, "metrics.json")
    assert len(metrics["confusion"]) == 3
    assert not metrics["cross_validated"]
    done = run_script(
        *(label_recording, data / "news" / "0.mp4", "--json"),
        *("--checkpoint", run / "best.safetensors"),
    )
    assert done.code == 0, done.err
    item = json.loads(done.out)["recordings"][0]
    assert sorted(item["probabilities"]) == ["ads", "games", "news"]
    assert sum(item["probabilities"].values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_three_classes_are_judged_in_folds_and_labelled_by_thresholds(
    clips_folder, small_flags, tmp_path
):
    data = link_clips(clips_folder, tmp_path / "data")
    write_clips(data, range(5), ("news",))
    runs = tmp_path / "runs"
    constants = {"data_dir": data, "runs_dir": runs, "folds": 2, "min_recall": 0.8}
    done = run_script(cost_optimized_train, *small_flags, *flags(**constants))
    assert done.code == 0, done.err
    run = runs / "latest"
    metrics = read(run, "metrics.json")
    assert metrics["cross_validated"]
    assert np.array(metrics["confusion"]).shape == (3, 3)
    assert metrics["groups"] == 15
    assert metrics["balanced_accuracy"] >= 0.7
    assert metrics["auc_low"] <= metrics["auc"] <= metrics["auc_high"]
    for name in ("ads", "games", "news"):
        assert 0 <= metrics[f"recall_{name}"] <= 1
    for name in ("ads", "news"):  # games are what it is in doubt
        assert 0 < metrics[f"threshold_{name}"] < 1
        assert f"{name} from " in done.out
    assert "threshold_games" not in metrics
    html = (run / "report.html").read_text(encoding="utf-8")
    assert 'id="thresholds"' in html
    done = run_script(
        *(label_recording, data / "news", data / "games" / "0.mp4", "--json"),
        *("--checkpoint", run / "best.safetensors"),
    )
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [row["name"] for row in found["thresholds"]["thresholds"]] == ["ads", "news"]
    labels = [item["label"] for item in found["recordings"]]
    assert labels[:5].count("news") >= 4
    assert labels[5] == "games"


def test_own_validation_videos_judge_alone(clips_folder, small_flags, tmp_path):
    data = link_clips(clips_folder, tmp_path / "data")
    write_clips(data / "validation", (5, 6), ("ads", "games"))
    done = run_script(
        cost_optimized_train, *small_flags, "--data-dir", data, "--runs-dir", tmp_path / "runs"
    )
    assert done.code == 0, done.err
    run = tmp_path / "runs" / "latest"
    metrics = read(run, "metrics.json")
    assert not metrics["cross_validated"]
    assert metrics["groups"] == 4
    assert metrics["balanced_accuracy"] >= 0.75
    described = read(run, "data.json")
    assert described["split"] == "data/validation"
    assert [described["train"][name]["recordings"] for name in ("ads", "games")] == [5, 5]
    with open(run / "predictions.csv", newline="", encoding="utf-8") as file:
        assert {row["recording"].partition("/")[0] for row in csv.DictReader(file)} == {
            "validation"
        }


@pytest.mark.slow
def test_two_processes_leave_one_run_that_one_process_goes_on_with(small_flags, tmp_path):
    constants = [*small_flags, "--runs-dir", tmp_path, *flags(folds=0, epochs=2)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node", "2", "cost_optimized_train.py", *constants],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("random split (") == 1
    runs = [path for path in tmp_path.iterdir() if not path.is_symlink()]
    assert len(runs) == 1
    assert {path.name for path in runs[0].iterdir()} == RUN_FILES
    assert len(history(runs[0])) == 2
    more = run_script(cost_optimized_train, "--resume", runs[0], "--epochs", 3)
    assert more.code == 0, more.err
    assert "EPOCHS from 2 to 3, from here on" in more.out
    assert len(history(runs[0])) == 3
    assert read(runs[0], "config.json")["constants"]["EPOCHS"] == 3


# Stopping and going on


def history(run: Path) -> list[dict]:
    clock = ("seconds", "clips_per_second", "wait_fraction")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


# Ctrl-C from within comes in the middle of the training, however busy the machine is.
CTRL_C_AFTER_AN_EPOCH = """
import os, runpy, signal, sys
from tqdm import tqdm
write = tqdm.write
def write_and_stop(line, **how):
    write(line, **how)
    if line.startswith("heads"):
        tqdm.write = write
        os.kill(os.getpid(), signal.SIGINT)
tqdm.write = write_and_stop
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_training_stopped_by_ctrl_c_goes_on_as_it_says(trained_run, small_flags, tmp_path):
    constants = [*small_flags, *flags(epochs=6, patience=1000, folds=0)]
    unbroken = run_script(cost_optimized_train, *constants, "--runs-dir", tmp_path / "unbroken")
    assert unbroken.code == 0, unbroken.err
    words = ["cost_optimized_train.py", *constants, "--runs-dir", tmp_path / "my runs"]
    command = [sys.executable, "-c", CTRL_C_AFTER_AN_EPOCH, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    last = done.stderr.splitlines()[-1]
    found = re.fullmatch(
        r"stopped after (\d+) of 6 epochs, everything is saved\. "
        r"Go on with: \S*python cost_optimized_train\.py --resume '(.*)'",
        last,
    )
    assert found, last
    assert 1 <= int(found[1]) < 6
    run = Path(found[2])
    assert len(history(run)) == int(found[1])
    done = run_script(cost_optimized_train, "--resume", run)
    assert done.code == 0, done.err
    whole = tmp_path / "unbroken" / "latest"
    assert history(run) == history(whole)
    tensors, expected = (load_file(f / "best.safetensors") for f in (run, whole))
    assert all(tensors[name].equal(expected[name]) for name in expected)
    assert {path.name for path in run.iterdir()} == RUN_FILES


def test_ctrl_c_while_preparing_leaves_no_run(small_flags, tmp_path, monkeypatch):
    def stop(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(training_data, "prepare_recordings", stop)
    done = run_script(cost_optimized_train, *small_flags, "--runs-dir", tmp_path / "runs")
    assert done.code == 130
    assert "the same command goes on" in done.err
    assert list((tmp_path / "runs").iterdir()) == []


def test_run_stopped_before_its_first_epoch_can_be_resumed(small_flags, tmp_path, monkeypatch):
    def stop(*arguments, **named):
        raise KeyboardInterrupt

    constants = [*small_flags, *flags(epochs=2, folds=0, runs_dir=tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(cost_optimized_train, "stored_embeddings", stop)
        done = run_script(cost_optimized_train, *constants)
        assert done.code == 130
    done = run_script(cost_optimized_train, "--resume", tmp_path / "latest")
    assert done.code == 0, done.err
    assert {path.name for path in (tmp_path / "latest").iterdir()} == RUN_FILES


def test_run_is_resumed_with_other_constants_where_they_fit_only(trained_run):
    done = run_script(cost_optimized_train, "--resume", trained_run, "--epochs", 9, "--fps", 3)
    assert done.code == 1
    assert re.search("can't change --fps .*: leave it out, or start a new run", done.last)


def test_resumed_run_refuses_other_videos(clips_folder, small_flags, tmp_path, monkeypatch):
    data = link_clips(clips_folder, tmp_path / "data")
    arguments = [*small_flags, "--data-dir", data, "--runs-dir", tmp_path / "runs"]

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(results, "_write_results", stop)
        assert run_script(cost_optimized_train, *arguments).code == 130
    write_clip(data / "ads" / "7.mp4", "ads", 7)
    done = run_script(cost_optimized_train, "--resume", tmp_path / "runs" / "latest")
    assert done.code == 1
    assert re.fullmatch("error: the videos changed since .*: start a new run", done.last)


# Constants


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_each_constant_has_a_line_with_its_meaning(script):
    text = Path(script.__file__).read_text(encoding="utf-8")
    names = {field.name.upper() for field in dataclasses.fields(Config)}
    explained = set(re.findall(r"^([A-Z][A-Z0-9_]+) = .*  # \w", text, re.MULTILINE))
    assert explained == names


def test_scripts_differ_in_words_and_constants_only():
    texts = [Path(script.__file__).read_text(encoding="utf-8") for script in SCRIPTS]
    bodies = [text.partition("\ndef main")[2] for text in texts]
    assert bodies[0] == bodies[1]
    imports = [re.findall(r"^(?:from|import) .*", text, re.MULTILINE) for text in texts]
    assert imports[0] == imports[1]


def test_presets_are_those_that_were_asked_for():
    names = ("BATCH_SIZE", "EPOCHS", "FPS", "FRAME_SIZE", "MFCC_N_MELS", "LEARNING_RATE")
    found = [[getattr(script, name) for name in names] for script in SCRIPTS]
    assert found == [[8, 8, 4, (96, 96), 32, 2e-4], [2, 10, 6, (112, 112), 40, 1e-4]]
    assert all(script.MIXED_PRECISION for script in SCRIPTS)


def test_help_explains_every_constant(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')} VALUE" in done.stdout
    assert list(tmp_path.iterdir()) == []
