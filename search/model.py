"""Search model: what makes vectors of clips, a trained network or the trunk alone."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from search.embeddings import CLIP_SECONDS, Embedder
from search.kept_embedder import INFO, keep_embedder, read_embedder
from utils.bundles import forget_bundles
from utils.features import FeatureSpec

if TYPE_CHECKING:  # a model that was kept answers without torch
    from torch import nn

    from models.encoders import FrameEncoder

EMBEDDERS = "embedders"  # folder in the cache, one in it for each model
MOST_KEPT = 8  # of 9 MB; another one is made anew within seconds


class Trained(Protocol):
    """What is needed of a checkpoint, or of a classifier made of one."""

    model: "nn.Module"
    spec: FeatureSpec
    classes: Sequence[str]
    clip_seconds: float


@dataclass(frozen=True)
class SearchModel:
    """An embedder, how recordings are cut for it, and what is to be said about it."""

    embedder: Embedder
    clip_seconds: float
    classes: tuple[str, ...]  # none where nothing was trained
    note: str

    @classmethod
    def of(cls, trained: Trained, version: str, place: object) -> "SearchModel":
        """A trained network; `version` is its file's, as `model_version` says, which is `place`."""
        from search.embedder import ClipEmbedder

        embedder = ClipEmbedder(trained.model, trained.spec, version)
        note = f"{trained.model.config['name']} of {place}"
        return cls(embedder, trained.clip_seconds, tuple(trained.classes), note)

    @classmethod
    def of_trunk(cls, encoder: "FrameEncoder", spec: FeatureSpec, note: str) -> "SearchModel":
        """The trunk alone, for where nothing was trained yet."""
        from search.embedder import ClipEmbedder, TrunkModel

        return cls(ClipEmbedder(TrunkModel(encoder), spec), CLIP_SECONDS, (), note)

    @classmethod
    def kept(cls, cache_dir: Path, version: str, place: object) -> "SearchModel | None":
        """What `keep` left of the network of that version; None where it did not."""
        embedder = read_embedder(embedder_folder(cache_dir, version), version)
        if embedder is None:
            return None
        about = embedder.about
        note = f"{about['network']} of {place}"
        return cls(embedder, about["clip_seconds"], tuple(about["classes"]), note)

    def keep(self, cache_dir: Path) -> None:
        """Leaves in the cache what answers sooner next time, if that can be done here."""
        network = self.embedder.network
        about = {"network": network, "clip_seconds": self.clip_seconds, "classes": self.classes}
        # OSError: a full disk or a cache that can't be written is no reason not to answer.
        with contextlib.suppress(OSError, ImportError):
            keep_embedder(embedder_folder(cache_dir, self.version), self.embedder, about)
            forget_bundles(Path(cache_dir, EMBEDDERS), INFO, most=MOST_KEPT)

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


def embedder_folder(cache_dir: Path, version: str) -> Path:
    """Where `SearchModel.keep` leaves a network."""
    return Path(cache_dir, EMBEDDERS, version)
