"""Every format says what the timeline says, and is read back to within its own precision."""

import dataclasses
import math
import os
import re
from pathlib import Path

import pytest

from tests.timelines import made_timeline, random_timeline
from timeline.formats import FORMATS, format_timeline, read_spans, sidecar_path, write_timeline
from timeline.timeline import Timeline
from utils.errors import UserError
from utils.labels import LabelError, Span
from utils.recordings import is_video

READABLE = [name for name in FORMATS if name != "vlc"]
OF_PLAYERS = [name for name in READABLE if name not in ("json", "csv")]
SUFFIXES = [format.suffix for format in FORMATS.values()]


def read_back(timeline: Timeline, name: str) -> tuple[Span, ...]:
    return read_spans(
        f"x/game{FORMATS[name].suffix}",
        format_timeline(timeline, name),
        duration_seconds=timeline.duration_seconds,
        zero_seconds=timeline.zero_seconds,
    )


def expected_label(label: str, name: str) -> str:
    if FORMATS[name].breaks_only:
        return label if label == "ads" else "games"
    return label


def precision_of(name: str, timeline: Timeline) -> float:
    return 0.5 / timeline.frame_rate + 0.001 if name == "comskip" else 0.0005 + 1e-6


@pytest.mark.parametrize("name", READABLE)
def test_what_is_written_is_read_back(name):
    for seed in range(60):
        timeline = random_timeline(seed)
        if timeline.duration_seconds * timeline.frame_rate < 2:
            continue
        spans = read_back(timeline, name)
        starts = {(span.start_seconds, span.label) for span in spans}
        frame = 1 / timeline.frame_rate
        precision = precision_of(name, timeline)
        for span, following in zip(spans, spans[1:], strict=False):
            assert span.end_seconds <= following.start_seconds
        for segment in timeline.segments:
            if segment.seconds > 4 * frame:
                middle = (segment.start_seconds + segment.end_seconds) / 2
                said = [s.label for s in spans if s.start_seconds <= middle < s.end_seconds]
                assert said == [expected_label(segment.label, name)], seed
        for before, after in zip(timeline.segments, timeline.segments[1:], strict=False):
            label, last = expected_label(after.label, name), expected_label(before.label, name)
            if min(before.seconds, after.seconds) > 2 * frame and label != last:
                nearest = min(abs(s - after.start_seconds) for s, found in starts if found == label)
                assert nearest <= precision, seed


@pytest.mark.parametrize("name", FORMATS)
def test_recording_without_breaks_has_a_file_that_says_so(name):
    timeline = made_timeline(("games", 100.0))
    data = format_timeline(timeline, name)
    if name in ("edl", "mplayer"):
        assert data == b""
    if name != "vlc":
        assert read_back(timeline, name) == (Span(0.0, 100.0, "games"),)


@pytest.mark.parametrize("name", FORMATS)
def test_recording_of_nothing_makes_a_file(name):
    timeline = made_timeline(frame_rate=0.0)
    assert isinstance(format_timeline(timeline, name), bytes)


@pytest.mark.parametrize("name", READABLE)
def test_ads_from_end_to_end_are_read_back(name):
    timeline = made_timeline(("ads", 30.0), ("ads", 30.0, 0.6, True), zero_seconds=0.4)
    assert read_back(timeline, name) == (Span(0.0, 60.0, "ads"),)


@pytest.mark.parametrize("name", READABLE)
def test_players_count_from_the_start_of_the_file(name):
    timeline = made_timeline(("games", 10.0), ("ads", 20.0), ("games", 10.0), zero_seconds=1.25)
    data = format_timeline(timeline, name)
    by_players = read_spans(f"a{FORMATS[name].suffix}", data, duration_seconds=41.25)
    shift = 0.0 if name in ("json", "csv") else 1.25
    precision = precision_of(name, timeline)
    assert by_players[1].label == "ads"
    assert by_players[1].start_seconds == pytest.approx(10 + shift, abs=precision)
    assert by_players[1].end_seconds == pytest.approx(30 + shift, abs=precision)
    assert by_players[0].start_seconds == 0


@pytest.mark.parametrize("name", OF_PLAYERS)
def test_overlapping_and_unordered_segments_are_written_in_order(name):
    first, second, third = made_timeline(("ads", 10.0), ("games", 10.0), ("ads", 5.0)).segments
    second = dataclasses.replace(second, start_seconds=8.0)
    timeline = made_timeline(("games", 25.0), segments=(third, second, first))
    assert read_back(timeline, name) == (
        Span(0.0, 10.0, "ads"),
        Span(10.0, 20.0, "games"),
        Span(20.0, 25.0, "ads"),
    )


@pytest.mark.parametrize("name", OF_PLAYERS)
def test_segment_shorter_than_a_frame_leaves_no_gap(name):
    timeline = made_timeline(("games", 10.0), ("ads", 0.02), ("games", 10.0), ("ads", 0.03))
    [span] = read_back(timeline, name)
    assert span.label == "games"
    assert span.end_seconds >= 20.02 or FORMATS[name].breaks_only


