"""Checkpoint: a model with the recipe to feed it, and the state to resume its training from."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from models import build_model
from training.recipe import FORMAT, CheckpointError, check_format, opened
from training.run_log import package_versions
from utils.features import FeatureSpec
from utils.files import write_whole

STATE_FORMAT = "ad-game-classifier-state/2"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, and everything that belongs to its weights.

    `recipe` keeps the whole metadata: config, data fingerprint, weights, versions, metrics.
    """

    model: nn.Module
    classes: list[str]
    spec: FeatureSpec
    clip_seconds: float
    temperature: float
    recipe: dict


def save_checkpoint(path: Path, model: nn.Module, recipe: dict) -> None:
    """Writes weights and recipe into one .safetensors file, whole or not at all.

    `recipe` has `classes`, `feature_spec`, `clip_seconds` and `temperature`; the model's name and
    sizes and the library versions are added here.
    """
    recipe = {**recipe, "model": model.config, "versions": package_versions()}
    metadata = {"format": FORMAT, "recipe": json.dumps(recipe)}
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    write_whole(path, save(tensors, metadata))


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """The model in evaluation mode on `device`, and how to feed it. Raises CheckpointError."""
    tensors, metadata = _read(path, FORMAT)
    try:
        recipe = json.loads(metadata["recipe"])
        model = build_model(recipe["model"])
        model.load_state_dict(tensors)
        checkpoint = Checkpoint(
            model.to(device).eval(),
            recipe["classes"],
            FeatureSpec.from_dict(recipe["feature_spec"]),
            recipe["clip_seconds"],
            recipe["temperature"],
            recipe,
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not fit this version of the code "
            f"({str(error).splitlines()[0]}): train again, or use the version that wrote it"
        ) from error
    return checkpoint


def save_state(path: Path, state: dict) -> None:
    """Writes a nested dict of tensors, numbers, strings, lists and None, without pickle."""
    tensors: dict[str, torch.Tensor] = {}
    outline = _take_tensors(state, tensors)
    write_whole(path, save(tensors, {"format": STATE_FORMAT, "outline": json.dumps(outline)}))


def load_state(path: Path) -> dict:
    """What `save_state` wrote. Raises CheckpointError."""
    tensors, metadata = _read(path, STATE_FORMAT)
    return _put_tensors(json.loads(metadata["outline"]), tensors)


def _read(path: Path, wanted: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with opened(path, "pt") as file:
        metadata = check_format(path, file.metadata(), wanted)
        names = file.keys()
        return {name: file.get_tensor(name) for name in names}, metadata


def _take_tensors(value: object, tensors: dict[str, torch.Tensor]) -> object:
    """The value with each tensor moved to `tensors` and its name left in place."""
    if torch.is_tensor(value):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):  # as pairs: JSON would turn the optimizer's integer keys to text
        return {"pairs": [[key, _take_tensors(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_take_tensors(item, tensors) for item in value]
    return value


def _put_tensors(value: object, tensors: dict[str, torch.Tensor]) -> object:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _put_tensors(item, tensors) for key, item in value["pairs"]}
    if isinstance(value, list):
        return [_put_tensors(item, tensors) for item in value]
    return value
