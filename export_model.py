"""Writes a trained classifier as ONNX: one file that runs without this project, and without torch.

    python export_model.py runs/latest                    writes runs/latest/model.onnx
    python export_model.py runs/latest --output ads.onnx
    python export_model.py runs/latest --int8             and model-int8.onnx, a third as large

Frames go in as bytes, sound as MFCC, calibrated probabilities come out: scaling, pooling and
temperature are inside. How to make frames and MFCC stands in the file's own metadata. What is
written was compared with torch on the run's validation clips, or on made ones where its videos are
not here; it is written whole, and not at all where the two differ by more than 0.001.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from models.graphs import classifier_graph, with_metadata
from models.runtime import quantize
from models.sessions import FRAME_COUNTS, FRAMES, MFCC, MFCC_COUNTS, open_session
from training.checkpoint import Checkpoint, load_checkpoint
from utils.config import config_of_run
from utils.dataset import Batch, ClipDataset, whole_batches
from utils.errors import UserError, run_main
from utils.files import write_whole
from utils.training_data import load_training_data

RUN = Path("runs/latest")
MAX_DIFFERENCE = 1e-3  # of a probability, between torch and what is written
CHECKED_CLIPS = 200  # validation clips at most, evenly spread
CALIBRATION_CLIPS = 50  # training clips whose activations give the ranges of int8
MADE_CLIPS = 8
BATCH = 4  # clips at once


class ExportError(UserError):
    """The model can't be exported as it was asked."""


@dataclass(frozen=True)
class Clips:
    """What the model is checked on, and by what ranges it becomes int8."""

    source: str
    judge: list[Batch]
    calibrate: list[Batch]  # none where the clips are made ones


def main() -> int:
    options = _read_options()
    folder = options.run if options.run.is_dir() else options.run.parent
    path = folder / "best.safetensors" if options.run.is_dir() else options.run
    output = options.output or folder / "model.onnx"
    if not output.parent.is_dir():
        raise ExportError(f"{output.parent} is no folder: make it, or pass another --output")
    checkpoint = load_checkpoint(path)
    clips = _find_clips(folder, checkpoint)
    if options.int8 and not clips.calibrate:
        raise ExportError(
            f"--int8 needs the run's clips, to find the ranges of numbers ({clips.source}): "
            "export where its videos are, or leave out --int8"
        )

    expected = np.concatenate([_by_torch(checkpoint, b) for b in _bar(clips.judge, "torch")])
    labels = np.concatenate([batch.labels.numpy() for batch in clips.judge])
    model = _make_graph(checkpoint)
    found = _by_onnx(model, clips.judge, "onnx")
    difference = float(np.abs(found - expected).max())
    if not difference <= MAX_DIFFERENCE:
        raise ExportError(
            f"the exported model's probabilities differ from torch's by up to {difference:.2g} "
            f"({MAX_DIFFERENCE:g} is accepted), so it was not written: report this, with the run"
        )
    check = {"clips": len(labels), "source": clips.source, "max_difference": difference}
    files = {output: (model, check)}
    if options.int8:
        small, check = _make_int8(model, clips, expected, labels)
        files[output.with_name(f"{output.stem}-int8{output.suffix}")] = small, check
    for name, (graph, check) in files.items():
        graph = with_metadata(graph, _describe(checkpoint, path, check))
        write_whole(name, graph)
        print(f"{name}  {len(graph) / 1e6:.1f} MB")
        print("".join(f"    {key:<20} {_show(value)}\n" for key, value in check.items()), end="")
    print(_usage(output, checkpoint))
    return 0


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python export_model.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run",
        nargs="?",
        type=Path,
        default=RUN,
        metavar="RUN",
        help="folder of a run, or a .safetensors file [%(default)s]",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="file to write [model.onnx in the run's folder]"
    )
    parser.add_argument(
        "--int8", action="store_true", help="write FILE-int8.onnx too, with what it costs"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def _find_clips(folder: Path, checkpoint: Checkpoint) -> Clips:
    """The run's own clips where its videos are here and unchanged in kind, else made ones."""
    try:
        data = load_training_data(config_of_run(folder))
    except UserError as error:
        return Clips(f"made clips: {error}", _made_batches(checkpoint), [])
    if data.classes != checkpoint.classes or data.prepared.spec != checkpoint.spec:
        reason = "made clips: the run's folder or its videos are of another training"
        return Clips(reason, _made_batches(checkpoint), [])
    return Clips(
        "the run's validation clips",
        _some_batches(data.val_set, CHECKED_CLIPS),
        _some_batches(data.train_set, CALIBRATION_CLIPS),
    )


def _some_batches(dataset: ClipDataset, count: int) -> list[Batch]:
    indices = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round())
    return list(whole_batches(dataset.only([dataset.clips[int(i)] for i in indices]), BATCH))


