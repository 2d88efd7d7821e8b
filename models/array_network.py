"""Array network: a classifier in torch, asked with arrays of numpy about what is pooled already."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from models.graphs import heads_graph, trunk_graph
from models.kept_network import KeptGraphs
from models.late_fusion import LateFusionClassifier
from models.runtime import TrunkRuntime


class ArrayNetwork:
    """The trunk of a classifier, and what comes behind it."""

    def __init__(self, model: nn.Module, trunk: TrunkRuntime | None = None):
        self.trunk = trunk or TrunkRuntime(model.video_encoder)
        self.order_matters = model.order_matters  # of the frames
        self.uses_sound = model.uses_sound
        self.num_classes = model.config["num_classes"]
        # Of what is pooled of each frame, or, where the order matters, put in order.
        self.row_size = model.config.get("lstm_size", model.video_encoder.embedding_size)
        self._model = model
        self._device = next(model.parameters()).device

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Keeps torch to one thread where it only runs the heads.

        Its other threads would spin while they wait for the next few rows, and take as much time
        from the decoder and the trunk as those need in all.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(threads if self.trunk.engine == "torch" else 1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    @torch.inference_mode()
    def encode_sound(self, rows: np.ndarray) -> np.ndarray:
        """(n, n_mfcc) to the same shape, float32, about normal."""
        return self._model.encode_audio(self._tensor(rows.astype(np.float32))).cpu().numpy()

    @torch.inference_mode()
    def project(self, embeddings: np.ndarray) -> np.ndarray:
        """(n, embedding_size) to (n, row_size) float32, where the order matters."""
        return self._model.project(self._tensor(embeddings.astype(np.float32))).cpu().numpy()

    @torch.inference_mode()
    def pooled_logits(
        self, video: np.ndarray, has_video: np.ndarray, sound: np.ndarray, has_sound: np.ndarray
    ) -> np.ndarray:
        """(B, num_classes) float32 of (B, 2 * row_size), (B, 2 * n_mfcc) and two (B,) bool."""
        arrays = (video, sound, has_sound, has_video)
        return self._model.forward_pooled(*map(self._tensor, arrays)).cpu().numpy()

    @torch.inference_mode()
    def sequence_logits(
        self, video: np.ndarray, mask: np.ndarray, sound: np.ndarray, has_sound: np.ndarray
    ) -> np.ndarray:
        """The same where the order matters, of (B, T, row_size) and which rows count, (B, T)."""
        arrays = (video, mask, sound, has_sound)
        return self._model.forward_windows(*map(self._tensor, arrays)).cpu().numpy()

    def graphs(self, frame_size: tuple[int, int]) -> KeptGraphs | None:
        """What a `KeptNetwork` is made of; None where none is known, or torch is sooner."""
        if type(self._model) is not LateFusionClassifier or self.trunk.engine == "torch":
            return None
        encoder = self._model.audio_encoder
        return KeptGraphs(
            trunk_graph(self._model.video_encoder, frame_size),
            heads_graph(self._model),
            self.trunk.id,
            tuple(encoder.mean.tolist()),
            tuple(encoder.std.tolist()),
        )

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
