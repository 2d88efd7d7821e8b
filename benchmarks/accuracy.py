"""Accuracy on sources that training never saw, for both training scripts.

    python -m benchmarks.accuracy --data-dir CLIPS/train --heldout CLIPS/heldout --weights FILE

Trains with each script's own constants. Prints what cross-validation by group says, what a random
split would have said, and how the checkpoint does on the windows of `--heldout`, a folder laid out
like data/ that is used for nothing else. `--quick` trains cost_optimized_train.py alone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.figures import write_figures
from models.array_network import ArrayNetwork
from timeline.scoring import score_recording
from training.checkpoint import Checkpoint, load_checkpoint
from training.evaluation import ClipScores, evaluate_scores
from utils.recordings import find_recordings
from utils.sources import Folder

SCRIPTS = ("cost_optimized_train.py", "train.py")
KINDS = ("", "video_only_", "sound_only_", "random_split_")
METRICS = ("auc", "balanced_accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--heldout", type=Path)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--cache-dir", default="cache")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()

    figures = {}
    for script in SCRIPTS[:1] if options.quick else SCRIPTS:
        with tempfile.TemporaryDirectory() as runs_dir:
            run = _train(script, options, runs_dir)
            metrics = json.loads((run / "metrics.json").read_text())
            name = Path(script).stem
            figures[f"{name}_ece"] = metrics["ece"]
            for key in (kind + metric for kind in KINDS for metric in METRICS):
                figures[f"{name}_{key}"] = metrics[key]
            if options.heldout:
                judged = _judge(load_checkpoint(run / "best.safetensors"), options.heldout)
                for key in ("auc", "balanced_accuracy", "accuracy", "ece", "clips", "groups"):
                    figures[f"{name}_heldout_{key}"] = judged[key]
    write_figures("accuracy", figures)


def _train(script: str, options: argparse.Namespace, runs_dir: str) -> Path:
    flags = ["--data-dir", options.data_dir, "--weights", options.weights]
    flags += ["--cache-dir", options.cache_dir, "--runs-dir", runs_dir]
    subprocess.run([sys.executable, script, *flags], check=True)
    return Path(runs_dir, "latest").resolve()


def _judge(checkpoint: Checkpoint, folder: Path) -> dict:
    """Metrics over every window of every recording, as label_recording.py prints them."""
    logits, labels, names, groups, windows = [], [], [], [], []
    network = ArrayNetwork(checkpoint.model)
    for recording in tqdm(find_recordings(Folder(folder)), "heldout", leave=False):
        scored = score_recording(
            folder / recording.name,
            network,
            checkpoint.spec,
            clip_seconds=checkpoint.clip_seconds,
            temperature=checkpoint.temperature,
        )
        tiles = scored.tiles()
        count = len(tiles)
        logits.append(np.log(np.stack([row for *_, row in tiles]).clip(1e-12)))
        labels += [checkpoint.classes.index(recording.labels[0])] * count
        names += [recording.name] * count
        groups += [recording.group] * count
        windows += [tile[:2] for tile in tiles]
    starts, ends = np.array(windows).T
    scores = ClipScores(
        np.concatenate(logits).astype(np.float32), np.array(labels), names, groups, starts, ends
    )
    return evaluate_scores(scores, checkpoint.classes, temperature=1.0)


if __name__ == "__main__":
    main()
