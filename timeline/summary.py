"""Summary: recordings and their breaks, as lines to read and as a table."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from timeline.timeline import Segment, Timeline

COLUMNS = (
    "recording",
    "seconds",
    "breaks",
    "ads_seconds",
    "unsure_seconds",
    "has_sound",
    "damage",
    "files",
    "error",
)


def describe_timeline(path: Path, timeline: Timeline, label: str, confidence: float) -> str:
    """A line for the recording; where it shows several things, one for each, and for damage."""
    facts = [clock(timeline.duration_seconds) if len(timeline.segments) > 1 else ""]
    facts[0] = facts[0] or f"{timeline.duration_seconds:.1f} s"
    if len(timeline.segments) > 1:
        seconds = sum(segment.seconds for segment in timeline.breaks)
        count = len(timeline.breaks)
        facts.append(f"{count} break{'s' * (count != 1)}, {clock(seconds)} in all")
    if not timeline.has_sound:
        facts.append("no sound")
    lines = [f"{label:<10} {confidence:6.1%}  {path}  ({', '.join(facts)})"]
    if len(timeline.segments) > 1:
        lines += [_segment_line(segment) for segment in timeline.segments]
    lines += [f"    {clock(d.seconds)}  damaged: {d.description}" for d in timeline.damage]
    return "\n".join(lines)


def summary_row(
    path: Path, timeline: Timeline, files: Sequence[Path] = (), error: str = ""
) -> dict[str, object]:
    """A row of COLUMNS."""
    return {
        "recording": path,
        "seconds": round(timeline.duration_seconds, 3),
        "breaks": len(timeline.breaks),
        "ads_seconds": round(sum(segment.seconds for segment in timeline.breaks), 3),
        "unsure_seconds": round(sum(s.seconds for s in timeline.segments if s.unsure), 3),
        "has_sound": "yes" if timeline.has_sound else "no",
        "damage": len(timeline.damage),
        "files": " ".join(map(str, files)),
        "error": error,
    }


def summary_table(rows: Iterable[dict[str, object]]) -> bytes:
    """CSV with a header; cells that a row lacks are empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def clock(seconds: float) -> str:
    """For example `1:02:03.5`."""
    tenths = round(seconds * 10)
    hours, rest = divmod(tenths, 36_000)
    minutes, rest = divmod(rest, 600)
    return f"{hours}:{minutes:02d}:{rest / 10:04.1f}"


def _segment_line(segment: Segment) -> str:
    span = f"{clock(segment.start_seconds)} - {clock(segment.end_seconds)}"
    notes = ["unsure"] * segment.unsure
    if segment.start_evidence:
        notes.append(f"from {' and '.join(segment.start_evidence)}")
    return f"    {span}  {segment.label:<10} {segment.confidence:6.1%}  {', '.join(notes)}".rstrip()
