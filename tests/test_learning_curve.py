"""A learning curve says that more would help only where the doubling that was seen did help."""

import json

import numpy as np
import pytest

from tests.test_evaluation import CLASSES, make_scores
from training.learning_curve import SHARES, learning_curve, summarize

GROUPS = {0.1: 2.0, 0.25: 5.0, 0.5: 10.0, 1.0: 20.0}


def made(skill: float, seed: int = 0, groups: int = 40, per_group: int = 6):
    """Scores of the same clips: what is hard in them is the same for every skill."""
    labels = np.repeat(np.arange(groups) % 2, per_group)
    hardness = np.random.default_rng(99).normal(0, 1, (groups, 2)).repeat(per_group, axis=0)
    logits = hardness + np.random.default_rng(seed).normal(0, 0.3, (len(labels), 2))
    logits[np.arange(len(labels)), labels] += skill
    names = [f"g{index}" for index in range(groups)]
    return make_scores(logits, labels, groups=np.repeat(names, per_group).tolist())


def curve_of(half: float, full: float, **how):
    scored = {0.5: [made(half, seed, **how) for seed in (1, 2, 3)], 1.0: [made(full, 4, **how)]}
    return summarize(scored, GROUPS, CLASSES)


def test_gain_that_stands_out_of_its_spread_asks_for_more():
    curve = curve_of(0.5, 1.5)
    assert curve.gain > 0.05
    assert curve.gain_interval[0] > 0
    assert "would most likely help" in curve.sentence()


def test_gain_that_is_next_to_nothing_does_not():
    curve = curve_of(4.0, 4.0)
    assert curve.gain_interval[1] < 0.005
    assert "would hardly help" in curve.sentence()


def test_gain_within_its_spread_is_not_told():
    curve = curve_of(1.0, 1.05, groups=8)
    assert "can't be told" in curve.sentence()


def test_too_few_groups_say_nothing():
    assert "too few groups" in curve_of(1.0, 2.0, groups=2).sentence()
    alone = summarize({1.0: [made(1.0)]}, GROUPS, CLASSES)
    assert "too few groups" in alone.sentence()


def test_spread_of_a_point_is_wider_where_the_draws_differ():
    alike = summarize({0.5: [made(1.0, 1), made(1.0, 2)]}, GROUPS, CLASSES).points[0]
    apart = summarize({0.5: [made(0.0, 1), made(2.0, 2)]}, GROUPS, CLASSES).points[0]
    assert np.diff(apart.auc_interval) > np.diff(alike.auc_interval)
    assert apart.auc == pytest.approx((made_auc(0.0, 1) + made_auc(2.0, 2)) / 2)


def made_auc(skill: float, seed: int) -> float:
    return summarize({1.0: [made(skill, seed)]}, GROUPS, CLASSES).points[0].auc


def test_curve_survives_json_with_its_sentence():
    curve = curve_of(0.5, 1.5)
    again = json.loads(json.dumps(curve.to_dict()))
    assert again["sentence"] == curve.sentence()
    assert [point["share"] for point in again["points"]] == [0.5, 1.0]


def test_smaller_shares_are_drawn_more_often_and_all_of_the_groups_once():
    draws = list(SHARES.values())
    assert list(SHARES) == sorted(SHARES)
    assert draws == sorted(draws, reverse=True)
    assert SHARES[1.0] == 1
    assert callable(learning_curve)  # run on made clips in test_results
