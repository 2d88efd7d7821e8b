"""Pauses and changes of sound are measured at the moment where they are."""

import numpy as np
import pytest

from tests import media
from timeline.sound_changes import MAX_PAUSE_DECIBELS, SAMPLE_RATE, SoundChanges

START = 50.0


def changes_of(*parts):
    return SoundChanges(np.concatenate(parts).astype(np.float32), START)


def noise(seconds, level=0.1, seed=0):
    rng = np.random.default_rng(seed)
    return level * rng.normal(size=round(seconds * SAMPLE_RATE)).astype(np.float32)


def test_a_pause_is_as_deep_as_both_sides_are_loud():
    changes = changes_of(noise(2), np.zeros(SAMPLE_RATE // 5, np.float32), noise(2))
    assert changes.around(52.0, 52.2)[0] == MAX_PAUSE_DECIBELS
    assert changes.around(52.0, 52.0)[0] == MAX_PAUSE_DECIBELS  # seen from its beginning too
    assert changes.around(51.0, 51.0)[0] < 3
    # Where the sound only ends there is no pause: one side is as silent.
    assert changes_of(noise(2), np.zeros(2 * SAMPLE_RATE)).around(52.0, 52.0)[0] < 3


def test_a_change_of_level_is_in_decibels():
    changes = changes_of(noise(2), noise(2, 0.1 * 10 ** (8 / 20), seed=1))
    assert changes.around(52.0, 52.0)[1] == pytest.approx(8, abs=0.7)
    assert changes.around(50.6, 50.6)[1] < 1.5


def test_a_change_of_timbre_at_the_same_level_is_one_too():
    low, high = (media.tone(hertz, 2, SAMPLE_RATE) for hertz in (300, 3000))
    assert changes_of(low, high).around(52.0, 52.0)[1] > 10


@pytest.mark.parametrize("seconds", [0, 0.01, 0.2, 1])
def test_short_sound_and_moments_outside_it_say_nothing(seconds):
    changes = changes_of(noise(seconds))
    for moment in (START - 5, START, START + seconds, START + 5):
        pause, change = changes.around(moment, moment + 0.1)
        assert 0 <= pause <= MAX_PAUSE_DECIBELS
        assert np.isfinite(change)
