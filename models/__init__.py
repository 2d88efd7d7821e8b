"""Models: the networks, built by name from the sizes that a checkpoint carries."""

from torch import nn

from models.late_fusion import LateFusionClassifier
from models.lrcn import LrcnClassifier

MODELS = {"late_fusion": LateFusionClassifier, "lrcn": LrcnClassifier}


def build_model(config: dict) -> nn.Module:
    """The network of a `model.config`. Raises ValueError for an unknown name."""
    sizes = dict(config)
    name = sizes.pop("name")
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: this version knows {', '.join(MODELS)}")
    return MODELS[name](**sizes)
