"""Thresholds meet their aim on what they were chosen on, and say what they cost elsewhere."""

import json
import re

import numpy as np
import pytest

from tests.test_evaluation import CLASSES, honest_scores, make_scores
from tests.trainings import make_config
from training.evaluation import softmax
from training.thresholds import (
    Aim,
    Thresholds,
    choose_thresholds,
    decide,
    kept_class,
    read_thresholds,
)


def make_groups(labels: np.ndarray, per_group: int = 10) -> list[str]:
    """A group for every `per_group` clips of a class."""
    seen: dict[int, int] = {}
    names = []
    for label in labels.tolist():
        seen[label] = seen.get(label, -1) + 1
        names.append(f"{label}/{seen[label] // per_group}")
    return names


def many(classes: int = 2, count: int = 4000, seed: int = 0):
    logits, labels = honest_scores(count, classes, seed)
    return make_scores(logits, labels, groups=make_groups(labels))


def costs(scores, said: np.ndarray, name: int, kept: int) -> tuple[float, float]:
    """(recall, seconds of the kept class an hour called so) of equally long clips."""
    recall = (said[scores.labels == name] == name).mean()
    return recall, 3600 * (said[scores.labels == kept] == name).mean()


@pytest.mark.parametrize("limit", [0, 2, 60, 600])
def test_game_lost_stays_below_the_aim_and_no_ad_is_missed_for_less(limit):
    scores = many()
    chosen = choose_thresholds(scores, CLASSES, 1.0, Aim(max_game_loss=limit))
    said = chosen.decide(softmax(scores.logits), CLASSES)
    recall, loss = costs(scores, said, 0, 1)
    assert loss <= limit
    games = softmax(scores.logits)[scores.labels == 1, 0]
    allowed = int(limit / 3600 * len(games))
    expected = np.sort(games)[::-1][allowed]  # the first game that must not be called an ad
    ads = softmax(scores.logits)[scores.labels == 0, 0]
    assert recall == (ads > expected).mean()


@pytest.mark.parametrize("wanted", [0.5, 0.9, 0.99, 1.0])
def test_recall_reaches_the_aim_and_nothing_more_is_lost_for_it(wanted):
    scores = many()
    chosen = choose_thresholds(scores, CLASSES, 1.0, Aim(min_recall=wanted))
    said = chosen.decide(softmax(scores.logits), CLASSES)
    recall, _ = costs(scores, said, 0, 1)
    ads = (scores.labels == 0).sum()
    assert wanted <= recall <= wanted + 1 / ads + 1e-9


def test_cost_is_measured_on_groups_that_had_no_part_in_choosing():
    scores = many(count=1500)
    fresh = many(count=60_000, seed=1)
    for aim in (Aim(max_game_loss=120), Aim(min_recall=0.95)):
        chosen = choose_thresholds(scores, CLASSES, 1.0, aim)
        recall, loss = costs(fresh, chosen.decide(softmax(fresh.logits), CLASSES), 0, 1)
        (row,) = chosen.thresholds
        assert row.recall_interval[0] <= recall <= row.recall_interval[1]
        assert row.game_loss_interval[0] <= loss <= row.game_loss_interval[1]


def test_one_group_that_is_unlike_the_others_shows_in_the_cost():
    # Chosen with it, no game is lost; chosen without it, all of its clips would have been.
    logits = np.array([[3, 0]] * 20 + [[0, 3]] * 18 + [[2, 0]] * 2)
    labels = np.repeat([0, 1], 20)
    groups = [f"ads/{i // 4}" for i in range(20)] + [f"games/{i // 2}" for i in range(20)]
    scores = make_scores(logits, labels, groups=groups)
    chosen = choose_thresholds(scores, CLASSES, 1.0, Aim(max_game_loss=0))
    _, loss = costs(scores, chosen.decide(softmax(scores.logits), CLASSES), 0, 1)
    assert loss == 0
    assert chosen.thresholds[0].game_loss == pytest.approx(3600 * 2 / 20)
    assert "missed the aim" in chosen.sentences()[-1]


