"""An exported model says what the run's model says, and carries all that is needed to feed it."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import export_model
from tests.trainings import Outcome, run_script
from training.checkpoint import load_checkpoint
from utils.config import config_of_run
from utils.dataset import whole_batches
from utils.training_data import load_training_data


@pytest.fixture(scope="module")
def exported(trained_run, tmp_path_factory) -> tuple[Path, Outcome]:
    output = tmp_path_factory.mktemp("exported") / "ads.onnx"
    outcome = run_script(export_model, trained_run, "--output", output, "--int8")
    assert outcome.code == 0, outcome.err
    return output, outcome


def metadata_of(path: Path) -> dict[str, str]:
    return onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map


def test_file_says_what_the_model_says_of_the_validation_clips(trained_run, exported):
    checkpoint = load_checkpoint(trained_run / "best.safetensors")
    session = onnxruntime.InferenceSession(exported[0])
    data = load_training_data(config_of_run(trained_run))
    for batch in whole_batches(data.val_set, 3):
        with torch.inference_mode():
            logits = checkpoint.model(batch.video, batch.video_mask, batch.mfcc, batch.mfcc_mask)
        expected = torch.softmax(logits.double() / checkpoint.temperature, dim=1)
        (found,) = session.run(
            None,
            {
                "frames": batch.video.numpy(),
                "frame_counts": batch.video_mask.sum(1).numpy(),
                "mfcc": batch.mfcc.numpy(),
                "mfcc_counts": batch.mfcc_mask.sum(1).numpy(),
            },
        )
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-3)
        assert (found.argmax(1) == batch.labels.numpy()).all()


def test_files_explain_themselves(trained_run, exported):
    checkpoint = load_checkpoint(trained_run / "best.safetensors")
    for path in (exported[0], exported[0].with_name("ads-int8.onnx")):
        texts = metadata_of(path)
        assert json.loads(texts["classes"]) == checkpoint.classes
        spec = json.loads(texts["feature_spec"])
        assert type(checkpoint.spec).from_dict(spec) == checkpoint.spec
        assert json.loads(texts["temperature"]) == checkpoint.temperature
        assert json.loads(texts["thresholds"]) == checkpoint.recipe.get("thresholds")
        assert texts["run"] == trained_run.name
        assert json.loads(texts["check"])["max_difference"] <= 1
    check = json.loads(metadata_of(exported[0])["check"])
    assert check["source"] == "the run's validation clips"
    assert 0 <= check["max_difference"] <= 1e-3


def test_int8_is_smaller_and_its_accuracy_stands_beside_it(exported):
    output, outcome = exported
    small = output.with_name("ads-int8.onnx")
    assert small.stat().st_size < 0.45 * output.stat().st_size
    check = json.loads(metadata_of(small)["check"])
    assert check["same_label"] >= 0.75
    assert abs(check["accuracy"] - check["float32_accuracy"]) <= 1 - check["same_label"] + 1e-9
    assert f"accuracy             {check['accuracy']:.4g}\n" in outcome.out


def test_usage_that_is_printed_runs(exported, capsys):
    _, outcome = exported
    example = [line[4:] for line in outcome.out.splitlines() if line.startswith("    ")]
    start = example.index("import numpy as np, onnxruntime")
    exec("\n".join(example[start : start + 5]), {})
    printed = capsys.readouterr().out
    assert "float32" in printed
    assert "nan" not in printed


def test_without_the_videos_the_check_is_on_made_clips(trained_run, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(trained_run / "best.safetensors", run)
    constants = json.loads((trained_run / "config.json").read_text())
    constants["constants"]["DATA_DIR"] = str(tmp_path / "gone")
    (run / "config.json").write_text(json.dumps(constants))
    outcome = run_script(export_model, run)
    assert outcome.code == 0, outcome.err
    check = json.loads(metadata_of(run / "model.onnx")["check"])
    assert check["source"].startswith("made clips: ")
    assert check["max_difference"] <= 1e-3
    refused = run_script(export_model, run, "--int8", "--output", run / "other.onnx")
    assert refused.code == 1
    assert refused.last.startswith("error: --int8 needs the run's clips")
    assert not list(run.glob("other*"))


def test_model_that_differs_is_not_written(trained_run, tmp_path, monkeypatch):
    right = export_model.classifier_graph
    monkeypatch.setattr(
        export_model, "classifier_graph", lambda model, size, temperature: right(model, size, 1e4)
    )
    outcome = run_script(export_model, trained_run, "--output", tmp_path / "model.onnx")
    assert outcome.code == 1
    assert "differ from torch's by up to 0." in outcome.last
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["run", "nothing.safetensors"])
def test_run_without_a_checkpoint_is_a_mistake(tmp_path, name):
    (tmp_path / "run").mkdir()
    outcome = run_script(export_model, tmp_path / name)
    assert outcome.code == 1
    assert "is not a file: train first" in outcome.last


def test_folder_that_is_missing_is_named(trained_run, tmp_path):
    outcome = run_script(export_model, trained_run, "--output", tmp_path / "none" / "model.onnx")
    assert outcome.code == 1
    assert outcome.last.startswith(f"error: {tmp_path / 'none'} is no folder")
