"""Says what recordings are: ads or game, with a calibrated confidence.

    python label_recording.py clip.mp4
    python label_recording.py recordings/ 'archive/*.ts' --json > labels.json

A file longer than a window also gets a row for each window. Where the training chose thresholds
(MAX_GAME_LOSS, MIN_RECALL), they decide, and what they cost is said first. Files that can't be read
are listed at the end, and the exit code is then 1.
"""

import argparse
import glob
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from models.runtime import TrunkRuntime
from timeline.scoring import ScoredRecording, score_recording
from training.checkpoint import load_checkpoint
from training.device import choose_device
from training.thresholds import Thresholds, read_thresholds
from utils.errors import UserError, run_main
from utils.media import MediaError
from utils.recordings import VIDEO_SUFFIXES, list_videos

CHECKPOINT = Path("runs/latest/best.safetensors")


def main() -> int:
    options = _read_options()
    paths = list(dict.fromkeys(_expand(options.files)))
    checkpoint = load_checkpoint(options.checkpoint, choose_device())
    trunk = TrunkRuntime(checkpoint.model.video_encoder)
    thresholds = read_thresholds(checkpoint.recipe)
    if thresholds and not options.json:
        print("\n".join(thresholds.sentences()))
    labelled, rejected = [], []
    for path in tqdm(paths, "label", unit="file", disable=len(paths) == 1, leave=False):
        try:
            scored = score_recording(
                path,
                checkpoint.model,
                checkpoint.spec,
                clip_seconds=checkpoint.clip_seconds,
                temperature=checkpoint.temperature,
                trunk=trunk,
            )
        except MediaError as error:
            rejected.append({"file": str(path), "error": str(error)})
            continue
        labelled.append(_describe(path, scored, checkpoint.classes, thresholds))
        if not options.json:
            tqdm.write(_table(labelled[-1]), file=sys.stdout)
    if options.json:
        chosen = thresholds and thresholds.to_dict()
        found = {"thresholds": chosen, "recordings": labelled, "rejected": rejected}
        print(json.dumps(found, indent=2))
    for item in rejected:
        print(f"error: {item['file']}: {item['error']}", file=sys.stderr)
    return 1 if rejected else 0


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python label_recording.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="video, folder, or glob pattern")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=CHECKPOINT,
        help="what a training left [%(default)s]",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def _expand(names: list[str]) -> Iterator[Path]:
    """The videos that files, folders and patterns name. Raises UserError where one names none."""
    for name in names:
        matches = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
        found = [path for match in map(Path, matches) for path in _videos_of(match)]
        if not found:
            raise UserError(
                f"{name} is no file, no folder with videos ({' '.join(VIDEO_SUFFIXES)}) "
                "and matches none: check the path"
            )
        yield from found


def _videos_of(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from list_videos(path)
    else:
        yield path


def _describe(
    path: Path, scored: ScoredRecording, classes: list[str], thresholds: Thresholds | None
) -> dict:
    """What --json prints of one recording."""
    tiles = scored.tiles()
    rows = np.stack([scored.overall, *(row for *_, row in tiles)])
    overall, *each = _labels(rows, classes, thresholds)
    windows = [
        {"start_seconds": start, "end_seconds": end, **label}
        for (start, end, _), label in zip(tiles, each, strict=True)
    ]
    return {
        "file": str(path),
        "seconds": scored.duration_seconds,
        "has_sound": scored.has_sound,
        **overall,
        "windows": windows,
    }


def _labels(
    probabilities: np.ndarray, classes: list[str], thresholds: Thresholds | None
) -> Iterator[dict]:
    """The label of each row of (N, C), and its own probability."""
    said = probabilities.argmax(axis=1)
    if thresholds:
        said = thresholds.decide(probabilities, classes)
    for row, best in zip(probabilities, said.tolist(), strict=True):
        yield {
            "label": classes[best],
            "confidence": round(float(row[best]), 4),
            "probabilities": {
                name: round(float(p), 4) for name, p in zip(classes, row, strict=True)
            },
        }


def _table(item: dict) -> str:
    """A line for the recording, and one for each window of a longer one."""
    sound = "" if item["has_sound"] else ", no sound"
    length = f"{item['seconds']:.1f} s{sound}"
    lines = [f"{item['label']:<10} {item['confidence']:6.1%}  {item['file']}  ({length})"]
    if len(item["windows"]) > 1:
        lines += [
            f"    {_clock(w['start_seconds'])} - {_clock(w['end_seconds'])}  "
            f"{w['label']:<10} {w['confidence']:6.1%}"
            for w in item["windows"]
        ]
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    """For example `1:02:03.5`."""
    tenths = round(seconds * 10)
    hours, rest = divmod(tenths, 36_000)
    minutes, rest = divmod(rest, 600)
    return f"{hours}:{minutes:02d}:{rest / 10:04.1f}"


if __name__ == "__main__":
    run_main(main)
