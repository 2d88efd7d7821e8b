"""Classifier: a trained model, how to feed it, and how to read its answers."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from utils.features import FeatureSpec

if TYPE_CHECKING:  # it takes seconds to import, which whoever reads old timelines need not wait
    from torch import nn


@dataclass(frozen=True)
class Classifier:
    """What labelling needs of a checkpoint. `identity` (JSON values) says which one it is."""

    model: "nn.Module"
    spec: FeatureSpec
    classes: tuple[str, ...]
    clip_seconds: float
    temperature: float
    thresholds: Mapping[str, float] = field(default_factory=dict)  # from where a class is said
    identity: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, checkpoint: object, path: Path, thresholds: Mapping[str, float]) -> "Classifier":
        """That of what training.checkpoint read from `path`."""
        return cls(
            checkpoint.model,
            checkpoint.spec,
            tuple(checkpoint.classes),
            checkpoint.clip_seconds,
            checkpoint.temperature,
            thresholds,
            identify(path, checkpoint.recipe),
        )


def identify(path: Path, recipe: Mapping) -> dict[str, object]:
    """JSON values that tell the checkpoint at `path`, of this recipe, from all others."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "name": recipe["model"]["name"],
        "run": path.resolve().parent.name,
        "sha256": digest,
        "feature_spec": FeatureSpec.from_dict(recipe["feature_spec"]).id,
        "trained": recipe.get("versions", {}),
    }
