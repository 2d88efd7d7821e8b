"""A classifier asked with arrays says what it says of tensors."""

import numpy as np
import pytest
import torch

from models.array_network import ArrayNetwork
from models.encoders import pool_mean_std
from models.late_fusion import LateFusionClassifier
from models.lrcn import LrcnClassifier
from models.runtime import TrunkRuntime
from tests.trainings import fill_heads, fill_norms

N_MFCC = 20
KINDS = {
    "late fusion": lambda: LateFusionClassifier(3, N_MFCC),
    "lrcn": lambda: LrcnClassifier(3, N_MFCC, lstm_size=12, sequence_frames=4),
    "without sound": lambda: LrcnClassifier(3, N_MFCC, encoder="conv", fuse_sound=False),
}


@pytest.fixture(params=KINDS)
def model(request) -> torch.nn.Module:
    torch.manual_seed(0)
    model = KINDS[request.param]().eval()
    fill_heads(model)
    fill_norms(model.video_encoder)
    return model


def test_answer_about_a_clip_is_that_of_the_network(model):
    rng, network = np.random.default_rng(0), ArrayNetwork(model)
    embeddings = rng.gamma(1.0, 1.0, (1, 9, model.video_encoder.embedding_size)).astype(np.float16)
    mfcc = rng.normal(0, 5, (1, 30, N_MFCC)).astype(np.float16)
    tensors = torch.from_numpy(embeddings).float(), torch.from_numpy(mfcc).float()
    masks = [torch.ones(x.shape[:2], dtype=torch.bool) for x in tensors]
    with torch.inference_mode():
        expected = model(tensors[0], masks[0], tensors[1], masks[1]).numpy()
    rows = network.encode_sound(mfcc[0]) if network.uses_sound else mfcc[0].astype(np.float32)
    sound = pool_mean_std(torch.from_numpy(rows)[None], masks[1]).numpy()
    there = np.ones(1, bool)
    if network.order_matters:
        video = network.project(embeddings[0])[None]
        assert video.shape == (1, 9, network.row_size)
        found = network.sequence_logits(video, masks[0].numpy(), sound, there)
    else:
        video = pool_mean_std(tensors[0], masks[0]).numpy()
        assert video.shape == (1, 2 * network.row_size)
        found = network.pooled_logits(video, there, sound, there)
    assert found.shape == (1, network.num_classes)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("engine", "within"), [("onnxruntime", 1), ("torch", 2)])
def test_torch_that_only_runs_the_heads_has_one_thread(engine, within):
    model = LrcnClassifier(2, N_MFCC, encoder="conv").eval()
    network = ArrayNetwork(model, TrunkRuntime(model.video_encoder, engine=engine))
    threads = torch.get_num_threads()

    def stop_midway() -> None:
        with network.at_work():
            assert torch.get_num_threads() == within
            raise KeyboardInterrupt

    try:
        torch.set_num_threads(2)
        with pytest.raises(KeyboardInterrupt):
            stop_midway()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
