"""Segments: found in made tracks whose timeline is known."""

import time
from itertools import pairwise

import numpy as np
import pytest

from tests.tracks import CLASSES, HOP_SECONDS, make_track, score_logits
from timeline.durations import DEFAULT_DURATIONS, Duration, Durations
from timeline.segments import UNSURE_BELOW, find_segments


def labels_of(segments, count, classes=CLASSES) -> np.ndarray:
    """The class of each hop."""
    centres = (np.arange(count) + 0.5) * HOP_SECONDS
    ends = [segment.end_seconds for segment in segments]
    named = np.array([classes.index(segment.label) for segment in segments])
    return named[np.searchsorted(ends, centres, side="right")]


def breaks_of(segments) -> list[tuple[float, float]]:
    return [(s.start_seconds, s.end_seconds) for s in segments if s.label == "ads"]


def assert_covers(segments, duration_seconds):
    assert segments[0].start_seconds == 0
    assert segments[-1].end_seconds == duration_seconds
    assert all(segment.seconds > 0 for segment in segments)
    for before, after in pairwise(segments):
        assert before.end_seconds == after.start_seconds
        assert before.label != after.label


@pytest.mark.parametrize("classes", [("games",), CLASSES, ("ads", "games", "replay", "studio")])
@pytest.mark.parametrize("count", [1, 2, 7, 41, 900])
def test_segments_cover_any_recording(classes, count):
    rng = np.random.default_rng(count)
    scored = score_logits(4 * rng.normal(size=(count, len(classes))))
    thresholds = {name: 0.9 for name in classes if name != "games"}
    for chosen in (None, thresholds):
        segments = find_segments(scored, classes, thresholds=chosen)
        assert_covers(segments, scored.duration_seconds)
        assert all(0 <= segment.confidence <= 1 for segment in segments)
        for segment in segments[1:-1]:  # an edge moves by a third at most
            assert segment.seconds >= DEFAULT_DURATIONS.of(segment.label).minimum_seconds / 3


def test_breaks_are_found_where_whole_spots_look_like_the_game():
    rng = np.random.default_rng(0)
    right = by_window = total = 0
    matched, planted, found = 0, 0, 0
    for _ in range(6):
        plan = [("games", rng.uniform(30, 180))]
        for _ in range(3):
            plan += [("ads", rng.uniform(45, 120)), ("games", rng.uniform(40, 300))]
        scored, spans = make_track(plan, rng, wrong_part=0.05)
        segments = find_segments(scored, CLASSES)
        count = scored.probabilities.shape[1]
        truth = labels_of(spans, count)
        right += (labels_of(segments, count) == truth).sum()
        by_window += (scored.probabilities[0].argmax(axis=1) == truth).sum()
        total += count
        true_breaks, breaks = breaks_of(spans), breaks_of(segments)
        planted, found = planted + len(true_breaks), found + len(breaks)
        matched += sum(
            max((_overlap(one, other) for other in breaks), default=0) >= 0.5 for one in true_breaks
        )
    assert right / total > 0.92
    assert right > by_window
    assert matched / planted > 0.95
    assert found < 1.4 * planted  # a misjudged spot of 30 s may split a break


def _overlap(one, other) -> float:
    common = min(one[1], other[1]) - max(one[0], other[0])
    return common / (max(one[1], other[1]) - min(one[0], other[0]))


def test_a_short_spot_full_of_sport_does_not_split_its_break():
    plan = [("games", 200), ("ads", 150), ("games", 200)]
    scored, _ = make_track(plan, np.random.default_rng(1), wrong=[(265, 279)])
    assert len(breaks_of(find_segments(scored, CLASSES))) == 1


def test_a_minimum_for_games_keeps_breaks_whole_round_longer_spots():
    plan = [("games", 200), ("ads", 150), ("games", 200)]
    scored, _ = make_track(plan, np.random.default_rng(1), wrong=[(255, 290)])
    games = Duration(minimum_seconds=60.0, typical_seconds=360.0, spread=3.0)
    durations = Durations({**DEFAULT_DURATIONS.classes, "games": games})
    assert len(breaks_of(find_segments(scored, CLASSES))) == 2
    assert len(breaks_of(find_segments(scored, CLASSES, durations))) == 1


def test_a_scene_that_looks_like_an_ad_is_no_break():
    scored, _ = make_track([("games", 600)], np.random.default_rng(2), wrong=[(300, 306)])
    assert breaks_of(find_segments(scored, CLASSES)) == []


