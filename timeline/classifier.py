"""Classifier: a trained model, how to feed it, and how to read its answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from utils.features import FeatureSpec


@dataclass(frozen=True)
class Classifier:
    """What labelling needs of a checkpoint. `identity` (JSON values) says which one it is."""

    model: nn.Module
    spec: FeatureSpec
    classes: tuple[str, ...]
    clip_seconds: float
    temperature: float
    thresholds: Mapping[str, float] = field(default_factory=dict)  # from where a class is said
    identity: Mapping[str, object] = field(default_factory=dict)
