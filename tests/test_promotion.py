"""A challenger takes over only where it is better beyond chance, and no class pays for it."""

import dataclasses
import json
import re

import numpy as np
import pytest

from training.evaluation import ClipScores
from training.promotion import Decision, Rules, decide

RULES = Rules(min_gain=0.01, max_class_loss=0.05)
CLASSES = ["ads", "games"]


def made_scores(
    right: np.ndarray, labels: np.ndarray, groups: list[str], classes: int = 2
) -> ClipScores:
    """Scores that say the truth where `right`, else the next class."""
    said = np.where(right, labels, (labels + 1) % classes)
    count = len(labels)
    return ClipScores(
        np.eye(classes, dtype=np.float32)[said] * 3,
        labels,
        [f"{group}.mp4" for group in groups],
        groups,
        np.arange(count) * 10.0,
        np.arange(count) * 10.0 + 10,
    )


def made_clips(groups: int, clips: int) -> tuple[np.ndarray, list[str]]:
    """(labels, groups) of `groups` groups of `clips` clips in each of two classes."""
    labels = np.repeat([0, 1], groups * clips)
    return labels, [f"{CLASSES[label]}/{i // clips}" for i, label in enumerate(labels)]


def made_pair(
    rates: tuple[float, float], rng: np.random.Generator, *, groups: int = 8, clips: int = 10
) -> tuple[ClipScores, ClipScores]:
    """(challenger, champion) that are right at these rates; groups are harder or easier for both,
    and each model has groups that it likes less.
    """
    labels, names = made_clips(groups, clips)
    shared = np.repeat(rng.normal(0, 0.08, 2 * groups), clips)
    own = [np.repeat(rng.normal(0, 0.04, 2 * groups), clips) for _ in rates]
    chances = [(rate + shared + noise).clip(0, 1) for rate, noise in zip(rates, own, strict=True)]
    models = [made_scores(rng.random(len(labels)) < c, labels, names) for c in chances]
    return models[0], models[1]


def test_worse_challenger_is_never_promoted_in_fifty_trials_with_noise():
    promoted = []
    for trial in range(50):
        rng = np.random.default_rng(trial)
        groups = int(rng.integers(3, 12))
        worse = 0.88 - rng.uniform(0.01, 0.1)
        pair = made_pair((worse, 0.88), rng, groups=groups)
        if decide(*pair, CLASSES, RULES).promote:
            promoted.append((trial, groups, worse))
    assert promoted == []


def test_an_equally_good_challenger_rarely_takes_over():
    pairs = (made_pair((0.88, 0.88), np.random.default_rng(1000 + t)) for t in range(200))
    assert sum(decide(*pair, CLASSES, RULES).promote for pair in pairs) <= 0.04 * 200


def test_a_much_better_challenger_takes_over_nearly_always():
    pairs = (made_pair((0.95, 0.7), np.random.default_rng(t)) for t in range(50))
    assert sum(decide(*pair, CLASSES, RULES).promote for pair in pairs) >= 45


def flipped(scores: ClipScores, wrong: list[int]) -> ClipScores:
    """The same with these clips answered wrongly."""
    logits = scores.logits.copy()
    logits[wrong] = logits[wrong][:, ::-1]
    return dataclasses.replace(scores, logits=logits)


@pytest.fixture
def perfect() -> ClipScores:
    labels, groups = made_clips(4, 10)
    return made_scores(np.ones(len(labels), bool), labels, groups)


def test_gain_is_the_difference_of_balanced_accuracies(perfect):
    champion = flipped(perfect, [0, 10, 20, 30, 40, 50])  # four of 40 ads, two of 40 games
    decision = decide(perfect, champion, CLASSES, RULES)
    assert decision.gain == pytest.approx((4 / 40 + 2 / 40) / 2)
    assert decision.champion == pytest.approx(
        {"balanced_accuracy": 0.925, "recall_ads": 0.9, "recall_games": 0.95}
    )
    assert decision.challenger["balanced_accuracy"] == 1.0
    assert decision.gain_low <= decision.gain <= decision.gain_high
    assert (decision.clips, decision.groups) == (80, 8)


def test_promoted_where_every_group_gains(perfect):
    champion = flipped(perfect, list(range(0, 80, 10)))
    decision = decide(perfect, champion, CLASSES, RULES)
    assert decision.promote
    assert decision.reason == ("better by 0.100 (0.014 to 0.186), on 80 test clips of 8 groups")


