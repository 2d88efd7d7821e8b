"""Policies: which breaks are skipped, how near their edges, and what that costs."""

from itertools import pairwise

import numpy as np
import pytest

from timeline.policies import PADDED, Policy, PolicyError, apply_policy, choose_policy
from timeline.timeline import Segment, Timeline
from utils.labels import Span


def timeline(*rows: tuple[str, float, float], unsure_below: float = 0.8) -> Timeline:
    """Of rows (label, seconds, confidence)."""
    segments, start = [], 0.0
    for label, seconds, confidence in rows:
        evidence = ("shot change",)
        segments.append(
            Segment(
                start,
                start + seconds,
                label,
                confidence,
                unsure=confidence < unsure_below,
                start_evidence=evidence,
                end_evidence=evidence,
            )
        )
        start += seconds
    return Timeline("game.ts", start, 25.0, ("ads", "games"), tuple(segments))


GAME = timeline(
    ("ads", 20, 0.99),
    ("games", 100, 0.97),
    ("ads", 12, 0.95),
    ("games", 100, 0.97),
    ("ads", 60, 0.7),
    ("games", 3, 0.9),
    ("ads", 60, 0.9),
)


def breaks(found: Timeline) -> list[tuple[float, float]]:
    return [(one.start_seconds, one.end_seconds) for one in found.breaks]


def test_nothing_changes_without_a_policy():
    assert apply_policy(GAME, Policy()) == GAME


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy(min_break_seconds=15), [(0, 20), (232, 292), (295, 355)]),
        (Policy(keep_unsure=True), [(0, 20), (120, 132), (295, 355)]),
        (Policy(min_confidence=0.92), [(0, 20), (120, 132)]),
        (Policy(pad_seconds=2), [(0, 18), (122, 130), (234, 290), (297, 355)]),
        (Policy(pad_seconds=6), [(0, 14), (238, 286), (301, 355)]),  # 12 s vanish
        (Policy(pad_seconds=-1), [(0, 21), (119, 133), (231, 293), (294, 355)]),
        (Policy(pad_seconds=-2), [(0, 22), (118, 134), (230, 355)]),
        (Policy(min_break_seconds=1000), []),
    ],
)
def test_breaks_are_skipped_as_the_policy_says(policy, expected):
    assert breaks(apply_policy(GAME, policy)) == expected


@pytest.mark.parametrize("seed", range(30))
def test_any_policy_leaves_a_timeline_that_covers_the_recording(seed):
    rng = np.random.default_rng(seed)
    classes = ("ads", "games", "studio")
    labels = [classes[0]]
    for _ in range(12):
        labels.append(str(rng.choice([name for name in classes if name != labels[-1]])))
    found = timeline(*[(label, rng.uniform(0.3, 20), rng.uniform(0.4, 1)) for label in labels])
    policy = Policy(
        pad_seconds=rng.uniform(-6, 6),
        min_break_seconds=rng.uniform(0, 10),
        keep_unsure=bool(rng.integers(2)),
        min_confidence=rng.uniform(0, 0.8),
    )
    segments = apply_policy(found, policy).segments
    assert segments[0].start_seconds == 0
    assert segments[-1].end_seconds == found.duration_seconds
    assert all(one.seconds > 0 and 0 <= one.confidence <= 1 for one in segments)
    for before, after in pairwise(segments):
        assert before.end_seconds == after.start_seconds
        assert before.label != after.label


def test_a_padded_edge_says_so_and_others_keep_their_evidence():
    first, *_, last = apply_policy(GAME, Policy(pad_seconds=1)).segments
    assert (first.start_evidence, first.end_evidence) == (("shot change",), (PADDED,))
    assert (last.start_evidence, last.end_evidence) == ((PADDED,), ("shot change",))


def test_a_break_that_stays_in_lowers_the_confidence_of_what_it_joins():
    (only,) = apply_policy(
        timeline(("games", 90, 1.0), ("ads", 10, 0.6)), Policy(keep_unsure=True)
    ).segments
    assert only.confidence == pytest.approx((90 + 10 * 0.4) / 100)


