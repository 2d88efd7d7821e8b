"""Comparison of a timeline with the truth."""

import json
import math

import pytest

from timeline.comparison import OVERLAPS, compare, comparison_table
from timeline.timeline import Segment
from utils.labels import Span, parse_labels


def spans(*breaks: tuple[float, float], until: float = 1000.0) -> list[Span]:
    """A timeline of breaks, and games between."""
    edl = "".join(f"{start} {end} 3\n" for start, end in breaks)
    cut = [(s.start_seconds, min(s.end_seconds, until), s.label) for s in _parse(edl)]
    return [Span(*span) for span in cut if span[0] < until]


def _parse(edl: str) -> tuple[Span, ...]:
    return parse_labels("x.edl", edl.encode()) or (Span(0.0, math.inf, "games"),)


def test_the_truth_itself_is_perfect():
    truth = spans((100, 200), (500, 560))
    comparison = compare(truth, truth, 1000)
    figures = comparison.to_dict()
    assert figures["ad_second_f1"] == 1
    assert [figures[f"break_f1_iou{o * 100:.0f}"] for o in OVERLAPS] == [1, 1, 1]
    assert figures["edge_median_seconds"] == figures["edge_p90_seconds"] == 0
    assert figures["game_seconds_lost"] == figures["ad_seconds_kept"] == 0
    assert figures["seconds"] == 1000


def test_seconds_are_counted_on_both_sides():
    comparison = compare(spans((90, 190)), spans((100, 200)), 1000)
    assert comparison.game_seconds_lost == 10
    assert comparison.ad_seconds_kept == 10
    assert comparison.seconds == {
        ("games", "games"): 890,
        ("games", "ads"): 10,
        ("ads", "ads"): 90,
        ("ads", "games"): 10,
    }
    assert comparison.breaks.seconds.precision == pytest.approx(0.9)
    assert comparison.breaks.seconds.f1 == pytest.approx(0.9)
    assert comparison.game_seconds_lost_per_hour == pytest.approx(10 / 900 * 3600)
    assert comparison.ad_seconds_kept_per_hour == pytest.approx(10 / 100 * 3600)


def test_edges_say_late_and_early():
    comparison = compare(spans((101, 205), (498, 558)), spans((100, 200), (500, 560)), 1000)
    assert comparison.breaks.start_errors == (1, -2)
    assert comparison.breaks.end_errors == (5, -2)
    assert comparison.breaks.edge_error(50) == 2


def test_segments_may_be_compared():
    found = [Segment(0, 100, "games", 0.9), Segment(100, 1000, "ads", 0.8)]
    assert compare(found, spans((100, 1000)), 1000).breaks.seconds.f1 == 1


@pytest.mark.parametrize(
    ("found", "count"),
    [
        ([(100, 200)], [1, 1, 1]),
        ([(100, 165)], [1, 1, 0]),
        ([(100, 145)], [1, 0, 0]),
        ([(100, 125)], [0, 0, 0]),
        ([(300, 400)], [0, 0, 0]),
        ([(100, 160), (170, 200)], [1, 1, 0]),
    ],
    ids=["all", "65 %", "45 %", "25 %", "elsewhere", "in two"],
)
def test_a_break_is_found_by_its_overlap(found, count):
    breaks = compare(spans(*found), spans((100, 200)), 1000).breaks
    assert [breaks.segments[overlap].right for overlap in OVERLAPS] == count
    assert [breaks.segments[overlap].found for overlap in OVERLAPS] == [len(found)] * 3


def test_each_break_is_matched_once():
    # The long one overlaps both by more than 0.3, and may have only one of them.
    breaks = compare(spans((100, 200)), spans((100, 140), (150, 200)), 1000).breaks
    assert breaks.segments[0.3].right == 1
    assert breaks.segments[0.3].recall == 0.5
    assert breaks.start_errors == (-50,)
    assert breaks.end_errors == (0,)


