"""Semi-Markov chain: held against the sum and the maximum over every row of segments there is."""

from collections.abc import Iterator
from itertools import combinations, pairwise, product

import numpy as np
import pytest

from timeline.semi_markov import Chain, best_segments, state_probabilities

TABLE_STEPS = 4


def make_chain(rng: np.random.Generator, states: int) -> Chain:
    """Lengths of 2 or 3 steps at least, from a table or beyond it."""
    lasting = rng.random((TABLE_STEPS, states))
    lasting[0] = 0
    lasting[1, 0] = 0
    longer = rng.random(states)
    total = lasting.sum(axis=0) + longer
    following = rng.random((states, states)) * (1 - np.eye(states))
    with np.errstate(divide="ignore"):
        return Chain(
            np.log(lasting / total),
            np.log(longer / total),
            np.log(rng.uniform(0.3, 0.8, states)),
            np.log(following / following.sum(axis=1, keepdims=True)),
        )


def rows_of_segments(steps: int, states: int) -> Iterator[list[tuple[int, int, int]]]:
    """All ways to cut so many steps into segments, neighbours in different states."""
    for count in range(steps):
        for cuts in combinations(range(1, steps), count):
            spans = list(pairwise([0, *cuts, steps]))
            for labels in product(range(states), repeat=len(spans)):
                if all(a != b for a, b in pairwise(labels)):
                    yield [(a, b, s) for (a, b), s in zip(spans, labels, strict=True)]


class Chances:
    """What a chain says of a row of segments before any evidence."""

    def __init__(self, chain: Chain):
        staying = np.exp(chain.log_staying)
        beyond = np.arange(300)[:, None]
        tail = np.exp(chain.log_longer) * (1 - staying) * staying**beyond
        self.exactly = np.concatenate([np.exp(chain.log_lasting), tail])  # row 0: one step
        self.at_least = self.exactly[::-1].cumsum(axis=0)[::-1]
        self.met = self.at_least / self.at_least.sum(axis=0)  # goes on for so many steps
        self.following = np.exp(chain.log_following)

    def of(self, row: list[tuple[int, int, int]]) -> float:
        (_, first_end, first), (last_start, last_end, last) = row[0], row[-1]
        if len(row) == 1:
            return self.met[last_end - 1 :, first].sum()
        chance = self.met[first_end - 1, first] * self.at_least[last_end - last_start - 1, last]
        for start, end, state in row[1:-1]:
            chance *= self.exactly[end - start - 1, state]
        for (_, _, before), (_, _, after) in pairwise(row):
            chance *= self.following[before, after]
        return chance


@pytest.mark.parametrize(("steps", "states"), [(1, 2), (2, 2), (3, 3), (7, 3), (10, 2)])
def test_probabilities_are_sums_over_all_rows_of_segments(steps, states):
    rng = np.random.default_rng(steps)
    chain = make_chain(rng, states)
    evidence = rng.normal(size=(steps, states))
    chances = Chances(chain)
    expected = np.zeros((steps, states))
    for row in rows_of_segments(steps, states):
        fit = sum(evidence[start:end, state].sum() for start, end, state in row)
        weight = chances.of(row) * np.exp(fit)
        for start, end, state in row:
            expected[start:end, state] += weight
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(state_probabilities(evidence, chain), expected, atol=1e-9)


def test_a_single_state_is_certain():
    chain = Chain(
        np.log(np.full((3, 1), 0.25)), np.log([0.25]), np.log([0.5]), np.full((1, 1), -np.inf)
    )
    evidence = np.random.default_rng(0).normal(size=(20, 1))
    np.testing.assert_allclose(state_probabilities(evidence, chain), 1.0)
    assert best_segments(evidence, [4]) == [(0, 20, 0)]


def test_strong_evidence_does_not_overflow():
    rng = np.random.default_rng(0)
    evidence = 40 * rng.normal(size=(3000, 3))
    found = state_probabilities(evidence, make_chain(rng, 3))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=1), 1.0)


def test_probabilities_of_no_evidence_are_the_same_from_both_ends():
    chain = make_chain(np.random.default_rng(1), 2)
    found = state_probabilities(np.zeros((400, 2)), chain)
    share = np.exp(chain.log_mean()) / np.exp(chain.log_mean()).sum()
    np.testing.assert_allclose(found[200], share, atol=1e-6)  # time in each state, far from ends
    np.testing.assert_allclose(found[0], 0.5, atol=1e-9)


def test_best_segments_have_the_largest_gain_of_all_that_are_long_enough():
    rng = np.random.default_rng(0)
    for _ in range(60):
        steps, states = int(rng.integers(1, 9)), int(rng.integers(2, 4))
        shortest = [int(length) for length in rng.integers(1, 5, states)]
        gains = rng.normal(size=(steps, states))
        allowed = (
            row
            for row in rows_of_segments(steps, states)
            if all(end - start >= shortest[state] for start, end, state in row[1:-1])
        )
        expected = max(allowed, key=lambda row: sum(gains[a:b, state].sum() for a, b, state in row))
        assert best_segments(gains, shortest) == expected
