"""The ONNX of a classifier says what the network says."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from models.graphs import classifier_graph, trunk_graph, with_metadata
from models.late_fusion import LateFusionClassifier
from models.lrcn import LrcnClassifier
from tests.trainings import fill_heads, fill_norms

TEMPERATURE = 1.7
SIZE = (40, 56)
ATOL = 5e-4  # the roots of means near 0 enlarge the last bits of a float
CLIPS = [(5, 30), (3, 0), (1, 12), (0, 7), (5, 1)]  # numbers of frames and of steps of sound
TRUNK = {"padding": "tensorflow", "mean": (0.5,) * 3, "std": (0.4,) * 3, "input_size": (64, 48)}
SMALL = {"lstm_size": 12, "sequence_frames": 3}
MODELS = {
    "late fusion": lambda: LateFusionClassifier(3, 20, trunk=TRUNK),
    "lrcn": lambda: LrcnClassifier(3, 20, trunk=TRUNK, **SMALL),
    "conv": lambda: LrcnClassifier(
        3, 20, encoder="conv", fuse_sound=False, average_over_time=False, **SMALL, lstm_layers=2
    ),
    "no lstm": lambda: LrcnClassifier(3, 20, encoder="conv", lstm_layers=0, **SMALL),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request) -> nn.Module:
    torch.manual_seed(3)
    model = MODELS[request.param]().eval()
    fill_norms(model.video_encoder)
    fill_heads(model)
    if model.order_matters:  # it squashes what goes on to the next layer
        for name, parameter in model.named_parameters():
            parameter.data *= 1 if name.startswith("video_encoder") else 8
    pooled = torch.rand(20, 2 * model.video_encoder.embedding_size)
    model.set_statistics(pooled, (torch.randn(20), torch.rand(20) + 0.5))
    return model


@pytest.fixture(scope="module")
def session(model) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(classifier_graph(model, SIZE, TEMPERATURE))


def make_inputs(clips: list[tuple[int, int]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    t, m = (max(1, *counts) for counts in zip(*clips, (0, 0), strict=True))
    return {
        "frames": rng.integers(0, 256, (len(clips), t, *SIZE, 3), dtype=np.uint8),
        "frame_counts": np.array([frames for frames, _ in clips]),
        "mfcc": rng.normal(0, 2, (len(clips), m, 20)).astype(np.float32),
        "mfcc_counts": np.array([steps for _, steps in clips]),
    }


def by_torch(model: nn.Module, inputs: dict[str, np.ndarray]) -> np.ndarray:
    frames, mfcc = torch.from_numpy(inputs["frames"]), torch.from_numpy(inputs["mfcc"])
    masks = [
        torch.arange(values.shape[1]) < torch.from_numpy(inputs[counts])[:, None]
        for values, counts in ((frames, "frame_counts"), (mfcc, "mfcc_counts"))
    ]
    with torch.inference_mode():
        logits = model(frames, masks[0], mfcc, masks[1])
    return torch.softmax(logits.double() / TEMPERATURE, dim=1).numpy()


def by_onnx(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return session.run(None, inputs)[0]


def test_probabilities_are_the_networks(model, session):
    inputs = make_inputs(CLIPS)
    expected = by_torch(model, inputs)
    found = by_onnx(session, inputs)
    np.testing.assert_allclose(found, expected, atol=ATOL)
    assert np.ptp(expected, axis=0).max() > 0.1  # the clips differ
    mute = by_onnx(session, {**inputs, "mfcc_counts": np.zeros(5, np.int64)})
    assert np.allclose(mute, found, atol=1e-3) != model.uses_sound


@pytest.mark.parametrize("clip", CLIPS)
def test_any_number_of_clips_frames_and_steps_is_taken(model, session, clip):
    inputs = make_inputs([clip])
    np.testing.assert_allclose(by_onnx(session, inputs), by_torch(model, inputs), atol=ATOL)


def test_clip_without_sound_needs_no_row_of_it(model, session):
    inputs = make_inputs([(4, 0)])
    expected = by_torch(model, inputs)
    inputs["mfcc"] = np.zeros((1, 0, 20), np.float32)
    np.testing.assert_allclose(by_onnx(session, inputs), expected, atol=ATOL)


def test_padding_may_hold_anything(session):
    inputs = make_inputs(CLIPS)
    expected = by_onnx(session, inputs)
    for row, (frames, steps) in enumerate(CLIPS):
        inputs["frames"][row, frames:] = 255
        inputs["mfcc"][row, steps:] = np.nan
    np.testing.assert_allclose(by_onnx(session, inputs), expected, atol=1e-6)


def test_metadata_comes_back_and_the_answers_stay(model, session):
    texts = {"classes": '["ads", "games"]', "note": "größer"}
    other = onnxruntime.InferenceSession(
        with_metadata(classifier_graph(model, SIZE, TEMPERATURE), texts)
    )
    assert other.get_modelmeta().custom_metadata_map == texts
    inputs = make_inputs(CLIPS[:2])
    np.testing.assert_array_equal(by_onnx(other, inputs), by_onnx(session, inputs))


def test_trunk_takes_frames_of_its_size_only(model):
    session = onnxruntime.InferenceSession(trunk_graph(model.video_encoder, SIZE))
    (found,) = session.run(None, {"frames": np.zeros((2, *SIZE, 3), np.uint8)})
    assert found.shape == (2, model.video_encoder.embedding_size)
    with pytest.raises(Exception, match="invalid dimensions"):
        session.run(None, {"frames": np.zeros((2, 96, 96, 3), np.uint8)})


def test_network_without_a_known_graph_is_refused():
    with pytest.raises(TypeError, match="Linear"):
        classifier_graph(nn.Linear(2, 2), SIZE, 1.0)
