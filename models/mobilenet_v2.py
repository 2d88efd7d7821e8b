"""MobileNetV2: the trunk, layer for layer and name for name torchvision's, so that its weights fit.

Defined here because importing torchvision imports torch's compiler too, which nearly doubles the
time that importing torch takes; a test holds it against torchvision's own.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

EMBEDDING_SIZE = 1280  # channels of the last feature map
PADDINGS = ("torch", "tensorflow")
# Inverted residuals: expansion, channels, repeats, stride of the first (arXiv 1801.04381, table 2).
BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
NUM_BLOCKS = 2 + sum(repeats for _, _, repeats, _ in BLOCKS)  # the stem and the last convolution


def mobilenet_v2_features(padding: str = "torch") -> nn.Sequential:
    """(N, 3, H, W) to (N, 1280, H/32, W/32), in NUM_BLOCKS blocks with random weights.

    `padding` "torch" pads one pixel all round, "tensorflow" as `TensorflowPadConv2d` says.
    """
    if padding not in PADDINGS:
        raise ValueError(f"padding is one of {PADDINGS}, not {padding!r}")
    channels = 32
    layers: list[nn.Module] = [_conv_norm_relu(3, channels, 3, stride=2, padding=padding)]
    for expansion, out_channels, repeats, first_stride in BLOCKS:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            layers.append(InvertedResidual(channels, out_channels, stride, expansion, padding))
            channels = out_channels
    layers.append(_conv_norm_relu(channels, EMBEDDING_SIZE, 1))
    features = nn.Sequential(*layers)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return features


def fold_batch_norms(module: nn.Module) -> None:
    """Replaces each convolution with a batch norm behind it by one convolution, in place."""
    for child in module.children():
        fold_batch_norms(child)
    if isinstance(module, nn.Sequential):
        for index in range(len(module) - 1):
            if isinstance(module[index], nn.Conv2d) and isinstance(
                module[index + 1], nn.BatchNorm2d
            ):
                module[index] = fuse_conv_bn_eval(module[index], module[index + 1])
                module[index + 1] = nn.Identity()


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, project; added to the input where the shape stays."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, expansion: int, padding: str
    ):
        super().__init__()
        wide = in_channels * expansion
        layers = [] if expansion == 1 else [_conv_norm_relu(in_channels, wide, 1)]
        layers += [
            _conv_norm_relu(wide, wide, 3, stride=stride, groups=wide, padding=padding),
            nn.Conv2d(wide, out_channels, 1, bias=False),
            _batch_norm(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.is_residual else self.conv(x)


class TensorflowPadConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 2, padded as TensorFlow's MobileNetV2 was trained.

    Left and top get size mod 2 pixels, right and bottom one (Keras `correct_pad`). With torch's
    padding those weights see a picture shifted by half a pixel in every stage.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x, (width % 2, 1, height % 2, 1))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _conv_norm_relu(
    in_channels: int,
    out_channels: int,
    size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    padding: str = "torch",
) -> nn.Sequential:
    kind = TensorflowPadConv2d if padding == "tensorflow" and stride == 2 else nn.Conv2d
    convolution = kind(
        in_channels, out_channels, size, stride, size // 2, groups=groups, bias=False
    )
    return nn.Sequential(convolution, _batch_norm(out_channels), nn.ReLU6(inplace=True))


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    # Its running statistics must follow within the few dozen steps of a small archive.
    return nn.BatchNorm2d(channels, momentum=0.2)
