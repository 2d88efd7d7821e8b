"""Airings: where the very same was shown or heard again, found by fingerprints."""

import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from utils.duplicates import Repeat
from utils.feature_store import FeatureStore
from utils.features import FeatureSpec
from utils.files import write_whole
from utils.fingerprints import SMOOTH_ROWS, SOUND_LAGS, SOUND_STEP, hash_pictures, hash_sounds
from utils.repeats import PICTURES, SOUNDS, Likeness, follow

NEAR_SECONDS = 3.0  # edges this near to each other are one: fingerprints blur them
MIN_SPOT_SECONDS = 4.0
MIN_PAIRS = 3  # of alike hashes at one offset, for it to be looked at
AROUND_SECONDS = 8.0  # looked at before and behind what may be an airing
SAME_PART = 0.5  # of the shorter of two airings: so much in common is one
MOST_OFFSETS = 24  # looked at in a recording
BITS = 63
SOUND_AHEAD = (SMOOTH_ROWS + SOUND_LAGS[-1]) // SOUND_STEP  # hashes that look beyond the end


@dataclass(frozen=True, order=True)
class Airing:
    """[start_seconds, end_seconds) of a recording, by its key in the feature store."""

    key: str
    start_seconds: float
    end_seconds: float
    by: str  # "picture" or "sound"
    likeness: float = 1.0  # part of the bits that agree


@dataclass(frozen=True)
class Spot:
    """What was aired more than once, its airings in order."""

    seconds: float
    airings: tuple[Airing, ...]


def find_airings(
    frames: np.ndarray,
    mfcc: np.ndarray | None,
    features: FeatureStore,
    spec: FeatureSpec,
    keys: Sequence[str],
    *,
    kept_in: Path | None = None,
    report: Callable[[int], None] = lambda recordings: None,
) -> list[Airing]:
    """Where the recordings with these keys show or sound the same as a stretch of another file.

    At most one airing for each place, by the picture rather than by the sound. Hashes of the sound,
    which take a third of a second for an hour, are kept in the folder `kept_in`.
    """
    pictures = [hash_pictures(frames)]
    # Hashes are so many rows apart, and an airing begins between two of them as a rule.
    sounds = [] if mfcc is None else [hash_sounds(mfcc[row:]) for row in range(SOUND_STEP)]
    found: list[Airing] = []
    for key in keys:
        there = np.asarray(features.get(key, "picture_hashes"))
        airings = _airings_in(pictures, there, spec.fps, PICTURES, key, "picture")
        if sounds and features.num_rows(key, "mfcc"):
            heard = _sound_hashes(features, key, kept_in)
            rate = spec.mfcc.frames_per_second / SOUND_STEP
            airings += _airings_in(sounds, heard, rate, SOUNDS, key, "sound")
        found += _apart(airings)
        report(1)
    return found


def keep_sounds(
    features: FeatureStore,
    keys: Sequence[str],
    folder: Path,
    *,
    report: Callable[[int], None] = lambda recordings: None,
) -> None:
    """Makes the hashes that `find_airings` keeps in a folder, so that its first answer is soon."""
    for key in keys:
        if features.num_rows(key, "mfcc"):
            _sound_hashes(features, key, folder)
        report(1)


def sharpen(
    repeats: Iterable[Repeat],
    features: FeatureStore,
    spec: FeatureSpec,
    *,
    kept_in: Path | None = None,
) -> list[Repeat]:
    """The same repeats from the first hash that is alike to the last.

    `find_duplicates` goes by means over seconds, which reach a second beyond what is shared.
    """
    sharp = []
    for repeat in repeats:
        keys = repeat.first, repeat.second
        if repeat.by == "picture":
            hashes = [np.asarray(features.get(key, "picture_hashes")) for key in keys]
            rate, likeness = spec.fps, PICTURES
        else:
            hashes = [_sound_hashes(features, key, kept_in) for key in keys]
            rate, likeness = spec.mfcc.frames_per_second / SOUND_STEP, SOUNDS
        starts = [round(s * rate) for s in (repeat.first_seconds, repeat.second_seconds)]
        count = round(repeat.seconds * rate)
        one, two = (h[start : start + count] for h, start in zip(hashes, starts, strict=True))
        span = _alike_part(one, two, likeness)
        sharp.append(
            replace(
                repeat,
                first_seconds=(starts[0] + span.start) / rate,
                second_seconds=(starts[1] + span.start) / rate,
                seconds=(span.stop - span.start) / rate,
            )
        )
    return sharp


