"""The frozen trunk: frames a second by engine, and how long the heads take over an archive.

    python -m benchmarks.frozen
    python -m benchmarks.frozen --quick       a tenth of the clips, fewer rounds

The trunk runs over made frames by each engine in turn, round after round, and the medians count.
Its baseline is PyTorch as it comes: the network in float32, a clip of 40 frames at a time. The
heads are trained by the Trainer itself with the constants of cost_optimized_train.py, on made
embeddings of 72,000 clips of 40 frames, none of which overlap: 200 hours, 8 GB on the disk for as
long as this runs. With --quick there are 7,200, in batches as large as the 72,000 would have, and
the seconds of an epoch are those times ten.
"""

import argparse
import copy
import math
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import cost_optimized_train
from benchmarks.figures import write_figures
from models.encoders import FRAMES_PER_CHUNK, FrameEncoder
from models.mobilenet_v2 import EMBEDDING_SIZE
from models.runtime import TrunkRuntime
from training.embedding import COLUMN
from training.loop import Trainer
from training.phases import MAX_HEAD_STEPS, Phase
from training.weights import new_model
from utils.clips import Clip
from utils.config import Config, read_options
from utils.dataset import ClipDataset
from utils.feature_store import Column, FeatureStore
from utils.labels import Span
from utils.recordings import Recording

CLIPS, QUICK_CLIPS = 72_000, 7_200
CLIPS_PER_RECORDING = 360  # an hour
CLIP_FRAMES = 40
EPOCHS = 2
FRAMES, QUICK_FRAMES = 320, 160
ROUNDS, QUICK_ROUNDS = 7, 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--scratch-dir", help="where the made store is written [the system's]")
    options = parser.parse_args()

    # First the heads: the peak of memory is the process's own.
    with tempfile.TemporaryDirectory(dir=options.scratch_dir) as folder:
        figures = time_heads(Path(folder), QUICK_CLIPS if options.quick else CLIPS)
    frames, rounds = (QUICK_FRAMES, QUICK_ROUNDS) if options.quick else (FRAMES, ROUNDS)
    figures |= time_trunk(frames, rounds)
    write_figures("frozen", figures)


def time_heads(folder: Path, num_clips: int) -> dict[str, float]:
    """Seconds of an epoch of the heads, brought up to CLIPS, and the peak of memory."""
    words = ["--cache-dir", str(folder), "--epochs", str(EPOCHS)]
    words += ["--batch-size", str(math.ceil(CLIPS / MAX_HEAD_STEPS))]
    config = read_options(vars(cost_optimized_train), words).config
    train_set, embeddings = make_archive(config, num_clips)
    trainer = Trainer(new_model(config, 2, None), train_set, None, config, embeddings=embeddings)
    trainer.fit([Phase("heads", 0, EPOCHS, 0, 1)])
    seconds = trainer.progress.total_seconds / EPOCHS
    return {
        "head_epoch_seconds": seconds * CLIPS / num_clips,
        "head_clips_per_second": num_clips / seconds,
        "head_wait_fraction": trainer.progress.total_wait_seconds / trainer.progress.total_seconds,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def make_archive(config: Config, num_clips: int) -> tuple[ClipDataset, FeatureStore]:
    """Clips side by side in recordings of an hour, with random sound and embeddings."""
    spec, rng = config.feature_spec, np.random.default_rng(0)
    folder, seconds = Path(config.cache_dir), config.clip_seconds
    store = FeatureStore(folder / "features", {"mfcc": Column("float16", (spec.mfcc.n_mfcc,))})
    embeddings = FeatureStore(folder / "embeddings", {COLUMN: Column("float16", (EMBEDDING_SIZE,))})
    made = rng.gamma(0.5, 0.5, (CLIP_FRAMES * 64, EMBEDDING_SIZE)).astype(np.float16)
    clips: list[Clip] = []
    with store.writing(), embeddings.writing(), tqdm(total=num_clips, desc="make clips") as bar:
        for start in range(0, num_clips, CLIPS_PER_RECORDING):
            number = start // CLIPS_PER_RECORDING
            label = ("ads", "games")[number % 2]
            count = min(CLIPS_PER_RECORDING, num_clips - start)
            rows, steps = count * CLIP_FRAMES, spec.mfcc_span(0, count * seconds).stop
            first = rng.integers(0, len(made) // 2)
            blocks = (np.roll(made, -first - k, axis=1) for k in range(-(-rows // len(made))))
            blocks = (b[: rows - k * len(made)] for k, b in enumerate(blocks))
            embeddings.add(str(number), {COLUMN: blocks}, {})
            sound = rng.normal(0, 20, (steps, spec.mfcc.n_mfcc)).astype(np.float16)
            store.add(str(number), {"mfcc": [sound]}, {})
            spans = (Span(0.0, math.inf, label),)
            recording = Recording(f"{label}/{number}.mp4", (), spans, f"{label}/{number}", False)
            clips += [
                Clip(recording, str(number), k * seconds, (k + 1) * seconds, label)
                for k in range(count)
            ]
            bar.update(count)
    return ClipDataset(clips, ["ads", "games"], spec, store), embeddings


def time_trunk(num_frames: int, rounds: int) -> dict[str, float]:
    """Frames a second of each engine at 96x96, and how ONNX Runtime stands to plain PyTorch."""
    torch.manual_seed(0)
    encoder = FrameEncoder().eval()
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, 96, 96, 3), np.uint8)
    plain = copy.deepcopy(encoder)
    plain.features.to(memory_format=torch.contiguous_format)
    folded, onnx = encoder.for_inference(), TrunkRuntime(encoder, engine="onnxruntime")
    engines: dict[str, Callable[[], object]] = {
        "eager": lambda: by_torch(plain, frames, CLIP_FRAMES),
        "eager_batches_of_160": lambda: by_torch(plain, frames, 160),
        "eager_batches_of_16": lambda: by_torch(plain, frames, FRAMES_PER_CHUNK),
        "folded": lambda: by_torch(folded, frames, CLIP_FRAMES),
        "folded_batches_of_16": lambda: by_torch(folded, frames, FRAMES_PER_CHUNK),
        "onnxruntime": lambda: onnx.embed(frames),
    }
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in tqdm(range(rounds + 1), "trunk"):
        for name, run in engines.items():
            started = time.perf_counter()
            run()
            speeds[name].append(num_frames / (time.perf_counter() - started))
    medians = {name: statistics.median(found[1:]) for name, found in speeds.items()}
    ratios = [a / b for a, b in zip(speeds["onnxruntime"], speeds["eager"], strict=True)]
    return {
        "trunk_over_eager": statistics.median(ratios[1:]),
        "frames_per_second": medians["onnxruntime"],
        **{f"frames_per_second_{name}": speed for name, speed in medians.items()},
    }


@torch.inference_mode()
def by_torch(encoder: FrameEncoder, frames: np.ndarray, batch: int) -> torch.Tensor:
    """(N, 1280) float32, `batch` frames at once."""
    parts = torch.from_numpy(frames).split(batch)
    return torch.cat([encoder._encode(part) for part in parts])


if __name__ == "__main__":
    main()
