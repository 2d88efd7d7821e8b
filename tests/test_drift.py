"""Drift is nothing for the same recordings and large for others, whatever their number."""

import numpy as np
import pytest

from pipeline.drift import class_drift, embedding_drift, make_profile


def test_same_mixture_is_no_drift_however_much_there_is():
    assert class_drift({"ads": 1, "games": 3}, {"ads": 10, "games": 30}) == pytest.approx(0)


def test_class_drift_is_the_part_that_changed_its_class():
    assert class_drift({"ads": 1, "games": 1}, {"ads": 3, "games": 1}) == pytest.approx(0.25)
    assert class_drift({"ads": 1}, {"games": 1}) == 1
    assert class_drift({"ads": 1, "games": 1}, {"ads": 1, "news": 1}) == pytest.approx(0.5)
    assert class_drift({}, {"ads": 1}) == 1


def test_profile_is_mean_and_deviation_of_the_vectors():
    vectors = np.random.default_rng(0).normal(3, 2, (500, 8)).astype(np.float32)
    profile = make_profile("m", iter(vectors))
    assert profile.clips == 500
    assert profile.mean == pytest.approx(vectors.mean(axis=0), abs=1e-5)
    assert profile.std == pytest.approx(vectors.std(axis=0), abs=1e-5)


def test_more_of_the_same_is_no_drift():
    rng = np.random.default_rng(1)
    before, after = (make_profile("m", rng.normal(0, 1, (400, 64))) for _ in range(2))
    assert embedding_drift(before, after) < 0.1


def test_embedding_drift_is_in_deviations_and_free_of_scale():
    vectors = np.random.default_rng(2).normal(0, 1, (1000, 16))
    before = make_profile("m", vectors)
    assert embedding_drift(before, make_profile("m", vectors + 2)) == pytest.approx(2, rel=0.1)
    scaled = make_profile("m", 9 * vectors), make_profile("m", 9 * (vectors + 2))
    assert embedding_drift(*scaled) == pytest.approx(2, rel=0.1)


def test_dimensions_that_never_vary_say_nothing():
    vectors = np.random.default_rng(3).normal(0, 1, (100, 4))
    vectors[:, 0] = 1.0
    moved = vectors.copy()
    moved[:, 0] = 5.0
    assert embedding_drift(make_profile("m", vectors), make_profile("m", moved)) < 1e-6
