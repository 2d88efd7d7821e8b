"""Transitions: where the picture of a stretch changes to another, at once or gradually."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from utils.stretches import Stretch, read_stretches
from utils.video import probe

SIZE = (18, 32)  # of the pictures looked at; half of it where they are compared
MIN_PICTURES = 8  # of a stretch that tells motion from change
NOISE_LUMA = 2.0  # by which the same picture may differ after compression
NEAR_SECONDS = 0.1  # at which two transitions are one
# A picture in full range is black with a mean and a bright end below these: 0, plus noise, plus a
# range that was mislabelled (16).
BLACK_MEAN, BLACK_BRIGHT = 24.0, 44.0
MIN_BLACK_SECONDS = 0.06  # more than one picture
# A cut takes a step, or up to three where fields or pictures of both sides were mixed; motion is
# larger over several.
CUT_STEPS, MIXED_CUT_FACTOR = (1, 2, 3), 0.7
MIN_CUT_RATIO, MIN_CUT_LUMA = 1.6, 5.0
CLEAR_RATIO = 3.0  # of a cut that no dissolve is made of
MUCH_CLEARER = 8.0  # a cut that many times as sudden is no dissolve
DISSOLVE_SECONDS = (0.24, 0.4, 0.56, 0.72, 0.88, 1.04)
DISSOLVE_SAMPLES = 7  # pictures that are held against the mix of both ends
MIN_DISSOLVE_RATIO, MIN_DISSOLVE_LUMA = 1.25, 8.0
# How far they are from it, of the change: 0.25 for a cut in the middle. Of 144 cross-fades of 0.5
# to 1 s, 0.2 finds 85 in 100 to 0.2 s, among one or two dissolves in 15 s.
CUT_RESIDUAL, MAX_DISSOLVE_RESIDUAL = 0.25, 0.2
COLOUR_STEP = 64  # of each of red, green and blue: four levels, 64 colours
COLOUR_SECONDS = 3.0
CONTEXT_SECONDS = 1.6  # read on either side of a span, to see what stands beside a change
SOUND_RATE = 8_000  # of the sound that comes with a stretch, and is not used here


@dataclass(frozen=True)
class Transition:
    """From one picture to another in [start, end); a cut where both are the same."""

    start_seconds: float
    end_seconds: float
    kind: str  # "cut", "dissolve" or "black"
    ratio: float  # of the change to what changes just before and after; of black, 1

    @property
    def middle_seconds(self) -> float:
        return (self.start_seconds + self.end_seconds) / 2


def read_transitions(
    path: str | os.PathLike,
    span: tuple[float, float],
    recording_seconds: float | None = None,
    has_jumps: bool = False,
    report: Callable[[object], None] = lambda _: None,
) -> list[Transition]:
    """The transitions whose middle is in a span [start, end) of a recording, in order.

    `recording_seconds` is as `read_stretches` wants it, by default what the file says of itself.
    Raises MediaError.
    """
    start, end = span
    if recording_seconds is None:
        recording_seconds = probe(path).duration_seconds
    [stretch] = read_stretches(
        path,
        [(max(0.0, start - CONTEXT_SECONDS), end + CONTEXT_SECONDS)],
        SIZE,
        sample_rate=SOUND_RATE,
        recording_seconds=recording_seconds,
        has_jumps=has_jumps,
    )
    return [found for found in find_transitions(stretch) if start <= found.middle_seconds < end]


def find_transitions(stretch: Stretch) -> list[Transition]:
    """The transitions of a stretch, whose pictures are of SIZE, in order; none overlaps another."""
    if len(stretch.times) < MIN_PICTURES:
        return []
    cells = _cells(stretch.pictures)
    found = _black_runs(stretch)
    # What goes into black and comes out of it is no transition of its own.
    cuts = [c for c in _cuts(stretch.times, cells) if not _touches(c, found)]
    dissolves = [d for d in _dissolves(stretch.times, cells) if not _touches(d, found)]
    # A cut with a picture of both shots looks a little like a dissolve, and the other way round.
    found += [
        d
        for d in dissolves
        if not _touches(d, [c for c in cuts if c.ratio > MUCH_CLEARER * d.ratio])
    ]
    found += [c for c in cuts if c.ratio > CLEAR_RATIO or not _touches(c, dissolves)]
    return sorted(found, key=lambda transition: transition.start_seconds)


class Colours:
    """How the colours of a stretch are shared out, over time."""

    def __init__(self, stretch: Stretch):
        pictures = stretch.pictures.reshape(len(stretch.times), -1, 3) // COLOUR_STEP
        levels = 256 // COLOUR_STEP
        colours = (pictures[..., 0] * levels + pictures[..., 1]) * levels + pictures[..., 2]
        of_picture = np.arange(len(colours))[:, None] * levels**3
        counts = np.bincount((colours + of_picture).ravel(), minlength=len(colours) * levels**3)
        shares = counts.reshape(len(colours), -1) / max(1, colours.shape[1])
        # Of roots, differences of rare and of common colours count alike (Hellinger's distance).
        self._sums = np.concatenate([np.zeros((1, levels**3)), np.sqrt(shares).cumsum(axis=0)])
        self._times = stretch.times

    def change(self, start_seconds: float, end_seconds: float) -> float:
        """How far the colours of COLOUR_SECONDS before a transition are from those of as long
        behind it, on average over time: 0 where they are the same, 2 where none is on both."""
        before = self._mean(start_seconds - COLOUR_SECONDS, start_seconds)
        after = self._mean(end_seconds, end_seconds + COLOUR_SECONDS)
        if before is None or after is None:
            return 0.0
        return float(np.square(before - after).sum())

    def _mean(self, start_seconds: float, end_seconds: float) -> np.ndarray | None:
        first, last = np.searchsorted(self._times, (start_seconds - 1e-3, end_seconds - 1e-3))
        return (self._sums[last] - self._sums[first]) / (last - first) if last > first else None


def _touches(one: Transition, others: Sequence[Transition]) -> bool:
    return any(
        one.start_seconds <= other.end_seconds + NEAR_SECONDS
        and other.start_seconds <= one.end_seconds + NEAR_SECONDS
        for other in others
    )


def _cells(pictures: np.ndarray) -> np.ndarray:
    """(n, cells * 3) float32: what (n, *SIZE, 3) pictures show, without detail."""
    fine = pictures.astype(np.uint16)
    rows = fine[:, 0::2] + fine[:, 1::2]
    cells = rows[:, :, 0::2] + rows[:, :, 1::2]
    return cells.reshape(len(cells), -1).astype(np.float32) / 4


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a - b).mean(axis=-1)


def _black_runs(stretch: Stretch) -> list[Transition]:
    luma = stretch.pictures[..., 1].reshape(len(stretch.times), -1)  # green is most of it
    bright = np.partition(luma, -luma.shape[1] // 50, axis=1)[:, -luma.shape[1] // 50]
    black = (luma.mean(axis=1) < BLACK_MEAN) & (bright < BLACK_BRIGHT)
    steps = np.flatnonzero(np.diff(np.r_[0, black.astype(np.int8), 0]))
    ends = np.r_[stretch.times, stretch.times[-1] + np.median(np.diff(stretch.times))]
    runs = [(ends[a], ends[b]) for a, b in zip(steps[::2], steps[1::2], strict=True)]
    return [
        Transition(float(a), float(b), "black", 1.0) for a, b in runs if b - a > MIN_BLACK_SECONDS
    ]


def _cuts(times: np.ndarray, cells: np.ndarray) -> list[Transition]:
    count = len(cells)
    step = np.r_[0.0, _distance(cells[1:], cells[:-1])]  # of each picture from the one before
    before = _max_of(np.r_[np.zeros(3), step], 3)[:count]  # of the three steps before each
    after = _max_of(np.r_[step[1:], np.zeros(3)], 3)[:count]  # and after it
    ratios, changes = np.zeros(count), np.zeros(count)
    for steps in CUT_STEPS:
        change = _distance(cells[steps:], cells[:-steps])  # between index - 1 and index - 1 + steps
        first = np.arange(1, count - steps + 1)
        around = np.maximum(before[first], after[first - 1 + steps])
        ratio = change / (around + NOISE_LUMA) * (1.0 if steps == 1 else MIXED_CUT_FACTOR)
        middle = first + steps // 2
        better = ratio > ratios[middle]
        ratios[middle[better]], changes[middle[better]] = ratio[better], change[better]
    peak = ratios >= _max_of(np.r_[np.zeros(3), ratios, np.zeros(3)], 7)
    peaks = np.flatnonzero(peak & (ratios > MIN_CUT_RATIO) & (changes > MIN_CUT_LUMA))
    # Of a cut that took several pictures, the one that changed most is the new shot's first.
    found = {k - 1 + int(np.argmax(step[k - 1 : k + 2])): ratios[k] for k in peaks}
    return [Transition(float(times[k]), float(times[k]), "cut", float(r)) for k, r in found.items()]


def _max_of(values: np.ndarray, count: int) -> np.ndarray:
    """The largest of each value and the count - 1 after it."""
    return np.lib.stride_tricks.sliding_window_view(values, count).max(axis=1)


def _dissolves(times: np.ndarray, cells: np.ndarray) -> list[Transition]:
    picture_seconds = float(np.median(np.diff(times)))
    found = []
    for seconds in DISSOLVE_SECONDS:
        count = max(4, round(seconds / picture_seconds))  # pictures of both shots
        if count + 1 >= len(cells):
            break
        a, b = cells[: -count - 1], cells[count + 1 :]
        change = _distance(a, b)
        # What moves changes as much before and after.
        unknown = np.full(count + 1, np.inf)
        beside = np.r_[unknown, change, unknown]
        around = np.maximum(beside[: len(change)], beside[2 * count + 2 :])
        ratio = change / (around + NOISE_LUMA)
        first = np.flatnonzero((change > MIN_DISSOLVE_LUMA) & (ratio > MIN_DISSOLVE_RATIO))
        residual = np.zeros(len(first))
        parts = np.unique(np.linspace(1, count, DISSOLVE_SAMPLES).round().astype(int))
        for part in parts:
            mixed = a[first] + part / (count + 1) * (b[first] - a[first])
            residual += _distance(cells[first + part], mixed) / len(parts)
        residual /= change[first] + NOISE_LUMA
        for index, off in zip(first, residual, strict=True):
            if off < MAX_DISSOLVE_RESIDUAL:
                evenness = 1 - off / CUT_RESIDUAL
                found.append((ratio[index] * evenness, times[index + 1], times[index + count + 1]))
    kept: list[Transition] = []
    for ratio, start, end in sorted(found, reverse=True):
        transition = Transition(float(start), float(end), "dissolve", float(ratio))
        if not _touches(transition, kept):
            kept.append(transition)
    return kept
