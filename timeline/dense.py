"""Dense scores: class probabilities of every window of a recording, as its features come."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from timeline.network import Network
from timeline.pooling import SpanRows, SpanSums
from utils.clips import MIN_CLIP_SECONDS
from utils.features import FeatureSpec

HOP_SECONDS = 0.25
SHORT_SECONDS = 4.0  # a window that says more of edges, and less of what is between them
STEP_SECONDS = 30.0  # fed at a time where much comes at once
# Less of the picture or the sound of a window than this, or half of it, says nothing about it.
MIN_SEEN_SECONDS = 1.0


@dataclass(frozen=True)
class EmbeddedBlock:
    """Some embeddings and rows of MFCC of a recording, not always of the same time.

    Rows of `mfcc` are None where it has no sound track.
    """

    embeddings: np.ndarray  # (n, embedding_size) float16
    shown: np.ndarray  # (n,) bool: of a picture of that time, not of one that stands for a gap
    mfcc: np.ndarray | None  # (m, n_mfcc) float16
    sounding: np.ndarray  # (m,) bool: of sound that was there, not of a gap


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


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    """(B, C) logits to calibrated probabilities, float64."""
    scaled = logits.astype(np.float64) / temperature
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


class DenseScorer:
    """Scores all windows of a recording in one pass; memory is that of a window.

    Row k of a window is about [c - window / 2, c + window / 2), c = (k + 0.5) * hop, cut at both
    ends. Where neither picture nor sound is to be had, all classes are equally probable.
    """

    def __init__(
        self,
        network: Network,
        spec: FeatureSpec,
        *,
        clip_seconds: float,
        temperature: float,
        hop_seconds: float = HOP_SECONDS,
    ):
        self.window_seconds = (clip_seconds, SHORT_SECONDS)
        self.hop_seconds = hop_seconds
        self.has_sound = False
        self._network = network
        self._temperature = temperature
        if network.order_matters:
            rows = SpanRows(network.row_size)
            self._video = _Track(rows, spec.frame_span, spec.fps, network.project)
        else:
            self._video = _Track(SpanSums(network.row_size), spec.frame_span, spec.fps)
        sums, rate = SpanSums(spec.mfcc.n_mfcc), spec.mfcc.frames_per_second
        encode = network.encode_sound if network.uses_sound else None
        self._sound = _Track(sums, spec.mfcc_span, rate, encode)
        # Behind a tile, so that the end of the recording can't join it: known to a frame.
        self._min_rest_seconds = MIN_CLIP_SECONDS + 1 / spec.fps
        self._done_seconds = 0.0
        self._rows: list[list[np.ndarray]] = [[] for _ in self.window_seconds]
        self._num_rows = [0] * len(self.window_seconds)
        self._tiles: list[np.ndarray] = []
        self._num_tiles = 0

    @property
    def num_frames(self) -> int:
        return self._video.length

    @property
    def seconds(self) -> float:
        return self._video.seconds

    def add(self, block: EmbeddedBlock) -> None:
        """Goes on with the next block."""
        self._video.put(block.embeddings, block.shown)
        ready_seconds = self.seconds
        if block.mfcc is not None:
            self._sound.put(block.mfcc, block.sounding)
            self.has_sound = self.has_sound or bool(block.sounding.any())
            ready_seconds = min(ready_seconds, self._sound.seconds)
        self._advance(ready_seconds)

    def finish(self, duration_seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities float32 of the windows (W, N, C) and of the tiles (tiles, C)."""
        self._advance(self.seconds)
        self._score(duration_seconds, is_over=True)
        return np.stack([np.concatenate(rows) for rows in self._rows]), np.concatenate(self._tiles)

    def _advance(self, ready_seconds: float) -> None:
        while self._done_seconds < ready_seconds:
            self._done_seconds = min(ready_seconds, self._done_seconds + STEP_SECONDS)
            self._video.feed(self._done_seconds)
            self._sound.feed(self._done_seconds)
            self._score(self._done_seconds, is_over=False)

    def _score(self, seconds: float, *, is_over: bool) -> None:
        """Scores the windows and tiles that end until then, and at the end those that are cut."""
        for index, window in enumerate(self.window_seconds):
            spans = self._new_rows(self._num_rows[index], window, seconds, is_over)
            self._num_rows[index] += len(spans)
            self._rows[index].append(self._probabilities(spans))
        first = self._num_tiles * self.window_seconds[0]
        tiles = [(first + a, first + b) for a, b in self._new_tiles(seconds - first, is_over)]
        self._num_tiles += len(tiles)
        self._tiles.append(self._probabilities(tiles))
        starts = [
            (done + 0.5) * self.hop_seconds - window / 2
            for done, window in zip(self._num_rows, self.window_seconds, strict=True)
        ]
        first_needed = max(0.0, min(*starts, self._num_tiles * self.window_seconds[0]))
        self._video.forget(first_needed)
        self._sound.forget(first_needed)

    def _new_rows(
        self, first: int, window: float, seconds: float, is_over: bool
    ) -> list[tuple[float, float]]:
        last_centre = seconds if is_over else seconds - window / 2
        spans = []
        centre = (first + 0.5) * self.hop_seconds
        while centre - (self.hop_seconds / 2 if is_over else 0.0) < last_centre - 1e-6:
            spans.append((max(0.0, centre - window / 2), min(seconds, centre + window / 2)))
            centre = (first + len(spans) + 0.5) * self.hop_seconds
        return spans

    def _new_tiles(self, seconds: float, is_over: bool) -> list[tuple[float, float]]:
        tiles = tile_windows(seconds, self.window_seconds[0]) if seconds > 0 else []
        return tiles if is_over else [t for t in tiles if t[1] + self._min_rest_seconds <= seconds]

    def _probabilities(self, spans: list[tuple[float, float]]) -> np.ndarray:
        """(B, C) float32."""
        num_classes = self._network.num_classes
        if not spans:
            return np.zeros((0, num_classes), np.float32)
        sound, has_sound = self._sound.pool(spans)
        if self._network.order_matters:
            video, mask = self._video.take(spans)
            has_video = mask.any(axis=1)
            logits = self._network.sequence_logits(video, mask, sound, has_sound)
        else:
            video, has_video = self._video.pool(spans)
            logits = self._network.pooled_logits(video, has_video, sound, has_sound)
        probabilities = softmax(logits, self._temperature).astype(np.float32)
        is_known = has_video | has_sound if self._network.uses_sound else has_video
        probabilities[~is_known] = 1 / num_classes
        return probabilities


