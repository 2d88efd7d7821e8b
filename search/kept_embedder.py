"""Kept embedder: what makes vectors of one model's clips, as ONNX in the cache.

A question is answered by it without torch, which takes longer to import than all the rest.
"""

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.sessions import (
    EMBEDDINGS,
    FRAME_COUNTS,
    MFCC,
    MFCC_COUNTS,
    embed_frames,
    open_session,
)
from utils.bundles import read_bundle, write_bundle
from utils.features import FeatureSpec
from utils.threads import num_threads

if TYPE_CHECKING:
    from search.embedder import ClipEmbedder

FORMAT = 1  # another one where search/embedder.py or models/graphs.py come to other numbers
INFO = "embedder.json"
TRUNK, FEATURES = "trunk.onnx", "features.onnx"


class KeptEmbedder:
    """Vectors of clips, those of the `ClipEmbedder` that was kept but for rounding, on the CPU.

    `about` is what was kept with it.
    """

    def __init__(self, spec: FeatureSpec, version: str, about: dict, graphs: dict[str, bytes]):
        self.spec = spec
        self.version = version
        self.about = about
        self._trunk, self._features = (open_session(graphs[name]) for name in (TRUNK, FEATURES))
        self._inputs = {value.name for value in self._features.get_inputs()}

    def embed(
        self,
        frames: np.ndarray,
        mfcc: np.ndarray | None,
        spans: Iterable[tuple[float, float]],
        *,
        report: Callable[[int], None] = lambda frames: None,
    ) -> np.ndarray:
        """(N, D) float32, as `Embedder` says."""
        embeddings = embed_frames(self._trunk, frames, num_threads()).astype(np.float32)
        report(len(frames))
        vectors = [self._vector(embeddings, mfcc, span) for span in spans]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(lengths, 1e-12)

    def _vector(
        self, embeddings: np.ndarray, mfcc: np.ndarray | None, span: tuple[float, float]
    ) -> np.ndarray:
        video = embeddings[self.spec.frame_span(*span)]
        sound = np.zeros((0, self.spec.mfcc.n_mfcc), np.float32)
        if mfcc is not None:
            sound = mfcc[self.spec.mfcc_span(*span)].astype(np.float32)
        values = {
            EMBEDDINGS: video[None],
            FRAME_COUNTS: np.array([len(video)]),
            MFCC: sound[None],
            MFCC_COUNTS: np.array([len(sound)]),
        }
        (features,) = self._features.run(
            None, {name: value for name, value in values.items() if name in self._inputs}
        )
        return features[0]


def keep_embedder(folder: Path, embedder: "ClipEmbedder", about: dict) -> None:
    """Writes what `read_embedder` reads. Raises TypeError for a network whose ONNX is not known."""
    files = dict(zip((TRUNK, FEATURES), embedder.graphs(), strict=True))
    info = {
        "format": FORMAT,
        "version": embedder.version,
        "spec": embedder.spec.to_dict(),
        "about": about,
    }
    write_bundle(folder / INFO, files, info)


def read_embedder(folder: Path, version: str) -> KeptEmbedder | None:
    """What was kept of this model; None where nothing was, it is damaged, or can't run here."""
    graphs, info = read_bundle(folder / INFO) or ({}, {})
    # ValueError: features that are made otherwise now.
    with contextlib.suppress(ValueError, KeyError, TypeError, ImportError):
        if (info["format"], info["version"]) == (FORMAT, version):
            return KeptEmbedder(FeatureSpec.from_dict(info["spec"]), version, info["about"], graphs)
    return None
