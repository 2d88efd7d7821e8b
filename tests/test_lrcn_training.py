"""LRCN goes where late fusion goes: trained, judged, reported, labelled with and exported."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import cost_optimized_train
import export_model
import label_recording
import train
from tests.trainings import SMALL, flags, link_clips, run_script, write_clips
from training.checkpoint import load_checkpoint


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def label(run: Path, video: Path, *arguments: str) -> dict:
    checkpoint = ("--checkpoint", run / "best.safetensors")
    done = run_script(label_recording, video, "--json", *checkpoint, *arguments)
    assert done.code == 0, done.err
    return json.loads(done.out)["recordings"][0]


@pytest.fixture(scope="module")
def run(small_flags, tmp_path_factory) -> Path:
    """Of an LRCN on stored embeddings, with the sound."""
    lrcn = flags(model="lrcn", lstm_size=32, lstm_learning_rate=0.003)
    runs = tmp_path_factory.mktemp("lrcn")
    done = run_script(cost_optimized_train, *small_flags, *lrcn, "--runs-dir", runs)
    assert done.code == 0, done.err
    return (runs / "latest").resolve()


def test_groups_it_never_saw_are_told_apart(run):
    metrics = read(run, "metrics.json")
    assert metrics["cross_validated"]
    assert metrics["balanced_accuracy"] >= 0.9
    for half in ("video_only", "sound_only"):
        assert metrics[f"{half}_balanced_accuracy"] is not None
    assert "picture and sound" in (run / "report.html").read_text(encoding="utf-8")


def test_checkpoint_is_the_lrcn_that_was_asked_for(run):
    config = load_checkpoint(run / "best.safetensors").model.config
    assert (config["name"], config["encoder"], config["lstm_size"]) == ("lrcn", "mobilenet_v2", 32)


def test_recordings_are_labelled(run, clips_folder, tmp_path):
    for name in ("ads", "games"):
        found = label(run, clips_folder / name / "1.mp4", "--cache-dir", str(tmp_path))
        assert found["label"] == name
        assert found["confidence"] > 0.6


def test_exported_file_says_the_same(run, tmp_path):
    output = tmp_path / "lrcn.onnx"
    done = run_script(export_model, run, "--output", output, "--int8")
    assert done.code == 0, done.err
    session = onnxruntime.InferenceSession(output)
    check = json.loads(session.get_modelmeta().custom_metadata_map["check"])
    assert check["source"] == "the run's validation clips"
    assert check["max_difference"] <= 1e-3
    assert output.with_name("lrcn-int8.onnx").stat().st_size < 0.6 * output.stat().st_size


def test_small_network_learns_three_classes_from_scratch_by_the_picture_alone(
    clips_folder, shared_cache, tmp_path
):
    data = link_clips(clips_folder, tmp_path / "data")
    write_clips(data, range(3), ("news",))
    constants = {**SMALL, "model": "lrcn", "encoder": "conv", "fuse_sound": False, "epochs": 1}
    folders = {"data_dir": data, "cache_dir": shared_cache, "runs_dir": tmp_path / "runs"}
    done = run_script(train, *flags(**constants, **folders))
    assert done.code == 0, done.err
    assert "pass --encoder mobilenet_v2" in done.out
    run = tmp_path / "runs" / "latest"
    assert read(run, "data.json")["weights"] == "none, the conv encoder learns from scratch"
    metrics = read(run, "metrics.json")
    assert len(metrics["confusion"]) == 3
    assert "video_only_auc" not in metrics
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "picture and sound" not in html
    news = data / "news" / "0.mp4"
    kept = ("--keep-embeddings", "--cache-dir", str(tmp_path / "cache"))
    first, again = (label(run, news, *kept, "--again") for _ in range(2))
    assert sorted(first["probabilities"]) == ["ads", "games", "news"]
    assert first == again
    output = tmp_path / "conv.onnx"
    done = run_script(export_model, run, "--output", output)
    assert done.code == 0, done.err
    inputs = {"frames": np.zeros((1, 5, 32, 32, 3), np.uint8), "frame_counts": np.array([5])}
    inputs |= {"mfcc": np.zeros((1, 1, 20), np.float32), "mfcc_counts": np.array([0])}
    (found,) = onnxruntime.InferenceSession(output).run(None, inputs)
    assert found.shape == (1, 3)
    assert found.sum() == pytest.approx(1, abs=1e-5)
