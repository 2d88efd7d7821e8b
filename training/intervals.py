"""Intervals: how far a metric may be off, by drawing whole groups anew."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluation import (
    RELIABILITY_BINS,
    ClipScores,
    confidence_bins,
    judged_classes,
    margins,
    true_log_probability,
)

DRAWS = 1000
LEVEL = 0.95
INTERVAL_METRICS = ("accuracy", "balanced_accuracy", "auc", "nll", "ece")
NONE_SEEN = 1 - LEVEL  # chance with which the upper end of "never seen" would still be too low

Interval = tuple[float, float]


@dataclass(frozen=True)
class GroupDraws:
    """DRAWS bootstrap samples of groups: how often each group is in each, (DRAWS, G).

    Groups and not clips are drawn, since the clips of one source resemble each other: an interval
    over clips would be several times too narrow. They are drawn within their class, so that no
    sample lacks one.
    """

    groups: tuple[str, ...]
    counts: np.ndarray  # (DRAWS, G) float64
    is_telling: bool  # False where a class has a single group, which says nothing about spread

    @classmethod
    def of(cls, scores: ClipScores, seed: int = 0) -> "GroupDraws":
        labels_of: dict[str, set[int]] = {}
        for group, label in zip(scores.groups, scores.labels.tolist(), strict=True):
            labels_of.setdefault(group, set()).add(label)
        groups = tuple(sorted(labels_of))
        strata: dict[tuple[int, ...], list[int]] = {}
        for index, group in enumerate(groups):
            strata.setdefault(tuple(sorted(labels_of[group])), []).append(index)
        rng = np.random.default_rng(seed)
        counts = np.zeros((DRAWS, len(groups)))
        for members in strata.values():
            counts[:, members] = rng.multinomial(
                len(members), np.full(len(members), 1 / len(members)), DRAWS
            )
        return cls(groups, counts, bool(strata) and min(map(len, strata.values())) > 1)

    def places(self, scores: ClipScores) -> np.ndarray:
        """(N,) index of each clip's group."""
        place = {group: index for index, group in enumerate(self.groups)}
        return np.array([place[group] for group in scores.groups], np.int64)

    def sums(self, scores: ClipScores, values: np.ndarray) -> np.ndarray:
        """(DRAWS, ...) sums of values (N, ...) over the clips of each sample."""
        totals = np.zeros((len(self.groups), *values.shape[1:]))
        np.add.at(totals, self.places(scores), values)
        return np.tensordot(self.counts, totals, 1)

    def interval(self, draws: np.ndarray) -> Interval | None:
        """The middle LEVEL of (DRAWS,) numbers; None where groups are too few to say."""
        if not self.is_telling or not np.isfinite(draws).any():
            return None
        tail = 100 * (1 - LEVEL) / 2
        low, high = np.nanpercentile(draws, [tail, 100 - tail])
        return float(low), float(high)


def metric_intervals(
    scores: ClipScores, classes: Sequence[str], temperature: float
) -> dict[str, float | None]:
    """{metric_low, metric_high} of INTERVAL_METRICS, as flat keys; None where none can be given."""
    draws = GroupDraws.of(scores)
    drawn = metric_draws(draws, scores, classes, temperature)
    found = {}
    for name, values in drawn.items():
        found[f"{name}_low"], found[f"{name}_high"] = draws.interval(values) or (None, None)
    return found


def metric_draws(
    draws: GroupDraws, scores: ClipScores, classes: Sequence[str], temperature: float
) -> dict[str, np.ndarray]:
    """{metric: (DRAWS,)} of INTERVAL_METRICS, defined as `evaluate_scores` defines them."""
    said = scores.logits.argmax(axis=1)
    truth = np.eye(len(classes))[scores.labels]
    hits = draws.sums(scores, truth * (said == scores.labels)[:, None])  # (DRAWS, C)
    present = draws.sums(scores, truth)
    count = present.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recalls = hits / present
    confidence, place = confidence_bins(scores, temperature)
    gaps = confidence - (said == scores.labels)
    binned = draws.sums(scores, gaps[:, None] * np.eye(RELIABILITY_BINS)[place])
    return {
        "accuracy": hits.sum(axis=1) / count,
        "balanced_accuracy": np.nanmean(recalls, axis=1),
        "auc": _auc_draws(draws, scores, classes, temperature),
        "nll": -draws.sums(scores, true_log_probability(scores, temperature)) / count,
        "ece": np.abs(binned).sum(axis=1) / count,
    }


def rate_interval(
    draws: GroupDraws, scores: ClipScores, events: np.ndarray, whole: np.ndarray
) -> Interval | None:
    """Interval of sum(events) / sum(whole), both (N,) with events <= whole.

    Where no group has an event, resampling would claim (0, 0). Then the upper end is the share of
    groups that may still have one: 0.95 of the time, G groups without show less than
    1 - 0.05 ** (1 / G) (the "rule of three", exact).
    """
    if not events.any():
        groups = len(set(draws.places(scores)[whole > 0].tolist()))
        return (0.0, 1 - NONE_SEEN ** (1 / groups)) if groups else None
    with np.errstate(invalid="ignore", divide="ignore"):
        return draws.interval(draws.sums(scores, events) / draws.sums(scores, whole))


def _auc_draws(
    draws: GroupDraws, scores: ClipScores, classes: Sequence[str], temperature: float
) -> np.ndarray:
    """(DRAWS,) weighted AUC, the mean over the judged classes; nan where it is undefined."""
    if len(np.unique(scores.labels)) < 2:
        return np.full(DRAWS, np.nan)
    found = []
    place = draws.places(scores)
    for index in judged_classes(classes):
        truth = scores.labels == index
        if not truth.any():
            continue
        margin = margins(scores.logits, temperature)[:, index]
        order = np.argsort(margin, kind="stable")
        starts = np.flatnonzero(np.diff(margin[order], prepend=-np.inf))  # of equal margins
        weights_of = (draws.counts[draw, place[order]] for draw in range(DRAWS))
        found.append([_auc(weights, truth[order], starts) for weights in weights_of])
    return np.mean(found, axis=0)


def _auc(weights: np.ndarray, truth: np.ndarray, starts: np.ndarray) -> float:
    """Share of (true, false) pairs in the right order, ties counting half; sorted by margin."""
    true = np.add.reduceat(weights * truth, starts)
    false = np.add.reduceat(weights * ~truth, starts)
    pairs = true.sum() * false.sum()
    below = np.cumsum(false) - false / 2
    return float((true * below).sum() / pairs) if pairs else float("nan")
