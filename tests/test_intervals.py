"""Intervals cover the truth as often as they claim, and are as wide as the groups make them."""

import numpy as np
import pytest

from tests.test_evaluation import CLASSES, make_scores
from training.evaluation import evaluate_scores
from training.intervals import (
    DRAWS,
    INTERVAL_METRICS,
    GroupDraws,
    metric_draws,
    metric_intervals,
    rate_interval,
)


def make_grouped(classes: int = 2, groups: int = 20, per_group: int = 8, seed: int = 0):
    """Scores whose groups differ: each has a shift of its own."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(groups) % classes, per_group)
    logits = rng.normal(0, 0.5, (len(labels), classes))
    logits += rng.normal(0, 1.5, (groups, classes)).repeat(per_group, axis=0)
    logits[np.arange(len(labels)), labels] += 1.5
    names = [f"g{index}" for index in range(groups)]
    return make_scores(logits, labels, groups=np.repeat(names, per_group).tolist())


def repeated(scores, counts: np.ndarray, groups):
    """The clips of each group as often as a draw has it."""
    place = {name: index for index, name in enumerate(groups)}
    times = [int(counts[place[name]]) for name in scores.groups]
    return scores.only(np.repeat(np.arange(len(scores)), times))


@pytest.mark.parametrize("classes", [2, 3])
def test_drawn_metrics_are_those_of_the_clips_drawn(classes):
    scores = make_grouped(classes)
    scores.logits[::3] = np.round(scores.logits[::3])  # ties
    names = ["ads", "games", "news"][:classes]
    draws = GroupDraws.of(scores)
    drawn = metric_draws(draws, scores, names, 1.7)
    for draw in (0, 1, 2, 50):
        expected = evaluate_scores(repeated(scores, draws.counts[draw], draws.groups), names, 1.7)
        for name in INTERVAL_METRICS:
            assert drawn[name][draw] == pytest.approx(expected[name], abs=1e-9), name


def test_groups_are_drawn_within_their_class():
    scores = make_grouped(2, groups=9)
    draws = GroupDraws.of(scores)
    of_ads = [int(name[1:]) % 2 == 0 for name in draws.groups]
    assert draws.counts.shape == (DRAWS, 9)
    assert (draws.counts[:, of_ads].sum(axis=1) == 5).all()
    assert (draws.counts.sum(axis=1) == 9).all()
    assert draws.counts.std() > 0.5


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    truth = evaluate_scores(make_grouped(groups=4000, seed=99), CLASSES, 1.0)
    covered = {name: 0 for name in ("balanced_accuracy", "auc", "nll")}
    for seed in range(60):
        found = metric_intervals(make_grouped(groups=40, seed=seed), CLASSES, 1.0)
        for name in covered:
            covered[name] += found[f"{name}_low"] <= truth[name] <= found[f"{name}_high"]
    assert all(count >= 0.83 * 60 for count in covered.values()), covered


def test_clips_of_one_group_do_not_count_as_independent():
    few = make_grouped(groups=10, per_group=40)
    many = make_scores(few.logits, few.labels)  # each clip a group of its own

    def width(scores) -> float:
        found = metric_intervals(scores, CLASSES, 1.0)
        return found["accuracy_high"] - found["accuracy_low"]

    assert width(few) > 2 * width(many)


def test_a_class_of_one_group_has_no_interval():
    scores = make_scores([[1, 0], [0, 1], [0, 2]], [0, 1, 1], groups=["a", "b", "c"])
    assert set(metric_intervals(scores, CLASSES, 1.0).values()) == {None}


def test_one_class_alone_has_an_interval_of_accuracy_and_none_of_auc():
    scores = make_scores([[1, 0], [0, 1], [2, 0]], [0, 0, 0])
    found = metric_intervals(scores, CLASSES, 1.0)
    assert found["auc_low"] is None
    assert found["accuracy_low"] < found["accuracy_high"]


def test_intervals_are_the_same_each_time():
    scores = make_grouped()
    assert metric_intervals(scores, CLASSES, 1.0) == metric_intervals(scores, CLASSES, 1.0)


def test_what_never_happened_is_bounded_by_the_number_of_groups():
    scores = make_grouped(groups=20)
    draws, whole = GroupDraws.of(scores), np.ones(len(scores))
    never = rate_interval(draws, scores, np.zeros(len(scores)), whole)
    assert never == pytest.approx((0, 1 - 0.05 ** (1 / 20)))
    events = np.zeros(len(scores))
    events[:8] = 1  # all of one group
    low, high = rate_interval(draws, scores, events, whole)
    assert low == 0
    assert 0.05 < high < 0.3
