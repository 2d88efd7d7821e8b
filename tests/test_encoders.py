"""Encoders: pooling sees what is there and nothing else, frames are encoded one by one."""

import numpy as np
import pytest
import torch

from models.encoders import FrameEncoder, MfccEncoder, pool_mean_std, trunk_input
from models.mobilenet_v2 import EMBEDDING_SIZE, NUM_BLOCKS
from tests.trainings import fill_norms


@pytest.fixture(scope="module")
def encoder() -> FrameEncoder:
    torch.manual_seed(0)
    encoder = FrameEncoder().eval()
    fill_norms(encoder)
    return encoder


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (7, 40, 48, 3), dtype=torch.uint8, generator=generator)


def mask_of(*lengths: int) -> torch.Tensor:
    return torch.arange(max(max(lengths), 1)) < torch.tensor(lengths)[:, None]


def test_pooling_is_mean_and_unbiased_deviation():
    x = torch.randn(3, 8, 5, dtype=torch.float64).float()
    pooled = pool_mean_std(x, mask_of(8, 8, 8))
    torch.testing.assert_close(pooled[:, :5], x.mean(dim=1))
    torch.testing.assert_close(pooled[:, 5:], x.std(dim=1))


def test_pooling_ignores_what_is_masked_out():
    x = torch.randn(2, 6, 5)
    alone = pool_mean_std(x[:, :4], mask_of(4, 4))
    x[:, 4:] = 1e4
    torch.testing.assert_close(pool_mean_std(x, mask_of(6, 6) & mask_of(4, 4, 6)[:2]), alone)


def test_masked_steps_may_lie_anywhere():
    x = torch.randn(1, 6, 5)
    mask = torch.tensor([[True, False, True, True, False, True]])
    torch.testing.assert_close(pool_mean_std(x, mask)[:, 5:], x[:, mask[0]].std(dim=1))


def test_pooling_one_step_has_no_deviation_and_none_is_zero():
    x = torch.randn(2, 3, 5)
    pooled = pool_mean_std(x, mask_of(1, 0, 3)[:2])
    torch.testing.assert_close(pooled[0, :5], x[0, 0])
    assert pooled[0, 5:].abs().max() < 1e-3
    assert pooled[1].eq(0).all()


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_gradient_of_pooling_is_finite_where_nothing_changes(steps):
    x = torch.ones(1, 4, 5, requires_grad=True)
    pool_mean_std(x, mask_of(steps, 4)[:1]).sum().backward()
    assert x.grad.isfinite().all()


def test_pooling_of_half_precision_is_as_exact_as_of_floats():
    x = (100 + torch.randn(1, 4000, 3)).half()  # their sum is beyond what float16 holds
    torch.testing.assert_close(pool_mean_std(x, mask_of(4000))[:, :3], x.float().mean(dim=1))


def test_embedding_of_a_frame_depends_on_no_other(encoder, frames, monkeypatch):
    with torch.inference_mode():
        together = encoder(frames)
        alone = torch.cat([encoder(frame[None]) for frame in frames])
        monkeypatch.setattr(FrameEncoder, "frames_per_chunk", 3)
        chunked = encoder(frames)
    assert together.shape == (7, EMBEDDING_SIZE)
    assert together.std(dim=0).mean() > 0.01  # the frames differ
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(chunked, together, rtol=1e-4, atol=1e-5)


def test_frames_may_be_bytes_or_floats(encoder, frames):
    with torch.inference_mode():
        torch.testing.assert_close(encoder(frames[:2]), encoder(frames[:2].float()))


def test_frames_are_fed_as_the_weights_were_trained(encoder, frames):
    other = FrameEncoder((0.5, 0.4, 0.3), (0.5, 0.25, 0.2), "tensorflow").eval()
    other.features.load_state_dict(encoder.features.state_dict())
    x = frames[:2].permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.25, 0.2]).view(
        3, 1, 1
    )
    with torch.inference_mode():
        expected = other.features(x).mean(dim=(2, 3))
        torch.testing.assert_close(other(frames[:2]), expected, rtol=1e-3, atol=1e-4)


def test_frames_are_enlarged_to_the_size_asked_for(encoder, frames):
    larger = FrameEncoder(input_size=(64, 96)).eval()
    larger.features.load_state_dict(encoder.features.state_dict())
    seen = []
    larger.features.register_forward_pre_hook(lambda module, x: seen.append(x[0].shape[-2:]))
    with torch.inference_mode():
        larger(frames)
    assert set(seen) == {(64, 96)}


def test_config_makes_the_same_encoder():
    config = FrameEncoder((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "tensorflow", (64, 96)).config
    assert FrameEncoder(**config).config == config


@pytest.mark.parametrize("count", [2, 16, 17, 33])
def test_smallest_frames_can_be_trained_on_in_any_number(count, frames):
    # A last chunk of one frame would leave batch norm a single value to learn from.
    encoder = FrameEncoder().train()
    assert encoder(frames[:1, :32, :32].repeat(count, 1, 1, 1)).isfinite().all()


def test_no_frames_are_no_embeddings(encoder):
    assert encoder(torch.zeros((0, 32, 32, 3), dtype=torch.uint8)).shape == (0, EMBEDDING_SIZE)


@pytest.mark.parametrize("count", [0, 2, NUM_BLOCKS])
def test_only_the_last_blocks_learn(count):
    encoder = FrameEncoder()
    encoder.train_last_blocks(count)
    learns = [all(p.requires_grad for p in block.parameters()) for block in encoder.features]
    assert learns == [False] * (NUM_BLOCKS - count) + [True] * count


def test_frozen_statistics_stay_and_others_move(frames):
    encoder = FrameEncoder().train()
    before = encoder.features[0][1].running_mean.clone()
    encoder.freeze_statistics(True)
    encoder(frames)
    assert encoder.features[0][1].running_mean.equal(before)
    encoder.train()
    encoder.freeze_statistics(False)
    encoder(frames)
    assert not encoder.features[0][1].running_mean.equal(before)


def test_statistics_never_move_in_evaluation(encoder, frames):
    before = encoder.features[0][1].running_mean.clone()
    encoder.freeze_statistics(False)
    encoder(frames)
    assert encoder.features[0][1].running_mean.equal(before)


def test_trunk_sees_frames_half_as_large_again_unless_it_is_told_a_size():
    assert trunk_input((96, 96), "auto") == (144, 144)
    assert trunk_input((160, 90), "auto") == (240, 135)
    assert trunk_input((160, 90), (176, 200)) == (176, 200)


def test_sound_is_standardised_by_the_training_sets_statistics():
    encoder = MfccEncoder(4)
    mfcc = 5 + 3 * torch.randn(500, 4)
    mfcc[:, 0] = 7.0  # a coefficient that never changes must not become infinite
    encoder.set_statistics(mfcc.mean(dim=0), mfcc.std(dim=0))
    encoded = encoder(mfcc[None])[0]
    assert encoded.shape == mfcc.shape
    np.testing.assert_allclose(encoded[:, 1:].mean(dim=0), 0, atol=1e-5)
    np.testing.assert_allclose(encoded[:, 1:].std(dim=0), 1, atol=1e-4)
    assert encoded.isfinite().all()


def test_encoder_for_inference_is_a_copy_with_the_same_numbers(encoder, frames):
    before = {name: t.clone() for name, t in encoder.state_dict().items()}
    fast = encoder.train().for_inference()
    assert encoder.training
    assert all(t.equal(before[name]) for name, t in encoder.state_dict().items())
    with torch.inference_mode():
        torch.testing.assert_close(fast(frames), encoder.eval()(frames), rtol=1e-3, atol=1e-4)