def group_spots(repeats: Iterable[Repeat]) -> list[Spot]:
    """What repeats say was aired more than once, the most often aired first.

    Where one airing ends within a longer repeat, as of two spots that ran one after the other, the
    longer one is cut there, in all recordings that it was found in.
    """
    runs = [run for repeat in sorted(repeats) for run in _both_ways(repeat)]
    by_key: dict[str, list[_Run]] = {}
    for run in runs:
        by_key.setdefault(run.key, []).append(run)
    edges = _edges(runs, by_key)
    pieces = {
        key: [(a, b) for a, b in zip(own, own[1:], strict=False) if b - a >= MIN_SPOT_SECONDS]
        for key, own in edges.items()
    }
    places = [(key, *piece) for key in sorted(pieces) for piece in pieces[key]]
    number = {place: index for index, place in enumerate(places)}
    parents = list(range(len(places)))
    by = {}
    for run in runs:
        for start, end in pieces[run.key]:
            if not run.covers(start, end):
                continue
            middle = (start + end) / 2 + run.shift
            for other in pieces[run.other]:
                if other[0] <= middle < other[1]:
                    one, two = number[run.key, start, end], number[run.other, *other]
                    parents[_root(parents, one)] = _root(parents, two)
                    by[one] = min(by.get(one, run.by), run.by)  # picture before sound
                    by[two] = min(by.get(two, run.by), run.by)
    groups: dict[int, list[Airing]] = {}
    for index in by:
        airing = Airing(*places[index], by[index])
        groups.setdefault(_root(parents, index), []).append(airing)
    spots = [
        Spot(float(np.median([a.end_seconds - a.start_seconds for a in some])), tuple(sorted(some)))
        for some in groups.values()
        if len(some) > 1
    ]
    return sorted(spots, key=lambda spot: (-len(spot.airings), -spot.seconds, spot.airings))


@dataclass(frozen=True)
class _Run:
    """A repeat as one of its two recordings sees it."""

    key: str
    start: float
    end: float
    other: str
    shift: float  # from a time here to the same there
    by: str

    def covers(self, start: float, end: float) -> bool:
        return self.start - NEAR_SECONDS <= start and end <= self.end + NEAR_SECONDS


def _both_ways(repeat: Repeat) -> tuple[_Run, _Run]:
    a, b, seconds = repeat.first_seconds, repeat.second_seconds, repeat.seconds
    return (
        _Run(repeat.first, a, a + seconds, repeat.second, b - a, repeat.by),
        _Run(repeat.second, b, b + seconds, repeat.first, a - b, repeat.by),
    )


def _edges(runs: Sequence[_Run], by_key: dict[str, list[_Run]]) -> dict[str, list[float]]:
    """By recording, in order, where something begins or ends that is shown elsewhere, too."""
    edges: dict[str, list[float]] = {key: [] for key in by_key}
    waiting = [(run.key, seconds) for run in runs for seconds in (run.start, run.end)]
    while waiting:
        key, seconds = waiting.pop()
        own = edges[key]
        place = bisect.bisect(own, seconds)
        if any(abs(edge - seconds) < NEAR_SECONDS for edge in own[max(0, place - 1) : place + 1]):
            continue
        own.insert(place, seconds)
        waiting += [
            (run.other, seconds + run.shift)
            for run in by_key[key]
            if run.start <= seconds <= run.end
        ]
    return edges


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def _sound_hashes(features: FeatureStore, key: str, folder: Path | None) -> np.ndarray:
    """(n,) uint64 of all of a recording."""
    if folder is None:
        return hash_sounds(features.get(key, "mfcc"))
    path = folder / f"{key}.u64"
    try:
        return np.frombuffer(path.read_bytes(), "<u8")
    except (OSError, ValueError):
        hashes = hash_sounds(features.get(key, "mfcc"))
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, hashes.astype("<u8").tobytes())
        return hashes


