"""Review queue: what to look at first, by the seconds that a correction is expected to mend."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from timeline.labelled import Labelled
from timeline.segments import EDGE_SECONDS
from timeline.timeline import Segment
from utils.labels import BREAK_LABEL
from web.corrections import Corrections
from web.library import Library, Recording
from web.timelines import Timelines, Version

Scored = tuple[tuple[Segment, float], ...]  # each with the seconds expected to be wrong
LEAST_SECONDS = 0.05  # expected to be wrong: less is a frame or two, and not worth a look


@dataclass(frozen=True)
class QueueItem:
    """A segment of the model's, and how many of its seconds are expected to be wrong."""

    recording: str
    name: str
    segment: Segment
    expected_wrong_seconds: float

    def to_dict(self) -> dict[str, object]:
        segment = self.segment
        middle = (segment.start_seconds + segment.end_seconds) / 2
        return {
            "recording": self.recording,
            "name": self.name,
            "start_seconds": segment.start_seconds,
            "end_seconds": segment.end_seconds,
            "label": segment.label,
            "confidence": round(segment.confidence, 4),
            "unsure": segment.unsure,
            "expected_wrong_seconds": round(self.expected_wrong_seconds, 2),
            "thumbnail": f"/api/recordings/{self.recording}/thumbnail?seconds={middle:.3f}",
        }


class ReviewQueue:
    """The segments of all labelled recordings that nobody has corrected."""

    def __init__(self, library: Library, timelines: Timelines, corrections: Corrections):
        self._library = library
        self._timelines = timelines
        self._corrections = corrections
        self._known: dict[str, tuple[Version, Scored]] = {}

    def items(self) -> list[QueueItem]:
        """Most expected seconds first; those with next to none are left out."""
        found = [
            QueueItem(recording.id, recording.name, segment, seconds)
            for recording in self._library.all()
            if recording.editable
            for segment, seconds in self._of(recording)
            if seconds >= LEAST_SECONDS
        ]
        return sorted(found, key=lambda item: -item.expected_wrong_seconds)

    def _of(self, recording: Recording) -> Scored:
        """Made once for each timeline, which takes reading it."""
        version = self._timelines.version(recording)
        if version is None or self._corrections.read(recording):
            return ()
        known = self._known.get(recording.id)
        if known is None or known[0] != version:
            labelled = self._timelines.find(recording)
            segments = labelled.timeline.segments if labelled else ()
            seconds = expected_wrong_seconds(labelled) if labelled else ()
            known = version, tuple(zip(segments, seconds, strict=True))
            self._known[recording.id] = known
        return known[1]


def expected_wrong_seconds(labelled: Labelled) -> tuple[float, ...]:
    """Of each segment: its seconds times the chance that its label is wrong, plus its edges' parts.

    Each of two neighbours bears half of what the edge between them may cost.
    """
    segments = labelled.timeline.segments
    seconds = [segment.seconds * (1 - segment.confidence) for segment in segments]
    for number, (before, after) in enumerate(pairwise(segments)):
        cost = _edge_seconds(labelled.break_probabilities, labelled.hop_seconds, before, after)
        seconds[number] += cost / 2
        seconds[number + 1] += cost / 2
    return tuple(seconds)


def _edge_seconds(curve: np.ndarray, hop_seconds: float, before: Segment, after: Segment) -> float:
    """By how many seconds the curve contradicts an edge of the breaks.

    Within EDGE_SECONDS of it, and in its two segments, each step counts by how much more probable
    the other side's label is there; none where the curve agrees. 0 between two that are no breaks,
    of which the curve says nothing.
    """
    if not len(curve) or (before.label == BREAK_LABEL) == (after.label == BREAK_LABEL):
        return 0.0
    edge = before.end_seconds
    start = max(before.start_seconds, edge - EDGE_SECONDS)
    stop = min(after.end_seconds, edge + EDGE_SECONDS)
    first, middle, last = _steps((start, edge, stop), hop_seconds, len(curve))
    doubt = 2 * curve[first:last].astype(float) - 1  # from -1, surely no break, to 1
    sign = -1 if before.label == BREAK_LABEL else 1
    doubt[: middle - first] *= sign
    doubt[middle - first :] *= -sign
    return float(doubt.clip(0).sum()) * hop_seconds


def _steps(seconds: Sequence[float], hop_seconds: float, count: int) -> list[int]:
    """The first row at or after each time; row k is about (k + 0.5) * hop_seconds."""
    return [min(count, max(0, round(at / hop_seconds))) for at in seconds]
