"""Embedding: the trunk run once over every frame, so that the heads train in seconds."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from models.encoders import FrameEncoder
from models.runtime import TOLERANCE, TrunkRuntime
from training.device import amp_dtype
from utils.config import Config
from utils.feature_store import Column, FeatureStore
from utils.prepared_set import PreparedSet

COLUMN = "embeddings"
BLOCK_FRAMES = 512  # between two moves of the bar


class MemoryStore:
    """Arrays by key and column, as a FeatureStore's, gone with the process."""

    def __init__(self) -> None:
        self._arrays: dict[str, dict[str, np.ndarray]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def get(self, key: str, column: str) -> np.ndarray | None:
        return self._arrays[key].get(column)

    def add(self, key: str, arrays: dict[str, Iterable[np.ndarray]], info: dict) -> None:
        self._arrays[key] = {name: np.concatenate(list(rows)) for name, rows in arrays.items()}


def stored_embeddings(model: nn.Module, prepared: PreparedSet, config: Config) -> FeatureStore:
    """Embeddings of all recordings, made where the cache lacks them.

    The cache is `cache_dir/embeddings/<id>`, a folder for each trunk, each way to make frames and
    each precision: within one, CPU and GPU agree to TOLERANCE, and share the folder.
    """
    encoder = model.video_encoder
    amp = amp_dtype(encoder.mean.device, config.mixed_precision)
    store = _open_store(config.cache_dir, prepared.spec.id, encoder, amp)
    missing = [key for key in prepared.keys.values() if key not in store]
    if missing:
        with store.writing():
            embed_recordings(encoder, prepared.store, missing, store, amp=amp)
    return store


def embed_recordings(
    encoder: FrameEncoder,
    features: FeatureStore,
    keys: Iterable[str],
    target: FeatureStore | MemoryStore,
    *,
    amp: torch.dtype | None = None,
    title: str | None = "embed",
) -> None:
    """Adds (T, embedding_size) float16 embeddings of each recording that `target` lacks.

    A bar counts frames where there is a `title`.
    """
    missing = [key for key in dict.fromkeys(keys) if key not in target]
    total = sum(features.num_rows(key, "frames") for key in missing)
    trunk = TrunkRuntime(encoder, amp=amp)
    bar = tqdm(total=total, desc=title, unit="frame", disable=title is None, delay=1, leave=False)
    with bar:
        for key in missing:
            frames = features.get(key, "frames")
            target.add(key, {COLUMN: _embed(trunk, frames, bar)}, {})


def _open_store(
    cache_dir: str | Path, spec_id: str, encoder: FrameEncoder, amp: torch.dtype | None
) -> FeatureStore:
    precision = f"{amp or torch.float32} {TOLERANCE}"
    digest = hashlib.sha256(f"{spec_id} {encoder.config} {precision}".encode())
    for tensor in encoder.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    folder = Path(cache_dir, "embeddings", digest.hexdigest()[:12])
    column = Column("float16", (encoder.embedding_size,))
    return FeatureStore(folder, {COLUMN: column})


def _embed(trunk: TrunkRuntime, frames: np.ndarray, bar: tqdm) -> Iterator[np.ndarray]:
    for start in range(0, len(frames), BLOCK_FRAMES):
        block = frames[start : start + BLOCK_FRAMES]
        yield trunk.embed(block)
        bar.update(len(block))