def _made_batches(checkpoint: Checkpoint) -> list[Batch]:
    """Noise of several strengths; every other clip is short, every third without sound."""
    spec, rng = checkpoint.spec, np.random.default_rng(0)
    seconds = checkpoint.clip_seconds
    t, m = spec.frame_span(0, seconds).stop, spec.mfcc_span(0, seconds).stop
    batches = []
    for number in range(MADE_CLIPS):
        frames = rng.normal(128, 8 * (number + 1), (1, t, *spec.frame_shape)).clip(0, 255)
        frame_count = t if number % 2 else max(2, t // 3)
        step_count = m if number % 3 else 0
        batches.append(
            Batch(
                torch.from_numpy(frames.astype(np.uint8)),
                torch.arange(t)[None] < frame_count,
                torch.from_numpy(rng.normal(0, 20, (1, m, spec.mfcc.n_mfcc)).astype(np.float32)),
                torch.arange(m)[None] < step_count,
                torch.zeros(1, dtype=torch.int64),
            )
        )
    return batches


def _make_graph(checkpoint: Checkpoint) -> bytes:
    try:
        size = checkpoint.spec.frame_size
        return classifier_graph(checkpoint.model, size, checkpoint.temperature)
    except ImportError as error:
        raise ExportError(f"{error}: install onnx and onnxruntime, as the Pipfile says") from error
    except TypeError as error:
        raise ExportError(f"{error}: export the run of another network") from error


@torch.inference_mode()
def _by_torch(checkpoint: Checkpoint, batch: Batch) -> np.ndarray:
    """(B, C) float64 calibrated probabilities."""
    logits = checkpoint.model(batch.video, batch.video_mask, batch.mfcc, batch.mfcc_mask)
    return torch.softmax(logits.double() / checkpoint.temperature, dim=1).numpy()


def _by_onnx(model: bytes, batches: Sequence[Batch], title: str) -> np.ndarray:
    """(clips, C) float32."""
    session = open_session(model, torch.get_num_threads())
    return np.concatenate([session.run(None, _inputs(b))[0] for b in _bar(batches, title)])


def _inputs(batch: Batch) -> dict[str, np.ndarray]:
    return {
        FRAMES: batch.video.numpy(),
        FRAME_COUNTS: batch.video_mask.sum(dim=1).numpy(),
        MFCC: batch.mfcc.numpy(),
        MFCC_COUNTS: batch.mfcc_mask.sum(dim=1).numpy(),
    }


def _make_int8(
    model: bytes, clips: Clips, expected: np.ndarray, labels: np.ndarray
) -> tuple[bytes, dict]:
    """The int8 variant, and what it is worth beside the float32 one on the same clips."""
    small = quantize(model, [_inputs(batch) for batch in _bar(clips.calibrate, "int8 ranges")])
    found = _by_onnx(small, clips.judge, "int8")
    return small, {
        "clips": len(labels),
        "source": clips.source,
        "max_difference": float(np.abs(found - expected).max()),
        "mean_difference": float(np.abs(found - expected).mean()),
        "same_label": float((found.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        "accuracy": float((found.argmax(axis=1) == labels).mean()),
        "float32_accuracy": float((expected.argmax(axis=1) == labels).mean()),
    }


def _describe(checkpoint: Checkpoint, path: Path, check: dict) -> dict[str, str]:
    """metadata_props: all that a caller needs who has nothing but the file."""
    recipe = checkpoint.recipe
    description = {
        "classes": checkpoint.classes,
        "feature_spec": checkpoint.spec.to_dict(),
        "clip_seconds": checkpoint.clip_seconds,
        "thresholds": recipe.get("thresholds"),  # None: the class of the highest probability
        "temperature": checkpoint.temperature,  # already in the probabilities
        "check": check,
        "metrics": recipe.get("metrics"),
        "versions": recipe.get("versions"),
    }
    texts = {name: json.dumps(value) for name, value in description.items()}
    texts["run"] = path.resolve().parent.name
    texts["inputs"] = (
        "frames (clips, T, height, width, 3) uint8 RGB at fps, black bars cropped if crop_bars, "
        "the picture scaled to frame_size; mfcc (clips, M, n_mfcc) float32 as librosa makes them; "
        "frame_counts and mfcc_counts (clips,) int64 say how many of each are no padding; "
        "mfcc_counts 0 is a clip without sound. probabilities (clips, classes) float32, calibrated"
    )
    return texts


def _usage(output: Path, checkpoint: Checkpoint) -> str:
    height, width, _ = checkpoint.spec.frame_shape
    n_mfcc, fps = checkpoint.spec.mfcc.n_mfcc, checkpoint.spec.fps
    return f"""
Use it, with numpy and onnxruntime alone:

    import numpy as np, onnxruntime
    session = onnxruntime.InferenceSession({str(output)!r})
    frames = np.zeros((1, 40, {height}, {width}, 3), np.uint8)  # RGB, {fps:g} a second
    sound = {{"mfcc": np.zeros((1, 1, {n_mfcc}), np.float32), "mfcc_counts": np.array([0])}}  # none
    print(session.run(None, {{"frames": frames, "frame_counts": np.array([40]), **sound}}))

Classes, and how frames and MFCC are made: session.get_modelmeta().custom_metadata_map"""


def _bar(items: Sequence, title: str) -> tqdm:
    return tqdm(items, title, unit="batch", leave=False, delay=1, file=sys.stderr)


def _show(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run_main(main)
