"""Scoring: a recording to class probabilities over time."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.mobilenet_v2 import EMBEDDING_SIZE
from models.runtime import TrunkRuntime
from timeline.pooling import SpanSums
from timeline.timeline import Damage
from utils.clips import MIN_CLIP_SECONDS
from utils.dataset import prefetch
from utils.features import FeatureSpec, check_length, read_features
from utils.video import probe

HOP_SECONDS = 0.25
SHORT_SECONDS = 4.0  # window that says more of edges, and less of what is between them


@dataclass(frozen=True)
class ScoredRecording:
    """What a model says about a recording over time, in seconds since its first picture.

    Row k of a window is about [c - window / 2, c + window / 2), c = (k + 0.5) * hop, cut at both
    ends of the recording: the probabilities that the network gives to that span as a clip.
    """

    hop_seconds: float
    window_seconds: tuple[float, ...]
    probabilities: np.ndarray  # (W, N, C) float32, calibrated, by window, row and class
    duration_seconds: float
    has_sound: bool
    frame_rate: float  # average pictures a second
    zero_seconds: float = 0.0  # from where players start to count to the first picture
    damage: tuple[Damage, ...] = ()
    tile_probabilities: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @property
    def overall(self) -> np.ndarray:
        """(C,) mean probabilities of the tiles, each counted by its length."""
        starts, ends, rows = zip(*self.tiles(), strict=True)
        return (np.array(ends) - np.array(starts)) @ np.array(rows) / self.duration_seconds

    def tiles(self) -> list[tuple[float, float, np.ndarray]]:
        """Windows of the first length side by side: start, end in seconds, probabilities (C,)."""
        spans = tile_windows(self.duration_seconds, self.window_seconds[0])
        rows = self.tile_probabilities
        return [(a, b, row) for (a, b), row in zip(spans, rows, strict=True)]


@torch.inference_mode()
def score_recording(
    path: Path,
    model: nn.Module,
    spec: FeatureSpec,
    *,
    clip_seconds: float,
    temperature: float,
    trunk: TrunkRuntime | None = None,
    quick: bool = False,
    embeddings: Path | None = None,
    on_progress: Callable[[float, float], None] | None = None,
) -> ScoredRecording:
    """The probabilities of a recording over time, read in one pass.

    Every frame goes through the trunk once and is forgotten when its windows are scored. `trunk` is
    the model's, for a caller who scores many recordings to make once. `on_progress` is told how
    many seconds are done, and of how many. Raises MediaError where the file can't be read.
    """
    info = probe(path)
    trunk = trunk or TrunkRuntime(model.video_encoder)
    scorer = DenseScorer(model, spec, clip_seconds=clip_seconds, temperature=temperature)
    with contextlib.closing(prefetch(read_features(path, spec))) as ahead:
        for block in ahead:
            heard = None if block.mfcc is None else np.full(len(block.mfcc), block.heard)
            scorer.add(trunk.embed(block.frames), block.mfcc, heard)
            if on_progress is not None:
                total = max(info.duration_seconds, scorer.seconds)
                on_progress(scorer.seconds, total)
    check_length(scorer.num_frames, spec)
    probabilities, tiles = scorer.finish()
    return ScoredRecording(
        HOP_SECONDS,
        scorer.window_seconds,
        probabilities,
        scorer.seconds,
        scorer.has_sound,
        frame_rate=info.frame_rate,
        zero_seconds=info.zero_seconds,
        tile_probabilities=tiles,
    )


def tile_windows(duration_seconds: float, window_seconds: float) -> list[tuple[float, float]]:
    """Half-open windows side by side over a recording; too short a rest joins the last.

    0        10        20  22            0        10       20 20.5
    |--------|---------|---|             |--------|---------|
    """
    starts = list(np.arange(0.0, duration_seconds, window_seconds))
    if len(starts) > 1 and duration_seconds - starts[-1] < MIN_CLIP_SECONDS:
        starts.pop()
    return [
        (float(a), float(b)) for a, b in zip(starts, [*starts[1:], duration_seconds], strict=True)
    ]


class DenseScorer:
    """Scores the windows of a recording as its features come; memory stays that of a window."""

    def __init__(
        self, model: nn.Module, spec: FeatureSpec, *, clip_seconds: float, temperature: float
    ):
        self.window_seconds = (clip_seconds, SHORT_SECONDS)
        self.num_frames = 0
        self.has_sound = False
        self._model = model
        self._device = next(model.parameters()).device
        self._spec = spec
        self._temperature = temperature
        self._video = SpanSums(EMBEDDING_SIZE)
        self._sound = SpanSums(spec.mfcc.n_mfcc)
        self._has_track = True
        self._rows: list[list[np.ndarray]] = [[] for _ in self.window_seconds]
        self._tiles: list[np.ndarray] = []
        self._num_rows = [0] * len(self.window_seconds)
        self._num_tiles = 0

    @property
    def seconds(self) -> float:
        return self.num_frames / self._spec.fps

    def add(
        self, embeddings: np.ndarray, mfcc: np.ndarray | None, heard: np.ndarray | None
    ) -> None:
        """Goes on with the next embeddings (n, 1280) and rows of MFCC (m, n_mfcc).

        They need not be of the same time. `heard` (m,) bool says which rows are of sound that was
        there; both are None where the recording has no track.
        """
        self._video.append(embeddings)
        self.num_frames += len(embeddings)
        if mfcc is not None:
            sound = self._model.encode_audio(torch.from_numpy(mfcc).to(self._device))
            self._sound.append(sound.cpu().numpy(), heard)
            self.has_sound = self.has_sound or bool(heard.any())
        self._has_track = mfcc is not None
        ready = self.seconds
        if self._has_track:
            ready = min(ready, self._sound.end / self._spec.mfcc.frames_per_second)
        self._score(ready)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (W, N, C) of the windows and (tiles, C) of the tiles, all of them."""
        self._score(math.inf)
        return np.stack([np.concatenate(rows) for rows in self._rows]), np.concatenate(self._tiles)

    def _score(self, ready_seconds: float) -> None:
        """Scores the spans that end at or before a time: inf for the end of the recording."""
        for index, window in enumerate(self.window_seconds):
            spans = self._new_rows(index, window, ready_seconds)
            self._num_rows[index] += len(spans)
            self._rows[index].append(self._probabilities(spans))
        tiles = tile_windows(self.seconds, self.window_seconds[0])[self._num_tiles :]
        tiles = [tile for tile in tiles if tile[1] + MIN_CLIP_SECONDS <= ready_seconds]
        self._num_tiles += len(tiles)
        self._tiles.append(self._probabilities(tiles))
        self._forget()

    def _new_rows(
        self, index: int, window: float, ready_seconds: float
    ) -> list[tuple[float, float]]:
        spans = []
        is_over = ready_seconds == math.inf
        for row in range(self._num_rows[index], math.ceil(self.seconds / HOP_SECONDS - 1e-6)):
            centre = (row + 0.5) * HOP_SECONDS
            if not is_over and centre + window / 2 > ready_seconds:
                break
            spans.append((max(0.0, centre - window / 2), min(self.seconds, centre + window / 2)))
        return spans

    def _forget(self) -> None:
        starts = [
            (done + 0.5) * HOP_SECONDS - window / 2
            for done, window in zip(self._num_rows, self.window_seconds, strict=True)
        ]
        first = max(0.0, min(*starts, self._num_tiles * self.window_seconds[0]))
        self._video.forget(self._spec.frame_span(first, first).start)
        self._sound.forget(self._spec.mfcc_span(first, first).start)

    def _probabilities(self, spans: list[tuple[float, float]]) -> np.ndarray:
        """(B, C) float32."""
        if not spans:
            return np.zeros((0, self._model.config["num_classes"]), np.float32)
        video, _ = self._video.pool([self._spec.frame_span(*span) for span in spans])
        sound, count = self._sound.pool([self._spec.mfcc_span(*span) for span in spans])
        logits = self._model.forward_pooled(
            torch.from_numpy(video).to(self._device),
            torch.from_numpy(sound).to(self._device),
            torch.from_numpy(count > 0).to(self._device),
        )
        return torch.softmax(logits.double() / self._temperature, dim=1).float().cpu().numpy()
