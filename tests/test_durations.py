"""Durations: defaults, fitted to labelled recordings, and kept in files."""

import json
import math

import numpy as np
import pytest

from timeline.durations import (
    DEFAULT_DURATIONS,
    OTHER_DURATION,
    Duration,
    DurationsError,
    fit_durations,
    read_durations,
    write_durations,
)
from utils.labels import Span


def recording(seconds: list[tuple[str, float]]) -> tuple[list[Span], float]:
    spans, start = [], 0.0
    for label, length in seconds:
        spans.append(Span(start, start + length, label))
        start += length
    return spans, start


def test_half_of_all_last_longer_than_the_typical():
    one = Duration(minimum_seconds=2.0, typical_seconds=100.0, spread=2.0)
    survival = np.exp(one.log_survival(np.array([0.0, 2.0, 50.0, 100.0, 200.0])))
    assert survival == pytest.approx([1.0, 1.0, 0.841, 0.5, 0.159], abs=1e-3)


def test_a_class_nobody_measured_may_last_any_time():
    assert DEFAULT_DURATIONS.of("studio") == OTHER_DURATION


def test_many_recordings_are_believed():
    rng = np.random.default_rng(0)
    labelled = [
        recording(
            [("games", 60)]
            + [
                (label, float(np.exp(rng.normal(np.log(typical), np.log(1.3)))))
                for label, typical in [("ads", 200), ("games", 1200)] * 4
            ]
            + [("ads", 30)]
        )
        for _ in range(50)
    ]
    fitted = fit_durations(labelled)
    assert fitted.of("ads").typical_seconds == pytest.approx(200, rel=0.1)
    assert fitted.of("games").typical_seconds == pytest.approx(1200, rel=0.15)
    assert fitted.of("ads").spread < 1.6
    assert fitted.of("ads").minimum_seconds == DEFAULT_DURATIONS.of("ads").minimum_seconds


def test_one_recording_moves_the_defaults_a_little():
    default = DEFAULT_DURATIONS.of("ads").typical_seconds
    fitted = fit_durations([recording([("games", 300), ("ads", 3 * default), ("games", 300)])])
    assert default < fitted.of("ads").typical_seconds < 1.3 * default


def test_a_stretch_cut_by_the_end_lasted_at_least_as_long():
    """Short pieces of games at both ends must not make games short."""
    labelled = [recording([("games", 30), ("ads", 60), ("games", 30)])] * 20
    fitted = fit_durations(labelled).of("games").typical_seconds
    whole = fit_durations([recording([("ads", 9), ("games", 30), ("ads", 9)])] * 40)
    assert fitted > 0.9 * DEFAULT_DURATIONS.of("games").typical_seconds
    assert whole.of("games").typical_seconds < 80


def test_labels_up_to_the_end_of_the_recording_are_used():
    fitted = fit_durations([([Span(0.0, math.inf, "games")], 20_000.0)] * 5)
    assert fitted.of("games").typical_seconds > DEFAULT_DURATIONS.of("games").typical_seconds


def test_a_gap_between_labels_cuts_what_is_beside_it():
    apart = [Span(0, 100, "games"), Span(150, 180, "ads"), Span(300, 400, "games")]
    touching = [Span(0, 150, "games"), Span(150, 180, "ads"), Span(180, 400, "games")]
    cut, whole = (
        fit_durations([(spans, 400.0)] * 20).of("ads").typical_seconds
        for spans in (apart, touching)
    )
    assert whole < 50 < cut


def test_short_breaks_lower_the_minimum():
    fitted = fit_durations([recording([("games", 100), ("ads", 5), ("games", 100)])])
    assert fitted.of("ads").minimum_seconds == pytest.approx(4.5)


def test_durations_come_back_from_their_file(tmp_path):
    fitted = fit_durations([recording([("games", 99), ("studio", 50), ("ads", 44), ("games", 9)])])
    write_durations(tmp_path / "durations.json", fitted)
    assert read_durations(tmp_path / "durations.json") == fitted


def test_classes_that_a_file_lacks_keep_their_defaults(tmp_path):
    row = {"minimum_seconds": 10, "typical_seconds": 120, "spread": 2}
    path = tmp_path / "durations.json"
    path.write_text(json.dumps({"durations": {"ads": row}}))
    read = read_durations(path)
    assert read.of("ads") == Duration(10, 120, 2)
    assert read.of("games") == DEFAULT_DURATIONS.of("games")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("{", "is not JSON"),
        ("[1]", 'is not {"durations"'),
        ('{"durations": {"ads": {"typical_seconds": 9}}}', "ads needs minimum_seconds, typical"),
        ('{"durations": {"ads": 9}}', "ads needs minimum_seconds, typical"),
        (
            '{"durations": {"ads": {"minimum_seconds": 90, "typical_seconds": 9, "spread": 2}}}',
            "give 2 <= minimum < typical",
        ),
        (
            '{"durations": {"ads": {"minimum_seconds": 9, "typical_seconds": 90, "spread": 0.5}}}',
            "give a factor",
        ),
        (
            '{"durations": {"ads": {"minimum_seconds": "9", "typical_seconds": 90, "spread": 2}}}',
            "give a number",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_line(tmp_path, text, message):
    path = tmp_path / "durations.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DurationsError) as caught:
        read_durations(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
