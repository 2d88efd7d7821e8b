"""Segments: class probabilities over time to what a recording shows when."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from timeline.durations import DEFAULT_DURATIONS, Durations
from timeline.semi_markov import Chain, best_segments, state_probabilities
from timeline.timeline import Segment

if TYPE_CHECKING:  # it takes seconds to import, which whoever reads old timelines need not wait
    from timeline.scoring import ScoredRecording

# Windows a hop apart are nearly the same window: what they say counts once in so many seconds.
# Fewer, and a spot full of sport splits its break; more, and breaks of one spot go. From 3 to 5, on
# sources that the model had not seen, break F1 stayed within 0.01.
EVIDENCE_SECONDS = 4.0
# The chance that a window is misjudged however sure the model is: whole sources are.
DOUBT = 0.05
# Parts of the evidence by window: the short one meets fewer edges, the long one is wrong less.
LONG_PART, SHORT_PART = 0.25, 0.75
TABLE_SECONDS = 600.0  # a stretch of more goes on with the same chance at each step
EDGE_SECONDS = 5.0  # how far an edge may move from where the decoding puts it
UNSURE_BELOW = 0.8  # confidence: 2 of 15 segments were wrong, and 1 of 431 from 0.9 on


def find_segments(
    scored: "ScoredRecording",
    classes: Sequence[str],
    durations: Durations = DEFAULT_DURATIONS,
    *,
    thresholds: Mapping[str, float] | None = None,
) -> tuple[Segment, ...]:
    """The segments of a recording in order; they cover [0, duration) without gaps or overlaps.

    Every second is given its most probable class, by all that the windows say and by how long
    stretches of each class last (`state_probabilities`), such that no stretch but a first or last
    one is shorter than its class's minimum. `thresholds` are of all classes but one, which is kept:
    another one is said where its probability reaches its own, as of a clip.
    """
    step_seconds = scored.hop_seconds
    evidence = _evidence(scored)
    chain = _chain(durations, classes, step_seconds)
    probabilities = state_probabilities(evidence, chain)  # (N, C)
    shortest = [_steps(durations.of(name).minimum_seconds, step_seconds) for name in classes]
    found = best_segments(_gains(probabilities, classes, thresholds), shortest)
    edges = _placed(scored, found)
    segments = []
    for (first, stop, state), (start, end) in zip(found, pairwise(edges), strict=True):
        confidence = float(probabilities[first:stop, state].mean())
        segments.append(
            Segment(
                start * step_seconds,
                end * step_seconds,
                classes[state],
                confidence,
                unsure=confidence < UNSURE_BELOW,
            )
        )
    return (*segments[:-1], replace(segments[-1], end_seconds=scored.duration_seconds))


def _evidence(scored: "ScoredRecording") -> np.ndarray:
    """(N, C) logarithm of how well each class explains a step.

    The classes weigh the same in training, so probabilities are in proportion to likelihoods.
    """
    long, short = _log_probabilities(scored)
    return (LONG_PART * long + SHORT_PART * short) * scored.hop_seconds / EVIDENCE_SECONDS


def _log_probabilities(scored: "ScoredRecording") -> np.ndarray:
    """(2, N, C) float64, of the long and the short window, less sure than the model."""
    longest, shortest = np.argmax(scored.window_seconds), np.argmin(scored.window_seconds)
    odds = scored.probabilities[[longest, shortest]].astype(np.float64) * np.exp(scored.gains)
    probabilities = odds / odds.sum(axis=2, keepdims=True)
    return np.log((1 - DOUBT) * probabilities + DOUBT / probabilities.shape[2])


def _chain(durations: Durations, classes: Sequence[str], step_seconds: float) -> Chain:
    """How long segments last in steps; each other class is as likely to follow."""
    minimum = max(durations.of(name).minimum_seconds for name in classes)
    table_steps = _steps(max(TABLE_SECONDS, 2 * minimum), step_seconds)
    seconds = np.arange(table_steps + 1) * step_seconds
    longer = np.stack([durations.of(name).log_survival(seconds) for name in classes], axis=1)
    with np.errstate(divide="ignore"):  # of log(0), below the minimum
        lasting = longer[:-1] + np.log(-np.expm1(np.diff(longer, axis=0)))
        following = np.log(1 - np.eye(len(classes))) - np.log(max(len(classes) - 1, 1))
    return Chain(lasting, longer[-1], longer[-1] - longer[-2], following)


def _gains(
    probabilities: np.ndarray, classes: Sequence[str], thresholds: Mapping[str, float] | None
) -> np.ndarray:
    """(N, C) what a step is worth in each class: its probability; with thresholds, by how much that
    is above its own, and nothing in the class without one. Raises ValueError for other names."""
    if not thresholds:
        return probabilities
    kept = [name for name in classes if name not in thresholds]
    if len(kept) != 1 or len(thresholds) != len(classes) - 1:
        raise ValueError(
            f"thresholds name {', '.join(thresholds)} of the classes {', '.join(classes)}: "
            "name all but one, which is kept"
        )
    limits = np.array([thresholds.get(name, 0.0) for name in classes])
    return np.where(np.isin(classes, kept), 0.0, probabilities - limits)


def _placed(scored: "ScoredRecording", found: Sequence[tuple[int, int, int]]) -> list[int]:
    """The edges of segments in steps, both ends included, each on the best place near it.

    That is where the windows that end at it say one class and those that begin at it the other. A
    window across an edge shows neither, and a mixture of two games is easily taken for an ad.
    """
    logs = _log_probabilities(scored)
    halves = [
        _steps(seconds / 2, scored.hop_seconds)
        for seconds in (max(scored.window_seconds), min(scored.window_seconds))
    ]
    reach = _steps(EDGE_SECONDS, scored.hop_seconds)
    edges = [0]
    for (start, edge, before), (_, stop, after) in pairwise(found):
        # A third at most of a segment, so that two edges never meet.
        back, ahead = min(reach, (edge - start) // 3), min(reach, (stop - edge) // 3)
        places = np.arange(edge - back, edge + ahead + 1)
        odds = logs[:, :, before] - logs[:, :, after]  # (2, N)
        merits = sum(
            _at(row, places - half) - _at(row, places + half - 1)
            for row, half in zip(odds, halves, strict=True)
        )
        edges.append(int(places[merits.argmax()]))
    return [*edges, found[-1][1]]


def _at(row: np.ndarray, places: np.ndarray) -> np.ndarray:
    return row[places.clip(0, len(row) - 1)]


def _steps(seconds: float, step_seconds: float) -> int:
    return max(1, round(seconds / step_seconds))
