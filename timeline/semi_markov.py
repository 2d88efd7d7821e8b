"""Semi-Markov chain: segments with durations of their own, read out of evidence over time.

A recording is a row of segments. Each is in a state, lasts as long as segments in that state do,
and one in another state follows. Time goes in equal steps; a boundary lies between two.

    steps         0   1   2   3   4   5   6
    boundaries  0---1---2---3---4---5---6---7
    segments    |---- a ----|------ b ------|     [0, 3) is in a, [3, 7) in b

Both ends of a recording cut a segment, which is then as long as it happens to be there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Chain:
    """How long segments last and what follows on what, as logarithms of probabilities.

    A segment longer than the table goes on with the same chance at each step, which costs decoding
    nothing however long it lasts.
    """

    log_lasting: np.ndarray  # (D, S) of lasting exactly 1, 2, .. D steps; -inf below a minimum
    log_longer: np.ndarray  # (S,) of lasting longer than D steps
    log_staying: np.ndarray  # (S,) of one more step for a segment that is longer than D, below 0
    log_following: np.ndarray  # (S, S) from state to state; -inf on the diagonal

    def log_exact(self, steps: int) -> np.ndarray:
        """(steps, S): of lasting exactly 1, 2, .. `steps` steps."""
        table = self.log_lasting[:steps]
        beyond = np.arange(steps - len(table))[:, None]
        tail = self.log_longer + np.log(-np.expm1(self.log_staying)) + beyond * self.log_staying
        return np.concatenate([table, tail])

    def log_at_least(self, steps: int) -> np.ndarray:
        """(steps, S): of lasting at least 1, 2, .. `steps` steps."""
        rows = np.concatenate([self.log_lasting, self.log_longer[None]])  # the last: D + 1 or more
        table = np.logaddexp.accumulate(rows[::-1])[::-1][:steps]
        beyond = 1 + np.arange(steps - len(table))[:, None]
        return np.concatenate([table, self.log_longer + beyond * self.log_staying])

    def log_mean(self) -> np.ndarray:
        """(S,): of the mean length in steps."""
        table = np.logaddexp.reduce(self.log_at_least(len(self.log_lasting)))
        return np.logaddexp(table, self.log_longer - np.log(-np.expm1(self.log_staying)))

    def reversed(self) -> "Chain":
        """The chain as it is when time runs backwards."""
        following = self.log_following.T
        return Chain(self.log_lasting, self.log_longer, self.log_staying, following)


def state_probabilities(evidence: np.ndarray, chain: Chain) -> np.ndarray:
    """(T, S) float64: how probable each state is at each step, given all of the recording.

    `evidence` (T, S) is the logarithm of how well each state explains a step. The sum goes over all
    rows of segments (forward-backward, Yu 2010, Artificial Intelligence 174).
    """
    steps = len(evidence)
    sums = _running_sums(evidence)
    at_least = chain.log_at_least(steps)  # of a last segment, or a first one seen from its end
    first = at_least - chain.log_mean()  # met at any moment of it, it goes on for 1, 2, .. steps
    ended, begun = _forward(sums, chain, first)
    opened, closed = _forward(_running_sums(evidence[::-1]), chain.reversed(), at_least)
    opened, closed = opened[::-1], closed[::-1]  # of [t, T): begins with the state, or follows it
    whole = np.log(-np.expm1(np.minimum(np.logaddexp.reduce(first[: steps - 1]), -1e-12)))
    ways = np.concatenate(
        [first[: steps - 1] + sums[1:steps] + closed[1:steps], (whole + sums[-1])[None]]
    )
    starting = np.logaddexp.reduce(ways)  # (S,)
    total = np.logaddexp.reduce(starting)
    inside = slice(1, steps)
    begins = np.exp(begun[inside] + opened[inside] - total)
    ends = np.exp(ended[inside] + closed[inside] - total)
    changes = np.concatenate([np.exp(starting - total)[None], begins - ends])
    found = changes.cumsum(axis=0).clip(0, 1)
    return found / found.sum(axis=1, keepdims=True)


def best_segments(gains: np.ndarray, shortest: Sequence[int]) -> list[tuple[int, int, int]]:
    """(start, end, state) of the segments with the largest sum of gains, covering all steps.

    `gains` (T, S) is what a step is worth in each state. An inner segment lasts at least as many
    steps as `shortest` says of its state; the ends of the recording may cut one shorter. Sums of
    `state_probabilities` make it the labels with the fewest wrong steps to be expected.
    """
    steps, states = gains.shape
    sums = _running_sums(gains)
    if states == 1:
        return [(0, steps, 0)]
    ended, before = _best_ends(sums, shortest)
    segments, end = [], steps
    state = int((sums[-1] + before[:steps].max(axis=0)).argmax())
    least = 1  # the last segment is as short as it comes
    while end > 0:
        start = max(0, end - least + 1)
        start = int(before[:start, state].argmax()) if start else 0
        # The first segment, too, may be shorter than its state's shortest.
        if before[start, state] < before[0, state]:
            start = 0
        segments.append((start, end, state))
        end = start
        state = int(np.delete(np.arange(states), state)[np.delete(ended[end], state).argmax()])
        least = shortest[state]
    return segments[::-1]


def _best_ends(sums: np.ndarray, shortest: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(T + 1, S) twice: the best gain up to a boundary where a segment in a state ends; and where
    one begins, less the gains so far, which a later sum completes."""
    steps, states = len(sums) - 1, sums.shape[1]
    ended = np.full((steps + 1, states), -np.inf)
    before = np.full((steps + 1, states), -np.inf)
    before[0] = 0.0
    best = np.zeros(states)  # of before: all beginnings a segment ending here may have
    block = min(shortest)
    others = ~np.eye(states, dtype=bool)
    for start in range(1, steps + 1, block):
        stop = min(start + block, steps + 1)
        for state, least in enumerate(shortest):
            rows = np.arange(start, stop) - least
            new = np.where(rows > 0, before[rows.clip(0), state], 0.0)
            reach = np.maximum(np.maximum.accumulate(new), best[state])
            best[state] = reach[-1]
            ended[start:stop, state] = sums[start:stop, state] + reach
        for state in range(states):
            begun = ended[start:stop][:, others[state]].max(axis=1)
            before[start:stop, state] = begun - sums[start:stop, state]
    return ended, before


