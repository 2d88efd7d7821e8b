"""Kept network: late fusion as ONNX, which says on arrays what the network does; without torch."""

import contextlib
import importlib.util
from dataclasses import dataclass

import numpy as np

from models.sessions import embed_frames, open_session

POOLED_VIDEO, POOLED_MFCC = "pooled_video", "pooled_mfcc"  # names of the inputs
HAS_VIDEO, HAS_SOUND = "has_video", "has_sound"


@dataclass(frozen=True)
class KeptGraphs:
    """All that a `KeptNetwork` is made of."""

    trunk: bytes  # of `models.graphs.trunk_graph`
    heads: bytes  # of `models.graphs.heads_graph`
    trunk_id: str
    mfcc_mean: tuple[float, ...]
    mfcc_std: tuple[float, ...]


def can_run() -> bool:
    """Whether there is an onnxruntime here."""
    return importlib.util.find_spec("onnxruntime") is not None


class KeptNetwork:
    """Says what `models.array_network.ArrayNetwork` does of late fusion, but for rounding."""

    order_matters = False
    uses_sound = True

    def __init__(self, graphs: KeptGraphs, threads: int):
        self.trunk = KeptTrunk(graphs, threads)
        self.row_size = self.trunk.embedding_size
        self._heads = open_session(graphs.heads)
        self.num_classes = self._heads.get_outputs()[0].shape[1]
        self._mfcc_mean = np.float32(graphs.mfcc_mean)
        self._mfcc_std = np.float32(graphs.mfcc_std)

    def at_work(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def encode_sound(self, rows: np.ndarray) -> np.ndarray:
        """(n, n_mfcc) to the same shape, float32, about normal."""
        return (rows.astype(np.float32) - self._mfcc_mean) / self._mfcc_std

    def pooled_logits(
        self, video: np.ndarray, has_video: np.ndarray, sound: np.ndarray, has_sound: np.ndarray
    ) -> np.ndarray:
        """(B, num_classes) float32 of (B, 2 * row_size), (B, 2 * n_mfcc) and two (B,) bool."""
        inputs = {
            POOLED_VIDEO: video,
            POOLED_MFCC: sound,
            HAS_VIDEO: has_video[:, None],
            HAS_SOUND: has_sound[:, None],
        }
        (logits,) = self._heads.run(None, inputs)
        return logits


class KeptTrunk:
    """The trunk, for frames of the size that its graph was made for."""

    def __init__(self, graphs: KeptGraphs, threads: int):
        self.id = graphs.trunk_id
        self.threads = threads
        self._session = open_session(graphs.trunk)
        self.embedding_size = self._session.get_outputs()[0].shape[1]

    def embed(self, frames: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB to (N, embedding_size) float16, all frames by themselves."""
        if len(frames) == 0:
            return np.zeros((0, self.embedding_size), np.float16)
        return embed_frames(self._session, frames, self.threads)
