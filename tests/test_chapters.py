"""Chapters are read by FFmpeg as they were meant, and chapters of others are read by us."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import av
import pytest

from tests.timelines import CLASSES, made_timeline, random_timeline
from timeline.chapters import ffmetadata, matroska_xml, ogm, read_ffmetadata, webvtt_chapters
from timeline.formats import FORMATS, read_spans, write_timeline
from timeline.player_times import shown
from timeline.timeline import Timeline
from utils.labels import Span

HOSTILE = [
    "two\nlines", "tab\tand \x00 null", "a=b", "=", ";comment", "# hash", "[CHAPTER]", "ends in \\",
    "\\", '"quoted" & <tagged>', "]]>", "CHAPTER01NAME=x", "-->", "Fußball ⚽", "half \ud800 pair",
]  # fmt: skip


def chapters_by_ffmpeg(path: Path) -> list[tuple[float, float, str]]:
    with av.open(str(path), format="ffmetadata") as container:
        return [
            (c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]["title"].strip())
            for c in container.chapters()
        ]


def meant(timeline: Timeline) -> list[tuple[float, float, str]]:
    parts = shown(timeline)
    return [
        (pytest.approx(p.start_ms / 1000), pytest.approx(p.end_ms / 1000), p.title) for p in parts
    ]


@pytest.mark.parametrize("seed", range(20))
def test_ffmpeg_reads_the_chapters_of_its_metadata_file(seed, tmp_path):
    timeline = random_timeline(seed)
    path = tmp_path / "game.ffmeta"
    write_timeline(timeline, path, "ffmetadata")
    assert chapters_by_ffmpeg(path) == meant(timeline)


def test_ffmpeg_reads_every_name(tmp_path):
    timeline = made_timeline(*[(name, 10.0) for name in HOSTILE])
    path = tmp_path / "game.ffmeta"
    write_timeline(timeline, path, "ffmetadata")
    found = chapters_by_ffmpeg(path)
    assert found == meant(timeline)
    assert [title for *_, title in found][:4] == ["two lines", "tab and null", "a=b", "="]


@pytest.mark.parametrize("name", ["ffmetadata", "matroska", "ogm", "webvtt-chapters", "webvtt"])
def test_no_name_breaks_a_file(name):
    timeline = made_timeline(*[(label, 10.0) for label in HOSTILE])
    text = FORMATS[name].text(timeline).encode()
    spans = read_spans(f"a{FORMATS[name].suffix}", text, duration_seconds=1000.0)
    assert [span.label for span in spans] == [part.label for part in shown(timeline)]
    assert [span.start_seconds for span in spans] == [10.0 * k for k in range(len(HOSTILE))]


def test_chapters_follow_the_document_type_of_matroska():
    """In the order that its DTD asks for, with numbers where numbers must be."""
    timeline = made_timeline(*[(name, 4000.0) for name in CLASSES], ("ads", 1.0, 0.5, True))
    root = ElementTree.fromstring(matroska_xml(timeline))
    assert root.tag == "Chapters"
    [edition] = root
    assert [child.tag for child in edition][:4] == [
        *("EditionUID", "EditionFlagHidden", "EditionFlagDefault", "ChapterAtom")
    ]
    uids = [int(uid.text) for uid in root.iter() if uid.tag in ("EditionUID", "ChapterUID")]
    assert len(set(uids)) == len(CLASSES) + 2
    assert all(0 < uid < 1 << 64 for uid in uids)
    for atom, part in zip(edition.findall("ChapterAtom"), shown(timeline), strict=True):
        assert [child.tag for child in atom] == [
            *("ChapterTimeStart", "ChapterTimeEnd", "ChapterUID", "ChapterFlagHidden"),
            *("ChapterFlagEnabled", "ChapterDisplay"),
        ]
        assert [(c.tag, c.text) for c in atom.find("ChapterDisplay")] == [
            ("ChapterString", part.title),
            ("ChapterLanguage", "und"),
        ]
    assert atom.findtext("ChapterTimeStart") == "05:33:20.000000000"
    assert matroska_xml(timeline) == matroska_xml(timeline)


def test_other_recordings_have_other_identities():
    pairs = [made_timeline(("ads", 9.0), recording=name) for name in ("a.ts", "b.ts")]
    texts = [
        [uid.text for uid in ElementTree.fromstring(matroska_xml(t)).iter() if "UID" in uid.tag]
        for t in pairs
    ]
    assert not set(texts[0]) & set(texts[1])


def test_ogm_chapters_are_numbered_pairs_of_lines():
    timeline = made_timeline(*[("ads", 60.0), ("games", 300.0)] * 60)
    lines = ogm(timeline).splitlines()
    assert lines[:4] == [
        *("CHAPTER01=00:00:00.000", "CHAPTER01NAME=ads"),
        *("CHAPTER02=00:01:00.000", "CHAPTER02NAME=games"),
    ]
    assert lines[-2:] == ["CHAPTER120=05:55:00.000", "CHAPTER120NAME=games"]


def test_chapters_of_webvtt_are_titles_alone():
    timeline = made_timeline(("games", 36000.0, 0.9, True), ("a & b", 1.5), zero_seconds=0.5)
    assert webvtt_chapters(timeline) == (
        "WEBVTT\n\n00:00:00.000 --> 10:00:00.500\ngames (unsure)\n"
        "\n10:00:00.500 --> 10:00:02.000\na &amp; b\n"
    )


def test_chapters_of_comskip_are_ads_and_games():
    text = """;FFMETADATA1\r
