"""Embedder: vectors of clips, by a network in torch."""

import hashlib
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn

from models.encoders import FrameEncoder, pool_mean_std
from models.graphs import features_graph, trunk_graph
from models.runtime import TrunkRuntime
from search.embeddings import VERSION_DIGITS
from utils.dataset import collate
from utils.features import FeatureSpec

BLOCK_FRAMES = 512  # between two signs of life
CLIPS_AT_ONCE = 32


class TrunkModel(nn.Module):
    """Mean and deviation over time of what the trunk says: a model where none was trained."""

    def __init__(self, encoder: FrameEncoder):
        super().__init__()
        self.video_encoder = encoder

    def forward_features(
        self,
        video: torch.Tensor,
        video_mask: torch.Tensor,
        mfcc: torch.Tensor,
        mfcc_mask: torch.Tensor,
    ) -> torch.Tensor:
        """(B, 2560) of embeddings (B, T, 1280); the sound has no part in it."""
        return pool_mean_std(video, video_mask)


class ClipEmbedder:
    """Vectors of clips by one model: what its last layer is given, brought to length 1.

    `version` says which model that is (`model_version`), where there is no checkpoint the trunk's
    weights and how features are made: vectors of two are never compared.
    """

    def __init__(self, model: nn.Module, spec: FeatureSpec, version: str | None = None):
        self.spec = spec
        self._model = model.eval()
        self._trunk = TrunkRuntime(model.video_encoder)
        if version is None:
            text = f"{self._trunk.id} {spec.id}"
            version = hashlib.sha256(text.encode()).hexdigest()[:VERSION_DIGITS]
        self.version = version

    @property
    def network(self) -> str:
        """Its name, as checkpoints have it."""
        return self._model.config["name"]

    @torch.inference_mode()
    def embed(
        self,
        frames: np.ndarray,
        mfcc: np.ndarray | None,
        spans: Iterable[tuple[float, float]],
        *,
        report: Callable[[int], None] = lambda frames: None,
    ) -> np.ndarray:
        """(N, D) float32, as `Embedder` says."""
        device = next(self._model.buffers()).device
        parts = []
        for start in range(0, len(frames), BLOCK_FRAMES):
            parts.append(self._trunk.embed(frames[start : start + BLOCK_FRAMES]))
            report(len(parts[-1]))
        embeddings, spans, vectors = np.concatenate(parts), list(spans), []
        for first in range(0, len(spans), CLIPS_AT_ONCE):
            items = [
                (
                    embeddings[self.spec.frame_span(*span)],
                    None if mfcc is None else mfcc[self.spec.mfcc_span(*span)],
                    0,
                )
                for span in spans[first : first + CLIPS_AT_ONCE]
            ]
            batch = collate(items, self.spec.mfcc.n_mfcc).to(device)
            features = self._model.forward_features(
                batch.video, batch.video_mask, batch.mfcc, batch.mfcc_mask
            )
            vectors.append(nn.functional.normalize(features.float(), dim=1).cpu().numpy())
        return np.concatenate(vectors)

    def graphs(self) -> tuple[bytes, bytes]:
        """ONNX of the trunk, and of what comes behind it. Raises TypeError where none is known."""
        encoder = self._model.video_encoder
        return trunk_graph(encoder, self.spec.frame_size), features_graph(self._model)
