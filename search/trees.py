"""Trees: ANNOY over unit vectors, set so that it finds nearly all true neighbours."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

TARGET_RECALL = 0.99  # part of the true neighbours that must be among those found
RECALL_AT = 10  # neighbours
PROJECTED = 128  # dimensions in which trees are grown; candidates are compared in all of them
CANDIDATES = 10  # of the trees for each wanted neighbour
TREE_COUNTS = (16, 32, 64, 128)
NODES = (
    500,
    1000,
    2000,
    3000,
    4000,
    6000,
    8000,
    12000,
    16000,
    32000,
)  # search_k: looked at, in all trees together
SAMPLE = 200  # vectors that the settings are chosen on, and as many others that judge them
MIN_VECTORS = 1000  # fewer are compared one by one sooner
BLOCK = 4096  # vectors projected at a time
MOST_PRODUCTS = 1 << 25  # in memory at once
MOST_SAMPLED = 20_000  # vectors that the directions are taken from
ROUNDING = 1e-5
SEED = 1


@dataclass(frozen=True)
class TreeSettings:
    """How trees are searched, and the recall at RECALL_AT that was measured of that."""

    trees: int
    nodes: int
    recall: float
    projected: int  # dimensions


class Trees:
    """Finds rows of (N, D) unit vectors near others, in far less time than comparing them all.

    ANNOY's own defaults lose 20 to 60 % of the neighbours, so both of its numbers are always given.
    It splits space by planes, and comparing vectors is most of what a search costs: the trees are
    grown in the directions that hold most of the vectors' length, and what they find is compared
    again in full. One process grows the same trees from the same vectors each time.
    """

    def __init__(self, settings: TreeSettings, projection: np.ndarray | None, index: object):
        self.settings = settings
        self.projection = projection  # (D, projected) float32, None where that would be all
        self._index = index

    @classmethod
    def grow(cls, vectors: np.ndarray, target: float = TARGET_RECALL) -> "Trees | None":
        """The fewest trees and nodes that reach the target; None where none do.

        Raises ImportError without ANNOY.
        """
        import annoy

        if len(vectors) < MIN_VECTORS:
            return None
        sample = np.random.default_rng(SEED).permutation(len(vectors))[: 2 * SAMPLE]
        limits = _farthest_neighbours(vectors, sample)
        choosing, judging = (slice(0, SAMPLE), slice(SAMPLE, None))
        size = min(PROJECTED, vectors.shape[1])
        projection = _principal_directions(vectors, size) if size < vectors.shape[1] else None
        for count in TREE_COUNTS:
            index = annoy.AnnoyIndex(size, "angular")
            index.set_seed(SEED)
            for start in range(0, len(vectors), BLOCK):
                for row, vector in enumerate(_project(vectors[start : start + BLOCK], projection)):
                    index.add_item(start + row, vector)
            index.build(count, n_jobs=1)  # more at once would grow others each time
            for nodes in NODES:
                trees = cls(TreeSettings(count, nodes, 0.0, size), projection, index)
                recalls = (
                    trees._recall(vectors, sample[part], limits[part])
                    for part in (choosing, judging)
                )
                # Judged on vectors that had no part in the choice, or it would flatter.
                if next(recalls) >= target and (recall := next(recalls)) >= target:
                    settings = TreeSettings(count, nodes, recall, size)
                    return cls(settings, projection, index)
        return None

    @classmethod
    def load(cls, path: Path, settings: TreeSettings, projection: np.ndarray | None) -> "Trees":
        """What `save` wrote, read as it is needed. Raises ImportError without ANNOY."""
        import annoy

        index = annoy.AnnoyIndex(settings.projected, "angular")
        index.load(str(path))
        return cls(settings, projection, index)

    def save(self, path: Path) -> None:
        self._index.save(str(path))

    def nearest(self, vectors: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
        """Rows of the `k` nearest, the nearest first; fewer where the trees lead to fewer."""
        nodes = self.settings.nodes * max(1, round(k / RECALL_AT))
        projected = _project(query, self.projection)
        found = self._index.get_nns_by_vector(projected, CANDIDATES * k, nodes)
        rows = np.array(found, np.int64)
        return rows[np.argsort(-(vectors[rows] @ query), kind="stable")[:k]]

    def _recall(self, vectors: np.ndarray, rows: np.ndarray, limits: np.ndarray) -> float:
        """Part of the nearest of these rows that is found, themselves apart.

        By how near they are, not by which they are: of the same spot ten times any will do.
        """
        found = 0
        for row, limit in zip(rows, limits, strict=True):
            near = self.nearest(vectors, vectors[row], RECALL_AT + 1)
            near = near[near != row][:RECALL_AT]
            found += (vectors[near] @ vectors[row] >= limit - ROUNDING).sum()
        return float(found) / (RECALL_AT * len(rows))


def _project(vectors: np.ndarray, projection: np.ndarray | None) -> np.ndarray:
    return vectors if projection is None else vectors @ projection


def _farthest_neighbours(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(n,) float32: how similar the RECALL_AT-th neighbour of each of these rows is."""
    limits = []
    for some in np.array_split(rows, max(1, len(rows) * len(vectors) // MOST_PRODUCTS)):
        similarity = vectors @ vectors[some].T  # (N, n)
        similarity[some, np.arange(len(some))] = -np.inf
        limits.append(np.partition(similarity, -RECALL_AT, axis=0)[-RECALL_AT])
    return np.concatenate(limits)


def _principal_directions(vectors: np.ndarray, count: int) -> np.ndarray:
    """(D, count) float32 orthonormal: in them a sample of the vectors keeps most of its length."""
    step = max(1, len(vectors) // MOST_SAMPLED)
    sample = vectors[::step]
    _, directions = np.linalg.eigh(sample.T @ sample)  # the longest last
    return np.ascontiguousarray(directions[:, : -count - 1 : -1], np.float32)
