"""Edits are lines that the parsers of Kodi, Emby and Jellyfin take, and nothing else."""

import math
import re

import pytest

from tests.timelines import made_timeline, random_timeline
from timeline.edits import comskip, edl, mplayer_edl
from timeline.formats import read_spans
from timeline.player_times import breaks
from utils.labels import Span, parse_labels

GAME = (("games", 60.0), ("ads", 30.5), ("games", 3509.5), ("ads", 120.0), ("games", 10.0))


def test_edl_of_kodi_names_commercial_breaks():
    assert edl(made_timeline(*GAME)) == "60.000\t90.500\t3\n3600.000\t3720.000\t3\n"


def test_edl_of_mplayer_names_cuts():
    assert mplayer_edl(made_timeline(*GAME)) == "60.000\t90.500\t0\n3600.000\t3720.000\t0\n"


def test_edl_is_a_label_file_as_it_is():
    timeline = made_timeline(*GAME)
    assert parse_labels("game.edl", edl(timeline).encode()) == (
        Span(0.0, 60.0, "games"),
        Span(60.0, 90.5, "ads"),
        Span(90.5, 3600.0, "games"),
        Span(3600.0, 3720.0, "ads"),
        Span(3720.0, math.inf, "games"),
    )


@pytest.mark.parametrize("seed", range(50))
def test_no_break_touches_another_or_ends_before_it_starts(seed):
    """Kodi refuses such an edit, in a file of Comskip all of them."""
    timeline = random_timeline(seed)
    lines = edl(timeline).splitlines()
    edges = [edge for a, b in breaks(timeline) for edge in (a, b)]
    assert edges == sorted(set(edges))
    assert len(lines) == len(edges) // 2
    assert all(re.fullmatch(r"\d+\.\d{3}\t\d+\.\d{3}\t3", line) for line in lines)


def test_unsure_breaks_that_touch_sure_ones_are_one_break():
    parts = [("games", 5.0), ("ads", 10.0), ("ads", 4.0, 0.5, True), ("games", 5.0)]
    assert edl(made_timeline(*parts)) == "5.000\t19.000\t3\n"


def test_break_is_in_players_time_and_begins_with_the_file():
    parts = [("ads", 10.0), ("games", 36000.0), ("ads", 10.0)]
    timeline = made_timeline(*parts, zero_seconds=1.4)
    assert edl(timeline) == "0.000\t11.400\t3\n36011.400\t36021.400\t3\n"


def test_comskip_counts_frames_at_the_rate_of_its_header():
    assert comskip(made_timeline(*GAME)) == (
        "FILE PROCESSING COMPLETE  93250 FRAMES AT  2500\n-------------------\n"
        "1500\t2262\n90000\t93000\n"
    )


@pytest.mark.parametrize("rate", [23.976, 24.0, 29.97, 59.94, 12.345678, 0.0])
def test_comskip_frame_divided_by_the_rate_of_the_header_is_the_time(rate):
    """As Kodi divides; a count of pictures at 23.976 would be two seconds off here."""
    timeline = made_timeline(("games", 11000.0), ("ads", 100.0), frame_rate=rate)
    header, _, line = comskip(timeline).splitlines()
    frames, hundredths = re.fullmatch(
        r"FILE PROCESSING COMPLETE +(\d+) FRAMES AT +(\d+)", header
    ).groups()
    first, last = map(int, line.split("\t"))
    assert first * 100 / int(hundredths) == pytest.approx(11000, abs=0.05)
    assert last * 100 / int(hundredths) == pytest.approx(11100, abs=0.05)
    assert last == int(frames)
    assert int(hundredths) == round(100 * (rate or 25))


def test_comskip_without_breaks_has_a_header_alone():
    timeline = made_timeline(("games", 10.0))
    assert len(comskip(timeline).splitlines()) == 2


def test_file_of_comskip_is_read():
    """What Comskip 0.82 left beside a recording with a break, and what older ones do."""
    new = (
        b"FILE PROCESSING COMPLETE   9998 FRAMES AT  2500\r\n-------------------\r\n"
        b"3000\t4513\r\n9997\t9998\r\n\r\n"
    )
    assert read_spans("a.txt", new, duration_seconds=400.0) == (
        Span(0.0, 120.0, "games"),
        Span(120.0, 180.52, "ads"),
        Span(180.52, 400.0, "games"),
    )
    old = b"FILE PROCESSING COMPLETE\n-------------------------------\n12645     17792\n"
    assert read_spans("a.txt", old, frame_rate=25.0)[1] == Span(505.8, 711.68, "ads")
