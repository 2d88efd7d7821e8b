"""Tables: all that a timeline says, as JSON and as CSV."""

import csv
import io
import json
from collections.abc import Mapping

from timeline.player_times import one_line
from timeline.timeline import Damage, Segment, Timeline
from utils.errors import UserError
from utils.labels import COLUMNS, decode_text

SCHEMA, VERSION = "ad-game-timeline", 1
SEGMENT_COLUMNS = (*COLUMNS, "confidence", "unsure", "start_evidence", "end_evidence")
DECIMALS = 6  # of seconds: a microsecond, finer than the timestamps of any container but Matroska's


class TimelineError(UserError):
    """A file that should hold a timeline and does not."""


def to_json(timeline: Timeline) -> str:
    """The timeline in the schema of docs/timeline_formats.md; a label file as it is, too.

    Times count from the first picture, as in everything that trains. Raises ValueError for a
    number that is none.
    """
    document = {
        "format": SCHEMA,
        "version": VERSION,
        "recording": timeline.recording,
        "duration_seconds": _seconds(timeline.duration_seconds),
        "zero_seconds": _seconds(timeline.zero_seconds),
        "frame_rate": float(timeline.frame_rate),
        "has_sound": bool(timeline.has_sound),
        "classes": list(timeline.classes),
        "model": dict(timeline.model),
        "segments": [
            {
                "start_seconds": _seconds(segment.start_seconds),
                "end_seconds": _seconds(segment.end_seconds),
                "label": segment.label,
                "confidence": round(float(segment.confidence), 4),
                "unsure": bool(segment.unsure),
                "start_evidence": list(segment.start_evidence),
                "end_evidence": list(segment.end_evidence),
            }
            for segment in timeline.segments
            if _seconds(segment.start_seconds) < _seconds(segment.end_seconds)
        ],
        "damage": [
            {"seconds": _seconds(d.seconds), "kind": d.kind, "description": d.description}
            for d in timeline.damage
        ],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def from_json(name: str, data: bytes) -> Timeline:
    """The timeline that `to_json` wrote into the file `name`. Raises TimelineError."""
    try:
        document = json.loads(decode_text(name, data))
        found = (document["format"], document["version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TimelineError(f"{name} holds no timeline: label the recording again") from None
    if found[0] != SCHEMA or not isinstance(found[1], int) or found[1] > VERSION:
        raise TimelineError(
            f"{name} is {found[0]!r} version {found[1]!r}, and this program reads {SCHEMA} up to "
            f"version {VERSION}: update it, or label the recording again"
        )
    try:
        return _timeline(document)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        detail = f"{type(error).__name__}: {error}"
        raise TimelineError(
            f"{name} is damaged ({detail}): remove it and label the recording again"
        ) from None


def to_csv(timeline: Timeline) -> str:
    """A row for each segment, seconds since the first picture; utils.labels reads it as labels."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(SEGMENT_COLUMNS)
    for segment in timeline.segments:
        start, end = f"{segment.start_seconds:.3f}", f"{segment.end_seconds:.3f}"
        if start != end:  # one too short for a row that utils.labels accepts
            evidence = [" ".join(e) for e in (segment.start_evidence, segment.end_evidence)]
            unsure = "yes" if segment.unsure else "no"
            label = one_line(segment.label)
            writer.writerow([start, end, label, f"{segment.confidence:.4f}", unsure, *evidence])
    return file.getvalue()


def _timeline(document: Mapping) -> Timeline:
    return Timeline(
        recording=str(document["recording"]),
        duration_seconds=float(document["duration_seconds"]),
        frame_rate=float(document["frame_rate"]),
        classes=tuple(map(str, document["classes"])),
        segments=tuple(
            Segment(
                float(row["start_seconds"]),
                float(row["end_seconds"]),
                str(row["label"]),
                float(row["confidence"]),
                bool(row["unsure"]),
                tuple(map(str, row["start_evidence"])),
                tuple(map(str, row["end_evidence"])),
            )
            for row in document["segments"]
        ),
        has_sound=bool(document["has_sound"]),
        zero_seconds=float(document["zero_seconds"]),
        damage=tuple(
            Damage(float(row["seconds"]), str(row["kind"]), str(row["description"]))
            for row in document["damage"]
        ),
        model=dict(document["model"]),
    )


def _seconds(value: float) -> float:
    return round(float(value), DECIMALS)
