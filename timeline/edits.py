"""Edits: the breaks as EDL and as Comskip's text, which players skip."""

import re
from collections.abc import Iterator

from timeline.player_times import breaks, file_ms, frame_rate
from timeline.timeline import Timeline
from utils.labels import BREAK_LABEL, Row

COMMERCIAL_BREAK, CUT = 3, 0  # actions of an EDL; MPlayer knows 0 and 1 (mute) alone
COMSKIP_HEADER = "FILE PROCESSING COMPLETE"


def edl(timeline: Timeline, action: int = COMMERCIAL_BREAK) -> str:
    """Lines `start end action` in seconds (kodi.wiki/view/Edit_decision_list).

    Empty where there is no break. Nothing but these lines, and tabs between: Emby's ComSkipper
    splits at tabs alone and gives up at a comment.
    """
    return "".join(f"{a / 1000:.3f}\t{b / 1000:.3f}\t{action}\n" for a, b in breaks(timeline))


def mplayer_edl(timeline: Timeline) -> str:
    """Lines `start end 0` in seconds, for `mplayer -edl` (mplayerhq.hu/DOCS/HTML/en/edl.html)."""
    return edl(timeline, CUT)


def comskip(timeline: Timeline) -> str:
    """Comskip's default text: a header with the rate, then lines `first_frame last_frame`.

    The header has hundredths of a picture a second, and players divide by that (Kodi's
    ComskipParser.cpp), so frames are counted at the rate of the header: at 23.976 a count of
    pictures would be two seconds off after three hours. Not a line more: Kodi refuses the whole
    file for one that is no pair of numbers, empty ones included.
    """
    rate = round(frame_rate(timeline) * 100)
    lines = [
        f"{COMSKIP_HEADER} {_frame(file_ms(timeline), rate):6d} FRAMES AT {rate:5d}",
        "-------------------",
    ]
    lines += [f"{_frame(a, rate)}\t{_frame(b, rate)}" for a, b in breaks(timeline)]
    return "\n".join(lines) + "\n"


def read_comskip(text: str, frame_rate: float | None = None) -> Iterator[Row]:
    """The breaks of Comskip's text; old ones have no rate, and are read with `frame_rate`."""
    lines = text.splitlines()
    header = re.match(rf"{COMSKIP_HEADER}(?:\s+\d+\s+FRAMES\s+AT\s+(\d+(?:\.\d+)?))?", lines[0])
    rate = float(header[1]) / 100 if header[1] else frame_rate
    if not rate:
        raise ValueError("the header has no frame rate: write `FRAMES AT 2500` for 25 a second")
    for number, line in enumerate(lines[2:], 3):
        if line.strip():
            if not re.fullmatch(r"\s*\d+(\.\d*)?\s+\d+(\.\d*)?\s*", line):
                raise ValueError(f"line {number} is {line.strip()!r}, not `first last` in frames")
            first, last = map(float, line.split())
            if last - first == 1:  # with which Comskip often ends its list, and means nothing by it
                continue
            yield f"line {number}", first / rate, last / rate, BREAK_LABEL


def _frame(milliseconds: int, rate: int) -> int:
    return round(milliseconds * rate / 100_000)
