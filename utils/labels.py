"""Labels: what the parts of a recording show, read from the file beside it."""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from utils.errors import UserError

# Where a recording has several, the first that is there counts: .json is what the review page
# writes, so a correction wins over what a recorder left.
LABEL_SUFFIXES = (".json", ".csv", ".edl")
BREAK_LABEL, REST_LABEL = "ads", "games"
EDL_ACTIONS = {"0": BREAK_LABEL, "1": None, "2": None, "3": BREAK_LABEL}  # mute and scene: ignored
COLUMNS = ("start_seconds", "end_seconds", "label")
UNLABELLED = "\0"  # of a row that says a stretch is none of the classes

Row = tuple[str, str | float, str | float, str]  # place in the file, start, end, label


class LabelError(UserError):
    """A label file that can't be read or contradicts itself."""


@dataclass(frozen=True, order=True)
class Span:
    """What [start_seconds, end_seconds) of a recording shows."""

    start_seconds: float
    end_seconds: float  # math.inf is the end of the recording
    label: str


def parse_labels(name: str, data: bytes) -> tuple[Span, ...]:
    """The spans of a recording in order, disjoint, from the content of the label file `name`.

    A file that names nothing but ads (as every .edl does) names the breaks, and the rest is games.
    One that names anything else says all there is: what it leaves out is not labelled, nor is what
    has the label null in a .json. Touching and overlapping spans of one label are joined. Raises
    LabelError.
    """
    suffix = PurePosixPath(name).suffix.lower()
    read = {".edl": _read_edl, ".csv": _read_csv, ".json": _read_json}[suffix]
    return to_spans(name, read(decode_text(name, data)))


def decode_text(name: str, data: bytes) -> str:
    """The content of the text file `name`, without a byte order mark. Raises LabelError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise LabelError(f"{name} is not text in UTF-8: save it as that") from None


def to_spans(name: str, rows: Iterable[Row]) -> tuple[Span, ...]:
    """The spans that the rows of the file `name` say, as `parse_labels` returns them.

    A row that ends at math.inf lasts to the end of the recording. A ValueError of the rows, or of
    what they say, becomes a LabelError with the name of the file.
    """
    try:
        spans = _joined(_checked(rows))
    except ValueError as error:
        raise LabelError(f"{name}: {error}") from None
    if all(span.label == BREAK_LABEL for span in spans):
        spans = _with_rest(spans)
    return tuple(span for span in spans if span.label != UNLABELLED)


def _read_edl(text: str) -> Iterator[Row]:
    """Lines `start end action` (kodi.wiki/view/Edit_decision_list; MPlayer's have 0 and 1)."""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or line.startswith("#") and not re.match(r"#\d", line):
            continue
        if words[-1] == "2":  # some write a scene marker with a single time
            continue
        if len(words) != 3 or words[2] not in EDL_ACTIONS:
            raise ValueError(
                f"line {number} is {line.strip()!r}, not `start end action` with an action from "
                "0 to 3: only the EDL of Kodi and MPlayer is read"
            )
        if EDL_ACTIONS[words[2]] is not None:
            yield f"line {number}", words[0], words[1], EDL_ACTIONS[words[2]]


def _read_csv(text: str) -> Iterator[Row]:
    """Rows of COLUMNS in this order, or in any with a header; spreadsheets put ; or tabs."""
    first = text.partition("\n")[0]
    delimiter = next((mark for mark in ";\t" if mark in first), ",")
    columns = None
    for number, row in enumerate(csv.reader(text.splitlines(), delimiter=delimiter), 1):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if columns is None:
            has_header = not re.match(r"[-+\d.]", cells[0])
            header = [cell.lower() for cell in cells] if has_header else list(COLUMNS)
            missing = [column for column in COLUMNS if column not in header]
            if missing:
                raise ValueError(
                    f"the header lacks {', '.join(missing)}: write {','.join(COLUMNS)}"
                )
            columns = [header.index(column) for column in COLUMNS]
            if has_header:
                continue
        if len(cells) <= max(columns):
            raise ValueError(f"line {number} has {len(cells)} cells: {','.join(COLUMNS)} is needed")
        start, end, label = (cells[column] for column in columns)
        if delimiter != ",":
            start, end = start.replace(",", "."), end.replace(",", ".")
        yield f"line {number}", start, end, label


def _read_json(text: str) -> Iterator[Row]:
    """`{"segments": [{"start_seconds": 1.5, "end_seconds": 9, "label": "ads"}]}` and any more."""
    try:
        segments = json.loads(text)["segments"]
        rows = [tuple(segment[column] for column in COLUMNS) for segment in segments]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(
            f'not {{"segments": [...]}} with {", ".join(COLUMNS)} in each: correct or remove it'
        ) from None
    for number, (start, end, label) in enumerate(rows, 1):
        yield f"segment {number}", start, end, UNLABELLED if label is None else label


def _checked(rows: Iterable[Row]) -> list[Span]:
    spans = []
    for place, start, end, label in rows:
        start_seconds = _seconds(place, start)
        end_seconds = math.inf if end == math.inf else _seconds(place, end)
        if end_seconds <= start_seconds:
            raise ValueError(f"{place} ends at {end} and starts at {start}: it must end later")
        if not isinstance(label, str) or not label.strip():
            raise ValueError(f"{place} has no label: write ads, games or another class")
        spans.append(Span(start_seconds, end_seconds, label.strip()))
    return sorted(spans)


def _seconds(place: str, time: str | float) -> float:
    """Of a number, or of `h:mm:ss.s` and `mm:ss.s`."""
    if isinstance(time, str) and time.startswith("#"):
        raise ValueError(f"{place} counts frames ({time}): write seconds or h:mm:ss")
    seconds = math.nan
    if isinstance(time, int | float) and not isinstance(time, bool) and time < 1e15:
        seconds = float(time)
    elif isinstance(time, str) and re.fullmatch(r"-?(\d+:){0,2}\d+(\.\d*)?", time):
        sign = -1 if time.startswith("-") else 1
        parts = [float(part) for part in time.lstrip("-").split(":")]
        seconds = sign * sum(part * 60**power for power, part in enumerate(reversed(parts)))
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{place} has the time {time!r}: write seconds from 0 on, or h:mm:ss")
    return round(seconds, 6)  # sums of times that are equal must touch, not overlap


def _joined(spans: list[Span]) -> list[Span]:
    """Sorted spans with those of one label that touch made one. Raises ValueError for others."""
    joined: list[Span] = []
    for span in spans:
        last = joined[-1] if joined else None
        if last is None or span.start_seconds > last.end_seconds:
            joined.append(span)
        elif span.label == last.label:
            end_seconds = max(last.end_seconds, span.end_seconds)
            joined[-1] = Span(last.start_seconds, end_seconds, last.label)
        elif span.start_seconds == last.end_seconds:
            joined.append(span)
        else:
            raise ValueError(
                f"from {span.start_seconds:g} s on it is {last.label} and {span.label} at once: "
                "let one end where the other begins"
            )
    return joined


def _with_rest(breaks: list[Span]) -> list[Span]:
    edges = [0.0, *(edge for b in breaks for edge in (b.start_seconds, b.end_seconds)), math.inf]
    rest = [
        Span(start, end, REST_LABEL)
        for start, end in zip(edges[::2], edges[1::2], strict=True)
        if start < end
    ]
    return sorted([*breaks, *rest])
