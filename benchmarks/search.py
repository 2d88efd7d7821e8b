"""Search: how many true neighbours ANNOY finds, how fast, and how long an answer takes.

    python -m benchmarks.search             100,000 vectors of 1280 dimensions
    python -m benchmarks.search --quick     20,000 of them
    python -m benchmarks.search --data-dir CLIPS --checkpoint best.safetensors

The vectors are made: clips of so many scenes, each a point of few dimensions, brought into 1280 by
a random layer behind a ReLU, as a network's are. Questions are such vectors that are not stored and
come one by one, on one thread, timed by its processor time: what else a machine does would count
otherwise. `query_seconds` is a run of search_clips.py from its start to its
answer about ten seconds of made video, by a model of the usual size with random weights, asking a
fifth as many clips; `query_cpu_seconds` is the processor time of that. The best of five rounds.

Then how often a changed part of a recording finds it (benchmarks/changed.py): of the clips in a
folder or, without one, of the demo set; by a model, or without one by the trunk alone.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import av
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.changed import measure_changes
from benchmarks.figures import write_figures
from models.encoders import FrameEncoder
from search.clip_store import EmbeddedClip, clip_id, open_clip_store
from search.embeddings import model_version
from search.model import SearchModel
from search.vector_index import Hit, VectorIndex, open_index
from training.checkpoint import load_checkpoint, save_checkpoint
from training.weights import TrunkWeights, new_model
from utils.config import make_config, read_constants

ROOT = Path(__file__).resolve().parent.parent
DIMENSIONS, SCENES, SCENE_DIMENSIONS = 1280, 50, 48
QUESTIONS, EXACT_QUESTIONS = 500, 20
BLOCK = 4096
K = 10
VIDEO_SECONDS = 10.0
MOST_CHANGED, QUICK_CHANGED = 100, 4  # recordings that are asked for


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="20,000 vectors, one round")
    parser.add_argument("--data-dir", type=Path, help="clips that are changed [the demo set]")
    parser.add_argument("--checkpoint", type=Path, help="model that finds them [the trunk alone]")
    parser.add_argument("--weights", default="auto", help="of the trunk alone [%(default)s]")
    options = parser.parse_args()
    count, rounds = (20_000, 1) if options.quick else (100_000, 5)
    rng = np.random.default_rng(0)
    layer = make_layer(rng)
    vectors, questions = (make_vectors(size, layer, rng) for size in (count, QUESTIONS))
    with threadpool_limits(1):
        figures = measure_index(vectors, questions, rounds)
    del vectors
    figures |= measure_query(count // 5, rounds)
    most = QUICK_CHANGED if options.quick else MOST_CHANGED
    figures |= measure_changes(options.data_dir, options.checkpoint, most, weights=options.weights)
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


def measure_index(vectors: np.ndarray, questions: np.ndarray, rounds: int) -> dict[str, float]:
    index = VectorIndex("made")
    index.add(as_clips(vectors, "made"))
    index.build("exact")
    some = questions[:EXACT_QUESTIONS]
    seconds = min(ask_each(index, some)[1] for _ in range(rounds + 1))  # the first reads it all
    figures = {"exact_ms": 1000 * seconds / len(some)}
    truth = index.query(questions, K)
    started = time.perf_counter()
    index.build("annoy")
    figures["annoy_build_seconds"] = time.perf_counter() - started
    if index.trees is None:
        print(f"no ANNOY: {index.note}", file=sys.stderr)
        return figures
    found, seconds = min((ask_each(index, questions) for _ in range(rounds)), key=itemgetter(1))
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


def ask_each(index: VectorIndex, questions: np.ndarray) -> tuple[list[list[Hit]], float]:
    """The answers to questions that come one by one, and the seconds of this thread they took."""
    started = time.thread_time()
    found = [index.query(question, K)[0] for question in questions]
    return found, time.thread_time() - started


def measure_query(num_clips: int, rounds: int) -> dict[str, float]:
    """Seconds from the start of search_clips.py to its answer about ten seconds of video."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        checkpoint = write_checkpoint(folder / "made.safetensors")
        video = folder / "question.mp4"
        write_video(video, VIDEO_SECONDS)
        version = model_version(checkpoint)
        loaded = load_checkpoint(checkpoint)
        SearchModel.of(loaded, version, checkpoint).keep(folder)  # as the command `index` does
        size = loaded.model.video_head.in_features + loaded.model.no_sound.shape[1]
        vectors = np.random.default_rng(1).standard_normal((num_clips, size), np.float32)
        with open_clip_store(str(folder / "clips.sqlite")) as store:
            store.put(as_clips(vectors, version))
            open_index(store, folder / "search" / version, model_version=version)
        options = ["--cache-dir", folder, "--checkpoint", checkpoint, "--json"]
        command = [sys.executable, "search_clips.py", "query", video, *options]
        environment = {k: v for k, v in os.environ.items() if k != "MONGODB_URL"}
        seconds, cpu_seconds = [], []
        for _ in range(rounds):
            started, used = time.perf_counter(), children_seconds()
            done = subprocess.run(
                list(map(str, command)), cwd=ROOT, env=environment, check=True, capture_output=True
            )
            seconds.append(time.perf_counter() - started)
            cpu_seconds.append(children_seconds() - used)
            assert len(json.loads(done.stdout)["similar"]) == K
    return {
        "query_seconds": min(seconds),
        "query_cpu_seconds": min(cpu_seconds),
        "query_clips": num_clips,
    }


def children_seconds() -> float:
    """Processor time of all child processes so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def write_video(path: Path, seconds: float) -> None:
    """Waves that go by, 640x360 at 25 a second in H.264."""
    y, x = np.mgrid[:360, :640] / 640
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for number in range(round(25 * seconds)):
            waves = np.sin(20 * x + number / 25) + np.sin(30 * y + number // 50)
            picture = np.repeat((63 * (waves + 2))[..., None], 3, axis=2).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_checkpoint(path: Path) -> Path:
    """A model as cost_optimized_train.py begins with, its trunk as large as a pretrained one."""
    config = make_config(read_constants(ROOT / "cost_optimized_train.py"), {})
    trunk = TrunkWeights(FrameEncoder().features.state_dict())
    recipe = {
        "classes": ["ads", "games"],
        "feature_spec": config.feature_spec.to_dict(),
        "clip_seconds": config.clip_seconds,
        "temperature": 1.0,
    }
    save_checkpoint(path, new_model(config, 2, trunk), recipe)
    return path


if __name__ == "__main__":
    main()
