"""Everywhere: one label put over many places at once, as one correction of each recording."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from utils.errors import UserError
from utils.media import MediaError
from web.corrections import Corrections, Part, parts_of, with_label
from web.library import Library, Recording
from web.timelines import Timelines

SNAP_SECONDS = 0.75  # fingerprints blur edges so far: one that is this near is meant


@dataclass(frozen=True)
class Stretch:
    """Where in a recording, by its id."""

    recording: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Changed:
    """The new revision of a recording's corrections, and how many seconds have another label."""

    recording: str
    revision: str
    seconds: float


@dataclass(frozen=True)
class Refused:
    """A recording that is as it was, and why."""

    recording: str
    reason: str


class Everywhere:
    """Labels places in recordings, starting from what the page shows of each."""

    def __init__(self, library: Library, corrections: Corrections, timelines: Timelines):
        self._library = library
        self._corrections = corrections
        self._timelines = timelines

    def label_at(self, recording: Recording, seconds: float) -> str | None:
        """What the page shows there; None where that is nothing."""
        if recording.label is not None:
            return recording.label
        parts = self._parts(recording)
        return next((p.label for p in parts if p.start_seconds <= seconds < p.end_seconds), None)

    def put(self, label: str, places: Iterable[Stretch]) -> tuple[list[Changed], list[Refused]]:
        """What came of each recording, whatever came of the others."""
        by_recording: dict[str, list[Stretch]] = {}
        for place in places:
            by_recording.setdefault(place.recording, []).append(place)
        changed, refused = [], []
        for id, own in by_recording.items():
            try:
                recording = self._library.find(id)
                changed.append(self._put(label, recording, own))
            except (UserError, MediaError) as error:
                refused.append(Refused(id, str(error)))
            except OSError as error:
                refused.append(Refused(id, f"it can't be saved: {error.strerror}"))
        return changed, refused

    def _put(self, label: str, recording: Recording, places: Sequence[Stretch]) -> Changed:
        if not recording.editable:
            raise UserError("it is a training clip: its folder says what it shows")
        correction = self._corrections.read(recording)
        before = correction.parts if correction else self._parts(recording)
        if not before:
            raise UserError("nothing says what the rest of it shows: label it first")
        parts, end = before, before[-1].end_seconds
        for place in places:
            start, stop = (_snapped(s, before) for s in (place.start_seconds, place.end_seconds))
            stop = min(stop, end)
            if start >= stop:
                asked = f"{place.start_seconds:g} to {place.end_seconds:g} s"
                raise UserError(f"{asked} is no part of its {end:g} s")
            parts = with_label(parts, start, stop, label)
        seconds = _seconds_of(label, parts) - _seconds_of(label, before)
        if parts != before or correction is None:
            rows = [part.to_dict() for part in parts]
            revision = correction.revision if correction else None
            correction = self._corrections.write(recording, rows, revision=revision)
        return Changed(recording.id, correction.revision, round(seconds, 3))

    def _parts(self, recording: Recording) -> tuple[Part, ...]:
        """What a person said, else somebody's label file, else the model; () for none of them."""
        if correction := self._corrections.read(recording):
            return correction.parts
        found = self._corrections.found_labels(recording)
        if found is not None and found.parts:
            return found.parts
        labelled = self._timelines.find(recording)
        return parts_of(labelled.timeline) if labelled else ()


def _snapped(seconds: float, parts: Sequence[Part]) -> float:
    """The nearest edge that is near enough, else the time itself."""
    edges = {edge for part in parts for edge in (part.start_seconds, part.end_seconds)}
    nearest = min(edges, key=lambda edge: abs(edge - seconds))
    return nearest if abs(nearest - seconds) <= SNAP_SECONDS else seconds


def _seconds_of(label: str, parts: Iterable[Part]) -> float:
    return sum(part.end_seconds - part.start_seconds for part in parts if part.label == label)
