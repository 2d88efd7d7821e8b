"""Whether the loader keeps up with the training step, with the constants of a script.

    python -m benchmarks.train_step                   the whole network learns, then the heads alone
    python -m benchmarks.train_step --batch-size 32

The same steps are timed twice: with batches as training reads them, from a store that is made for
it, and with batches that already lie in the memory of the device. Needs torch, torchvision and
numpy, and nothing else of the project's libraries, so that one command runs it on a bare machine.
On an NVIDIA GPU it also measures what share of the GPU's own rate of bfloat16 matrix products the
step reaches.
"""

import argparse
import ast
import itertools
import math
import resource
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.figures import write_figures
from models.encoders import trunk_input
from models.late_fusion import LateFusionClassifier
from models.mobilenet_v2 import EMBEDDING_SIZE, NUM_BLOCKS
from training.device import amp_dtype, choose_device
from training.phases import Phase
from training.residence import settle
from training.step import ClassWeights, Step
from utils.clips import Clip
from utils.dataset import Batch, ClipDataset, TrainingBatches
from utils.feature_store import Column, FeatureStore
from utils.labels import Span
from utils.memory import keep_freed_memory
from utils.recordings import Recording

SCRIPT = Path(__file__).parent.parent / "cost_optimized_train.py"
RECORDING_SECONDS = 60
MFCC_RATE = 31.25  # steps a second: 16 kHz, one every 512 samples
PHASES = {
    "fine_tune": Phase("fine-tune", 0, 1, NUM_BLOCKS, 1),
    "heads": Phase("heads", 0, 1, 0, 1),
}
MATRIX_SIZE = 8192


@dataclass(frozen=True)
class MadeSpec:
    """As much of a FeatureSpec as reading takes; the real one needs the decoders."""

    fps: float
    mfcc: SimpleNamespace

    def frame_span(self, start_seconds: float, end_seconds: float) -> slice:
        return slice(*(math.ceil(s * self.fps - 1e-6) for s in (start_seconds, end_seconds)))

    def mfcc_span(self, start_seconds: float, end_seconds: float) -> slice:
        return slice(*(math.ceil(s * MFCC_RATE - 1e-6) for s in (start_seconds, end_seconds)))


@dataclass(frozen=True)
class Timing:
    """Of steps: seconds each (median of the rounds), and what part of that was waiting."""

    step_seconds: float
    wait_fraction: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, help="clips a step [that of the script]")
    parser.add_argument("--quick", action="store_true", help="few steps, within a minute")
    options = parser.parse_args()
    config = read_constants(SCRIPT)
    config.batch_size = options.batch_size or config.batch_size
    device = choose_device()
    keep_freed_memory()

    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        dataset, embedded = make_datasets(
            Path(folder), config, recordings=8 if options.quick else 24
        )
        for name, phase in PHASES.items():
            source = dataset if phase.blocks else embedded
            measured = measure(phase, source, config, device, quick=options.quick)
            prefix = "" if name == "fine_tune" else f"{name}_"
            figures |= {f"{prefix}{figure}": value for figure, value in measured.items()}
    if device.type == "cuda":
        rate = matrix_rate(device)
        figures["matrix_teraflops"] = rate / 1e12
        reached = figures["step_teraflop"] * figures["clips_per_second"] / config.batch_size
        figures["share_of_matrix_rate"] = reached * 1e12 / rate
        print(torch.cuda.get_device_name(device))
    write_figures("train_step", figures)


def measure(
    phase: Phase,
    dataset: ClipDataset,
    config: SimpleNamespace,
    device: torch.device,
    *,
    quick: bool,
) -> dict[str, float]:
    """The figures of one phase."""
    settled, where, rows = settle(dataset, device)
    print(f"{phase.name}: {len(dataset)} clips, {where}")
    step = make_step(phase, config, device, rows and rows.pictures)
    holding = step if rows is None else make_step(phase, config, device, None)
    ready = first_batches(dataset, config, device, count_steps(dataset, config, device, quick))

    reset_peak_memory(device)
    run_steps(holding, ready[:2])  # warms up, too
    figures = {"peak_memory_mb": peak_memory_bytes(device) / 1e6}
    loaded, ratios = [], []
    for number in range(2 if quick else 8):  # in turn, since machines slow down and speed up
        loaded.append(time_loader(step, batches_of(settled, config, device), number, len(ready)))
        ratios.append(time_ready(holding, ready) / loaded[-1].step_seconds)
    seconds = statistics.median(timing.step_seconds for timing in loaded)
    if device.type == "cuda":
        with FlopCounterMode(display=False) as counter:
            run_steps(holding, ready[:1])
        figures["step_teraflop"] = counter.get_total_flops() / 1e12
    return figures | {
        "loader_over_synthetic": statistics.median(ratios),
        "clips_per_second": config.batch_size / seconds,
        "wait_fraction": statistics.median(timing.wait_fraction for timing in loaded),
    }


def time_loader(step: Step, batches: TrainingBatches, epoch: int, count: int) -> Timing:
    """Of `count` steps behind the first, with batches as they are made."""
    epoch_batches = batches.epoch(epoch)
    run_steps(step, itertools.islice(epoch_batches, 1))
    waited, started = batches.wait_seconds, time.perf_counter()
    run_steps(step, itertools.islice(epoch_batches, count))
    seconds = time.perf_counter() - started
    epoch_batches.close()
    return Timing(seconds / count, (batches.wait_seconds - waited) / seconds)


