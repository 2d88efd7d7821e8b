"""Search: how many true neighbours ANNOY finds, how fast, and how long an answer takes.

    python -m benchmarks.search             100,000 vectors of 1280 dimensions
    python -m benchmarks.search --quick     20,000 of them

The vectors are made: clips of so many scenes, each a point of few dimensions, brought into 1280 by
a random layer behind a ReLU, as a network's are. Questions are such vectors that are not stored.
`query_seconds` is one run of search_clips.py, from its start to the answer, for ten seconds of a
made video, asking a store with so many clips; `exact_ms` and ANNOY run on one thread.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.figures import write_figures
from search.clip_store import EmbeddedClip, clip_id, open_clip_store
from search.vector_index import Hit, VectorIndex

ROOT = Path(__file__).resolve().parent.parent
DIMENSIONS, SCENES, SCENE_DIMENSIONS = 1280, 50, 48
QUESTIONS, EXACT_QUESTIONS = 500, 20
BLOCK = 4096
K = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="20,000 vectors")
    parser.add_argument("--checkpoint", type=Path, help="for query_seconds [left out without]")
    options = parser.parse_args()
    count = 20_000 if options.quick else 100_000
    rng = np.random.default_rng(0)
    layer = make_layer(rng)
    vectors = make_vectors(count, layer, rng)
    questions = make_vectors(QUESTIONS, layer, rng)
    with threadpool_limits(1):
        figures = measure_index(vectors, questions)
    if options.checkpoint:
        figures |= measure_query(vectors, options.checkpoint)
    write_figures("search", figures)


def make_layer(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the scenes (SCENES, SCENE_DIMENSIONS), and the layer behind them."""
    centres = rng.normal(size=(SCENES, SCENE_DIMENSIONS))
    return centres, rng.normal(size=(SCENE_DIMENSIONS, DIMENSIONS)) / SCENE_DIMENSIONS**0.5


def make_vectors(
    count: int, layer: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """(count, DIMENSIONS) float32."""
    centres, weights = layer
    vectors = np.empty((count, DIMENSIONS), np.float32)
    for start in range(0, count, BLOCK):
        block = vectors[start : start + BLOCK]
        points = centres[rng.integers(len(centres), size=len(block))]
        points = points + 0.5 * rng.normal(size=points.shape)
        block[:] = np.maximum(points @ weights, 0)
    return vectors


def as_clips(vectors: np.ndarray, version: str) -> Iterator[EmbeddedClip]:
    """Recordings of two hours, a clip every five seconds."""
    for number, vector in enumerate(vectors):
        recording, start = f"made/{number // 1440}.mp4", 5.0 * (number % 1440)
        span = (recording, "made", start, start + 10.0)
        yield EmbeddedClip(clip_id(*span, version), *span, None, "made", version, vector)


def measure_index(vectors: np.ndarray, questions: np.ndarray) -> dict[str, float]:
    index = VectorIndex("made")
    index.add(as_clips(vectors, "made"))
    index.build("exact")
    seconds = [ask_alone(index, question)[1] for question in questions[:EXACT_QUESTIONS]]
    figures = {"exact_ms": 1000 * float(np.median(seconds))}
    truth = index.query(questions, K)
    started = time.perf_counter()
    index.build("annoy")
    figures["annoy_build_seconds"] = time.perf_counter() - started
    if index.trees is None:
        print(f"no ANNOY: {index.note}", file=sys.stderr)
        return figures
    print(f"chosen: {index.trees}", file=sys.stderr)
    index.query(questions[:K], K)
    started = time.perf_counter()
    found = [ask_alone(index, question)[0] for question in questions]
    seconds = time.perf_counter() - started
    hits = sum(
        len({hit.id for hit in one} & {hit.id for hit in other})
        for one, other in zip(found, truth, strict=True)
    )
    return figures | {
        "annoy_recall_at_10": hits / (K * len(questions)),
        "annoy_queries_per_second": len(questions) / seconds,
        "annoy_trees": index.trees.trees,
        "annoy_search_k": index.trees.nodes,
    }


def ask_alone(index: VectorIndex, question: np.ndarray) -> tuple[list[Hit], float]:
    started = time.perf_counter()
    (hits,) = index.query(question, K)
    return hits, time.perf_counter() - started


if __name__ == '__main__':
    main()
