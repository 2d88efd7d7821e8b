"""Network: what labelling asks of a classifier, which torch answers, or what was kept of it."""

import contextlib
from typing import TYPE_CHECKING, Protocol

import numpy as np

from models.kept_network import KeptGraphs, KeptNetwork
from utils.threads import num_threads

if TYPE_CHECKING:  # it takes seconds to import, and a network that was kept does without
    from torch import nn


class Trunk(Protocol):
    """What makes embeddings of frames."""

    threads: int
    id: str  # changes with the weights and how frames are fed to them
    embedding_size: int

    def embed(self, frames: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB to (N, embedding_size) float16, all frames by themselves."""


class Network(Protocol):
    """A trunk, and what comes behind it; shapes are those of `models.array_network`."""

    trunk: Trunk
    order_matters: bool
    uses_sound: bool
    num_classes: int
    row_size: int

    def at_work(self) -> contextlib.AbstractContextManager:
        """In it the network is asked often, while others compute."""

    def encode_sound(self, rows: np.ndarray) -> np.ndarray: ...

    def project(self, embeddings: np.ndarray) -> np.ndarray: ...

    def pooled_logits(
        self, video: np.ndarray, has_video: np.ndarray, sound: np.ndarray, has_sound: np.ndarray
    ) -> np.ndarray: ...

    def sequence_logits(
        self, video: np.ndarray, mask: np.ndarray, sound: np.ndarray, has_sound: np.ndarray
    ) -> np.ndarray: ...


def network_of(model: "nn.Module | KeptGraphs", threads: int | None = None) -> Network:
    """What answers for a classifier's model; without torch on so many threads, or as many as this
    process should have."""
    if isinstance(model, KeptGraphs):
        return KeptNetwork(model, threads or num_threads())
    from models.array_network import ArrayNetwork

    return ArrayNetwork(model)