def time_ready(step: Step, batches: list[Batch]) -> float:
    """Seconds of a step with batches that are there already."""
    started = time.perf_counter()
    run_steps(step, batches)
    return (time.perf_counter() - started) / len(batches)


def run_steps(step: Step, batches: Iterable[Batch]) -> None:
    """Until the device has done the last of them."""
    for position, batch in enumerate(batches):
        result = step.run(batch, (0, 0, position), 0)
    result.tolist()


def read_constants(script: Path) -> SimpleNamespace:
    """The constants of a script by lower-case name; importing it would take all it needs."""
    assigned = (node for node in ast.parse(script.read_text()).body if isinstance(node, ast.Assign))
    values = {node.targets[0].id.lower(): ast.literal_eval(node.value) for node in assigned}
    return SimpleNamespace(**values)


def make_datasets(
    folder: Path, config: SimpleNamespace, *, recordings: int
) -> tuple[ClipDataset, ClipDataset]:
    """Clips of made recordings, with frames and with embeddings."""
    rng = np.random.default_rng(0)
    spec = MadeSpec(config.fps, SimpleNamespace(n_mfcc=config.n_mfcc))
    columns = {
        "frames": Column("uint8", (*config.frame_size, 3)),
        "mfcc": Column("float16", (config.n_mfcc,)),
    }
    store = FeatureStore(folder / "features", columns)
    column = Column("float16", (EMBEDDING_SIZE,))
    embeddings = FeatureStore(folder / "embeddings", {"embeddings": column})
    num_frames = spec.frame_span(0, RECORDING_SECONDS).stop
    num_steps = spec.mfcc_span(0, RECORDING_SECONDS).stop
    starts = np.arange(0, RECORDING_SECONDS - config.clip_seconds + 0.1, config.clip_hop_seconds)
    clips = []
    with store.writing(), embeddings.writing():
        for number in range(recordings):
            frames = rng.integers(0, 256, (num_frames, *config.frame_size, 3), np.uint8)
            mfcc = rng.normal(size=(num_steps, config.n_mfcc))
            store.add(str(number), {"frames": [frames], "mfcc": [mfcc]}, {})
            made = rng.normal(size=(num_frames, EMBEDDING_SIZE)).clip(0)
            embeddings.add(str(number), {"embeddings": [made]}, {})
            label = ("ads", "games")[number % 2]
            spans = (Span(0.0, math.inf, label),)
            recording = Recording(str(number), (), spans, str(number), False)
            clips += [
                Clip(recording, str(number), start, start + config.clip_seconds, label)
                for start in starts.tolist()
            ]
    dataset = ClipDataset(clips, ["ads", "games"], spec, store)
    return dataset, dataset.read_from(embeddings)


def make_step(
    phase: Phase, config: SimpleNamespace, device: torch.device, pictures: torch.Tensor | None
) -> Step:
    torch.manual_seed(0)
    trunk = {"input_size": trunk_input(config.frame_size, config.trunk_size)}
    model = LateFusionClassifier(2, config.n_mfcc, trunk=trunk).to(device).train()
    model.video_encoder.freeze_statistics(True)
    model.video_encoder.train_last_blocks(phase.blocks)
    amp = amp_dtype(device, config.mixed_precision)
    weights = ClassWeights(torch.ones(2), torch.ones(2))
    return Step(model, phase, config, weights, amp=amp, pictures=pictures)


def batches_of(
    dataset: ClipDataset, config: SimpleNamespace, device: torch.device
) -> TrainingBatches:
    settings = {"train_frames": config.train_frames, "draws": 1, "seed": 0}
    pin = device.type == "cuda"
    return TrainingBatches(dataset, config.batch_size, **settings, pin=pin)


def count_steps(
    dataset: ClipDataset, config: SimpleNamespace, device: torch.device, quick: bool
) -> int:
    """How many are timed at once: enough to fill the queue of a GPU, few on a processor."""
    wanted = 30 if device.type == "cuda" else 2 if quick else 6
    return max(1, min(wanted, len(dataset) // config.batch_size - 1))


def first_batches(
    dataset: ClipDataset, config: SimpleNamespace, device: torch.device, count: int
) -> list[Batch]:
    """With pictures and sound on the device; what a step sums up first stays here."""
    batches = batches_of(dataset, config, device).epoch(0)
    ready = [
        replace(batch, video=batch.video.to(device), mfcc=batch.mfcc.to(device))
        for batch in itertools.islice(batches, count)
    ]
    batches.close()
    return ready


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Of the GPU since the reset; of this process, on a processor."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def matrix_rate(device: torch.device, repeats: int = 50) -> float:
    """Operations a second of a large bfloat16 matrix product."""
    a = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device, dtype=torch.bfloat16)
    for _ in range(repeats // 5):  # clocks and caches warm up
        a @ a
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(repeats):
        a @ a
    torch.cuda.synchronize(device)
    return repeats * 2 * MATRIX_SIZE**3 / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
