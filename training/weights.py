"""Weights: a pretrained MobileNetV2 trunk and how it must be fed, or none."""

import http.client
import math
import pickle
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from models import model_class
from models.encoders import IMAGENET_MEAN, IMAGENET_STD, FrameEncoder, trunk_input
from models.mobilenet_v2 import PADDINGS
from training.device import seed_step
from utils.config import Config
from utils.errors import UserError

# torchvision's own address, which a test compares: importing torchvision takes 2.7 seconds.
IMAGENET_URL = "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"
CONNECT_SECONDS = 20  # a network that swallows packets must not hang the training
SUFFIXES = (".safetensors", ".pth", ".pt")
# What torch's unpickler raises for files that are not its own, found by feeding it random ones.
BROKEN_FILE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError),
    *(LookupError, ValueError, TypeError, AttributeError, struct.error),
)


class WeightsError(UserError):
    """Weights that were asked for can't be had or don't fit."""


@dataclass(frozen=True)
class TrunkWeights:
    """Tensors of `FrameEncoder.features` and the input they were trained on."""

    tensors: dict[str, torch.Tensor]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    padding: str = "torch"
    source: str = ""


def weights_for(config: Config) -> tuple[TrunkWeights | None, str]:
    """What `find_weights` says for these constants; None for a network that has no such trunk."""
    if config.learns_from_scratch:
        return None, "none, the conv encoder learns from scratch"
    return find_weights(config.weights)


def find_weights(weights: str) -> tuple[TrunkWeights | None, str]:
    """The trunk's weights and one sentence on where they are from; None to train from scratch.

    `auto` takes torchvision's ImageNet weights from its cache or by download, and None where
    neither works; `imagenet` insists on them; `none` never asks; anything else is a file. Raises
    WeightsError where weights that were insisted on can't be had.
    """
    if weights == "none":
        return None, "none (--weights none)"
    if weights not in ("auto", "imagenet"):
        loaded = load_weights(Path(weights))
        return loaded, loaded.source
    try:
        loaded = _download_imagenet()
    except (OSError, http.client.HTTPException, *BROKEN_FILE) as error:
        reason = str(getattr(error, "reason", error)).partition("\n")[0]
        if weights == "imagenet":
            raise WeightsError(
                f"can't download ImageNet weights ({reason}): connect to the internet once, "
                "pass --weights FILE, or --weights auto to train without"
            ) from error
        return None, f"none, ImageNet weights could not be downloaded ({reason})"
    return loaded, loaded.source


def new_model(config: Config, num_classes: int, weights: TrunkWeights | None) -> nn.Module:
    """The network a training begins with: the trunk from `weights`, the rest random by the seed."""
    seed_step(config.seed)
    trunk = None
    if weights is not None:
        trunk = {
            "mean": weights.mean,
            "std": weights.std,
            "padding": weights.padding,
            "input_size": trunk_input(config.frame_size, config.trunk_size),
        }
    names = ("sound_size", "dropout", "modality_dropout")
    if config.model == "lrcn":
        names += ("encoder", "sequence_frames", "lstm_size", "lstm_layers")
        names += ("average_over_time", "fuse_sound")
    sizes = {name: getattr(config, name) for name in names}
    model = model_class(config.model)(num_classes, config.n_mfcc, trunk=trunk, **sizes)
    if weights is not None:
        model.video_encoder.features.load_state_dict(weights.tensors)
    return model


def load_weights(path: Path) -> TrunkWeights:
    """Weights from a .safetensors or .pth file with torchvision's names for mobilenet_v2.

    A .safetensors file may say in its metadata how it must be fed: `mean` and `std` of RGB in 0..1
    ("0.5,0.5,0.5") and `padding` ("torch" or "tensorflow"). Raises WeightsError.
    """
    if not path.is_file():
        raise WeightsError(
            f"--weights {path} is not a file: it takes auto, imagenet, none, or a file "
            f"({' '.join(SUFFIXES)}) of torchvision's mobilenet_v2"
        )
    if path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
    else:
        tensors, metadata = _read_torch(path), {}
    tensors = _trunk_tensors(tensors)
    tensors = _fitting(path, tensors)
    padding = metadata.get("padding", "torch")
    if padding not in PADDINGS:
        raise WeightsError(f"--weights {path} says padding = {padding!r}: {' or '.join(PADDINGS)}")
    return TrunkWeights(
        tensors,
        _three_numbers(path, metadata, "mean", IMAGENET_MEAN),
        _three_numbers(path, metadata, "std", IMAGENET_STD),
        padding,
        f"the file {path.name}",
    )


def _download_imagenet() -> TrunkWeights:
    """torchvision's weights IMAGENET1K_V1, from its cache or the network.

    The first set, not the second: V2 was trained with label smoothing and mixup, which gain 0.3
    points on ImageNet and cost frozen features their transfer (Kornblith et al., arXiv 2010.16402).
    """
    default_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        state = torch.hub.load_state_dict_from_url(
            IMAGENET_URL, map_location="cpu", check_hash=True, weights_only=True
        )
    finally:
        socket.setdefaulttimeout(default_timeout)
    return TrunkWeights(_trunk_tensors(state), source="ImageNet (torchvision's IMAGENET1K_V1)")


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise WeightsError(f"--weights {path} is no readable safetensors file: {error}") from error


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except BROKEN_FILE as error:
        raise WeightsError(
            f"--weights {path} is no file of plain tensors: save a state_dict, or use .safetensors"
        ) from error
    if isinstance(state, dict):
        state = state.get("state_dict", state)
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise WeightsError(f"--weights {path} holds no state_dict of torchvision's mobilenet_v2")
    return state


def _trunk_tensors(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("features."): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
        if name.startswith("features.")
    }


def _fitting(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The trunk's tensors, without any that it does not have."""
    wanted = {name: t.shape for name, t in FrameEncoder().features.state_dict().items()}
    wrong = [name for name in wanted if name not in tensors or tensors[name].shape != wanted[name]]
    if wrong:
        raise WeightsError(
            f"--weights {path} does not fit torchvision's mobilenet_v2 of width 1.0: "
            f"{len(wrong)} of {len(wanted)} tensors are missing or of another shape, "
            f"the first is features.{wrong[0]}"
        )
    return {name: tensors[name] for name in wanted}


def _three_numbers(
    path: Path, metadata: dict, name: str, default: tuple[float, ...]
) -> tuple[float, ...]:
    text = metadata.get(name)
    if text is None:
        return default
    try:
        red, green, blue = (float(part) for part in text.split(","))
        fits = math.isfinite(red + green + blue) and (name != "std" or min(red, green, blue) > 0)
    except ValueError:
        fits = False
    if not fits:
        wanted = "three numbers above 0" if name == "std" else "three numbers"
        raise WeightsError(f"--weights {path} says {name} = {text!r}: {wanted} are needed")
    return red, green, blue
