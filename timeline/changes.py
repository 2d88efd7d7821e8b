"""Changes: when a live stream goes over to another class, from what is known at each moment."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from utils.errors import UserError
from utils.labels import BREAK_LABEL

ENTER_SECONDS, LEAVE_SECONDS = 12.0, 5.0
# What is judged: windows that end now, of these shares of a clip. The shortest sees a change first,
# and takes each spot full of sport for the game; the longest remembers what was.
WINDOW_SHARES = (1.0, 0.5, 0.25, 0.15)
SLOW_WEIGHTS, FAST_WEIGHTS = (0.2, 0.4, 0.4, 0.0), (0.0, 0.0, 0.0, 1.0)
# A single window counts no more than 88 %: three or five were surer of the wrong spots too.
MAX_LOG_ODDS = 2.0
# Evidence that a change takes, in log odds times seconds, for each second within which it is to be
# known. Chosen on sources that the network had not seen, where LEAVE_PROVISIONAL bends the curve:
# 1.1 knew 84 % of the returns within 5 s at 36 false ones an hour of break, 1.3 knew 79 % at 17.
ENTER_PROVISIONAL, ENTER_CONFIRMED = 0.25, 0.55
LEAVE_PROVISIONAL, LEAVE_CONFIRMED = 1.3, 1.1
DELAY_SECONDS = 1.0  # from a change to the first window that shows more new than old
MIN_PROBABILITY = 1e-6
MAX_STEP_SECONDS = 2.0  # between two moments: a longer one is a gap


@dataclass(frozen=True)
class ChangeSettings:
    """Within how many seconds a clear change is to be known; more of them make fewer errors."""

    enter_seconds: float = ENTER_SECONDS
    leave_seconds: float = LEAVE_SECONDS

    def __post_init__(self):
        if not (self.enter_seconds > 0 and self.leave_seconds > 0):
            raise UserError(
                f"changes are to be known within {self.enter_seconds:g} and "
                f"{self.leave_seconds:g} s: pass more than 0, as {ENTER_SECONDS:g} and "
                f"{LEAVE_SECONDS:g}"
            )


@dataclass(frozen=True)
class Change:
    """A change of class, as it is known now.

    One that is provisional is confirmed or retracted later, under the same id.
    """

    id: int
    status: str  # "provisional", "confirmed", "retracted"
    seconds: float  # when it happened, as far as it can be told
    label: str
    previous: str | None  # None at the start
    confidence: float  # mean probability of the label since then


class ChangeFinder:
    """Tells changes by Page's cumulative sums (Biometrika, 1954).

    For each other class it adds up by how much the windows that end now speak for it rather than
    for the present one, and never falls under zero: the last zero is when the change happened.
    Two sums are kept. A fast one says that a change is provisional when it leaves a break, as a
    game that is missed is what people forgive least; the slow one confirms it, and does both
    otherwise. A provisional change is retracted when its sum is back at zero.
    """

    def __init__(self, classes: tuple[str, ...], settings: ChangeSettings):
        self.label: str | None = None
        self._classes = tuple(classes)
        self._settings = settings
        self._slow = _Evidence(SLOW_WEIGHTS, len(classes))
        self._fast = _Evidence(FAST_WEIGHTS, len(classes))
        self._first: float | None = None
        self._last = 0.0
        self._open: Change | None = None
        self._num_changes = 0

    def step(self, seconds: float, probabilities: np.ndarray) -> Iterator[Change]:
        """Yields what is known at a moment.

        `probabilities` is (windows, C), calibrated, of the windows that end then, longest first.
        """
        if self._first is None:
            self._first = self._last = seconds
        passed = seconds - self._last
        if passed > MAX_STEP_SECONDS:
            passed = 0.0  # nobody knows what came between
        self._last = seconds
        present = None if self.label is None else self._classes.index(self.label)
        for evidence in (self._slow, self._fast):
            evidence.add(probabilities, present, seconds, passed)
        if present is None:
            yield from self._begin(seconds)
        else:
            yield from self._retract()
            yield from self._advance(seconds)

    def _begin(self, seconds: float) -> Iterator[Change]:
        """Says what the stream shows at first, after as long as it takes to leave a break."""
        if seconds - self._first >= self._settings.leave_seconds:
            best = int(self._slow.mass[0].argmax())
            yield self._settled(self._new(best, self._slow), best, seconds)

    def _retract(self) -> Iterator[Change]:
        if self._open is None:
            return
        index = self._classes.index(self._open.label)
        if self._provisional.sums[index] == 0:
            retracted, self._open = self._open, None
            yield replace(retracted, status="retracted", confidence=self._slow.mean_of(index))

    def _advance(self, seconds: float) -> Iterator[Change]:
        provisional, confirmed = self._thresholds()
        best = int(self._slow.sums.argmax())
        if self._slow.sums[best] >= confirmed:
            if self._open is not None and self._open.label != self._classes[best]:
                yield replace(self._open, status="retracted")
                self._open = None
            yield self._settled(self._open or self._new(best, self._slow), best, seconds)
            return
        best = int(self._provisional.sums.argmax())
        if self._open is None and self._provisional.sums[best] >= provisional:
            self._open = self._new(best, self._provisional)
            yield self._open
        # A spot of a minute must not take a minute to be retracted.
        np.minimum(
            self._fast.sums, LEAVE_PROVISIONAL * self._settings.leave_seconds, out=self._fast.sums
        )

    @property
    def _provisional(self) -> "_Evidence":
        return self._fast if self.label == BREAK_LABEL else self._slow

    def _thresholds(self) -> tuple[float, float]:
        """Of what is provisional and what is confirmed."""
        if self.label == BREAK_LABEL:
            seconds = self._settings.leave_seconds
            return LEAVE_PROVISIONAL * seconds, LEAVE_CONFIRMED * seconds
        seconds = self._settings.enter_seconds
        return ENTER_PROVISIONAL * seconds, ENTER_CONFIRMED * seconds

    def _new(self, index: int, evidence: "_Evidence") -> Change:
        self._num_changes += 1
        happened = max(0.0, float(evidence.since[index]) - DELAY_SECONDS)
        label, confidence = self._classes[index], evidence.mean_of(index)
        return Change(self._num_changes, "provisional", happened, label, self.label, confidence)

    def _settled(self, change: Change, index: int, seconds: float) -> Change:
        confidence = self._slow.mean_of(index)
        self.label, self._open = change.label, None
        for evidence in (self._slow, self._fast):
            evidence.clear(seconds)
        return replace(change, status="confirmed", confidence=confidence)


class _Evidence:
    """What speaks for each class rather than for the present one, since it last did not."""

    def __init__(self, weights: tuple[float, ...], num_classes: int):
        self.sums = np.zeros(num_classes)
        self.since = np.zeros(num_classes)  # seconds of the last zero
        self.mass = np.zeros((num_classes, num_classes))  # probabilities by seconds since then
        self._weights = np.asarray(weights)

    def add(
        self, probabilities: np.ndarray, present: int | None, seconds: float, passed: float
    ) -> None:
        """Goes on by `passed` seconds; without a present class, probabilities alone are added."""
        self.mass += self._weights @ probabilities * passed
        if present is None:
            return
        logs = np.log(np.maximum(probabilities, MIN_PROBABILITY))
        odds = np.clip(logs - logs[:, present, None], -MAX_LOG_ODDS, MAX_LOG_ODDS)
        self.sums = np.maximum(self.sums + self._weights @ odds * passed, 0.0)
        is_zero = self.sums == 0
        self.since[is_zero] = seconds
        self.mass[is_zero] = 0.0

    def mean_of(self, index: int) -> float:
        """The mean probability of a class since its last zero."""
        mass = self.mass[index]
        return float(mass[index] / mass.sum()) if mass.any() else 0.0

    def clear(self, seconds: float) -> None:
        self.sums[:], self.mass[:], self.since[:] = 0.0, 0.0, seconds
