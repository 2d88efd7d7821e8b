"""Chapters: every segment by its label, as FFMETADATA, Matroska XML, OGM text and WebVTT."""

import hashlib
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from operator import attrgetter

from timeline.captions import webvtt
from timeline.player_times import clock, label_of, shown
from timeline.timeline import Timeline
from utils.labels import Row

FFMETADATA_START = ";FFMETADATA"
FFMETADATA_TIMEBASE = 1e-9  # where a chapter names none


def ffmetadata(timeline: Timeline) -> str:
    """FFmpeg's metadata file with a chapter each (ffmpeg.org/ffmpeg-formats.html#Metadata-2)."""
    lines = [f"{FFMETADATA_START}1"]
    for part in shown(timeline):
        title = re.sub(r"([=;#\\])", r"\\\1", part.title)
        if title.endswith("\\"):  # FFmpeg (8.1) takes the line break behind it for an escaped one
            title += " "
        lines += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={part.start_ms}", f"END={part.end_ms}"]
        lines += [f"title={title}"]
    return "\n".join(lines) + "\n"


def matroska_xml(timeline: Timeline) -> str:
    """Chapters of one edition for mkvmerge and mkvpropedit (their DTD; RFC 9559 section 5.1.7).

    UIDs come from the recording and the time, so that writing again gives the same ones, and files
    that are joined have different ones. Nothing is hidden: Jellyfin takes a chapter that is called
    `ads` for a commercial. ChapterSkipType (6 is an advertisement) is left out: no player was found
    that reads it, and an mkvmerge that does not know it refuses the file.
    """
    root = ElementTree.Element("Chapters")
    edition = _add(root, "EditionEntry")
    _add(edition, "EditionUID", _uid(timeline, -1))
    _add(edition, "EditionFlagHidden", 0)
    _add(edition, "EditionFlagDefault", 1)
    for part in shown(timeline):
        atom = _add(edition, "ChapterAtom")
        _add(atom, "ChapterTimeStart", f"{clock(part.start_ms)}000000")  # nanoseconds
        _add(atom, "ChapterTimeEnd", f"{clock(part.end_ms)}000000")
        _add(atom, "ChapterUID", _uid(timeline, part.start_ms))
        _add(atom, "ChapterFlagHidden", 0)
        _add(atom, "ChapterFlagEnabled", 1)
        display = _add(atom, "ChapterDisplay")
        _add(display, "ChapterString", part.title)
        _add(display, "ChapterLanguage", "und")
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    # A comment, as mkvextract writes it: a parser may want a DTD that is not there.
    head = '<!-- <!DOCTYPE Chapters SYSTEM "matroskachapters.dtd"> -->'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}\n{text}\n'


def ogm(timeline: Timeline) -> str:
    """Lines `CHAPTER01=time` and `CHAPTER01NAME=title`: mkvmerge's simple chapters, MP4Box -chap.

    They have no ends: each lasts until the next, the last until the recording ends.
    """
    lines = []
    for number, part in enumerate(shown(timeline), 1):
        lines += [f"CHAPTER{number:02d}={clock(part.start_ms)}"]
        lines += [f"CHAPTER{number:02d}NAME={part.title}"]
    return "".join(f"{line}\n" for line in lines)


def webvtt_chapters(timeline: Timeline) -> str:
    """Cues for `<track kind="chapters">` (w3.org/TR/webvtt1, 2.5 chapter titles)."""
    return webvtt(timeline, attrgetter("title"))


def read_ffmetadata(text: str) -> Iterator[Row]:
    """The chapters of FFmpeg's metadata file."""
    section: dict[str, str] | None = None
    found = []
    # A line goes on behind a line break with a backslash before it.
    for line in re.findall(r"(?:\\.|[^\\\n])+", text.replace("\r\n", "\n"), re.DOTALL):
        key, _, value = re.fullmatch(r"((?:\\.|[^\\=])*)(=?)(.*)", line, re.DOTALL).groups()
        if line.startswith("["):
            section = {} if line.strip().upper() == "[CHAPTER]" else None
            found += [section] if section is not None else []
        elif section is not None and line[0] not in ";#":
            section[key.strip().lower()] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
    yield from _with_ends(_ffmetadata_chapter(n, chapter) for n, chapter in enumerate(found, 1))


def read_matroska_xml(text: str) -> Iterator[Row]:
    """The chapters of the default edition, or of the first; chapters within chapters are not."""
    text = re.sub(r"^<\?xml.*?\?>", "", text)  # Comskip's is not well-formed, and says Latin-1
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"not XML ({error}): correct or remove it") from None
    if root.tag != "Chapters":
        raise ValueError(f"<{root.tag}>, not the <Chapters> of Matroska: only these are read")
    editions = root.findall("EditionEntry")
    default = [e for e in editions if (e.findtext("EditionFlagDefault") or "").strip() == "1"]
    chapters = []
    for edition in (default or editions)[:1]:
        for number, atom in enumerate(edition.findall("ChapterAtom"), 1):
            start, end = atom.findtext("ChapterTimeStart"), atom.findtext("ChapterTimeEnd")
            title = atom.findtext("ChapterDisplay/ChapterString") or ""
            chapters.append((f"chapter {number}", start or "", (end or "").strip() or None, title))
    yield from _with_ends(iter(chapters))


def read_ogm(text: str) -> Iterator[Row]:
    """The chapters of mkvmerge's simple file."""
    starts = re.findall(r"^\s*CHAPTER(\d+)\s*=\s*(\S+)", text, re.MULTILINE)
    names = dict(re.findall(r"^\s*CHAPTER(\d+)NAME\s*=(.*)", text, re.MULTILINE))
    chapters = ((f"CHAPTER{n}", start, None, names.get(n, "")) for n, start in starts)
    yield from _with_ends(chapters)


_Chapter = tuple[str, str | float, str | float | None, str]  # place, start, end, title


def _with_ends(chapters: Iterator[_Chapter]) -> Iterator[Row]:
    """Ends each chapter that has no end where the next begins, the last with the recording."""
    found = list(chapters)
    starts = [start for _, start, _, _ in found[1:]]
    for (place, start, end, title), following in zip(found, [*starts, math.inf], strict=False):
        yield place, _trimmed(start), following if end is None else _trimmed(end), label_of(title)


def _trimmed(time: str | float) -> str | float:
    return time.strip() if isinstance(time, str) else time


def _ffmetadata_chapter(number: int, chapter: dict[str, str]) -> _Chapter:
    base = FFMETADATA_TIMEBASE
    if "timebase" in chapter:
        ratio = re.fullmatch(r"\s*(\d+)\s*/\s*0*([1-9]\d*)\s*", chapter["timebase"])
        if not ratio:
            raise ValueError(f"chapter {number} has the TIMEBASE {chapter['timebase']!r}")
        base = int(ratio[1]) / int(ratio[2])
    times = [chapter.get(key) for key in ("start", "end")]
    if times[0] is None:
        raise ValueError(f"chapter {number} has no START")
    for time in times:
        if time is not None and not re.fullmatch(r"\s*\d+\s*", time):
            raise ValueError(f"chapter {number} has the time {time!r}: write a whole number")
    start, end = (None if time is None else int(time) * base for time in times)
    return f"chapter {number}", start, end, chapter.get("title", "")


def _add(parent: ElementTree.Element, tag: str, value: object = None) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag)
    child.text = None if value is None else str(value)
    return child


def _uid(timeline: Timeline, place: int) -> int:
    """An unsigned 64-bit number other than 0."""
    text = f"{timeline.recording}\n{place}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) or 1