def test_every_format_has_a_suffix_of_its_own():
    assert len(set(SUFFIXES)) == len(SUFFIXES)
    assert not any(is_video(f"game{suffix}") for suffix in SUFFIXES)


@pytest.mark.parametrize("recording", ["game.ts", "Game 3.final.mp4", "no suffix", "x.y/a.mkv"])
def test_sidecars_lie_beside_the_recording_under_its_name(recording):
    for name, format in FORMATS.items():
        path = sidecar_path(Path(recording), name)
        assert path.parent == Path(recording).parent
        assert path.name == Path(recording).stem + format.suffix


def test_recording_is_never_its_own_sidecar():
    with pytest.raises(UserError, match="would be overwritten by its own hls"):
        sidecar_path(Path("live/game.m3u8"), "hls")


@pytest.mark.parametrize("call", [format_timeline, lambda t, name: sidecar_path(Path("a"), name)])
def test_unknown_format_is_refused_with_those_there_are(call):
    with pytest.raises(UserError, match="no format 'docx': choose from json, csv, edl"):
        call(made_timeline(("ads", 1.0)), "docx")


def test_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "game.edl"
    timeline = made_timeline(("games", 10.0), ("ads", 20.0))
    write_timeline(timeline, path, "edl")
    assert path.read_bytes() == b"10.000\t30.000\t3\n"
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_timeline(made_timeline(("ads", 5.0)), path, "edl")
    assert path.read_bytes() == b"10.000\t30.000\t3\n"
    assert list(tmp_path.iterdir()) == [path]


def test_files_are_told_by_what_is_in_them():
    """Three kinds end in .txt."""
    timeline = made_timeline(("games", 10.0), ("ads", 20.0), ("games", 10.0))
    for name in ("comskip", "ogm", "ffmetadata", "matroska", "webvtt", "hls"):
        spans = read_spans("what.txt", format_timeline(timeline, name), duration_seconds=40.0)
        assert [span.label for span in spans] == ["games", "ads", "games"], name


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.txt", "dear diary", "a.txt is of no kind that is read: pass one of .timeline.json"),
        ("a.doc", "", "a.doc is of no kind that is read"),
        ("a.edl", "1 2 7", "a.edl: line 1 is '1 2 7'"),
        ("a.txt", "FILE PROCESSING COMPLETE\n---\n1 2\n", "the header has no frame rate"),
        ("a.txt", "FILE PROCESSING COMPLETE 9 FRAMES AT 2500\n---\n5 x\n", "line 3 is '5 x'"),
        ("a.txt", "FILE PROCESSING COMPLETE 9 FRAMES AT 0\n---\n1 5\n", "has no frame rate"),
        ("a.txt", "FILE PROCESSING COMPLETE 9 FRAMES AT 2500\n---\n5 2\n", "must end later"),
        ("a.ffmeta", ";FFMETADATA1\n[CHAPTER]\nEND=2\n", "chapter 1 has no START"),
        ("a.ffmeta", ";FFMETADATA1\n[CHAPTER]\nSTART=x\n", "chapter 1 has the time 'x'"),
        ("a.ffmeta", ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/0\nSTART=1\n", "TIMEBASE '1/0'"),
        ("a.xml", "<?xml version='1.0'?><Chapters>", "a.xml: not XML (no element found"),
        ("a.xml", "<?xml version='1.0'?><cutlist/>", "<cutlist>, not the <Chapters> of Matroska"),
        ("a.chapters.txt", "CHAPTER01=soon\nCHAPTER01NAME=ads\n", "has the time 'soon'"),
        ("a.srt", "1\n00:00:01 --> later\nads\n", "'00:00:01 --> later' is not `hh:mm:ss.mmm"),
        ("a.vtt", "WEBVTT\n\n00:09.000 --> 00:01.000\nads\n", "the cue at 00:09.000 ends at"),
        ("a.vtt", "WEBVTT\n\n00:01.000 --> 00:09.000\n\n", "has no label"),
        ("a.m3u8", '#EXTM3U\n#EXT-X-DATERANGE:ID="1",CLASS="ads"', "no EXT-X-PROGRAM-DATE-TIME"),
        ("a.srt", b"\xff\xfe1\x00", "a.srt is not text in UTF-8"),
    ],
)
def test_mistake_is_refused_in_one_line_that_names_the_file(name, text, says):
    with pytest.raises(LabelError, match=re.escape(says)) as error:
        read_spans(name, text.encode() if isinstance(text, str) else text)
    assert str(error.value).startswith(name)
    assert "\n" not in str(error.value)


def test_end_that_no_file_says_is_the_end_of_the_recording():
    text = b"CHAPTER01=00:00:00.000\nCHAPTER01NAME=ads\nCHAPTER02=00:00:10.000\nCHAPTER02NAME=games"
    assert read_spans("a.txt", text) == (Span(0.0, 10.0, "ads"), Span(10.0, math.inf, "games"))
    assert read_spans("a.txt", text, duration_seconds=12.5)[1] == Span(10.0, 12.5, "games")