def labelled_set(count: int, seed: int = 0) -> list[tuple[Timeline, list[Span]]]:
    """True breaks found 1 s too wide with 0.95; a false one in every other recording with 0.6."""
    rng = np.random.default_rng(seed)
    pairs = []
    for index in range(count):
        start = float(rng.uniform(50, 200))
        spans = [Span(0, start, "games"), Span(start, start + 60, "ads")]
        spans.append(Span(start + 60, start + 400, "games"))
        rows = [("games", start - 1, 0.98), ("ads", 62, 0.95), ("games", 100, 0.98)]
        rows += [("ads", 30, 0.6)] if index % 2 else [("games", 30, 0.98)]
        found = timeline(*rows, ("games", 209, 0.98))
        joined = apply_policy(found, Policy())
        pairs.append((joined, spans))
    return pairs


def test_a_loss_chooses_confidence_and_padding():
    choice = choose_policy(labelled_set(10), 0.5)
    assert 0.6 < choice.policy.min_confidence <= 0.95
    assert choice.policy.pad_seconds == 1.0
    assert choice.fitted.most_lost_seconds == 0
    assert choice.judged.within_budget == choice.judged.recordings == 10
    assert choice.judged.found == pytest.approx(1.0)
    assert "loses 0.0 s on average" in choice.sentences()[1]


def test_a_loss_that_is_kept_anyway_costs_no_break_time():
    found = timeline(("games", 99, 0.98), ("ads", 60, 0.95), ("games", 100, 0.98))
    truth = [Span(0, 100, "games"), Span(100, 161, "ads"), Span(161, 259, "games")]
    choice = choose_policy([(found, truth)] * 5, 2.0)
    assert choice.policy.pad_seconds == 0.0
    assert choice.fitted.most_lost_seconds == pytest.approx(1.0)
    assert choose_policy([(found, truth)] * 5, 0.5).policy.pad_seconds == 0.5


def test_where_nothing_keeps_to_the_loss_nothing_is_skipped():
    found = timeline(("games", 50, 0.9), ("ads", 50, 0.999), ("games", 50, 0.9))
    choice = choose_policy([(found, [Span(0, 150, "games")])] * 3, 1.0)
    assert apply_policy(found, choice.policy).breaks == ()
    assert choice.judged.found is None
    assert "no break is skipped" in choice.sentences()[0]


def test_one_odd_recording_of_many_does_not_decide():
    odd = timeline(("games", 50, 0.98), ("ads", 60, 0.999), ("games", 50, 0.98))
    labelled = [*labelled_set(19), (odd, [Span(0, 160, "games")])]
    choice = choose_policy(labelled, 2.0)
    assert choice.fitted.found == pytest.approx(1.0)
    assert choice.judged.within_budget == 19


def test_the_expected_loss_is_of_recordings_that_did_not_choose():
    """One recording's break is wide by 4 s: judged by the others' choice it loses more."""
    wide = timeline(("games", 96, 0.98), ("ads", 68, 0.95), ("games", 100, 0.98))
    truth = [Span(0, 100, "games"), Span(100, 160, "ads"), Span(160, 264, "games")]
    choice = choose_policy([*labelled_set(4), (wide, truth)], 2.0)
    assert choice.fitted.most_lost_seconds <= 2.0
    assert choice.judged.most_lost_seconds > 2.0


def test_the_rest_of_the_policy_is_kept():
    choice = choose_policy(labelled_set(4), 2.0, Policy(min_break_seconds=40, keep_unsure=True))
    assert choice.policy.min_break_seconds == 40
    assert choice.policy.keep_unsure


def test_without_labelled_recordings_the_cure_is_said():
    with pytest.raises(PolicyError, match="put recordings with label files"):
        choose_policy([], 2.0)


def test_a_single_recording_promises_nothing():
    choice = choose_policy(labelled_set(1), 2.0)
    assert choice.judged is None
    assert "not known" in choice.sentences()[-1]


@pytest.mark.parametrize("policy", [{"pad_seconds": float("nan")}, {"min_break_seconds": -1}])
def test_seconds_that_make_no_sense_are_refused(policy):
    with pytest.raises(ValueError, match="give"):
        Policy(**policy)


def test_a_loss_below_nothing_is_refused():
    with pytest.raises(ValueError, match="0 or more"):
        choose_policy(labelled_set(2), -1)
