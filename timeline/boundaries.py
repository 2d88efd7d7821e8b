"""Boundaries: the edges of segments, moved to where picture and sound change."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from timeline.scoring import ScoredRecording
from timeline.sound_changes import SAMPLE_RATE, SoundChanges
from timeline.timeline import Segment
from timeline.transitions import SIZE, Colours, Transition, find_transitions
from utils.labels import BREAK_LABEL
from utils.stretches import Stretch, read_stretches

# How far an edge is moved. Edges out of windows of 10 and 4 s were off by 1.2 s (median), 2.0 s
# (three of four) and 4 s (nine of ten); 4 s found 89 in 100 to a second, 6 s 94 and 8 s 96, each
# second more on both sides being a tenth more to decode.
WINDOW_SECONDS = 7.0
CONTEXT_SECONDS = 1.6  # read on either side, to see what stands beside a change
MIN_SEGMENT_SECONDS = 0.5  # is left of every segment that was that long
MAX_LOG_ODDS = 4.0  # however sure the network is: its answers overlap, and all err together
MAX_RATIO = 20.0  # of a change to the motion around it: beyond, it is the motion that differs
MAX_COLOUR_CHANGE = 0.7  # as between most shots of game and ads
MAX_CHANGE_DECIBELS = 15.0  # clips without any sound next to others with it say no more
# From how many decibels on a pause or a change of the sound is told as evidence.
PAUSE_DECIBELS, CHANGE_DECIBELS = 15.0, 6.0
# What one of them adds to the logarithm of the chance that an edge is at a place and not at
# another one near it: a conditional logit (McFadden 1974), fitted to 843 edges between clips of
# four sets of sources, each judged by a model that had not seen them, and rounded.
WEIGHTS = {
    "cut": -1.9,
    "cut_ratio": 0.9,  # of the natural logarithm of how sudden it is
    "dissolve": 0.6,
    "dissolve_ratio": 0.9,
    "black": 2.0,
    "unchanged": -0.8,
    "pause": 0.12,  # a decibel
    "sound": 0.4,  # a decibel of change
    "colours": 9.0,
    "network": 0.3,  # of the logarithm of the odds between the labels, times seconds
}


@dataclass(frozen=True)
class _Edge:
    """Between two segments: where it is, where it may be at most, and what they show."""

    seconds: float
    low: float
    high: float
    left: str
    right: str


@dataclass(frozen=True)
class _Place:
    """Where an edge may be, and what speaks for it."""

    seconds: float
    evidence: tuple[str, ...]
    terms: dict[str, float]  # by the name of their weight

    @property
    def score(self) -> float:
        return sum(WEIGHTS[name] * value for name, value in self.terms.items())


def snap_edges(
    path: str | os.PathLike,
    segments: Sequence[Segment],
    scored: ScoredRecording,
    classes: Sequence[str],
    *,
    threads: int = 1,
) -> tuple[Segment, ...]:
    """The segments, with each edge between two labels moved to the likeliest place near it.

    Such are cuts, dissolves and black; how clear they are, a pause or a change in the sound, and
    the probabilities on both sides are weighed up. Black belongs to the break, which starts where
    the black before it does and ends where the black behind it does; a dissolve counts half to
    either side. What an edge was put on is its evidence: "cut", "dissolve" or "black", and
    "silence" or "sound" (it changes) where that is so as well. Where nothing changes, or nothing
    can be read, the edge stays, without evidence. No segment vanishes. So many `threads` read
    at a time. Raises MediaError where the recording can't be read at all.
    """
    edges = {
        index: _Edge(segments[index].start_seconds, *_limits(segments, index), left, right)
        for index in range(1, len(segments))
        if (left := segments[index - 1].label) != (right := segments[index].label)
    }
    moved = list(segments)
    if not edges:
        return tuple(moved)
    places = _best_places(path, list(edges.values()), scored, classes, threads)
    for index, place in zip(edges, places, strict=True):
        before, after = moved[index - 1 : index + 1]
        moved[index - 1] = replace(before, end_seconds=place.seconds, end_evidence=place.evidence)
        moved[index] = replace(after, start_seconds=place.seconds, start_evidence=place.evidence)
    return tuple(moved)


def _limits(segments: Sequence[Segment], index: int) -> tuple[float, float]:
    """How early and how late the edge before a segment may be, so that no two ever cross.

    Each takes half of the segment that it shares with another edge, but for a little that stays.
    """
    at = segments[index].start_seconds
    low, high = segments[index - 1].start_seconds, segments[index].end_seconds
    low = low + MIN_SEGMENT_SECONDS if index == 1 else (low + at + MIN_SEGMENT_SECONDS) / 2
    is_last = index == len(segments) - 1
    high = high - MIN_SEGMENT_SECONDS if is_last else (at + high - MIN_SEGMENT_SECONDS) / 2
    return min(at, max(low, at - WINDOW_SECONDS)), max(at, min(high, at + WINDOW_SECONDS))


def _best_places(
    path: str | os.PathLike,
    edges: Sequence[_Edge],
    scored: ScoredRecording,
    classes: Sequence[str],
    threads: int,
) -> list[_Place]:
    threads = min(threads, len(edges))
    bounds = [part * len(edges) // threads for part in range(threads + 1)]
    parts = [edges[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda part: list(_read_places(path, part, scored, classes)), parts)
        return [place for places in found for place in places]


def _read_places(
    path: str | os.PathLike,
    edges: Sequence[_Edge],
    scored: ScoredRecording,
    classes: Sequence[str],
) -> Iterator[_Place]:
    """Yields the likeliest place of each edge."""
    spans = [
        (max(0.0, e.low - CONTEXT_SECONDS), min(scored.duration_seconds, e.high + CONTEXT_SECONDS))
        for e in edges
    ]
    stretches = read_stretches(
        path,
        spans,
        SIZE,
        sample_rate=SAMPLE_RATE,
        recording_seconds=scored.duration_seconds,
        has_jumps=any(damage.kind == "jump" for damage in scored.damage),
    )
    for edge, span, stretch in zip(edges, spans, stretches, strict=True):
        says = _NetworkSays(scored, classes.index(edge.left), classes.index(edge.right))
        places = _places(edge, stretch, span[0], says)
        yield max(places, key=lambda place: place.score)


def _places(
    edge: _Edge, stretch: Stretch, start_seconds: float, says: "_NetworkSays"
) -> Iterator[_Place]:
    """Yields where an edge may be; where it is comes first, and so wins a tie."""
    sound = None if stretch.sound is None else SoundChanges(stretch.sound, start_seconds)
    colours = Colours(stretch)

    def place(seconds: float, transition: Transition | None) -> _Place:
        kind = "unchanged" if transition is None else transition.kind
        start = seconds if transition is None else transition.start_seconds
        end = seconds if transition is None else transition.end_seconds
        terms = {kind: 1.0, "network": says.split_at(seconds)}
        terms["colours"] = min(colours.change(start, end), MAX_COLOUR_CHANGE)
        if kind in ("cut", "dissolve"):
            terms[f"{kind}_ratio"] = float(np.log(min(transition.ratio, MAX_RATIO)))
        pause, change = (0.0, 0.0) if sound is None else sound.around(start, end)
        terms["pause"], terms["sound"] = pause, min(change, MAX_CHANGE_DECIBELS)
        if transition is None:
            return _Place(seconds, (), terms)
        told = {"silence": pause >= PAUSE_DECIBELS, "sound": change >= CHANGE_DECIBELS}
        return _Place(seconds, (kind, *(name for name, is_so in told.items() if is_so)), terms)

    yield place(edge.seconds, None)
    for transition in find_transitions(stretch):
        seconds = _edge_of(transition, edge)
        if edge.low <= seconds <= edge.high:
            yield place(seconds, transition)


def _edge_of(transition: Transition, edge: _Edge) -> float:
    if transition.kind == "black" and edge.right == BREAK_LABEL:
        return transition.start_seconds
    if transition.kind == "black" and edge.left == BREAK_LABEL:
        return transition.end_seconds
    return transition.middle_seconds


class _NetworkSays:
    """How well the answers of the shortest windows fit an edge from one class to another."""

    def __init__(self, scored: ScoredRecording, left: int, right: int):
        shortest = int(np.argmin(scored.window_seconds))
        odds = np.maximum(scored.probabilities[shortest][:, [left, right]], 1e-6)
        log_odds = np.log(odds[:, 1] / odds[:, 0]).clip(-MAX_LOG_ODDS, MAX_LOG_ODDS)
        self._sums = np.r_[0.0, np.cumsum(log_odds)] * scored.hop_seconds
        self._times = np.arange(len(self._sums)) * scored.hop_seconds

    def split_at(self, seconds: float) -> float:
        """The logarithm of the odds of left before a time and right behind it, times seconds, but
        for a constant."""
        return -float(np.interp(seconds, self._times, self._sums))
