"""Player times: segments as players count them, whole milliseconds from the start of the file."""

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from timeline.timeline import Timeline
from utils.labels import BREAK_LABEL, REST_LABEL

FALLBACK_FRAME_RATE = 25.0  # of a recording that does not say how many pictures it has a second

UNSURE_MARK = " (unsure)"
# What other programs call chapters. Comskip: Show (Segment) and Commercial (Segment).
BREAK_TITLE = re.compile(r"(ad|advert|advertisement|commercial)s?( segment| break)?( \d+)?", re.I)
REST_TITLE = re.compile(r"(?i:show segment|chapter \d+)|Show")
_NOT_TEXT = {"Cc", "Cs", "Zl", "Zp"}  # control, half a surrogate pair, line and paragraph
_NONE = "\ufffe\uffff"  # which XML forbids, too


@dataclass(frozen=True)
class Shown:
    """What [start_ms, end_ms) of a file shows; the label has one line and no control characters."""

    start_ms: int
    end_ms: int
    label: str
    confidence: float
    unsure: bool

    @property
    def title(self) -> str:
        """The label, with a mark where it is unsure; `label_of` takes that away again."""
        return f"{self.label}{UNSURE_MARK}" if self.unsure else self.label


def shown(timeline: Timeline) -> list[Shown]:
    """The segments in order, disjoint, each a frame long or longer.

    What begins with the first picture begins with the file: chapters of MP4 can't have a gap there.
    A segment shorter than a frame goes to the one before or after it, since players take the start
    of a chapter for its end otherwise.
    """
    frame_ms = math.ceil(1000 / frame_rate(timeline))
    found: list[Shown] = []
    end_ms = 0
    for segment in sorted(timeline.segments, key=lambda s: s.start_seconds):
        start_ms = _file_ms(segment.start_seconds, timeline) if segment.start_seconds > 0 else 0
        # A gap shorter than a frame is what a segment left that was shorter than that.
        start_ms = start_ms if start_ms - end_ms >= frame_ms else end_ms
        stop_ms = _file_ms(min(segment.end_seconds, timeline.duration_seconds), timeline)
        if stop_ms - start_ms >= frame_ms:
            end_ms = stop_ms
            label = one_line(segment.label)
            found.append(Shown(start_ms, end_ms, label, float(segment.confidence), segment.unsure))
    return found


def breaks(timeline: Timeline) -> list[tuple[int, int]]:
    """[start_ms, end_ms) of the breaks, those that touch made one.

    Kodi refuses every edit of a file in which one starts where another ends.
    """
    found: list[tuple[int, int]] = []
    for part in shown(timeline):
        if part.label == BREAK_LABEL:
            touches = found and found[-1][1] == part.start_ms
            start_ms = found.pop()[0] if touches else part.start_ms
            found.append((start_ms, part.end_ms))
    return found


def between_breaks(timeline: Timeline) -> Iterator[tuple[int, int]]:
    """[start_ms, end_ms) of all that is no break, from the start of the file to its end."""
    edges = [0, *(edge for found in breaks(timeline) for edge in found), file_ms(timeline)]
    return ((a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b)


def file_ms(timeline: Timeline) -> int:
    """Where the recording ends, as players count."""
    return _file_ms(timeline.duration_seconds, timeline)


def frame_rate(timeline: Timeline) -> float:
    """Pictures a second, FALLBACK_FRAME_RATE where the timeline does not know."""
    return timeline.frame_rate if timeline.frame_rate > 0 else FALLBACK_FRAME_RATE


def clock(milliseconds: int, mark: str = ".") -> str:
    """For example `10:02:03.450`; hours have two digits or more."""
    minutes, ms = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{ms // 1000:02d}{mark}{ms % 1000:03d}"


def one_line(text: str) -> str:
    """The text without line breaks, control characters and what is no character in XML."""
    spaced = (" " if c in _NONE or unicodedata.category(c) in _NOT_TEXT else c for c in text)
    return " ".join("".join(spaced).split()) or "unnamed"


def label_of(title: str) -> str:
    """The label that a title stands for: ours without its mark, and what others call the two."""
    label = title.strip().removesuffix(UNSURE_MARK)
    if BREAK_TITLE.fullmatch(label):
        return BREAK_LABEL
    return REST_LABEL if REST_TITLE.fullmatch(label) else label


def _file_ms(seconds: float, timeline: Timeline) -> int:
    return max(0, round((seconds + timeline.zero_seconds) * 1000))
