"""Models: the networks, built by name from the sizes that a checkpoint carries."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

MODELS = ("late_fusion", "lrcn")


def model_class(name: str) -> "type[nn.Module]":
    """The class of a network. Raises ValueError for an unknown name."""
    # Not above: torch takes seconds to import, and what is ONNX already (sessions) runs without.
    from models.late_fusion import LateFusionClassifier
    from models.lrcn import LrcnClassifier

    known = dict(zip(MODELS, (LateFusionClassifier, LrcnClassifier), strict=True))
    if name not in known:
        raise ValueError(f"unknown model {name!r}: this version knows {', '.join(MODELS)}")
    return known[name]


def build_model(config: dict) -> "nn.Module":
    """The network of a `model.config`. Raises ValueError for an unknown name."""
    sizes = dict(config)
    return model_class(sizes.pop("name"))(**sizes)
