"""Repeats: what is planted in sequences of hashes is found, and nothing else is."""

import numpy as np
import pytest

from utils.repeats import PICTURES, SOUNDS, Run, find_runs

RATE = 4.0


def changing(rng: np.random.Generator, seconds: float, shot_seconds: float = 2.0) -> np.ndarray:
    """Hashes of shots that last so long, each other than the last, moving a little."""
    steps = round(seconds * RATE)
    per_shot = max(1, round(shot_seconds * RATE))
    shots = rng.integers(1, 2**63, steps // per_shot + 1, dtype=np.uint64) << np.uint64(1)
    return noisy(rng, np.repeat(shots, per_shot)[:steps], 0.02)


def noisy(rng: np.random.Generator, hashes: np.ndarray, part: float) -> np.ndarray:
    """The hashes with this part of their bits turned."""
    turned = np.zeros(len(hashes), np.uint64)
    for bit in range(1, 64):
        turned |= (rng.random(len(hashes)) < part).astype(np.uint64) << np.uint64(bit)
    return hashes ^ turned


def planted(rng: np.random.Generator, hashes: np.ndarray, spot: np.ndarray, at: int) -> np.ndarray:
    return np.concatenate([hashes[:at], noisy(rng, spot, 0.06), hashes[at + len(spot) :]])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_spot_in_two_recordings_is_found_where_it_is(rng):
    spot = changing(rng, 20)
    one = planted(rng, changing(rng, 300), spot, 400)
    two = planted(rng, changing(rng, 500), spot, 37)
    (run,) = find_runs([one, changing(rng, 200), two], RATE, PICTURES)
    assert (run.first, run.second) == (0, 2)
    assert run.first_start - run.second_start == 400 - 37
    assert abs(run.first_start - 400) <= 6  # a few steps more or less are alike by chance
    assert abs(run.length - len(spot)) <= 12


def test_unrelated_recordings_share_nothing(rng):
    assert find_runs([changing(rng, 900) for _ in range(20)], RATE, PICTURES) == []
    assert find_runs([changing(rng, 900) for _ in range(20)], RATE, SOUNDS) == []


def test_all_airings_of_a_spot_hang_together(rng):
    spot = changing(rng, 15)
    hashes = [planted(rng, changing(rng, 120), spot, 40 + 3 * k) for k in range(60)]
    together = list(range(60))
    for run in find_runs(hashes, RATE, PICTURES):
        old, new = together[run.second], together[run.first]
        together = [new if name == old else name for name in together]
    assert len(set(together)) == 1


def test_spot_that_airs_twice_in_one_recording_is_found(rng):
    spot = changing(rng, 15)
    hashes = planted(rng, planted(rng, changing(rng, 300), spot, 100), spot, 900)
    (run,) = find_runs([hashes], RATE, PICTURES)
    assert (run.first, run.second) == (0, 0)
    assert run.second_start - run.first_start == 800


def test_content_shorter_than_the_least_is_no_repeat(rng):
    one, two = changing(rng, 300), changing(rng, 300)
    ident = changing(rng, 2, shot_seconds=1)
    assert find_runs([planted(rng, h, ident, 400) for h in (one, two)], RATE, PICTURES) == []
    spot = changing(rng, 4, shot_seconds=1)
    assert len(find_runs([planted(rng, h, spot, 400) for h in (one, two)], RATE, PICTURES)) == 1


def test_picture_that_stands_still_is_no_evidence(rng):
    still = noisy(rng, np.full(60 * 4, rng.integers(1, 2**63, dtype=np.uint64)), 0.03)
    hashes = [planted(rng, changing(rng, 300), still, 400) for _ in range(4)]
    assert find_runs(hashes, RATE, PICTURES) == []


def test_what_shows_nothing_is_no_evidence_and_does_not_break_what_is(rng):
    dark = [np.zeros(2000, np.uint64) for _ in range(3)]
    assert find_runs(dark, RATE, PICTURES) == []
    spot = changing(rng, 20)
    spot[38:41] = 0  # a moment of black between two shots
    hashes = [planted(rng, changing(rng, 300), spot, at) for at in (100, 600)]
    for each, at in zip(hashes, (100, 600), strict=True):
        each[at + 38 : at + 41] = 0
    (run,) = find_runs(hashes, RATE, PICTURES)
    assert run.length >= 70


def test_whole_recording_in_another_encoding_is_one_run(rng):
    hashes = changing(rng, 1800)
    found = find_runs([hashes, noisy(rng, hashes, 0.08)], RATE, PICTURES)
    assert Run(0, 1, 0, 0, len(hashes)) in found


def test_sequences_may_be_empty_or_short(rng):
    nothing = np.zeros(0, np.uint64)
    assert find_runs([], RATE, PICTURES) == []
    assert find_runs([nothing, nothing], RATE, PICTURES) == []
    short = changing(rng, 2)
    assert find_runs([short, nothing, short], RATE, PICTURES) == []


def test_order_of_the_sequences_does_not_matter(rng):
    spot = changing(rng, 20)
    hashes = [planted(rng, changing(rng, 200), spot, at) for at in (10, 300)]
    forth, back = find_runs(hashes, RATE, PICTURES), find_runs(hashes[::-1], RATE, PICTURES)
    assert [(r.first_start, r.second_start, r.length) for r in forth] == [
        (r.second_start, r.first_start, r.length) for r in back
    ]
