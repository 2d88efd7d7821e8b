"""Live windows: what the newest seconds of a stream show, from frames and sound as they come."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from timeline.changes import WINDOW_SHARES
from timeline.classifier import Classifier
from timeline.dense import softmax
from timeline.earlier import WINDOW_SECONDS as EARLIER_SECONDS
from timeline.earlier import EarlierWindows
from timeline.network import Network
from timeline.pooling import SpanSums
from utils.streams import StreamBlock

ROUNDING_SECONDS = 1e-6


class LiveWindows:
    """What is known of the windows that end now, WINDOW_SHARES of a clip long.

    It is what the network says, moved by what it said of windows like them earlier on.
    """

    def __init__(self, model: Classifier, network: Network):
        self._model = model
        self._network = network
        # A deviation takes two frames.
        shortest = 2 / model.spec.fps
        self._lengths = np.maximum(shortest, model.clip_seconds * np.array(WINDOW_SHARES))
        num_frames = math.ceil(model.clip_seconds * model.spec.fps)
        num_rows = math.ceil(model.clip_seconds * model.spec.mfcc.frames_per_second)
        self._frames: deque[tuple[float, np.ndarray]] = deque(maxlen=num_frames)
        self._rows: deque[tuple[float, np.ndarray]] = deque(maxlen=num_rows)
        self._earlier = EarlierWindows(model.clip_seconds)
        self._end_seconds = 0.0

    @property
    def seconds(self) -> float:
        """From the first frame kept to the end of the last."""
        return self._end_seconds - self._frames[0][0] if self._frames else 0.0

    def clear(self) -> None:
        """Forgets all, as what comes next does not follow it."""
        self._frames.clear()
        self._rows.clear()

    def take(self, block: StreamBlock) -> None:
        """Goes on with the next frames and rows."""
        spec = self._model.spec
        embedded = self._network.trunk.embed(block.frames)
        self._frames.extend(_timed(embedded, block.seconds, spec.fps))
        self._end_seconds = block.seconds + len(block.frames) / spec.fps
        for part in block.sound:
            self._rows.extend(_timed(part.rows, part.seconds, spec.mfcc.frames_per_second))

    def judge(self) -> np.ndarray:
        """(windows, C) float64, calibrated, longest first, once for each moment."""
        said, mean = self._said(), self._mean_embedding()
        self._earlier.take(self._end_seconds, mean, said[0])
        odds = said * np.exp(self._earlier.gains(self._end_seconds, mean))
        return odds / odds.sum(axis=1, keepdims=True)

    def _mean_embedding(self) -> np.ndarray:
        """(D,) float32 of the last seconds."""
        start = self._end_seconds - EARLIER_SECONDS - ROUNDING_SECONDS
        shown = [row for seconds, row in self._frames if seconds >= start]
        return np.mean(shown, axis=0, dtype=np.float32)

    def _said(self) -> np.ndarray:
        """(windows, C): one that is not full yet, after a start or a gap, says that much less."""
        starts = self._end_seconds - self._lengths - ROUNDING_SECONDS
        network, n_mfcc = self._network, self._model.spec.mfcc.n_mfcc
        encode = network.encode_sound if network.uses_sound else np.asarray
        sound, has_sound = _pool(self._rows, starts, n_mfcc, encode)
        if network.order_matters:
            times, embeddings = zip(*self._frames, strict=True)
            rows = network.project(np.stack(embeddings))
            video = np.broadcast_to(rows, (len(starts), *rows.shape))
            mask = np.array(times) >= starts[:, None]  # (windows, T)
            logits = network.sequence_logits(video, mask, sound, has_sound)
        else:
            video, has_video = _pool(self._frames, starts, network.row_size, np.asarray)
            logits = network.pooled_logits(video, has_video, sound, has_sound)
        said = softmax(logits, self._model.temperature)
        full = np.minimum(1.0, self.seconds / self._lengths)[:, None]
        return full * said + (1 - full) / said.shape[1]


def _pool(
    timed: Sequence[tuple[float, np.ndarray]],
    starts: np.ndarray,
    size: int,
    encode: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """(windows, 2 * size) float32 of the rows from each start on, and whether there are any."""
    sums, times = SpanSums(size), [seconds for seconds, _ in timed]
    if timed:
        sums.append(encode(np.stack([row for _, row in timed])))
    pooled, count = sums.pool(
        [slice(first, len(times)) for first in np.searchsorted(times, starts)]
    )
    return pooled, count > 0


def _timed(rows: np.ndarray, seconds: float, rate: float) -> Iterator[tuple[float, np.ndarray]]:
    return ((seconds + index / rate, row) for index, row in enumerate(rows))
