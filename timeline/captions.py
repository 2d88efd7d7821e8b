"""Captions: label and confidence as text over the picture, SRT and WebVTT."""

import html
import re
from collections.abc import Callable, Iterator

from timeline.player_times import Shown, clock, label_of, shown
from timeline.timeline import Timeline
from utils.labels import Row

_TIME = r"((?:\d+:)?\d{1,2}:\d{1,2}[.,]\d{1,3})"
_TIMING = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_CONFIDENCE = re.compile(r"^(.+) \d{1,3} %((?: \(unsure\))?)$")


def caption(part: Shown) -> str:
    """For example `ads 97 %` or `games 55 % (unsure)`."""
    mark = part.title.removeprefix(part.label)
    return f"{part.label} {part.confidence * 100:.0f} %{mark}"


def srt(timeline: Timeline) -> str:
    """SubRip: number, `hh:mm:ss,mmm --> hh:mm:ss,mmm`, text and an empty line for each."""
    return "\n".join(
        f"{number}\n{clock(part.start_ms, ',')} --> {clock(part.end_ms, ',')}\n{caption(part)}\n"
        for number, part in enumerate(shown(timeline), 1)
    )


def webvtt(timeline: Timeline, text: Callable[[Shown], str] = caption) -> str:
    """Cues with the escaped `text` of each segment (w3.org/TR/webvtt1)."""
    cues = ["WEBVTT\n"]
    for part in shown(timeline):
        escaped = html.escape(text(part), quote=False)
        cues.append(f"{clock(part.start_ms)} --> {clock(part.end_ms)}\n{escaped}\n")
    return "\n".join(cues)


def read_srt(text: str) -> Iterator[Row]:
    """The captions of an SRT file; what `caption` puts behind a label is taken away."""
    return _read_cues(text, lambda label: label)


def read_webvtt(text: str) -> Iterator[Row]:
    """The cues of a WebVTT file, captions or chapters."""
    return _read_cues(text, html.unescape)


def _read_cues(text: str, decode: Callable[[str], str]) -> Iterator[Row]:
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        lines = block.strip("\n").split("\n")
        place = next((n for n, line in enumerate(lines) if "-->" in line), None)
        if place is None:  # the header of WebVTT, a note or a style
            continue
        times = _TIMING.fullmatch(lines[place])
        if not times:
            raise ValueError(f"{lines[place].strip()!r} is not `hh:mm:ss.mmm --> hh:mm:ss.mmm`")
        start, end = (time.replace(",", ".") for time in times.groups())
        label = decode(" ".join(lines[place + 1 :])).strip()
        yield f"the cue at {start}", start, end, label_of(_CONFIDENCE.sub(r"\1\2", label))
