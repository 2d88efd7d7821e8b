"""Augmentation: random changes of a training batch, the same for all frames of a clip."""

import torch
import torch.nn.functional as F

MIN_CROP = 0.75  # smallest side of the random crop, as a part of the picture's
MAX_JITTER = 0.3  # brightness, contrast and saturation change by a factor in 1 ± this
# Contrast turns about this, not about the clip's mean, which the padding of the batch would shift.
MID_GREY = 127.5
MAX_TIME_MASK = 0.25  # longest masked part of the sound (SpecAugment, arXiv 1904.08779)
MAX_COEFFICIENT_MASK = 3  # most masked MFCC rows
FRAME_DRAWS, SOUND_DRAWS = 8, 4  # random numbers that a clip takes, in the order of the batch


def augment_frames(frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(B, T, H, W, 3) frames in 0..255, flipped, cropped and jittered; float32, still 0..255.

    One draw a clip: what differs between the frames of a clip is what the network learns from, so
    nothing here may make them differ.
    """
    b, t, h, w, _ = frames.shape
    draw = torch.rand((b, FRAME_DRAWS), generator=generator).to(frames.device)
    x = frames.permute(0, 1, 4, 2, 3).float()  # (B, T, 3, H, W)

    scale = MIN_CROP + (1 - MIN_CROP) * draw[:, :2]
    offset = (2 * draw[:, 2:4] - 1) * (1 - scale)
    flip = torch.where(draw[:, 4] < 0.5, -1.0, 1.0)
    theta = torch.zeros((b, 2, 3), device=frames.device)
    theta[:, 0, 0] = scale[:, 0] * flip
    theta[:, 1, 1] = scale[:, 1]
    theta[:, :, 2] = offset
    grid = F.affine_grid(theta, [b, 3, h, w], align_corners=False)
    # The frames of a clip go as channels of one picture, so that they share one grid.
    x = F.grid_sample(
        x.reshape(b, t * 3, h, w), grid, padding_mode="border", align_corners=False
    ).view(b, t, 3, h, w)

    def factor(column: int) -> torch.Tensor:
        return (1 + MAX_JITTER * (2 * draw[:, column] - 1)).view(b, 1, 1, 1, 1)

    grey = x.mean(dim=2, keepdim=True)
    x = grey + (x - grey) * factor(7)  # saturation
    x = (MID_GREY + (x - MID_GREY) * factor(5)) * factor(6)
    return x.clamp_(0, 255).permute(0, 1, 3, 4, 2)  # (B, T, H, W, 3)


def mask_mfcc(
    mfcc: torch.Tensor, mfcc_mask: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, M, n_mfcc) with a few coefficients flattened to their mean, and a shorter (B, M) mask.

    At least three quarters of every clip's sound stay.
    """
    b, m, n = mfcc.shape
    draw = torch.rand((b, SOUND_DRAWS), generator=generator).to(mfcc.device)
    length = mfcc_mask.sum(dim=1)
    stretch = (draw[:, 0] * MAX_TIME_MASK * length).long()
    start = (draw[:, 1] * (length - stretch + 1)).long()
    time = torch.arange(m, device=mfcc.device)
    masked = (time >= start[:, None]) & (time < (start + stretch)[:, None])

    count = (draw[:, 2] * (MAX_COEFFICIENT_MASK + 1)).long()
    first = (draw[:, 3] * (n - count + 1)).long()
    row = torch.arange(n, device=mfcc.device)
    dropped = (row >= first[:, None]) & (row < (first + count)[:, None])
    mean = mfcc_mask[:, None].to(mfcc.dtype) @ mfcc / length.clamp(min=1).view(b, 1, 1)
    return torch.where(dropped[:, None, :], mean, mfcc), mfcc_mask & ~masked
