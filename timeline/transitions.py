"""Transitions: where the picture of a stretch changes to another, at once or gradually."""

from dataclasses import dataclass

import numpy as np

from utils.stretches import Stretch

CELLS = (9, 16)  # in which pictures are compared: motion stays within one, another scene does not
NOISE_LUMA = 2.0  # by which the same picture may differ after compression
# A picture in full range is black with a mean and a bright end below these: 0, plus noise, plus a
# range that was mislabelled (16).
BLACK_MEAN, BLACK_BRIGHT = 24.0, 44.0
MIN_BLACK_SECONDS = 0.06
# A cut takes a picture, or up to three where fields or pictures of both sides were mixed.
CUT_STEPS = (1, 2, 3)
DISSOLVE_SECONDS = (0.24, 0.4, 0.56, 0.72, 0.88, 1.04, 1.28)
MIN_CUT_RATIO, MIN_CUT_LUMA = 1.6, 5.0
MIN_DISSOLVE_LUMA = 12.0
MAX_DISSOLVE_RESIDUAL = 0.16


@dataclass(frozen=True)
class Transition:
    """From one picture to another in [start, end); a cut where both are the same."""

    start_seconds: float
    end_seconds: float
    kind: str  # "cut", "dissolve" or "black"
    strength: float  # how many times the change is that of the motion around; of black, seconds

    @property
    def middle_seconds(self) -> float:
        return (self.start_seconds + self.end_seconds) / 2


def find_transitions(stretch: Stretch) -> list[Transition]:
    """The transitions of a stretch in order of their starts; they may overlap."""
    if len(stretch.times) < 3:
        return []
    cells = _cells(stretch.pictures)
    dark = _black_runs(stretch)
    found = [*dark, *_cuts(stretch.times, cells), *_dissolves(stretch.times, cells)]
    return sorted(found, key=lambda transition: transition.start_seconds)


def _cells(pictures: np.ndarray) -> np.ndarray:
    """(n, cells * 3) float32: means of parts of (n, H, W, 3) pictures."""
    n, height, width, _ = pictures.shape
    rows, columns = height // CELLS[0], width // CELLS[1]
    split = pictures.reshape(n, CELLS[0], rows, CELLS[1], columns, 3)
    return split.mean(axis=(2, 4), dtype=np.float32).reshape(n, -1)


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a - b).mean(axis=-1)


def _black_runs(stretch: Stretch) -> list[Transition]:
    luma = stretch.pictures.mean(axis=-1).reshape(len(stretch.times), -1)
    bright = np.partition(luma, -luma.shape[1] // 50, axis=1)[:, -luma.shape[1] // 50]
    black = (luma.mean(axis=1) < BLACK_MEAN) & (bright < BLACK_BRIGHT)
    steps = np.flatnonzero(np.diff(np.r_[0, black.astype(np.int8), 0]))
    ends = np.r_[stretch.times, stretch.times[-1] + np.median(np.diff(stretch.times))]
    runs = [(ends[a], ends[b]) for a, b in zip(steps[::2], steps[1::2], strict=True)]
    return [
        Transition(float(a), float(b), "black", float(b - a))
        for a, b in runs
        if b - a > MIN_BLACK_SECONDS
    ]


def _cuts(times: np.ndarray, cells: np.ndarray) -> list[Transition]:
    count = len(cells)
    step = np.r_[0.0, _distance(cells[1:], cells[:-1])]  # of each picture from the one before
    best = np.zeros(count)
    size = np.zeros(count)
    for steps in CUT_STEPS:
        for index in range(1, count - steps + 1):
            before, after = index - 1, index - 1 + steps
            change = _distance(cells[before], cells[after])
            around = max(
                step[max(1, index - 3) : index].max(initial=0),
                step[after + 1 : after + 4].max(initial=0),
            )
            ratio = change / (around + NOISE_LUMA)
            where = index + steps // 2
            if steps > 1:
                ratio *= 0.7
            if ratio > best[where]:
                best[where], size[where] = ratio, change
    found = []
    for index in np.flatnonzero((best > MIN_CUT_RATIO) & (size > MIN_CUT_LUMA)):
        near = best[max(0, index - 3) : index + 4]
        if best[index] == near.max():
            seconds = float(times[index])
            found.append(Transition(seconds, seconds, "cut", float(best[index])))
    return found


def _dissolves(times: np.ndarray, cells: np.ndarray) -> list[Transition]:
    frame = float(np.median(np.diff(times)))
    found = []
    for seconds in DISSOLVE_SECONDS:
        span = max(4, round(seconds / frame))
        if span + 1 >= len(cells):
            break
        a, b = cells[: -span - 1], cells[span + 1 :]
        change = _distance(a, b)
        residual = np.zeros(len(a))
        parts = np.unique(np.linspace(1, span, 7).round().astype(int))
        for part in parts:
            between = cells[part : part + len(a)]
            weight = part / (span + 1)
            residual += _distance(between, a + weight * (b - a)) / len(parts)
        residual /= change + NOISE_LUMA
        good = (residual < MAX_DISSOLVE_RESIDUAL) & (change > MIN_DISSOLVE_LUMA)
        for index in np.flatnonzero(good):
            found.append((change[index], residual[index], times[index + 1], times[index + span + 1]))
    found.sort(key=lambda x: -(x[0] * (1 - x[1] / MAX_DISSOLVE_RESIDUAL)))
    kept = []
    for change, residual, start, end in found:
        if all(end <= k.start_seconds or start >= k.end_seconds for k in kept):
            kept.append(Transition(float(start), float(end), "dissolve", float(change)))
    return kept