def test_loss_that_was_never_seen_is_not_said_to_be_impossible():
    logits = np.array([[4, 0]] * 10 + [[0, 4]] * 10)
    scores = make_scores(logits, np.repeat([0, 1], 10))  # ten groups each
    (row,) = choose_thresholds(scores, CLASSES, 1.0, Aim(max_game_loss=2)).thresholds
    assert row.game_loss == 0
    assert row.game_loss_interval == pytest.approx((0, 3600 * (1 - 0.05 ** (1 / 10))))


def test_three_classes_have_a_threshold_each_but_the_kept_one():
    classes = ["ads", "games", "news"]
    scores = many(3)
    chosen = choose_thresholds(scores, classes, 1.0, Aim(max_game_loss=60))
    assert chosen.kept == "games"
    assert [row.name for row in chosen.thresholds] == ["ads", "news"]
    said = chosen.decide(softmax(scores.logits), classes)
    for name in (0, 2):
        recall, loss = costs(scores, said, name, 1)
        assert loss <= 60
        assert recall > 0.05
    found = choose_thresholds(scores, classes, 1.0, Aim(min_recall=0.9))
    reached = softmax(scores.logits) >= [found.thresholds[0].value, 2, found.thresholds[1].value]
    for name in (0, 2):
        assert reached[scores.labels == name, name].mean() >= 0.9


def test_in_doubt_it_is_the_kept_class_and_of_two_that_are_sure_the_surer():
    classes = ["ads", "games", "news"]
    values = {"ads": 0.6, "news": 0.3}
    rows = np.array([[0.5, 0.3, 0.2], [0.62, 0.0, 0.38], [0.45, 0.1, 0.45], [0.1, 0.7, 0.2]])
    said = decide(rows, classes, values)
    assert [classes[index] for index in said] == ["games", "ads", "news", "games"]
    assert decide(rows, classes, {}).tolist() == rows.argmax(axis=1).tolist()


def test_kept_is_the_game_or_what_there_is_most_of_besides_ads():
    scores = make_scores([[1, 0, 0]] * 6, [0, 0, 0, 1, 2, 2])
    assert kept_class(scores, ["ads", "games", "news"]) == "games"
    assert kept_class(scores, ["ads", "match", "news"]) == "news"
    assert kept_class(make_scores([[1, 0]] * 3, [0, 0, 1]), ["ads", "match"]) == "match"


def test_a_single_group_of_games_gives_no_interval_and_no_promise():
    scores = make_scores(
        [[2, 0], [3, 0], [0, 2], [0, 1]], [0, 0, 1, 1], groups=["a", "b", "c", "c"]
    )
    chosen = choose_thresholds(scores, CLASSES, 1.0, Aim(max_game_loss=2))
    (row,) = chosen.thresholds
    assert row.recall is not None
    assert row.recall_interval is None
    assert "finds" in chosen.sentences()[1]


def test_thresholds_survive_json_and_old_checkpoints_have_none():
    chosen = choose_thresholds(many(3), ["ads", "games", "news"], 1.3, Aim(min_recall=0.9))
    recipe = {"thresholds": json.loads(json.dumps(chosen.to_dict()))}
    assert read_thresholds(recipe) == chosen
    assert isinstance(read_thresholds(recipe), Thresholds)
    assert read_thresholds({}) is None
    assert read_thresholds({"thresholds": None}) is None


def test_metrics_are_flat_and_hold_both_costs():
    metrics = choose_thresholds(many(), CLASSES, 1.0, Aim(max_game_loss=60)).metrics()
    for key in ("threshold_ads", "threshold_recall_ads", "threshold_game_loss_ads_high"):
        assert isinstance(metrics[key], float)


def test_sentences_say_threshold_recall_and_loss_with_their_spread():
    aimed, said, *_ = choose_thresholds(many(), CLASSES, 1.0, Aim(max_game_loss=60)).sentences()
    assert "at most 60 s of games lost an hour; in doubt it is games" in aimed
    pattern = r"ads from 0\.\d+: finds \d+% of ads \(\d+ to \d+%\), loses \S+ s of games an hour"
    assert re.match(pattern, said), said


def test_aim_is_what_the_constants_state(tmp_path):
    assert Aim.of(make_config(tmp_path)) is None
    assert Aim.of(make_config(tmp_path, max_game_loss=2)) == Aim(max_game_loss=2.0)
    assert Aim.of(make_config(tmp_path, min_recall=0.9)) == Aim(min_recall=0.9)
