"""Picture of two timelines."""

from xml.etree import ElementTree

import numpy as np
import pytest

from timeline.picture import LEAST_WIDTH, MARGIN, WIDTH, draw_timelines
from timeline.timeline import Segment
from utils.labels import Span

SVG = "{http://www.w3.org/2000/svg}"
INNER = WIDTH - 2 * MARGIN


def games_and_ads(start: float, end: float, until: float) -> list[Span]:
    return [Span(0, start, "games"), Span(start, end, "ads"), Span(end, until, "games")]


def boxes(svg: str, kind: str = "") -> list[tuple[float, float, str]]:
    """Left, right and title of the boxes of a class; without one, of those with a title."""
    root = ElementTree.fromstring(svg)
    found = []
    for rect in root.iter(f"{SVG}rect"):
        title = rect.find(f"{SVG}title")
        if title is not None and (not kind or rect.get("class") == kind):
            left = float(rect.get("x"))
            found.append((left, left + float(rect.get("width")), title.text))
    return found


def test_both_timelines_stand_above_each_other():
    truth = games_and_ads(50, 75, 100)
    found = [
        Segment(0, 50, "games", 0.97),
        Segment(50, 75, "ads", 0.91, start_evidence=("cut", "silence")),
        Segment(75, 100, "games", 0.99),
    ]
    ads = [box for box in boxes(draw_timelines(found, truth, 100)) if "ads" in box[2]]
    assert [box[:2] for box in ads] == [(MARGIN + INNER * 0.5, MARGIN + INNER * 0.75)] * 2
    assert ads[0][2] == "ads, 0:50 to 1:15"
    assert ads[1][2] == "ads, 0:50 to 1:15, 91% sure, start: cut + silence"


def test_differences_are_marked_where_they_are():
    truth, found = games_and_ads(50, 75, 100), games_and_ads(40, 75, 100)
    ((left, right, title),) = boxes(draw_timelines(found, truth, 100), "wrong")
    assert (left, right) == (MARGIN + INNER * 0.4, MARGIN + INNER * 0.5)
    assert title == "0:40 to 0:50: games called ads, 10.00 s"
    assert boxes(draw_timelines(truth, truth, 100), "wrong") == []


def test_what_the_truth_leaves_out_is_no_difference():
    truth = [Span(0, 50, "games")]
    assert boxes(draw_timelines(games_and_ads(60, 80, 100), truth, 100), "wrong") == []


def test_a_short_break_of_a_long_recording_can_be_seen():
    truth = games_and_ads(5000, 5010, 4 * 3600)
    svg = draw_timelines([Span(0, 4 * 3600, "games")], truth, 4 * 3600)
    ((left, right, _),) = boxes(svg, "wrong")
    assert right - left == pytest.approx(LEAST_WIDTH, abs=0.05)


def test_the_curve_has_a_point_a_pixel_at_most():
    probabilities = np.tile([0.0, 1.0], 4 * 3600 * 2)
    truth = games_and_ads(5000, 5100, 4 * 3600)
    svg = draw_timelines(truth, truth, 4 * 3600, ad_probabilities=probabilities, hop_seconds=0.25)
    (path,) = ElementTree.fromstring(svg).iter(f"{SVG}path")
    points = path.get("d").split("L")
    assert len(points) <= INNER + 1
    heights = {float(point.split(",")[1]) for point in points[1:-1]}
    assert max(heights) - min(heights) < 2  # the mean of zeros and ones
    assert "probability of ads" in svg
    assert "probability of ads" not in draw_timelines(truth, truth, 100)


@pytest.mark.parametrize(
    ("seconds", "ticks"),
    [
        (5, ["0:00", "0:01", "0:02", "0:03", "0:04"]),
        (400, ["0:00", "1:00", "2:00", "3:00", "4:00", "5:00", "6:00"]),
        (2 * 3600 + 1, ["0:00", "30:00", "1:00:00", "1:30:00", "2:00:00"]),
    ],
)
def test_the_axis_counts_in_round_times(seconds, ticks):
    truth = [Span(0, seconds, "games")]
    texts = [
        t.text
        for t in ElementTree.fromstring(draw_timelines(truth, truth, seconds)).iter(f"{SVG}text")
    ]
    assert [text for text in texts if ":" in text] == ticks


def test_the_legend_names_what_there_is():
    truth = [Span(0, 50, "games"), Span(50, 100, "studio <b>")]
    found = [Segment(0, 60, "games", 0.9), Segment(60, 100, "ads", 0.5, unsure=True)]
    texts = [
        t.text for t in ElementTree.fromstring(draw_timelines(found, truth, 100)).iter(f"{SVG}text")
    ]
    assert texts[-5:] == ["games", "ads", "studio <b>", "differs", "unsure"]


def test_many_classes_wrap_the_legend():
    truth = [Span(k, k + 1, f"a long name of class {k}") for k in range(9)]
    svg = draw_timelines(truth, truth, 9)
    root = ElementTree.fromstring(svg)
    height = float(root.get("viewBox").split()[3])
    places = [(float(t.get("x")), float(t.get("y"))) for t in root.iter(f"{SVG}text")]
    assert max(y for _, y in places) < height
    assert max(x for x, _ in places) < WIDTH
    assert len({y for _, y in places[-10:]}) > 3
