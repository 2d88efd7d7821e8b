"""Earlier: what a live stream shows gains from what was like it in the hour before."""

from collections import deque

import numpy as np

from timeline.resemblance import directions_of, gains_of, usual_of, weights_of

WINDOW_SECONDS = 2.0  # side by side
# A nearer one may be of the same spot. Those of a recording stay further away, as it has them on
# both sides; here 60 s found less, most of all in a stream that has just begun.
NEAR_SECONDS, FAR_SECONDS = 20.0, 3600.0
GROWTH = 1 / 16  # by which there are more windows before they are compared anew
LEAST_WINDOWS = 3  # which can be compared


class EarlierWindows:
    """The windows of the last hour of a stream, which speak for what resembles them now.

    By the same formula as `Resemblance` does in a recording, which has windows behind each one,
    too. What the network says of an earlier window is what it said half a clip later, with that
    window in the middle. Memory does not grow: 1800 embeddings twice, 14 MB where they are of 1280.
    """

    def __init__(self, clip_seconds: float):
        self._hindsight_seconds = clip_seconds / 2
        self._waiting: deque[tuple[float, np.ndarray]] = deque()  # (middle, mean) until judged
        self._known: deque[tuple[float, np.ndarray, np.ndarray]] = deque()
        self._end_seconds = 0.0  # of the last window
        self._num_new = 0
        self._times = np.zeros(0)  # of those compared last
        self._usual = self._directions = self._said = np.zeros(0)

    def take(self, seconds: float, mean: np.ndarray, said: np.ndarray) -> None:
        """Goes on to a moment: `mean` (D,) embedding of the WINDOW_SECONDS before, and the
        probabilities `said` (C,) of the clip that ends then."""
        while self._waiting and seconds >= self._waiting[0][0] + self._hindsight_seconds:
            middle, known = self._waiting.popleft()
            if seconds < middle + self._hindsight_seconds + WINDOW_SECONDS:  # else a gap followed
                self._known.append((middle, known, said))
                self._num_new += 1
        while self._known and self._known[0][0] < seconds - FAR_SECONDS:
            self._known.popleft()
        if seconds >= self._end_seconds + WINDOW_SECONDS:
            self._waiting.append((seconds - WINDOW_SECONDS / 2, mean.astype(np.float16)))
            self._end_seconds = seconds
        if len(self._known) >= LEAST_WINDOWS and self._num_new > GROWTH * len(self._known):
            self._compare()

    def gains(self, seconds: float, mean: np.ndarray) -> np.ndarray | float:
        """(C,) what the logits of a moment gain, 0 where nothing is known yet."""
        away = seconds - self._times
        has_a_say = (away > NEAR_SECONDS) & (away <= FAR_SECONDS)
        if not has_a_say.any():
            return 0.0
        weights = weights_of(directions_of(mean[None], self._usual), self._directions)
        return gains_of(weights, has_a_say[None], self._said)[0]

    def _compare(self) -> None:
        times, means, said = zip(*self._known, strict=True)
        self._times, self._said, self._num_new = np.array(times), np.stack(said), 0
        means = np.stack(means)
        self._usual = usual_of(means, np.ones(len(means), bool))
        self._directions = directions_of(means, self._usual)
