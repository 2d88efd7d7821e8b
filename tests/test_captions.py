"""Captions say label and confidence, and FFmpeg shows what we wrote when we meant it."""

import html
from pathlib import Path

import av
import pytest

from tests.timelines import made_timeline, random_timeline
from timeline.captions import caption, read_srt, srt, webvtt
from timeline.formats import read_spans, write_timeline
from timeline.player_times import shown
from utils.labels import LabelError, Span

TIMELINE = made_timeline(("ads", 61.5, 0.9712, False), ("games", 36000.0, 0.5, True))


def cues_by_ffmpeg(path: Path) -> list[tuple[float, float, str]]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(container.streams[0]) if packet.size]
        return [
            (float(p.pts * p.time_base), float(p.duration * p.time_base), bytes(p).decode())
            for p in packets
        ]


def test_srt_has_numbers_commas_and_empty_lines():
    assert srt(TIMELINE) == (
        "1\n00:00:00,000 --> 00:01:01,500\nads 97 %\n\n"
        "2\n00:01:01,500 --> 10:01:01,500\ngames 50 % (unsure)\n"
    )


def test_webvtt_escapes_what_would_be_markup():
    timeline = made_timeline(("<b> & --> 'c'", 2.0))
    assert webvtt(timeline) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n&lt;b&gt; &amp; --&gt; 'c' 90 %\n"
    )


@pytest.mark.parametrize("name", ["srt", "webvtt"])
@pytest.mark.parametrize("seed", [0, 1, 3, 4, 7, 9])
def test_ffmpeg_reads_each_caption_at_its_time(seed, name, tmp_path):
    timeline = random_timeline(seed)
    path = tmp_path / ("a.srt" if name == "srt" else "a.vtt")
    write_timeline(timeline, path, name)
    for (start, seconds, text), part in zip(cues_by_ffmpeg(path), shown(timeline), strict=True):
        assert start == pytest.approx(part.start_ms / 1000)
        assert seconds == pytest.approx((part.end_ms - part.start_ms) / 1000)
        assert (text if name == "srt" else html.unescape(text)) == caption(part)


def test_captions_of_others_are_read():
    text = (
        "\ufeff1\r\n00:00:00,000 --> 00:00:10,5  X1:40 X2:600\r\nads\r\n\r\n\r\n"
        "2\r\n0:00:10.500 --> 1:00:00,000\r\nhalf\r\n50 % time\r\n"
    )
    assert read_spans("a.srt", text.encode()) == (
        Span(0.0, 10.5, "ads"),
        Span(10.5, 3600.0, "half 50 % time"),
    )


def test_webvtt_of_others_is_read():
    text = (
        "WEBVTT - made by hand\n\nNOTE\nwith a note\n\nSTYLE\n::cue {}\n\n"
        "first\n00:01.000 --> 00:09.000 line:0 align:end\nAdvertisement 2\n\n"
        "00:09.000 --> 100:00:00.000\nR&amp;D\n"
    )
    assert read_spans("a.vtt", text.encode()) == (
        Span(1.0, 9.0, "ads"),
        Span(9.0, 360000.0, "R&D"),
    )


def test_label_that_ends_like_a_confidence_keeps_its_end():
    timeline = made_timeline(("top 50 %", 2.0), ("x (unsure)", 2.0, 0.5, True))
    labels = [label for *_, label in read_srt(srt(timeline))]
    assert labels == ["top 50 %", "x (unsure)"]


def test_subtitles_that_overlap_are_no_labels():
    text = b"1\n00:00:00,000 --> 00:00:09,000\nHello.\n\n2\n00:00:05,000 --> 00:00:10,000\nYes?\n"
    with pytest.raises(LabelError, match="it is Hello. and Yes\\? at once"):
        read_spans("a.srt", text)
