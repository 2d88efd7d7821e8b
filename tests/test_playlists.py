"""Playlists play: HLS with a date range for each segment, XSPF with what lies between breaks."""

import re
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import unquote

import av
import m3u8
import pytest

from tests.media import write_video
from tests.timelines import CLASSES, made_timeline, random_timeline
from timeline.formats import format_timeline, read_spans, write_timeline
from timeline.player_times import shown
from timeline.playlists import hls, xspf
from utils.labels import Span

NAMES = {"x": "http://xspf.org/ns/0/", "vlc": "http://www.videolan.org/vlc/playlist/ns/0/"}


def test_playlist_plays_the_recording_beside_it(tmp_path):
    write_video(tmp_path / "game.ts", seconds=2.0)
    timeline = made_timeline(("ads", 1.0), ("games", 1.0))
    write_timeline(timeline, tmp_path / "game.m3u8", "hls")
    with av.open(str(tmp_path / "game.m3u8")) as container:
        assert container.format.name == "hls"
        assert container.duration == 2_000_000
        assert sum(1 for _ in container.decode(video=0)) == 50


def test_date_ranges_are_what_a_library_reads():
    parts = [(name, 3600.25, 0.75, index % 2 == 1) for index, name in enumerate(CLASSES)]
    timeline = made_timeline(*parts, zero_seconds=0.5)
    started_at = datetime(2026, 11, 22, 20, 15, tzinfo=timezone(timedelta(hours=1)))
    playlist = m3u8.loads(hls(timeline, started_at))
    [segment] = playlist.segments
    assert (segment.uri, segment.duration) == ("game.ts", 18001.75)
    assert segment.program_date_time == started_at
    assert playlist.target_duration >= segment.duration
    assert playlist.is_endlist
    for found, part in zip(segment.dateranges, shown(timeline), strict=True):
        start = datetime.fromisoformat(found.start_date) - started_at
        assert start == timedelta(milliseconds=part.start_ms)
        assert found.duration == pytest.approx((part.end_ms - part.start_ms) / 1000)
        assert found.class_ == part.label
        unsure = '"YES"' if part.unsure else '"NO"'
        assert found.x_client_attrs == [("x_confidence", "0.7500"), ("x_unsure", unsure)]
    assert len({found.id for found in segment.dateranges}) == len(CLASSES)


@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_attributes_keep_to_their_grammar(seed):
    """RFC 8216 section 4.2: no quotes or line breaks in a quoted string, dates with a zone."""
    quoted, date = r'"[^"\n]*"', r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"'
    grammar = (
        rf"#EXT-X-DATERANGE:ID={quoted},CLASS={quoted},START-DATE={date},DURATION=\d+\.\d{{3}},"
        rf'X-CONFIDENCE=[01]\.\d{{4}},X-UNSURE="(YES|NO)"'
    )
    lines = hls(random_timeline(seed)).splitlines()
    ranges = [line for line in lines if line.startswith("#EXT-X-DATERANGE")]
    assert len(ranges) == len(shown(random_timeline(seed)))
    assert all(re.fullmatch(grammar, line) for line in ranges)
    target = int(lines[2].removeprefix("#EXT-X-TARGETDURATION:"))
    assert target >= float(lines[-3].removeprefix("#EXTINF:").removesuffix(","))


def test_quotes_in_a_label_become_apostrophes():
    timeline = made_timeline(('the "show"', 10.0))
    [span] = read_spans("a.m3u8", hls(timeline).encode(), duration_seconds=10.0)
    assert span.label == "the 'show'"


def test_date_without_a_zone_is_utc():
    timeline = made_timeline(("games", 5.0), ("ads", 5.0))
    dated = datetime(2026, 11, 22, 23, 59, 58)
    text = format_timeline(timeline, "hls", started_at=dated).decode()
    assert "#EXT-X-PROGRAM-DATE-TIME:2026-11-22T23:59:58.000Z\n" in text
    assert 'CLASS="ads",START-DATE="2026-11-23T00:00:03.000Z"' in text
    assert hls(timeline, dated.replace(tzinfo=UTC)) == text


def test_playlists_of_others_are_read():
    text = """#EXTM3U
#EXT-X-PROGRAM-DATE-TIME:2026-01-01T00:00:00+01:00
#EXTINF:6.0,
a.ts
#EXT-X-DATERANGE:ID="1",CLASS="Commercial",START-DATE="2025-12-31T23:00:10Z",DURATION=30.5
#EXT-X-DATERANGE:ID="2",START-DATE="2025-12-31T23:10:00Z",SCTE35-OUT=0xFC
#EXT-X-DATERANGE:ID="3",CLASS="ads",START-DATE="2025-12-31T23:01:00Z",END-DATE="2025-12-31T23:02:00Z"
"""
    assert read_spans("live.m3u8", text.encode(), duration_seconds=180.0) == (
        Span(0.0, 10.0, "games"),
        Span(10.0, 40.5, "ads"),
        Span(40.5, 60.0, "games"),
        Span(60.0, 120.0, "ads"),
        Span(120.0, 180.0, "games"),
    )


@pytest.mark.parametrize("name", ["a b #1?.ts", "c:d%20.ts", "größe.ts", "bad \udcff.ts"])
@pytest.mark.parametrize("kind", ["hls", "vlc"])
def test_recording_is_named_by_a_relative_uri(kind, name):
    text = format_timeline(made_timeline(("games", 9.0), recording=name), kind).decode()
    if kind == "hls":
        uri = text.splitlines()[-2]
    else:
        uri = ElementTree.fromstring(text).findtext(".//x:location", namespaces=NAMES)
    assert re.fullmatch(r"[\w.~%-]+", uri, re.ASCII)
    assert unquote(uri, errors="surrogateescape") == name


def test_vlc_plays_what_lies_between_the_breaks():
    parts = [("ads", 10.0), ("games", 50.0), ("ads", 20.0), ("replays", 5.0), ("games", 5.0)]
    root = ElementTree.fromstring(xspf(made_timeline(*parts, zero_seconds=0.5)))
    assert root.tag == f"{{{NAMES['x']}}}playlist"
    tracks = root.findall("x:trackList/x:track", NAMES)
    options = [[o.text for o in track.findall("x:extension/vlc:option", NAMES)] for track in tracks]
    assert options == [
        ["start-time=10.500", "stop-time=60.500"],
        ["start-time=80.500", "stop-time=90.500"],
    ]
    ids = [track.findtext("x:extension/vlc:id", namespaces=NAMES) for track in tracks]
    assert ids == ["0", "1"]


@pytest.mark.parametrize(("label", "tracks"), [("games", 1), ("ads", 0)])
def test_recording_of_one_kind_is_played_whole_or_not_at_all(label, tracks):
    root = ElementTree.fromstring(xspf(made_timeline((label, 60.0))))
    assert len(root.findall("x:trackList/x:track", NAMES)) == tracks
    assert len(root.findall("x:trackList", NAMES)) == 1
