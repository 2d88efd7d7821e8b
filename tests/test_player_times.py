"""Player times cover the file in order, in whole milliseconds, each part a frame or longer."""

import math

import pytest

from tests.timelines import made_timeline, random_timeline
from timeline.player_times import (
    between_breaks,
    breaks,
    clock,
    file_ms,
    frame_rate,
    label_of,
    one_line,
    shown,
)


@pytest.mark.parametrize("seed", range(100))
def test_parts_cover_the_file_without_gaps_or_overlaps(seed):
    timeline = random_timeline(seed)
    frame_ms = math.ceil(1000 / timeline.frame_rate)
    parts = shown(timeline)
    if timeline.duration_seconds * 1000 > 2 * frame_ms:
        assert parts[0].start_ms == 0
        assert file_ms(timeline) - parts[-1].end_ms < frame_ms
    for part, following in zip(parts, parts[1:], strict=False):
        assert part.end_ms == following.start_ms
    assert all(part.end_ms - part.start_ms >= frame_ms for part in parts)
    assert all(isinstance(edge, int) for p in parts for edge in (p.start_ms, p.end_ms))


@pytest.mark.parametrize("seed", range(100))
def test_breaks_and_what_lies_between_are_the_whole_file(seed):
    timeline = random_timeline(seed)
    pieces = sorted([*breaks(timeline), *between_breaks(timeline)])
    edges = [0, *(end for _, end in pieces)]
    assert [start for start, _ in pieces] == edges[:-1]
    assert edges[-1] == file_ms(timeline)


def test_times_count_from_the_start_of_the_file():
    timeline = made_timeline(("games", 10.0), ("ads", 5.0), zero_seconds=1.5)
    assert [(p.start_ms, p.end_ms) for p in shown(timeline)] == [(0, 11500), (11500, 16500)]


def test_nothing_is_shown_past_the_end_of_the_recording():
    timeline = made_timeline(("games", 10.0), ("ads", 5.0), duration_seconds=12.0)
    assert [(p.start_ms, p.end_ms) for p in shown(timeline)] == [(0, 10000), (10000, 12000)]


def test_gap_that_is_no_part_of_a_frame_stays():
    first, _, last = made_timeline(("ads", 5.0), ("games", 5.0), ("ads", 5.0)).segments
    timeline = made_timeline(("games", 15.0), segments=(first, last))
    assert breaks(timeline) == [(0, 5000), (10000, 15000)]


def test_clock_counts_hours_on():
    assert clock(0) == "00:00:00.000"
    assert clock(36_123_045, ",") == "10:02:03,045"
    assert clock(100 * 3_600_000 - 1) == "99:59:59.999"
    assert clock(100 * 3_600_000) == "100:00:00.000"


def test_unknown_frame_rate_is_taken_for_25():
    assert frame_rate(made_timeline(frame_rate=0.0)) == 25.0
    assert frame_rate(made_timeline(frame_rate=math.nan)) == 25.0


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (" a\r\nb\u2028c\x1b\ufffe ", "a b c"),
        ("\ud800", "unnamed"),
        ("می\u200cشود ⚽👍🏽", "می\u200cشود ⚽👍🏽"),
    ],
)
def test_label_is_one_line_of_text(text, line):
    assert one_line(text) == line


@pytest.mark.parametrize(
    ("title", "label"),
    [
        ("ads", "ads"),
        ("ads (unsure)", "ads"),
        ("Advertisement", "ads"),
        ("Commercial 12", "ads"),
        ("Commercial Segment", "ads"),
        ("Ad break 3", "ads"),
        ("Show Segment", "games"),
        ("Show", "games"),
        ("show", "show"),
        ("Chapter 4", "games"),
        ("adverse weather", "adverse weather"),
        ("half time show (unsure)", "half time show"),
    ],
)
def test_titles_stand_for_labels(title, label):
    assert label_of(title) == label