[CHAPTER]\r
TIMEBASE=1/100\r
START=0\r
END=1250\r
title=Show Segment\r
[CHAPTER]\r
TIMEBASE=1/100\r
START=1250\r
END=4000\r
title=Commercial Segment\r
"""
    assert read_spans("a.ffmeta", text.encode(), duration_seconds=40.0) == (
        Span(0.0, 12.5, "games"),
        Span(12.5, 40.0, "ads"),
    )


def test_chapters_of_comskip_for_matroska_are_ads_and_games():
    atom = """
		<ChapterAtom>
			<ChapterDisplay>
				<ChapterString>{}</ChapterString>
			</ChapterDisplay>
			<ChapterTimeStart>{}</ChapterTimeStart>
		</ChapterAtom>"""
    text = (
        '<?xml version="1.0" encoding="ISO - 8859 - 1"?>\n<Chapters>\n\t<EditionEntry>\n'
        f"\t\t<EditionUID>1</EditionUID>{atom.format('Show', '0:00:00.00')}"
        f"{atom.format('Commercial', '0:02:00.00')}\n\t</EditionEntry>\n</Chapters>"
    )
    assert read_spans("a.mkvtoolnix.chapters", text.encode(), duration_seconds=180.5) == (
        Span(0.0, 120.0, "games"),
        Span(120.0, 180.5, "ads"),
    )


def test_metadata_file_may_hold_more_than_chapters():
    text = """;FFMETADATA1
title=the whole film
; a comment
[STREAM]
title=a stream
[CHAPTER]
START=5000000000
title=one \\
long \\= name
#comment
[CHAPTER]
START=9000000000
END=20000000000
TITLE=ads"""
    assert list(read_ffmetadata(text)) == [
        ("chapter 1", 5.0, 9.0, "one \nlong = name"),
        ("chapter 2", 9.0, 20.0, "ads"),
    ]


def test_default_edition_counts_and_its_chapters_alone():
    atom = (
        "<ChapterAtom><ChapterTimeStart>{}</ChapterTimeStart>{}<ChapterDisplay><ChapterString> {} "
        "</ChapterString></ChapterDisplay></ChapterAtom>"
    )
    inner = atom.format("00:00:01", "", "inside")
    first = atom.format("00:00:00", "", "games")
    second = atom.format("00:00:00.0", inner, "Commercial 1") + atom.format("00:01:00", "", "x")
    text = (
        '<?xml version="1.0" encoding="ISO - 8859 - 1"?>\n<!-- <!DOCTYPE Chapters> -->\n<Chapters>'
        f"<EditionEntry>{first}</EditionEntry><EditionEntry><EditionFlagDefault>1"
        f"</EditionFlagDefault>{second}</EditionEntry></Chapters>"
    )
    assert read_spans("a.xml", text.encode(), duration_seconds=90) == (
        Span(0.0, 60.0, "ads"),
        Span(60.0, 90, "x"),
    )


def test_chapters_without_an_edition_are_none():
    text = "<?xml version='1.0'?><Chapters/>"
    assert read_spans("a.xml", text.encode(), duration_seconds=9.0) == (Span(0.0, 9.0, "games"),)


def test_metadata_file_says_milliseconds():
    timeline = made_timeline(("games", 10.0), ("ads", 2.5, 0.3, True), zero_seconds=0.25)
    assert ffmetadata(timeline) == (
        ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=10250\ntitle=games\n"
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=10250\nEND=12750\ntitle=ads (unsure)\n"
    )
