"""Formats: a timeline as a file that a player or an editor reads, and back."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from timeline import captions, chapters, edits, playlists, tables
from timeline.timeline import Timeline
from utils.errors import UserError
from utils.files import write_whole
from utils.labels import (
    LABEL_SUFFIXES,
    LabelError,
    Row,
    Span,
    decode_text,
    parse_labels,
    to_spans,
)


@dataclass(frozen=True)
class Format:
    """One kind of file: what it is called beside a recording, what it names, what reads it."""

    suffix: str  # takes the place of the recording's
    text: Callable[..., str]  # of a timeline
    breaks_only: bool
    readers: str


FORMATS = {
    "json": Format(".timeline.json", tables.to_json, False, "this program; scripts"),
    "csv": Format(".timeline.csv", tables.to_csv, False, "spreadsheets"),
    "edl": Format(".edl", edits.edl, True, "Kodi, tvheadend, Emby and Jellyfin (with a plug-in)"),
    "mplayer": Format(".mplayer.edl", edits.mplayer_edl, True, "MPlayer, LosslessCut"),
    "comskip": Format(".txt", edits.comskip, True, "Kodi, tvheadend, tools made for Comskip"),
    "ffmetadata": Format(".ffmeta", chapters.ffmetadata, False, "ffmpeg, mpv"),
    "matroska": Format(".chapters.xml", chapters.matroska_xml, False, "mkvmerge, mkvpropedit"),
    "ogm": Format(".chapters.txt", chapters.ogm, False, "mkvmerge, MP4Box"),
    "srt": Format(".timeline.srt", captions.srt, False, "nearly every player, LosslessCut"),
    "webvtt": Format(".timeline.vtt", captions.webvtt, False, "browsers, VLC, mpv"),
    "webvtt-chapters": Format(
        ".chapters.vtt", chapters.webvtt_chapters, False, 'browsers (<track kind="chapters">)'
    ),
    "hls": Format(".m3u8", playlists.hls, False, "HLS players, where the recording is a .ts"),
    "vlc": Format(".xspf", playlists.xspf, True, "VLC, which plays what is not a break"),
}

_FROM_FIRST_PICTURE = (".json", ".csv")
_READERS: dict[str, Callable[[str], Iterable[Row]]] = {".srt": captions.read_srt}
# How a file begins says more than its suffix: three of these kinds are called .txt.
_STARTS: tuple[tuple[str, Callable[[str], Iterable[Row]]], ...] = (
    (chapters.FFMETADATA_START, chapters.read_ffmetadata),
    (edits.COMSKIP_HEADER, edits.read_comskip),
    (r"CHAPTER\d+\s*=", chapters.read_ogm),
    (r"<(\?xml|!|Chapters)", chapters.read_matroska_xml),
    ("WEBVTT", captions.read_webvtt),
    ("#EXTM3U", playlists.read_hls),
)
_READABLE = tuple(format.suffix for name, format in FORMATS.items() if name != "vlc")


def write_timeline(
    timeline: Timeline, path: Path, name: str, *, started_at: datetime | None = None
) -> None:
    """Writes the file of a format whole or not at all; `started_at` is the date that HLS wants.

    Raises UserError for an unknown name, OSError where `path` can't be written.
    """
    write_whole(path, format_timeline(timeline, name, started_at=started_at))


def format_timeline(timeline: Timeline, name: str, *, started_at: datetime | None = None) -> bytes:
    """The content of the file of a format, UTF-8. Raises UserError for an unknown name."""
    text = format_named(name).text
    if text is playlists.hls and started_at is not None:
        text = partial(text, started_at=started_at)
    found = text(timeline)
    # Excel reads a table as UTF-8 only where a mark says so.
    return found.encode("utf-8-sig" if name == "csv" and not found.isascii() else "utf-8")


def sidecar_path(recording: Path, name: str) -> Path:
    """Where players look for the file of a format: beside the recording, named like it.

    Raises UserError for an unknown name, and where that file would be the recording itself.
    """
    path = recording.with_suffix(format_named(name).suffix)
    if path == recording:
        raise UserError(f"{recording} would be overwritten by its own {name}: name another file")
    return path


def format_named(name: str) -> Format:
    """Raises UserError for an unknown name."""
    if name not in FORMATS:
        raise UserError(f"there is no format {name!r}: choose from {', '.join(FORMATS)}")
    return FORMATS[name]


def read_spans(
    name: str,
    data: bytes,
    *,
    duration_seconds: float = math.inf,
    zero_seconds: float = 0.0,
    frame_rate: float | None = None,
) -> tuple[Span, ...]:
    """The spans that a file of any of the FORMATS but `vlc` says, in [0, duration_seconds).

    Told by the content, then by the suffix of `name`. Players count from the start of the file, so
    `zero_seconds` (Timeline.zero_seconds) is taken off; JSON and CSV count from the first picture.
    `frame_rate` is for files of Comskip that don't say it. What a file that names breaks alone
    leaves out is games. Raises LabelError.
    """
    text = decode_text(name, data).lstrip()
    suffix = Path(name).suffix.lower()
    read = next((read for start, read in _STARTS if re.match(start, text)), _READERS.get(suffix))
    if read is None and suffix not in LABEL_SUFFIXES:
        raise LabelError(f"{name} is of no kind that is read: pass one of {', '.join(_READABLE)}")
    if read is edits.read_comskip:
        read = partial(read, frame_rate=frame_rate)
    spans = to_spans(name, read(text)) if read else parse_labels(name, data)
    return _moved(spans, 0.0 if suffix in _FROM_FIRST_PICTURE else zero_seconds, duration_seconds)


def _moved(spans: Iterable[Span], by_seconds: float, duration_seconds: float) -> tuple[Span, ...]:
    """Spans that many seconds earlier, as far as they lie in [0, duration_seconds)."""
    moved = [
        Span(
            max(0.0, round(span.start_seconds - by_seconds, 6)),
            min(round(span.end_seconds - by_seconds, 6), duration_seconds),
            span.label,
        )
        for span in spans
    ]
    return tuple(span for span in moved if span.start_seconds < span.end_seconds)
