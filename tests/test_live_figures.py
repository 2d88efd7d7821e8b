"""What benchmarks/live.py says of a stream whose truth is known."""

import json

import pytest

from benchmarks import live
from benchmarks.live import Shown, judge_changes, known_after, plan_cuts
from utils.labels import Span

SPANS = [Span(0, 60, "games"), Span(60, 100, "ads"), Span(100, 160, "games")]


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """Two of the same truth: one told late and once in vain, one whose break is missed."""
    keys = ("start_seconds", "end_seconds", "label")
    segments = [
        dict(zip(keys, (s.start_seconds, s.end_seconds, s.label), strict=True)) for s in SPANS
    ]
    shown = {
        "late": [(5, "games"), (67, "ads"), (80, "games"), (83, "ads"), (104, "games")],
        "missed": [(5, "games"), (30, "ads"), (34, "games")],
    }
    paths = [tmp_path / f"{name}.ts" for name in shown]
    for path in paths:
        path.with_suffix(".json").write_text(json.dumps({"segments": segments}))
    monkeypatch.setattr(live, "watch_file", lambda path, _: [Shown(*s) for s in shown[path.stem]])
    return paths


def test_figures_count_how_late_changes_are_shown_and_what_is_shown_in_vain(recordings):
    figures = judge_changes(recordings, None)
    assert figures["enter_changes"] == figures["leave_changes"] == 2
    assert figures["enter_median_seconds"] == (7 + 40) / 2
    assert figures["enter_within_12_s"] == 0.5
    # A break that was never shown is left in time.
    assert figures["leave_median_seconds"] == (4 + 0) / 2
    assert figures["leave_within_5_s"] == 1
    assert figures["false_enters_per_hour"] == pytest.approx(1 / (240 / 3600))
    assert figures["false_leaves_per_hour"] == pytest.approx(1 / (80 / 3600))


def test_change_that_is_shown_before_it_comes_is_known_at_once():
    assert known_after([Shown(50, "ads")], SPANS[1]) == 0


def test_cuts_of_the_connection_lie_apart_and_end_before_the_stream():
    cuts = list(plan_cuts(1800))
    assert len(cuts) > 12
    assert all(end < start for (_, end), (start, _) in zip(cuts, cuts[1:], strict=False))
    assert cuts[-1][1] < 1800