def test_gain_of_one_group_alone_may_be_chance(perfect):
    decision = decide(perfect, flipped(perfect, list(range(6))), CLASSES, RULES)
    assert decision.gain == pytest.approx(0.075)
    assert not decision.promote
    assert "may be chance" in decision.reason


def test_too_small_a_gain_is_refused_with_the_constant_to_change(perfect):
    champion = flipped(perfect, list(range(0, 80, 10)))
    decision = decide(perfect, champion, CLASSES, Rules(0.2, 0.05))
    assert decision.reason == (
        "better by 0.100 (0.014 to 0.186), where 0.200 or more is asked (MIN_GAIN)"
    )


def test_a_class_must_not_pay_for_the_others(perfect):
    champion = flipped(perfect, [i for i in range(40) if i % 10 < 5])  # half of the ads
    challenger = flipped(perfect, [i for i in range(40, 80) if i % 10 < 1])  # a tenth of the games
    decision = decide(challenger, champion, CLASSES, RULES)
    assert decision.gain == pytest.approx(0.2)
    assert not decision.promote
    assert "games is recognised 0.100 less often" in decision.reason
    assert decide(challenger, champion, CLASSES, Rules(0.01, 0.11)).promote


def test_same_model_does_not_follow_itself(perfect):
    decision = decide(perfect, perfect, CLASSES, RULES)
    assert not decision.promote
    assert decision.gain == 0


def test_first_model_must_beat_the_answer_that_is_always_the_same(perfect):
    assert decide(perfect, None, CLASSES, RULES).promote
    labels, groups = made_clips(4, 10)
    always_ads = made_scores(labels == 0, labels, groups)
    decision = decide(always_ads, None, CLASSES, RULES)
    assert not decision.promote
    assert decision.gain == pytest.approx(0)
    guesses = np.random.default_rng(0).random(len(labels)) < 0.5
    assert not decide(made_scores(guesses, labels, groups), None, CLASSES, RULES).promote


def test_a_class_with_one_group_can_not_be_judged():
    labels = np.array([0] * 10 + [1] * 20)
    groups = ["ads/0"] * 10 + ["games/0"] * 10 + ["games/1"] * 10
    scores = made_scores(np.ones(30, bool), labels, groups)
    decision = decide(scores, None, CLASSES, RULES)
    assert not decision.promote
    assert decision.gain_low is None
    assert "ads has 1 test groups" in decision.reason


def test_groups_that_are_alone_in_what_they_show_vary_too():
    shown = [[0], [1], [2], [0, 1], [0, 2], [1, 2]]  # drawn each on its own, none would vary
    labels = np.concatenate([np.resize(classes, 20) for classes in shown])
    groups = [f"recordings/{i // 20}" for i in range(len(labels))]
    perfect = made_scores(np.ones(len(labels), bool), labels, groups, classes=3)
    champion = made_scores(np.arange(len(labels)) >= 12, labels, groups, classes=3)
    decision = decide(perfect, champion, ["ads", "games", "news"], RULES)
    assert decision.gain == pytest.approx(12 / 40 / 3)
    assert not decision.promote
    assert "may be chance" in decision.reason


def test_different_clips_are_refused(perfect):
    labels, groups = made_clips(4, 9)
    other = made_scores(np.ones(len(labels), bool), labels, groups)
    with pytest.raises(ValueError, match="different clips"):
        decide(perfect, other, CLASSES, RULES)


def test_decision_is_the_same_each_time_and_can_be_kept_as_json():
    pair = made_pair((0.9, 0.8), np.random.default_rng(3))
    first, second = (decide(*pair, CLASSES, RULES) for _ in range(2))
    assert first == second
    assert Decision(**json.loads(json.dumps(first.to_dict()))) == first
    assert re.match(r"better by 0\.\d{3} \(", first.reason)


def test_three_classes_are_judged_by_their_mean():
    labels = np.repeat([0, 1, 2], 20)
    groups = [f"{label}/{i % 4}" for i, label in enumerate(labels)]
    right = np.ones(60, bool)
    right[:20] = False
    scores = made_scores(right, labels, groups, classes=3)
    decision = decide(scores, None, ["ads", "games", "news"], RULES)
    assert decision.gain == pytest.approx(2 / 3 - 1 / 3)
    assert decision.promote
