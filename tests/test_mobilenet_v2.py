"""MobileNetV2: held against torchvision's own, and its padding against a plain reference."""

import pytest
import torch
import torch.nn.functional as F
import torchvision

from models.mobilenet_v2 import (
    EMBEDDING_SIZE,
    NUM_BLOCKS,
    TensorflowPadConv2d,
    fold_batch_norms,
    mobilenet_v2_features,
)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """The module with batch statistics that are not those of a fresh one."""
    generator = torch.Generator().manual_seed(0)
    for child in module.modules():
        if isinstance(child, torch.nn.BatchNorm2d):
            child.running_mean.normal_(0, 0.1, generator=generator)
            child.running_var.uniform_(0.5, 2.0, generator=generator)
            child.weight.data.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(child, torch.nn.Conv2d):  # by what goes in, so that pictures come through
            torch.nn.init.kaiming_normal_(child.weight, generator=generator)
    return module.eval()


@pytest.mark.parametrize("size", [(96, 96), (97, 131)])
def test_takes_torchvisions_weights_and_gives_its_numbers(size):
    theirs = randomised(torchvision.models.mobilenet_v2(weights=None).features)
    ours = mobilenet_v2_features().eval()
    ours.load_state_dict(theirs.state_dict())
    frames = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    found = ours(frames)
    assert torch.equal(found, theirs(frames))
    assert (found[0] - found[1]).abs().max() > 0.1  # the two pictures give other features


def test_has_the_blocks_and_channels_it_says():
    features = mobilenet_v2_features().eval()
    assert len(features) == NUM_BLOCKS == 19
    assert features(torch.zeros(1, 3, 96, 64)).shape == (1, EMBEDDING_SIZE, 3, 2)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 7), (8, 7), (5, 12)])
def test_tensorflow_padding_is_kerass_correct_pad(height, width):
    convolution = TensorflowPadConv2d(3, 4, 3, 2, 1, bias=False)
    x = torch.randn(1, 3, height, width)
    left, top = width % 2, height % 2
    padded = torch.zeros(1, 3, height + top + 1, width + left + 1)
    padded[:, :, top : top + height, left : left + width] = x
    expected = F.conv2d(padded, convolution.weight, stride=2)
    torch.testing.assert_close(convolution(x), expected)


def test_only_strided_3x3_convolutions_are_padded_like_tensorflow():
    features = mobilenet_v2_features("tensorflow")
    special = [m for m in features.modules() if isinstance(m, TensorflowPadConv2d)]
    assert len(special) == 5
    assert all(m.stride == (2, 2) and m.kernel_size == (3, 3) for m in special)
    with pytest.raises(ValueError, match="tensorflow"):
        mobilenet_v2_features("valid")


@pytest.mark.parametrize("padding", ["torch", "tensorflow"])
def test_folding_batch_norms_changes_no_number(padding):
    features = randomised(mobilenet_v2_features(padding))
    frames = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = features(frames)
        fold_batch_norms(features)
        torch.testing.assert_close(features(frames), expected, rtol=1e-3, atol=1e-3)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in features.modules())
