"""Repeats: where sequences of hashes show the same, such as one spot aired many times."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

TABLES = 8  # random choices of bits by which alike hashes are looked for
NEIGHBOURS = 8  # hashes of one bucket that each is compared with: airings are linked in a chain
PROBES = 12  # steps around a pair that are looked at before it is followed
BLOCK_PAIRS = 1 << 18
APART_SECONDS = 10.0  # in one sequence: less is the same scene going on
BLUR_SECONDS = 3.0  # a shot that lasts is alike at the offsets next to its own, too
REACH_SECONDS = 60.0  # how far around alike hashes a run is followed
# A fixed camera is like itself at any time: a run is evidence where it changes after a second and
# after two by so many bits, and by so many times those in which the two sequences differ.
NEWS_SECONDS = (1.0, 2.0)
MIN_NEW_BITS, NEWS_RATIO = 8.0, 1.8


@dataclass(frozen=True)
class Likeness:
    """When two sequences show the same."""

    seconds: float  # at least so long
    bits: float  # mean distance of two hashes at most


# Measured on 99 real clips of 24 sources: unrelated ones come as close as 17 bits over 2.5 s of
# pictures and 20 over 3 s of sound. Idents and end cards, which different spots may share but for a
# few words, are seldom longer than three seconds.
PICTURES = Likeness(seconds=4.0, bits=11.0)
SOUNDS = Likeness(seconds=5.0, bits=13.0)


@dataclass(frozen=True, order=True)
class Run:
    """`length` steps of sequence `first` from `first_start` on, and the same ones of `second`."""

    first: int
    second: int
    first_start: int
    second_start: int
    length: int


def find_runs(hashes: Sequence[np.ndarray], rate: float, likeness: Likeness) -> list[Run]:
    """Where sequences of (n,) uint64 hashes, `rate` a second, agree with each other or themselves.

    A hash of 0 shows nothing and agrees with nothing. Of many airings not every pair is found, but
    a chain that links them. The time grows with the number of hashes, not with its square: sorting
    by a few random bits brings alike ones together (Indyk and Motwani, Approximate Nearest
    Neighbors, 1998), and what is alike around such a pair, too, is followed in both directions.
    """
    steps = _Steps(hashes, rate, likeness)
    found = [_alike(steps, *pairs, likeness) for pairs in _near_pairs(steps)]
    found = np.concatenate(found) if found else np.zeros((0, 4), np.int64)
    runs = [
        run
        for place in _places(found, steps.count(REACH_SECONDS))
        for run in _follow(steps, *place, likeness)
    ]
    return _best(runs, steps.count(BLUR_SECONDS))


def follow(
    first: np.ndarray, second: np.ndarray, offset: int, rate: float, likeness: Likeness
) -> list[Run]:
    """Where two sequences agree at one offset: second[i + offset] shows what first[i] does."""
    steps = _Steps([first, second], rate, likeness)
    return list(_follow(steps, 0, 1, offset, 0, len(first), likeness))


class _Steps:
    """All hashes one after another, with the sequence of each and where that starts.

    `news` is how many bits change after NEWS_SECONDS, on average in the seconds of `likeness` that
    begin with a step.
    """

    def __init__(self, hashes: Sequence[np.ndarray], rate: float, likeness: Likeness):
        lengths = np.array([len(each) for each in hashes], np.int64)
        self.values = np.concatenate([np.zeros(0, np.uint64), *hashes])
        self.sequence = np.repeat(np.arange(len(hashes), dtype=np.int32), lengths)
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        self.rate = rate
        self.news = self._news(self.count(likeness.seconds))

    def count(self, seconds: float) -> int:
        return max(1, round(seconds * self.rate))

    def distances(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """uint8 numbers of bits, of steps by their index."""
        return np.bitwise_count(self.values[first] ^ self.values[second])

    def _news(self, window: int) -> np.ndarray:
        """(n,) float32; the end of a sequence borrows from the next, which is then looked at."""
        news = np.zeros(len(self.values), np.float32)
        for seconds in NEWS_SECONDS:
            shift = self.count(seconds)
            later = np.append(self.values[shift:], np.zeros(min(shift, len(news)), np.uint64))
            changes = np.append(np.bitwise_count(self.values ^ later), np.zeros(window, np.uint8))
            sums = np.concatenate([[0], np.cumsum(changes, dtype=np.int64)])
            # Of pairs within the window: what comes behind it is not shared.
            pairs = window - shift
            news += (sums[pairs:][: len(news)] - sums[: len(news)]) / pairs
        return news / len(NEWS_SECONDS)


def _near_pairs(steps: _Steps) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices of steps whose hashes have the same random bits, the earlier first."""
    fresh = (steps.values != 0) & (steps.news >= MIN_NEW_BITS)
    wanted = np.flatnonzero(fresh)
    # So that a bucket holds two unrelated hashes, more or less.
    num_bits = int(np.clip(np.log2(max(len(wanted), 1)) - 1, 12, 24))
    rng = np.random.default_rng(0)
    for _ in range(TABLES):
        mask = np.bitwise_or.reduce(np.uint64(1) << rng.permutation(63)[:num_bits].astype("u8"))
        keys = steps.values[wanted] & (mask << np.uint64(1))  # the lowest bit is always 0
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        for shift in range(1, NEIGHBOURS + 1):
            same = np.flatnonzero(keys[shift:] == keys[:-shift])
            for start in range(0, len(same), BLOCK_PAIRS):
                block = same[start : start + BLOCK_PAIRS]
                yield wanted[order[block]], wanted[order[block + shift]]