def test_halves_of_a_match_stay_whole():
    plan = [("games", 2700), ("ads", 240), ("games", 2700)]
    scored, _ = make_track(plan, np.random.default_rng(3), wrong=[(700, 707), (4000, 4008)])
    (start, end), *others = breaks_of(find_segments(scored, CLASSES))
    assert others == []
    assert (start, end) == pytest.approx((2700, 2940), abs=15)  # a spot at most


def test_a_recording_may_begin_and_end_inside_a_break():
    """Shorter than any whole break."""
    ads = Duration(minimum_seconds=20.0, typical_seconds=90.0, spread=2.2)
    durations = Durations({**DEFAULT_DURATIONS.classes, "ads": ads})
    plan = [("ads", 14), ("games", 120), ("ads", 14)]
    scored, _ = make_track(plan, np.random.default_rng(4))
    found = breaks_of(find_segments(scored, CLASSES, durations))
    assert [edge for one in found for edge in one] == pytest.approx([0, 14, 134, 148], abs=2)


def test_edges_lie_where_the_windows_on_both_sides_differ():
    rng = np.random.default_rng(5)
    errors = []
    for _ in range(10):
        plan = [("games", 97.25), ("ads", 63.5), ("games", 80.0)]
        scored, _ = make_track(plan, rng)
        ((start, end),) = breaks_of(find_segments(scored, CLASSES))
        errors += [abs(start - 97.25), abs(end - 160.75)]
    assert np.median(errors) <= 0.5
    assert max(errors) <= 2.5


def test_confidence_is_the_part_of_the_time_that_is_right():
    rng = np.random.default_rng(6)
    rows = []
    for _ in range(16):
        plan = [("games", rng.uniform(30, 200)), ("ads", rng.uniform(15, 90)), ("games", 60)]
        scored, spans = make_track(plan, rng, wrong_part=0.03)
        segments = find_segments(scored, CLASSES)
        count = scored.probabilities.shape[1]
        truth, said = labels_of(spans, count), labels_of(segments, count)
        for one in segments:
            rows_in = slice(*(round(s / HOP_SECONDS) for s in (one.start_seconds, one.end_seconds)))
            rows.append((one.confidence, (truth == said)[rows_in].mean(), one.seconds))
    confidence, right, seconds = np.array(rows).T
    expected = np.average(confidence, weights=seconds)
    assert expected == pytest.approx(np.average(right, weights=seconds), abs=0.04)


def test_what_could_be_either_is_unsure():
    (sure,) = find_segments(score_logits(np.full((600, 2), [0.0, 4.0])), CLASSES)
    assert not sure.unsure
    assert sure.confidence > 0.99
    doubtful = find_segments(score_logits(np.full((600, 2), [0.05, 0.0])), CLASSES)
    assert any(one.unsure and one.confidence < UNSURE_BELOW for one in doubtful)


def test_thresholds_keep_the_class_without_one():
    logits = np.full((480, 2), [0.0, 4.0])
    logits[160:320] = [2.0, 0.0]  # 40 s, rather like ads
    scored = score_logits(logits)
    assert len(breaks_of(find_segments(scored, CLASSES))) == 1
    assert breaks_of(find_segments(scored, CLASSES, thresholds={"ads": 0.999999})) == []


def test_half_is_the_threshold_that_is_meant_without_one():
    rng = np.random.default_rng(7)
    scored, _ = make_track([("games", 90), ("ads", 60), ("games", 90)], rng, wrong_part=0.2)
    segments = find_segments(scored, CLASSES)
    assert find_segments(scored, CLASSES, thresholds={"ads": 0.5}) == segments


@pytest.mark.parametrize("thresholds", [{"ads": 0.9, "games": 0.9}, {"adverts": 0.9}])
def test_thresholds_that_name_other_classes_are_refused(thresholds):
    scored = score_logits(np.zeros((40, 2)))
    with pytest.raises(ValueError, match="name all but one"):
        find_segments(scored, CLASSES, thresholds=thresholds)


def test_three_hours_take_seconds():
    rng = np.random.default_rng(8)
    plan = [("games", 700.0), ("ads", 200.0)] * 12
    scored, _ = make_track(plan, rng, wrong_part=0.05)
    start = time.process_time()
    segments = find_segments(scored, CLASSES)
    assert time.process_time() - start < 10  # 1.5 on a quiet core
    assert_covers(segments, 10_800.0)
