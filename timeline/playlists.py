"""Playlists: a recording with its segments as date ranges (HLS), and without its breaks (XSPF)."""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from timeline.player_times import between_breaks, clock, file_ms, label_of, shown
from timeline.timeline import Timeline
from utils.labels import Row

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # of a recording that nobody says the date of
XSPF, VLC = "http://xspf.org/ns/0/", "http://www.videolan.org/vlc/playlist/ns/0/"
VLC_APPLICATION = "http://www.videolan.org/vlc/playlist/0"
_ATTRIBUTE = re.compile(r'([A-Z0-9-]+)=("[^"]*"|[^",]*)')


def hls(timeline: Timeline, started_at: datetime = EPOCH) -> str:
    """A media playlist of the whole file with an EXT-X-DATERANGE for each segment (RFC 8216).

    CLASS is the label. `started_at` is when the recording began; a date without a time zone is
    taken for UTC. What the date is matters only to clients that show it: the ranges refer to it.
    """
    started_at = started_at if started_at.tzinfo else started_at.replace(tzinfo=UTC)
    seconds = file_ms(timeline) / 1000
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", f"#EXT-X-TARGETDURATION:{math.ceil(seconds) or 1}"]
    lines += ["#EXT-X-PLAYLIST-TYPE:VOD", f"#EXT-X-PROGRAM-DATE-TIME:{_date(started_at)}"]
    for number, part in enumerate(shown(timeline), 1):
        start = started_at + timedelta(milliseconds=part.start_ms)
        label = part.label.replace('"', "'")  # which a quoted string can't have
        attributes = [
            f'ID="segment-{number}"',
            f'CLASS="{label}"',
            f'START-DATE="{_date(start)}"',
            f"DURATION={(part.end_ms - part.start_ms) / 1000:.3f}",
            f"X-CONFIDENCE={part.confidence:.4f}",
            f'X-UNSURE="{"YES" if part.unsure else "NO"}"',
        ]
        lines.append(f"#EXT-X-DATERANGE:{','.join(attributes)}")
    lines += [f"#EXTINF:{seconds:.3f},", _uri(timeline), "#EXT-X-ENDLIST"]
    return "\n".join(lines) + "\n"


def xspf(timeline: Timeline) -> str:
    """A playlist (xspf.org/spec) of what lies between the breaks, by VLC's start and stop times.

    wiki.videolan.org/XSPF: other players know no options, and would play the whole file each time.
    """
    root = ElementTree.Element("playlist", {"version": "1", "xmlns": XSPF, "xmlns:vlc": VLC})
    tracks = ElementTree.SubElement(root, "trackList")
    for number, (start_ms, end_ms) in enumerate(between_breaks(timeline)):
        track = ElementTree.SubElement(tracks, "track")
        ElementTree.SubElement(track, "location").text = _uri(timeline)
        ElementTree.SubElement(track, "title").text = clock(start_ms)
        extension = ElementTree.SubElement(track, "extension", application=VLC_APPLICATION)
        ElementTree.SubElement(extension, "vlc:id").text = str(number)
        for option, milliseconds in (("start-time", start_ms), ("stop-time", end_ms)):
            value = f"{option}={milliseconds / 1000:.3f}"
            ElementTree.SubElement(extension, "vlc:option").text = value
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def read_hls(text: str) -> Iterator[Row]:
    """The date ranges that have a CLASS, in seconds from the first program date of the playlist."""
    first = re.search(r"^#EXT-X-PROGRAM-DATE-TIME:(.*)$", text, re.MULTILINE)
    ranges = re.findall(r"^#EXT-X-DATERANGE:(.*)$", text, re.MULTILINE)
    if ranges and not first:
        raise ValueError("no EXT-X-PROGRAM-DATE-TIME says what its date ranges count from")
    for number, found in enumerate(ranges, 1):
        place = f"date range {number}"
        attributes = {key: value.strip('"') for key, value in _ATTRIBUTE.findall(found)}
        if "CLASS" in attributes:
            start_date = _parsed(place, attributes.get("START-DATE", ""))
            start = (start_date - _parsed("program date", first[1])).total_seconds()
            if "DURATION" in attributes:
                end = start + _number(place, attributes["DURATION"])
            else:
                end_date = _parsed(place, attributes.get("END-DATE", ""))
                end = start + (end_date - start_date).total_seconds()
            yield place, start, end, label_of(attributes["CLASS"])


def _uri(timeline: Timeline) -> str:
    """The recording beside the playlist, as a URI (RFC 3986): a colon would make it a scheme."""
    return quote(timeline.recording, errors="surrogateescape")


def _date(date: datetime) -> str:
    """ISO 8601 with milliseconds and a time zone."""
    return date.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _parsed(place: str, date: str) -> datetime:
    try:
        parsed = datetime.fromisoformat(date.strip())
    except ValueError:
        raise ValueError(f"{place} has the date {date.strip()!r}: write ISO 8601") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _number(place: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{place} lasts {value!r}: write seconds") from None
