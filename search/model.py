"""Search model: what makes vectors of clips, a trained network or the trunk alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from models.encoders import FrameEncoder
from search.embedder import ClipEmbedder, TrunkModel
from search.embeddings import CLIP_SECONDS
from utils.features import FeatureSpec


class Trained(Protocol):
    """What is needed of a checkpoint, or of a classifier made of one."""

    model: nn.Module
    spec: FeatureSpec
    classes: Sequence[str]
    clip_seconds: float


@dataclass(frozen=True)
class SearchModel:
    """An embedder, how recordings are cut for it, and what is to be said about it."""

    embedder: ClipEmbedder
    clip_seconds: float
    classes: tuple[str, ...]  # none where nothing was trained
    note: str

    @classmethod
    def of(cls, trained: Trained, version: str, place: object) -> "SearchModel":
        """A trained network; `version` is its file's, as `model_version` says, which is `place`."""
        embedder = ClipEmbedder(trained.model, trained.spec, version)
        note = f"{trained.model.config['name']} of {place}"
        return cls(embedder, trained.clip_seconds, tuple(trained.classes), note)

    @classmethod
    def of_trunk(cls, encoder: FrameEncoder, spec: FeatureSpec, note: str) -> "SearchModel":
        """The trunk alone, for where nothing was trained yet."""
        return cls(ClipEmbedder(TrunkModel(encoder), spec), CLIP_SECONDS, (), note)

    @property
    def version(self) -> str:
        return self.embedder.version

    @property
    def spec(self) -> FeatureSpec:
        """How recordings are read for it."""
        return self.embedder.spec

    @property
    def hop_seconds(self) -> float:
        return self.clip_seconds / 2