class _Track:
    """Rows of one kind: held until the other kind has come as far, then encoded and kept."""

    def __init__(
        self,
        kept: SpanSums | SpanRows,
        span: Callable[[float, float], slice],
        rate: float,
        encode: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        self.length = 0  # rows put so far
        self._span = span
        self._rate = rate
        self._encode = encode
        self._kept = kept
        self._held: deque[tuple[np.ndarray, np.ndarray]] = deque()

    @property
    def seconds(self) -> float:
        return self.length / self._rate

    def put(self, rows: np.ndarray, counts: np.ndarray) -> None:
        if len(rows):
            self._held.append((rows, counts))
            self.length += len(rows)

    def feed(self, seconds: float) -> None:
        """Takes in the rows of before that time."""
        wanted = self._span(0.0, seconds).stop
        while self._held and self._kept.end < wanted:
            rows, counts = self._held.popleft()
            count = wanted - self._kept.end
            if count < len(rows):
                self._held.appendleft((rows[count:], counts[count:]))
            rows = rows[:count] if self._encode is None else self._encode(rows[:count])
            self._kept.append(rows, counts[:count])

    def forget(self, seconds: float) -> None:
        self._kept.forget(self._span(seconds, seconds).start)

    def pool(self, spans: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
        """(B, 2 * size) float32, and (B,) bool whether enough of the span was there."""
        slices = [self._span(*span) for span in spans]
        pooled, count = self._kept.pool(slices)
        return pooled, self._is_enough(slices, count)

    def take(self, spans: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
        """(B, T, size) float32, and (B, T) bool which rows count: none where too few were there."""
        slices = [self._span(*span) for span in spans]
        rows, mask = self._kept.take(slices)
        return rows, mask & self._is_enough(slices, mask.sum(axis=1))[:, None]

    def _is_enough(self, slices: list[slice], count: np.ndarray) -> np.ndarray:
        rows = np.array([span.stop - span.start for span in slices])
        wanted = np.minimum(MIN_SEEN_SECONDS * self._rate, rows / 2)
        return (count >= wanted) & (count > 0)