def _running_sums(evidence: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((1, evidence.shape[1])), evidence.cumsum(axis=0)])


def _forward(
    sums: np.ndarray, chain: Chain, log_first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(T + 1, S) twice: of all evidence up to a boundary, and that a segment in the state ends
    there, or one begins.

    An inner segment has a shortest length, so as many boundaries in a row depend on earlier ones
    alone and are done at once.
    """
    steps, states = len(sums) - 1, sums.shape[1]
    depth = len(chain.log_lasting)
    block = int(np.isfinite(chain.log_lasting).any(axis=1).argmax()) + 1
    lengths = chain.log_lasting[block - 1 :][::-1]  # from D down to the shortest
    log_leaving = chain.log_longer + np.log(-np.expm1(chain.log_staying))
    ended = np.full((steps + 1, states), -np.inf)
    begun = np.full((steps + 1, states), -np.inf)
    # `begun` less the evidence up to there, which a later sum completes; boundary b in row
    # depth + 1 + b, so that there are rows before the start.
    open_ = np.full((depth + 1 + steps + 1, states), -np.inf)
    long_open = np.full((1, states), -np.inf)  # those open for more than D steps
    for start in range(1, steps + 1, block):
        stop = min(start + block, steps + 1)
        window = open_[start + 1 : stop + len(lengths)]
        entering = open_[start:stop]  # D + 1 steps before each boundary
        long_open = _decayed(long_open, entering, chain.log_staying)
        found = np.logaddexp(_sum_over(window, lengths), long_open + log_leaving)
        found = np.logaddexp(found, log_first[start - 1 : stop - 1])
        ended[start:stop] = sums[start:stop] + found
        begun[start:stop] = np.logaddexp.reduce(
            ended[start:stop, :, None] + chain.log_following, axis=1
        )
        open_[depth + 1 + start : depth + 1 + stop] = begun[start:stop] - sums[start:stop]
    return ended, begun


def _decayed(before: np.ndarray, entering: np.ndarray, log_staying: np.ndarray) -> np.ndarray:
    """(n, S): what is left at n boundaries of those that enter at each, and of those before."""
    gone = np.arange(len(entering) + 1)[:, None] * log_staying
    rows = np.concatenate([before[-1:], entering]) - gone
    return (np.logaddexp.accumulate(rows) + gone)[1:]


def _sum_over(window: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(n, S): sums over L lengths that end at each of n boundaries, from (n + L - 1, S) and (L, S).

    A convolution of exponentials: what lies too far below the largest for them is nothing in the
    sum either.
    """
    peak = window.max(axis=0)
    peak = np.where(np.isfinite(peak), peak, 0.0)
    weights, factors = np.exp(window - peak), np.exp(lengths)
    sums = [np.correlate(weights[:, s], factors[:, s], "valid") for s in range(len(peak))]
    with np.errstate(divide="ignore"):
        return np.log(np.stack(sums, axis=1)) + peak
