"""Resemblance: what windows of a recording gain from windows like them elsewhere in it."""

import numpy as np

from timeline.dense import EmbeddedBlock
from utils.features import FeatureSpec

WINDOW_SECONDS = 4.0  # side by side; what lies between two centres gains in proportion
# A nearer window is of the same spot or scene: alike, and misjudged alike. In one further away than
# an hour another programme may be on; and the work is in proportion to the recording's length.
NEAR_SECONDS, FAR_SECONDS = 60.0, 3600.0
LEAST_COSINE = 0.15  # of how two windows differ from the rest of the recording
LONE_WEIGHT = 0.5  # stands against the weights of the windows alike: one or two say little
STRENGTH = 6.0  # on sources left out, more mended little more
# Between two classes: what the network is surer of than 88 % is never turned round.
MOST_LOG_ODDS = 2.0
ROWS = 512  # windows compared at a time


class Resemblance:
    """Gathers what the trunk says of a recording, then lets windows speak for those like them.

    Play looks like the play minutes before and after: the same place, cameras and lettering. A spot
    looks like nothing else there. So a window moves towards the class that the network gives to the
    windows like it more often than to all of them, the further the more of them there are:

        weight = max(0, cosine - LEAST_COSINE), 0 but from NEAR_SECONDS to FAR_SECONDS away
        gain = STRENGTH * sum(weight * (probability - mean)) / (sum(weight) + LONE_WEIGHT)

    The mean is that of all windows so far away: else a class that fills most of a recording would
    draw to itself what resembles everything a little. For the same reason what is usual, from which
    windows differ, is a mean in which a view that fills most of the play counts little more than a
    rare one; else all that is rare would be alike. What nothing resembles stays as it is, and so
    does a recording no longer than NEAR_SECONDS. Nothing is trained. Memory: 2.3 MB for an hour of
    embeddings of 1280.
    """

    def __init__(self, spec: FeatureSpec):
        self._spec = spec
        self._held: list[tuple[np.ndarray, np.ndarray]] = []  # of a window that is not full yet
        self._start = self._end = 0  # frames that are held
        self._means: list[np.ndarray] = []  # (D,) float16 of each window
        self._is_seen: list[bool] = []

    def add(self, block: EmbeddedBlock) -> None:
        """Goes on with the next block."""
        self._held.append((block.embeddings, block.shown))
        self._end += len(block.shown)
        if self._next_window().stop <= self._end:
            self._close_windows(is_over=False)

    def gains(self, probabilities: np.ndarray, hop_seconds: float) -> np.ndarray:
        """(N, C) float32: what the logits of each row gain, classes apart by MOST_LOG_ODDS at most.

        `probabilities` (W, N, C) are of windows around the rows, as those of `DenseScorer`.
        """
        self._close_windows(is_over=True)
        means, is_seen = np.array(self._means), np.array(self._is_seen)
        centres = (np.arange(len(means)) + 0.5) * WINDOW_SECONDS
        rows = (np.arange(probabilities.shape[1]) + 0.5) * hop_seconds
        nearest = (centres / hop_seconds).astype(int).clip(0, len(rows) - 1)
        said = _mean_probabilities(probabilities[:, nearest])
        if not is_seen.any():
            return np.zeros(probabilities.shape[1:], np.float32)
        usual = usual_of(means, is_seen)
        found = [_gains(first, means, is_seen, usual, said) for first in range(0, len(means), ROWS)]
        columns = [np.interp(rows, centres, column) for column in np.concatenate(found).T]
        return np.stack(columns, axis=1).astype(np.float32)

    def _next_window(self) -> slice:
        index = len(self._means)
        return self._spec.frame_span(index * WINDOW_SECONDS, (index + 1) * WINDOW_SECONDS)

    def _close_windows(self, *, is_over: bool) -> None:
        """Averages the windows that are full, at the end also the last one."""
        if not self._held:
            return
        embeddings = np.concatenate([rows for rows, _ in self._held])
        shown = np.concatenate([flags for _, flags in self._held])
        window = self._next_window()
        while window.stop <= self._end or is_over and window.start < self._end:
            rows = slice(window.start - self._start, window.stop - self._start)
            seen = embeddings[rows][shown[rows]]
            mean = seen.sum(axis=0, dtype=np.float32) / max(len(seen), 1)
            self._means.append(mean.astype(np.float16))
            self._is_seen.append(len(seen) > 0)
            window = self._next_window()
        rest = min(window.start, self._end) - self._start
        self._held = [(embeddings[rest:], shown[rest:])]
        self._start += rest


def usual_of(means: np.ndarray, is_seen: np.ndarray) -> np.ndarray:
    """(D,) float32: the mean of (m, D) windows, each the less the more there are like it."""
    mean = means[is_seen].mean(axis=0, dtype=np.float32)
    sums, total = np.zeros_like(mean), 0.0
    for first in range(0, len(means), ROWS):
        rows = slice(first, first + ROWS)
        alike = _weights(first, means, is_seen, mean)[0].sum(axis=1)
        rarity = is_seen[rows] / (alike + LONE_WEIGHT)
        sums += rarity @ means[rows].astype(np.float32)
        total += rarity.sum()
    return (sums / total).astype(np.float32)


def directions_of(means: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """(m, D) float32: how windows differ from what is usual, each of length 1."""
    directions = means - usual
    return directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-6)


def weights_of(own: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(n, m) how much each of n directions resembles each of m."""
    return np.maximum(own @ directions.T - LEAST_COSINE, 0.0)


def gains_of(weights: np.ndarray, has_a_say: np.ndarray, said: np.ndarray) -> np.ndarray:
    """(n, C) by (n, m) weights of those of m windows that have a say, and what (m, C) they said."""
    weights = weights * has_a_say
    total = weights.sum(axis=1, keepdims=True)
    usually = has_a_say @ said / np.maximum(has_a_say.sum(axis=1, keepdims=True), 1)
    gains = STRENGTH * (weights @ said - total * usually) / (total + LONE_WEIGHT)
    return gains.clip(-MOST_LOG_ODDS / 2, MOST_LOG_ODDS / 2)  # they add up to nothing


def _mean_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """(n, C) of (W, n, C): the geometric mean of all windows."""
    logs = np.log(np.maximum(probabilities, 1e-6)).mean(axis=0)
    odds = np.exp(logs - logs.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def _weights(
    first: int, means: np.ndarray, is_seen: np.ndarray, usual: np.ndarray
) -> tuple[np.ndarray, slice]:
    """(n, m) how much up to ROWS windows from the first on resemble those around, and which."""
    reach = round(FAR_SECONDS / WINDOW_SECONDS)
    start = max(0, first - reach)
    around = slice(start, first + ROWS + reach)
    directions = directions_of(means[around], usual) * is_seen[around, None]
    return weights_of(directions[first - start : first - start + ROWS], directions), around


def _gains(
    first: int, means: np.ndarray, is_seen: np.ndarray, usual: np.ndarray, said: np.ndarray
) -> np.ndarray:
    """(n, C) of up to ROWS windows from the first on."""
    weights, around = _weights(first, means, is_seen, usual)
    places = np.arange(len(means))
    away = WINDOW_SECONDS * np.abs(places[first : first + ROWS, None] - places[around])
    has_a_say = (away > NEAR_SECONDS) & (away <= FAR_SECONDS) & is_seen[around]
    return gains_of(weights, has_a_say, said[around])
