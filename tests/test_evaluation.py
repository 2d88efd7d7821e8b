"""Tests of calibration, metrics and the predictions file, on scores with a known answer."""

import math

import numpy as np
import pytest

from training.evaluation import (
    TEMPERATURE_RANGE,
    ClipScores,
    accuracy_without_one_group,
    evaluate_scores,
    fit_temperature,
    group_results,
    most_wrong,
    precision_recall_curves,
    read_predictions,
    reliability_bins,
    softmax,
    write_predictions,
)

CLASSES = ["ads", "games"]


def make_scores(logits, labels, groups=None, recordings=None) -> ClipScores:
    count = len(labels)
    return ClipScores(
        logits=np.array(logits, dtype=np.float32),
        labels=np.array(labels, dtype=np.int64),
        recordings=recordings or [f"clip_{index}.mp4" for index in range(count)],
        groups=groups or [f"group_{index}" for index in range(count)],
        start_seconds=np.arange(count) * 10.0,
        end_seconds=np.arange(count) * 10.0 + 10.0,
    )


def honest_scores(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits and labels that are drawn from the softmax of those logits."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (count, classes))
    drawn = generator.random((count, 1)) > softmax(logits).cumsum(axis=1)
    return logits, np.minimum(drawn.sum(axis=1), classes - 1)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperature_undoes_a_known_overconfidence(classes, factor):
    logits, labels = honest_scores(20_000, classes)
    assert fit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.05)


def test_temperature_claims_no_certainty_from_a_few_clips_that_are_all_right():
    labels = np.array([0, 1] * 10)
    logits = np.where(np.arange(2) == labels[:, None], 3.0, -3.0)
    temperature = fit_temperature(logits, labels)
    confidence = softmax(logits, temperature).max()
    assert confidence == pytest.approx(1 - 1 / 22, abs=0.005)


def test_temperature_stays_in_its_range_for_one_class_no_clip_and_hopeless_scores():
    one_class = fit_temperature(np.array([[0.001, 0.0]] * 8), np.zeros(8, dtype=int))
    assert one_class == pytest.approx(TEMPERATURE_RANGE[0], rel=0.01)
    all_wrong = fit_temperature(np.array([[9.0, 0.0]] * 8), np.ones(8, dtype=int))
    assert all_wrong == pytest.approx(TEMPERATURE_RANGE[1], rel=0.01)
    assert fit_temperature(np.zeros((0, 2)), np.zeros(0, dtype=int)) == 1.0


def test_softmax_survives_huge_logits():
    probabilities = softmax(np.array([[1e4, 0.0, -1e4]], dtype=np.float32))
    assert probabilities.tolist() == [[1.0, 0.0, 0.0]]


