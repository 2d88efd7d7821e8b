"""A kept network answers as the network does, and is handed to other processes."""

import pickle

import numpy as np
import pytest
import torch

from models.array_network import ArrayNetwork
from models.kept_network import KeptNetwork
from models.late_fusion import LateFusionClassifier
from models.lrcn import LrcnClassifier
from models.runtime import TrunkRuntime
from tests.trainings import fill_heads, fill_norms

SIZE = (32, 48)
N_MFCC = 20


@pytest.fixture(scope="module")
def network() -> ArrayNetwork:
    torch.manual_seed(0)
    model = LateFusionClassifier(3, N_MFCC, trunk={"input_size": (48, 72)}).eval()
    fill_heads(model)
    fill_norms(model.video_encoder)
    torch.nn.init.normal_(model.no_sound)
    torch.nn.init.uniform_(model.video_std, 0.01, 1.0)
    torch.nn.init.normal_(model.video_mean)
    model.audio_encoder.set_statistics(torch.randn(N_MFCC), torch.rand(N_MFCC) * 5)
    return ArrayNetwork(model)


@pytest.fixture(scope="module")
def kept(network) -> KeptNetwork:
    return KeptNetwork(pickle.loads(pickle.dumps(network.graphs(SIZE))), threads=2)


def test_sizes_are_the_same(network, kept):
    for name in ("order_matters", "uses_sound", "num_classes", "row_size"):
        assert getattr(kept, name) == getattr(network, name), name
    assert kept.trunk.id == network.trunk.id
    assert kept.trunk.embedding_size == network.trunk.embedding_size
    assert kept.trunk.threads == 2


@pytest.mark.parametrize("count", [0, 1, 9])
def test_embeddings_are_the_same(network, kept, count):
    frames = np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3), dtype=np.uint8)
    found = kept.trunk.embed(frames)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, network.trunk.embed(frames))


def test_logits_are_the_same_whatever_is_missing(network, kept):
    rng = np.random.default_rng(0)
    video = rng.gamma(1.0, 1.0, (8, 2 * network.row_size)).astype(np.float32)
    video[1, :9] = -0.5  # is counted as 0
    rows = rng.normal(0, 9, (50, N_MFCC)).astype(np.float16)
    encoded = kept.encode_sound(rows)
    np.testing.assert_allclose(encoded, network.encode_sound(rows), rtol=1e-5, atol=1e-5)
    sound = np.concatenate([encoded[:8], abs(encoded[8:16])], axis=1)
    has_video, has_sound = np.arange(8) % 2 == 1, np.arange(8) // 2 % 2 == 1
    expected = network.pooled_logits(video, has_video, sound, has_sound)
    found = kept.pooled_logits(video, has_video, sound, has_sound)
    assert found.shape == (8, 3)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert expected.std(axis=0).min() > 0.1


def test_none_is_known_of_other_networks_or_where_torch_is_sooner():
    lrcn = LrcnClassifier(2, N_MFCC, encoder="conv").eval()
    assert ArrayNetwork(lrcn).graphs(SIZE) is None
    model = LateFusionClassifier(2, N_MFCC).eval()
    trunk = TrunkRuntime(model.video_encoder, engine="torch")
    assert ArrayNetwork(model, trunk).graphs(SIZE) is None