def _airings_in(
    asked: Sequence[np.ndarray],
    there: np.ndarray,
    rate: float,
    likeness: Likeness,
    key: str,
    by: str,
) -> list[Airing]:
    """Where the hashes of one recording go like those asked for, the best first.

    `asked` are hashes of the same, each begun a little later.
    """
    around = round(AROUND_SECONDS * rate)
    found = []
    for phase, offset in _offsets(asked, there, likeness):
        first = asked[phase]
        low, high = max(0, offset - around), max(0, offset + len(first) + around)
        for run in follow(first, there[low:high], offset - low, rate, likeness):
            one = first[run.first_start : run.first_start + run.length]
            start = low + run.second_start
            two = there[start : start + run.length]
            span = _alike_part(one, two, likeness)
            bits = np.bitwise_count(one ^ two)[span]
            last = start + span.stop
            if by == "sound" and run.first_start + span.stop == len(first):
                last += SOUND_AHEAD  # of what is asked, which has no hashes of its own at its end
            seconds = (start + span.start) / rate, last / rate
            found.append(Airing(key, *seconds, by, float(1 - bits.mean() / BITS)))
    # A step too early or late is nearly as long, and less alike.
    return sorted(found, key=lambda a: a.likeness * (a.start_seconds - a.end_seconds))


def _alike_part(one: np.ndarray, two: np.ndarray, likeness: Likeness) -> slice:
    """From the first of two hashes that are alike to the last: a run is blurred at both ends."""
    bits = np.bitwise_count(one ^ two)
    near = np.flatnonzero((bits <= likeness.bits) & (one != 0) & (two != 0))
    return slice(int(near[0]), int(near[-1]) + 1) if len(near) else slice(0, len(one))


def _offsets(
    asked: Sequence[np.ndarray], there: np.ndarray, likeness: Likeness
) -> list[tuple[int, int]]:
    """(which of `asked`, offset) at which hashes are alike in the same order, the most alike first.

    One of a place, and at most MOST_OFFSETS.
    """
    length = max(map(len, asked))
    ranked = []
    for phase, hashes in enumerate(asked):
        votes = np.zeros(len(there) + length + 1, np.int32)
        shown = np.flatnonzero(hashes)
        # What stands still is alike everywhere: a run of equal hashes has one vote.
        fresh = np.ones(len(shown), bool)
        fresh[1:] = hashes[shown[1:]] != hashes[shown[:-1]]
        for index in shown[fresh][:: len(asked)]:
            near = np.flatnonzero(np.bitwise_count(there ^ hashes[index]) <= likeness.bits)
            votes[near - index + length] += 1
        # A step more or less: the grids of two files seldom fall on the same moments.
        votes[1:-1] = votes[:-2] + votes[1:-1] + votes[2:]
        for place in np.flatnonzero(votes >= MIN_PAIRS):
            ranked.append((-int(votes[place]), phase, int(place) - length))
    chosen: list[tuple[int, int]] = []
    for _, phase, offset in sorted(ranked):
        if len(chosen) == MOST_OFFSETS:
            break
        if all(abs(offset - other) > length // 2 for _, other in chosen):
            chosen += [(phase, offset + step) for step in (0, -1, 1)]
    return chosen


def _apart(airings: list[Airing]) -> list[Airing]:
    """Without those that lie over one that comes before them."""
    kept: list[Airing] = []
    for airing in airings:
        if not any(_overlap(airing, other) for other in kept):
            kept.append(airing)
    return kept


def _overlap(one: Airing, other: Airing) -> bool:
    common = min(one.end_seconds, other.end_seconds) - max(one.start_seconds, other.start_seconds)
    shorter = min(a.end_seconds - a.start_seconds for a in (one, other))
    return common > SAME_PART * shorter