def test_metrics_of_a_case_counted_by_hand():
    # Four ads of which one is missed, two games of which one is taken for an ad.
    scores = make_scores(
        [[2, 0], [3, 0], [1, 0], [0, 1], [0, 2], [0.5, 0]],
        [0, 0, 0, 0, 1, 1],
        groups=["a", "a", "b", "b", "c", "d"],
    )
    metrics = evaluate_scores(scores, CLASSES, 1.0)
    assert metrics["confusion"] == [[3, 1], [1, 1]]
    assert metrics["accuracy"] == pytest.approx(4 / 6)
    assert metrics["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert metrics["precision_ads"] == pytest.approx(3 / 4)
    assert metrics["recall_games"] == pytest.approx(1 / 2)
    assert metrics["f1_games"] == pytest.approx(1 / 2)
    # Of the 8 pairs of an ad and a game, the missed ad (-1) ranks below one game (0.5).
    assert metrics["auc"] == pytest.approx(7 / 8)
    assert metrics["average_precision_ads"] == pytest.approx((1 + 1 + 1 + 4 / 5) / 4)
    assert (metrics["clips"], metrics["groups"]) == (6, 4)
    margin = np.array([2, 3, 1, -1, 2, -0.5])
    assert metrics["nll"] == pytest.approx(np.log1p(np.exp(-margin)).mean())


def test_auc_is_of_ads_whatever_the_order_of_the_classes():
    scores = make_scores([[0, 1], [0, 2], [3, 0]], [1, 1, 0])
    swapped = make_scores([[1, 0], [2, 0], [0, 3]], [0, 0, 1])
    for case, classes in ((scores, ["games", "ads"]), (swapped, ["ads", "games"])):
        assert evaluate_scores(case, classes, 1.0)["auc"] == 1.0


def test_auc_keeps_the_order_of_clips_whose_probability_rounds_to_one():
    scores = make_scores([[60, 0], [80, 0], [50, 0], [40, 0]], [0, 0, 1, 1])
    assert evaluate_scores(scores, CLASSES, 1.0)["auc"] == 1.0


def test_auc_of_many_classes_is_the_mean_over_those_present():
    logits, labels = honest_scores(400, 4)
    labels[labels == 3] = 0
    metrics = evaluate_scores(make_scores(logits, labels), ["a", "b", "c", "d"], 1.0)
    assert 0.6 < metrics["auc"] < 0.95
    assert metrics["recall_d"] is None
    assert metrics["average_precision_d"] is None
    recalls = [metrics[f"recall_{name}"] for name in "abc"]
    assert metrics["balanced_accuracy"] == pytest.approx(np.mean(recalls))


def test_one_class_alone_has_no_auc_and_an_unsaid_class_no_precision():
    metrics = evaluate_scores(make_scores([[2, 0], [3, 0]], [0, 0]), CLASSES, 1.0)
    assert metrics["auc"] is None
    assert metrics["precision_games"] is None
    assert metrics["f1_games"] is None
    assert metrics["balanced_accuracy"] == 1.0


def test_honest_confidence_has_little_calibration_error_and_a_boast_has_much():
    logits, labels = honest_scores(20_000, 3)
    names = ["a", "b", "c"]
    honest = evaluate_scores(make_scores(logits, labels), names, 1.0)
    boast = evaluate_scores(make_scores(logits * 4, labels), names, 1.0)
    cured = evaluate_scores(make_scores(logits * 4, labels), names, 4.0)
    assert honest["ece"] < 0.015
    assert boast["ece"] > 0.1
    assert cured["ece"] == pytest.approx(honest["ece"], abs=1e-3)


def test_every_clip_lies_in_one_reliability_bin():
    logits, labels = honest_scores(500, 2)
    logits[0] = [1000, 0]  # confidence exactly 1 belongs to the last bin
    bins = reliability_bins(make_scores(logits, labels), 1.0)
    assert sum(b.clips for b in bins) == 500
    for b in bins:
        assert math.isnan(b.confidence) if b.clips == 0 else b.lower <= b.confidence <= b.upper


def test_groups_come_worst_first_with_their_labels():
    scores = make_scores(
        [[2, 0], [2, 0], [0, 2], [0, 2]],
        [0, 0, 0, 1],
        groups=["good", "good", "mixed", "mixed"],
    )
    worst, best = group_results(scores, CLASSES, 1.0)
    assert (worst.group, worst.labels, worst.clips, worst.accuracy) == (
        "mixed",
        ("ads", "games"),
        2,
        0.5,
    )
    assert (best.group, best.labels, best.accuracy) == ("good", ("ads",), 1.0)
    assert best.true_probability == pytest.approx(1 / (1 + math.exp(-2)))


def test_leaving_one_group_out_shows_how_much_hangs_on_it():
    scores = make_scores(
        [[2, 0], [2, 0], [0, 2], [2, 0]], [0, 0, 0, 0], groups=["a", "a", "bad", "c"]
    )
    assert accuracy_without_one_group(scores) == (0.5, 1.0)
    assert accuracy_without_one_group(make_scores([[1, 0]], [0])) is None


def test_most_wrong_starts_with_the_most_confident_mistake():
    scores = make_scores([[1, 0], [5, 0], [0, 9], [2, 0]], [0, 1, 1, 1])
    assert most_wrong(scores, 1.0, count=3).tolist() == [1, 3, 0]


def test_precision_recall_curves_run_from_recall_zero_to_one():
    logits, labels = honest_scores(200, 3)
    curves = precision_recall_curves(make_scores(logits, labels), ["a", "b", "c"], 1.0)
    assert list(curves) == ["a", "b", "c"]
    for index, (recall, precision) in enumerate(curves.values()):
        assert (recall[0], recall[-1]) == (0.0, 1.0)
        assert (np.diff(recall) >= 0).all()
        assert precision.min() == pytest.approx((labels == index).mean(), abs=0.02)


def test_predictions_survive_the_file_bit_for_bit(tmp_path):
    logits, labels = honest_scores(50, 3)
    names = [f'a/odd, "name" \n{index}.mp4' for index in range(49)] + ["b/\udcff.mp4"]
    scores = make_scores(logits, labels, groups=["g, 1"] * 50, recordings=names)
    path = tmp_path / "predictions.csv"
    write_predictions(path, scores, ["ads", "games", "news"], 1.7)
    again, classes = read_predictions(path)
    assert classes == ["ads", "games", "news"]
    assert (again.logits == scores.logits).all()
    assert again.logits.dtype == np.float32
    assert (again.labels == scores.labels).all()
    assert again.recordings == names
    assert again.groups == scores.groups
    assert (again.end_seconds == scores.end_seconds).all()
    assert [entry.name for entry in tmp_path.iterdir()] == ["predictions.csv"]


def test_predictions_hold_calibrated_probabilities(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions(path, make_scores([[3, 0]], [0]), CLASSES, 2.0)
    header, row = path.read_text().splitlines()
    assert header.endswith("logit_ads,logit_games,probability_ads,probability_games")
    assert float(row.split(",")[-2]) == pytest.approx(1 / (1 + math.exp(-1.5)), abs=1e-6)


def test_another_table_is_no_predictions_file(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("recording,label\na.mp4,ads\n")
    with pytest.raises(ValueError, match="no predictions file"):
        read_predictions(path)


def test_scores_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="groups has 1 entries for 2 rows"):
        make_scores([[0, 1], [1, 0]], [0, 1], groups=["one"])
    with pytest.raises(ValueError, match="labels run from 0 to 2"):
        make_scores([[0, 1], [1, 0]], [0, 2])
    with pytest.raises(ValueError, match="1 of 2 clips have logits that are not finite"):
        make_scores([[0, np.nan], [1, 0]], [0, 1])
    with pytest.raises(ValueError, match="no clip to evaluate"):
        evaluate_scores(make_scores(np.zeros((0, 2)), []), CLASSES, 1.0)
    with pytest.raises(ValueError, match="3 columns for 2 classes"):
        evaluate_scores(make_scores([[0, 1, 2]], [0]), CLASSES, 1.0)