def _alike(steps: _Steps, first: np.ndarray, second: np.ndarray, likeness: Likeness) -> np.ndarray:
    """(n, 4) int64 of pairs around which all is alike: sequences, offset, place in the first."""
    kept = steps.distances(first, second) <= likeness.bits
    apart = second - first >= steps.count(APART_SECONDS)
    kept &= apart | (steps.sequence[first] != steps.sequence[second])
    first, second = first[kept], second[kept]
    window = steps.count(likeness.seconds)
    probes = np.unique(np.linspace(0, window - 1, PROBES).round().astype(int))
    near = np.zeros(len(first), bool)
    last = len(steps.values) - 1
    for start in (0, -window // 2, 1 - window):  # the pair begins, is amid, or ends what is alike
        total = np.zeros(len(first))
        for probe in probes + start:
            one, two = (first + probe).clip(0, last), (second + probe).clip(0, last)
            inside = steps.sequence[one] == steps.sequence[first]
            inside &= steps.sequence[two] == steps.sequence[second]
            total += np.where(inside, steps.distances(one, two), 32)
        mean = total / len(probes)
        news = steps.news[(first + start).clip(0, last)]
        near |= (mean <= likeness.bits + 2) & (news >= np.maximum(MIN_NEW_BITS, NEWS_RATIO * mean))
    first, second = first[near], second[near]
    one, two = steps.sequence[first], steps.sequence[second]
    place = first - steps.starts[one]
    return np.stack([one, two, second - steps.starts[two] - place, place], axis=1)


def _places(found: np.ndarray, reach: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(first, second, offset, lowest and highest place), of places at most `reach` apart."""
    found = found[np.lexsort(found.T[::-1])]
    steps_apart = np.diff(found, axis=0)
    new = np.flatnonzero((steps_apart[:, :3] != 0).any(axis=1) | (steps_apart[:, 3] > reach)) + 1
    edges = [0, *new.tolist(), len(found)]
    for start, stop in zip(edges, edges[1:], strict=False):
        if start < stop:
            yield (*map(int, found[start, :3]), int(found[start, 3]), int(found[stop - 1, 3]))


def _follow(
    steps: _Steps,
    first: int,
    second: int,
    offset: int,
    lowest: int,
    highest: int,
    likeness: Likeness,
) -> Iterator[Run]:
    """The runs at one offset, in and around the places where hashes were alike."""
    reach, window = steps.count(REACH_SECONDS), steps.count(likeness.seconds)
    lengths = np.diff(steps.starts)
    start = max(lowest - reach, 0, -offset)
    stop = min(highest + reach, lengths[first], lengths[second] - offset)
    if stop - start < window:
        return
    one = steps.values[steps.starts[first] + start : steps.starts[first] + stop]
    two = steps.values[steps.starts[second] + start + offset :][: stop - start]
    shown = (one != 0) & (two != 0)
    distance = np.where(shown, np.bitwise_count(one ^ two), 0)
    counts, totals = _window_sums(shown, window), _window_sums(distance, window)
    # A moment of black within is neither for nor against it.
    good = (totals <= likeness.bits * counts) & (counts >= 2 * window / 3)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], good.view(np.int8), [0]])))
    for low, high in zip(edges[::2], edges[1::2] + window - 1, strict=True):
        mean = distance[low:high].sum() / shown[low:high].sum()
        if _new_bits(one[low:high], steps) >= max(MIN_NEW_BITS, NEWS_RATIO * mean):
            at = start + int(low)
            yield Run(first, second, at, at + offset, int(high - low))


def _new_bits(values: np.ndarray, steps: _Steps) -> float:
    """Mean distance of hashes to those one and two seconds later."""
    means = []
    for seconds in NEWS_SECONDS:
        shift = steps.count(seconds)
        before, after = values[:-shift], values[shift:]
        shown = (before != 0) & (after != 0)
        means.append(np.bitwise_count(before ^ after)[shown].mean() if shown.any() else 0.0)
    return float(np.mean(means))


def _best(runs: list[Run], blur: int) -> list[Run]:
    """Sorted; the longest of those that say the same at offsets that differ by less than `blur`."""
    kept: dict[tuple[int, int], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (-run.length, run)):
        others = kept.setdefault((run.first, run.second), [])
        if not any(_same_place(run, other, blur) for other in others):
            others.append(run)
    return sorted(run for others in kept.values() for run in others)


def _same_place(run: Run, other: Run, blur: int) -> bool:
    shift = (run.second_start - run.first_start) - (other.second_start - other.first_start)
    apart = max(run.first_start, other.first_start) - min(
        run.first_start + run.length, other.first_start + other.length
    )
    return abs(shift) < blur and apart < 0


def _window_sums(values: np.ndarray, window: int) -> np.ndarray:
    sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return sums[window:] - sums[:-window]
