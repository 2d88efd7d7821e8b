"""Augmentation changes clips, never the frames of a clip against each other."""

import numpy as np
import pytest
import torch

from utils.augmentation import (
    MAX_COEFFICIENT_MASK,
    MAX_JITTER,
    MID_GREY,
    MIN_CROP,
    augment_frames,
    mask_mfcc,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(clips: int, frames: int = 1, size: int = 24) -> torch.Tensor:
    """(clips, frames, size, size, 3) uint8; all frames are the same picture."""
    random = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8))
    return random.expand(clips, frames, size, size, 3).contiguous()


def test_frames_keep_their_shape_and_range():
    extreme = (pictures(16, 3) > 127) * torch.tensor(255, dtype=torch.uint8)
    changed = augment_frames(extreme, generator())
    assert changed.shape == extreme.shape
    assert changed.dtype == torch.float32
    assert changed.min() >= 0
    assert changed.max() <= 255


def test_all_frames_of_a_clip_are_changed_alike():
    changed = augment_frames(pictures(8, 5), generator())
    assert torch.equal(changed, changed[:, :1].expand_as(changed))


def test_clips_of_a_batch_are_changed_differently():
    changed = augment_frames(pictures(8), generator())
    for a in range(8):
        for b in range(a):
            assert not torch.allclose(changed[a], changed[b], atol=1)


def test_change_is_a_function_of_the_generator():
    frames = pictures(4, 2)
    once, again = augment_frames(frames, generator(1)), augment_frames(frames, generator(1))
    assert torch.equal(once, again)
    assert not torch.equal(once, augment_frames(frames, generator(2)))


def test_frames_given_stay_as_they_were():
    frames = pictures(4, 2).float()
    before = frames.clone()
    augment_frames(frames, generator())
    assert torch.equal(frames, before)


def test_padding_of_the_batch_changes_nothing_of_a_clip():
    frames = pictures(4, 3)
    padded = torch.cat([frames, torch.zeros(4, 9, 24, 24, 3, dtype=torch.uint8)], dim=1)
    changed = augment_frames(padded, generator())[:, :3]
    torch.testing.assert_close(changed, augment_frames(frames, generator()))


def test_about_half_of_the_clips_are_mirrored_and_none_is_turned():
    ramp = torch.linspace(60, 190, 32).view(1, 1, 1, 32, 1).expand(400, 1, 32, 32, 3)
    changed = augment_frames(ramp, generator()).mean(dim=(1, 4))  # (B, H, W)
    rises = changed[:, :, -1].mean(1) > changed[:, :, 0].mean(1)
    assert 0.4 < rises.float().mean() < 0.6
    assert (changed.std(dim=1) < 1).all()  # nothing runs from top to bottom


def test_crops_differ_and_keep_three_quarters_of_each_side():
    ramp = torch.linspace(0, 255, 64).view(1, 1, 1, 64, 1).expand(200, 1, 64, 64, 3)
    grey = torch.full_like(ramp, MID_GREY)  # only brightness changes it
    cropped = augment_frames(ramp, generator())[:, 0, 0, :, 0]  # (B, W)
    bright = augment_frames(grey, generator())[:, 0, 0, :1, 0] / MID_GREY
    # Around the middle of the crop nothing is clipped, and its slope is contrast over zoom.
    slope = ((cropped[:, 33] - cropped[:, 30]) / 3 / bright[:, 0]).abs() / (255 / 63)
    assert (slope > (1 - MAX_JITTER) * MIN_CROP - 0.01).all()
    assert (slope < 1 + MAX_JITTER + 0.01).all()
    middle = cropped[:, 31:33].mean(1) / bright[:, 0]
    assert middle.std() > 3  # of 255


def sounds(lengths: list[int], n_mfcc: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.arange(max(1, *lengths)) < torch.tensor(lengths)[:, None]
    random = torch.from_numpy(np.random.default_rng(0).normal(5, 1, (*mask.shape, n_mfcc)))
    return random.float() * mask[:, :, None], mask


def test_most_of_every_sound_stays_and_nothing_is_added():
    for seed in range(20):
        mfcc, mask = sounds([1, 2, 3, 10, 94, 313] * 4)
        _, kept = mask_mfcc(mfcc, mask, generator(seed))
        assert not (kept & ~mask).any()
        assert (kept.sum(1) >= 0.75 * mask.sum(1)).all()


def test_what_is_hidden_is_one_stretch_that_differs_between_clips():
    mfcc, mask = sounds([100] * 30)
    _, kept = mask_mfcc(mfcc, mask, generator())
    stretches = set()
    for row in (~kept).int():
        hidden = torch.nonzero(row).flatten().tolist()
        assert hidden == list(range(hidden[0], hidden[-1] + 1)) if hidden else True
        stretches.add(tuple(hidden))
    assert len(stretches) > 20


def test_few_coefficients_are_flattened_to_their_mean_over_the_sound():
    mfcc, mask = sounds([100, 60] * 20)
    changed, _ = mask_mfcc(mfcc, mask, generator())
    touched = (changed != mfcc).any(dim=1)  # (B, n_mfcc)
    assert touched.sum(1).max() == MAX_COEFFICIENT_MASK
    assert 0 < touched.float().mean() < 0.2
    for clip, row in zip(*torch.nonzero(touched, as_tuple=True), strict=True):
        mean = mfcc[clip, mask[clip], row].mean()
        torch.testing.assert_close(
            changed[clip, mask[clip], row], mean.expand(int(mask[clip].sum()))
        )


def test_clip_without_sound_stays_without_it():
    mfcc, mask = sounds([*[0] * 20, 50])
    changed, kept = mask_mfcc(mfcc, mask, generator())
    assert not kept[:20].any()
    assert torch.isfinite(changed).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_masks_are_a_function_of_the_generator(seed):
    mfcc, mask = sounds([100] * 8)
    once, again = (mask_mfcc(mfcc, mask, generator(seed)) for _ in range(2))
    assert torch.equal(once[0], again[0])
    assert torch.equal(once[1], again[1])
    assert not torch.equal(once[1], mask_mfcc(mfcc, mask, generator(seed + 10))[1])
