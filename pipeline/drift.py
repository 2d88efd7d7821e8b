"""Drift: how far new recordings are from those of the last run, in classes and in embeddings."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

WARN_PART = 0.5  # of a limit, from which on it is worth a warning
LEAST_STD = 1e-6  # below it a dimension says nothing


@dataclass(frozen=True)
class Profile:
    """Mean and deviation of the vectors that a model makes of clips, each (D,) as lists."""

    model: str
    clips: int
    mean: list[float]
    std: list[float]


def class_drift(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Total variation distance of two class distributions, [0, 1]: the part of the time that would
    have to change its class. The values are hours, or any other amounts.
    """
    totals = sum(before.values()), sum(after.values())
    if not all(totals):
        return float(any(totals))
    classes = before.keys() | after.keys()
    shares = (before.get(c, 0) / totals[0] - after.get(c, 0) / totals[1] for c in classes)
    return sum(map(abs, shares)) / 2


def make_profile(model: str, vectors: Iterable[np.ndarray]) -> Profile:
    """Of one vector (D,) or more, one at a time: an archive has more than memory holds."""
    count, total, squares = 0, 0.0, 0.0
    for vector in vectors:
        values = np.asarray(vector, np.float64)
        count, total, squares = count + 1, total + values, squares + values**2
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return Profile(model, count, mean.round(8).tolist(), std.round(8).tolist())


def embedding_drift(before: Profile, after: Profile) -> float:
    """Root mean square, over the dimensions that vary, of how far the mean has moved, in standard
    deviations from before. Another evening of the same channel comes to less than 1.
    """
    mean, std = np.array(before.mean), np.array(before.std)
    varies = std > LEAST_STD
    if not varies.any():
        return 0.0
    moved = (np.array(after.mean) - mean)[varies] / std[varies]
    return float(np.sqrt(np.mean(moved**2)))
