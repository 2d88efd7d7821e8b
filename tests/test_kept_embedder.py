"""What was kept of a model embeds as the model does, or is not used."""

import json

import numpy as np
import pytest
import torch

from models.late_fusion import LateFusionClassifier
from models.lrcn import LrcnClassifier
from search.embedder import ClipEmbedder, TrunkModel
from search.kept_embedder import FEATURES, INFO, TRUNK, keep_embedder, read_embedder
from tests.trainings import fill_heads, fill_norms, make_config
from utils.features import FeatureSpec

SECONDS = 9.0
SPANS = [(0.0, 4.0), (2.0, 6.0), (7.0, 9.0), (8.5, 9.0)]
MODELS = {
    "late fusion": lambda: LateFusionClassifier(3, 20),
    "lrcn": lambda: LrcnClassifier(3, 20, lstm_size=12, sequence_frames=4),
    "conv without sound": lambda: LrcnClassifier(2, 20, encoder="conv", fuse_sound=False),
}


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> FeatureSpec:
    return make_config(tmp_path_factory.mktemp("config")).feature_spec


@pytest.fixture(scope="module", params=MODELS)
def embedder(request, spec) -> ClipEmbedder:
    torch.manual_seed(1)
    model = MODELS[request.param]()
    fill_norms(model.video_encoder)
    fill_heads(model)
    return ClipEmbedder(model, spec, "m")


@pytest.fixture
def small(spec) -> ClipEmbedder:
    return ClipEmbedder(LrcnClassifier(2, 20, encoder="conv"), spec, "m")


def test_vectors_are_those_of_the_network(tmp_path, embedder, spec):
    rng, kept = np.random.default_rng(0), tmp_path / "kept"
    frames = rng.integers(0, 256, (spec.frame_span(0, SECONDS).stop, *spec.frame_shape))
    frames = frames.astype(np.uint8)
    mfcc = rng.normal(0, 10, (spec.mfcc_span(0, SECONDS).stop, 20)).astype(np.float16)
    keep_embedder(kept, embedder, {"classes": ["a"]})
    found, reports = read_embedder(kept, "m"), []
    assert (found.spec, found.version, found.about) == (spec, "m", {"classes": ["a"]})
    for sound in (mfcc, None):
        vectors = found.embed(frames, sound, SPANS, report=reports.append)
        expected = embedder.embed(frames, sound, SPANS)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, expected, atol=2e-5)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert np.abs(expected[0] - expected[1]).max() > 1e-3  # the clips differ
    assert reports == [len(frames)] * 2


def test_nothing_is_read_of_another_model_or_of_another_version_of_the_code(tmp_path, small):
    assert read_embedder(tmp_path / "none", "m") is None
    keep_embedder(tmp_path, small, {})
    assert read_embedder(tmp_path, "m") is not None
    assert read_embedder(tmp_path, "n") is None
    info = json.loads((tmp_path / INFO).read_text())
    for change in ({"format": 0}, {"spec": {}}, {"files": {}}):
        (tmp_path / INFO).write_text(json.dumps(info | change))
        assert read_embedder(tmp_path, "m") is None


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        *((name, harm) for name in (TRUNK, FEATURES) for harm in ("lost", "cut", "flipped")),
        *((INFO, harm) for harm in ("lost", "cut")),
    ],
)
def test_damage_is_noticed(tmp_path, small, name, harm):
    keep_embedder(tmp_path, small, {})
    data = bytearray((tmp_path / name).read_bytes())
    if harm == "lost":
        (tmp_path / name).unlink()
    else:
        data[len(data) // 2] ^= 4
        (tmp_path / name).write_bytes(data if harm == "flipped" else data[: len(data) // 2])
    assert read_embedder(tmp_path, "m") is None


def test_trunk_alone_is_not_kept(tmp_path, small, spec):
    trunk = ClipEmbedder(TrunkModel(small._model.video_encoder), spec)
    with pytest.raises(TypeError, match="no ONNX graph is known"):
        keep_embedder(tmp_path / "kept", trunk, {})
    assert not (tmp_path / "kept").exists()