def test_as_many_breaks_as_possible_are_matched():
    # The pair that overlaps most, (0, 100) and (32, 140), would leave the others alone.
    truth, found = spans((0, 100), (101, 140)), spans((0, 31), (32, 140))
    assert compare(found, truth, 1000).breaks.segments[0.3].right == 2


def test_what_the_truth_leaves_out_is_not_compared():
    truth = [Span(0, 100, "games"), Span(100, 200, "ads"), Span(400, 500, "games")]
    found = spans((100, 390), (600, 700))
    comparison = compare(found, truth, 1000)
    assert comparison.breaks.seconds.f1 == 1
    assert comparison.breaks.segments[0.7].found == 1
    assert comparison.to_dict()["seconds"] == 300
    # From 200 s on nothing is known: that is no edge, and one at 390 s is no error.
    assert comparison.breaks.start_errors == (0,)
    assert comparison.breaks.end_errors == ()


def test_the_ends_of_a_recording_are_no_edges():
    truth, found = spans((0, 100), (900, 1000)), spans((0, 101), (900, 999.8))
    breaks = compare(found, truth, 1000).breaks
    assert breaks.start_errors == (0,)
    assert breaks.end_errors == (1,)


def test_a_break_missed_at_the_start_of_a_recording_is_an_error():
    breaks = compare(spans((20, 100)), spans((0, 100)), 1000).breaks
    assert breaks.start_errors == (20,)


def test_the_truth_may_last_longer_than_the_recording():
    truth = [Span(0, 600, "games"), Span(600, math.inf, "ads")]
    comparison = compare(spans((600, 700), until=700), truth, 700)
    assert comparison.breaks.seconds.true == 100
    assert comparison.breaks.segments[0.7].f1 == 1


def test_nothing_found_and_nothing_true():
    nothing = compare(spans(), spans(), 1000)
    assert nothing.to_dict()["ad_second_f1"] is None
    assert nothing.to_dict()["game_seconds_lost_per_hour"] == 0
    assert nothing.to_dict()["edge_median_seconds"] is None
    assert compare(spans(), spans((0, 100)), 1000).to_dict()["ad_second_f1"] == 0
    assert compare(spans((0, 100)), spans(), 1000).to_dict()["break_f1_iou50"] == 0
    json.dumps(nothing.to_dict(), allow_nan=False)
    assert "nan" not in comparison_table(nothing)


def test_several_classes_are_told_apart():
    truth = [Span(0, 100, "games"), Span(100, 200, "ads"), Span(200, 300, "studio")]
    found = [Span(0, 100, "games"), Span(100, 210, "ads"), Span(210, 300, "studio")]
    comparison = compare(found, truth, 300)
    assert comparison.game_seconds_lost == 10
    assert comparison.labels["studio"].seconds.recall == pytest.approx(0.9)
    assert comparison.labels["studio"].start_errors == (10,)
    assert comparison.labels["games"].seconds.f1 == 1
    assert "studio" in comparison_table(comparison)


def test_recordings_are_pooled_by_adding_up():
    first = compare(spans((100, 200)), spans((100, 200)), 1000)
    second = compare(spans((100, 150)), spans((100, 200), (300, 400)), 1000)
    pooled = first + second
    assert pooled.breaks.seconds.recall == pytest.approx(150 / 300)
    assert pooled.breaks.segments[0.5].true == 3
    assert pooled.breaks.segments[0.5].right == 2
    assert pooled.breaks.end_errors == (0, -50)
    assert pooled.to_dict()["seconds"] == 2000
    studio = compare([Span(0, 10, "studio")], [Span(0, 10, "studio")], 10)
    assert set((pooled + studio).labels) == {"ads", "games", "studio"}


def test_the_table_says_what_the_numbers_are():
    table = comparison_table(compare(spans((101, 205)), spans((100, 200)), 1000))
    assert "game called ad       5.0 s   (20.0 s an hour of game)" in table
    assert "ad called game       1.0 s   (36.0 s an hour of ads)" in table
    assert "1 of 1, 1 found" in table
    assert "entering a break" in table
    assert "1 late, 0 early" in table
