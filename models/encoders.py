"""Encoders: two networks for frames, standardised MFCC for sound, and pooling over time."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from models.mobilenet_v2 import EMBEDDING_SIZE, NUM_BLOCKS, fold_batch_norms, mobilenet_v2_features

ENLARGING = 1.5  # of frames for pretrained weights; training_explained.md has what sizes bring
FRAMES_PER_CHUNK = 16  # on a CPU this runs 2.7 times faster than one batch of 160 frames
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CONV_CHANNELS = (32, 64, 96, 128)  # of convolutions that halve the picture each
CONV_GRID = (3, 3)  # rows and columns of the places where they are averaged
CONV_GROUPS = 8  # of channels that are normalised together


class FrameEncoder(nn.Module):
    """MobileNetV2 (arXiv 1801.04381) up to its pooled last feature map, a vector a frame.

    How frames must be fed belongs to the weights: `mean` and `std` (of RGB in 0..1) and `padding`,
    "torch" (one pixel all round) or "tensorflow" (see `TensorflowPadConv2d`). Frames are enlarged
    to `input_size` (height, width), if given: weights that were trained on larger pictures see
    more in a small one when it is blown up.
    """

    embedding_size = EMBEDDING_SIZE
    frames_per_chunk = FRAMES_PER_CHUNK

    def __init__(
        self,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        padding: str = "torch",
        input_size: tuple[int, int] | None = None,
    ):
        super().__init__()
        self.config = {
            "mean": list(mean),
            "std": list(std),
            "padding": padding,
            "input_size": input_size and list(input_size),
        }
        self.input_size = input_size and tuple(input_size)
        self.features = self._make_features(padding)
        # Channels last, as the frames come: a training step on a CPU is 1.4 times faster.
        self.features.to(memory_format=torch.channels_last)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """(N, H, W, 3) RGB in 0..255, uint8 or float, to (N, embedding_size)."""
        # Even parts: batch norm can't learn from a last one of a single frame of 32x32.
        parts = 1 if frames.is_cuda else max(1, math.ceil(len(frames) / self.frames_per_chunk))
        return torch.cat([self._encode(part) for part in frames.tensor_split(parts)])

    def for_inference(self) -> "FrameEncoder":
        """A copy with the batch norms folded into the convolutions: same numbers, sooner."""
        folded = copy.deepcopy(self).eval()
        fold_batch_norms(folded.features)
        return folded

    def train_last_blocks(self, count: int) -> None:
        """Lets the last `count` of NUM_BLOCKS blocks learn, and freezes the others."""
        for index, block in enumerate(self.features):
            block.requires_grad_(index >= NUM_BLOCKS - count)

    def freeze_statistics(self, frozen: bool) -> None:
        """Keeps batch norm at the statistics it has: those of a few clips would be worse."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.train(not frozen and self.training)

    def _encode(self, frames: torch.Tensor) -> torch.Tensor:
        x = frames.permute(0, 3, 1, 2).float()  # (N, 3, H, W), channels last in memory
        if self.input_size and x.shape[-2:] != self.input_size:
            x = F.interpolate(x, self.input_size, mode="bilinear", align_corners=False)
        return self._pool(self.features((x - self.mean) / self.std))

    def _make_features(self, padding: str) -> nn.Sequential:
        return mobilenet_v2_features(padding)

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))  # of (N, 1280, H/32, W/32)


class ConvEncoder(FrameEncoder):
    """A few convolutions of stride 2, to be trained from scratch, averaged in a grid of places.

    In a grid, because where something is, is what moves. Groups of channels are normalised within
    each frame: statistics of a batch of a few clips would be those of a few scenes.
    """

    embedding_size = CONV_CHANNELS[-1] * CONV_GRID[0] * CONV_GRID[1]
    frames_per_chunk = 256

    def __init__(self) -> None:
        super().__init__()
        self.config = {}

    def train_last_blocks(self, count: int) -> None:
        """Lets all learn, or nothing: there is no order in which so small a network thaws."""
        self.features.requires_grad_(count > 0)

    def _make_features(self, padding: str) -> nn.Sequential:
        layers: list[nn.Module] = []
        for before, channels in zip((3, *CONV_CHANNELS), CONV_CHANNELS, strict=False):
            layers += [
                nn.Conv2d(before, channels, 3, stride=2, padding=1, bias=False),
                nn.GroupNorm(CONV_GROUPS, channels),
                nn.ReLU(inplace=True),
            ]
        return nn.Sequential(*layers)

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(x, CONV_GRID).flatten(1)  # of (N, 128, H/16, W/16)


def trunk_input(frame_size: tuple[int, int], trunk_size: tuple[int, int] | str) -> tuple[int, int]:
    """Height, width to which frames are enlarged: the constant TRUNK_SIZE, or "auto" of it."""
    if trunk_size != "auto":
        return trunk_size
    height, width = frame_size
    return round(ENLARGING * height), round(ENLARGING * width)


def pool_mean_std(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, T, D) and (B, T) bool to (B, 2D): mean and unbiased deviation over time.

    Unbiased, so that 16 sampled frames and all 40 of a clip give the same expectation. A clip with
    a single step has deviation (nearly) 0, one with none is all 0.
    """
    x = x.float()
    weight = mask.unsqueeze(1).to(x.dtype)  # (B, 1, T)
    count = weight.sum(dim=2)  # (B, 1)
    # Sums as products of matrices: with the heads alone learning, most of a step is memory read.
    mean = (weight @ x).squeeze(1) / count.clamp(min=1)  # (B, D)
    squares = (weight @ (x - mean.unsqueeze(1)).square()).squeeze(1)
    # The small constant keeps the gradient of the root finite where nothing changes over time.
    std = (squares / (count - 1).clamp(min=1) + 1e-8).sqrt()
    return torch.cat([mean, std * (count > 0)], dim=1)


class MfccEncoder(nn.Module):
    """MFCC, standardised by the training set's mean and deviation of each coefficient.

    Nothing is learned before pooling: a convolution over the steps made what sound alone says about
    new sources worse, not better. `set_statistics` stores the numbers.
    """

    def __init__(self, n_mfcc: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_mfcc))
        self.register_buffer("std", torch.ones(n_mfcc))

    def set_statistics(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        self.mean.copy_(mean)
        self.std.copy_(std.clamp(min=1e-3))

    def forward(self, mfcc: torch.Tensor) -> torch.Tensor:
        """(B, M, n_mfcc) to the same shape, about normal."""
        scale = 1 / self.std
        return torch.addcmul(-self.mean * scale, mfcc.float(), scale)
