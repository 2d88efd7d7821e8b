"""Run folder: how far a training is, and what it is called with, for who runs it on an instance."""

import itertools
import json
import os
import shlex
from pathlib import Path
from typing import Any

from cloud.workplace import Workplace

# Constants of a script that change what `prepare` makes or how; as in prepare_data.py.
OF_PREPARATION = (
    "fps",
    "frame_size",
    "frames",
    "crop_bars",
    "sample_rate",
    "n_mfcc",
    "mfcc_n_mels",
    "workers",
    "max_rejected",
)
BEST = {"val_auc": "AUC", "val_balanced_accuracy": "balanced"}


def prepare_command(place: Workplace) -> list[str]:
    plan, price = place.plan, place.attempt.dollars_per_hour
    # Those that run_pipeline.py hands to its training come last, and count.
    given = [*plan.overrides, *shlex.split(flag_value(plan.overrides, "--train-flags") or "")]
    script = flag_value(plan.overrides, "--train-script") or plan.script
    flags = []
    for name in OF_PREPARATION:
        flag = "--" + name.replace("_", "-")
        value = flag_value(given, flag)
        flags += [] if value is None else [flag, value]
    return [
        *("./run_training.sh", "prepare", _data_url(place), "--script", script),
        *("--store", f"s3://{plan.bucket}/store", "--price", f"{price:g}"),
        *("--cache-dir", str(place.cache), *flags),
    ]


def train_command(place: Workplace) -> list[str]:
    """Goes on where there is a run folder."""
    folder, plan = place.run_folder, place.plan
    return [
        *("./run_training.sh", "local", plan.script, "--", "--data-dir", _data_url(place)),
        # Relative, so that it is the same folder for an instance whose home is elsewhere.
        *("--cache-dir", str(place.cache), "--runs-dir", "runs", *plan.overrides),
        *(("--resume", os.path.relpath(folder, place.home)) if folder else ()),
    ]


def read_progress(folder: Path | None) -> dict[str, Any]:
    """Epoch, epochs, loss and best, as a heartbeat names them; those that are known."""
    rows = [row for row in _read_rows(folder / "metrics.jsonl") if "epoch" in row] if folder else []
    if not rows:
        return {}
    last = rows[-1]
    found = {"epoch": last["epoch"], "epochs": last.get("epochs")}
    found["loss"] = last.get("val_loss", last.get("train_loss"))
    for key, name in BEST.items():
        known = [row[key] for row in rows if row.get(key) is not None]
        if known:
            return {**found, "best": f"{name} {max(known):.3f}"}
    return found


def flag_value(arguments: list[str], flag: str) -> str | None:
    """The last value of `--flag value` or `--flag=value`, or None."""
    value = None
    for word, following in itertools.pairwise([*arguments, None]):
        if word == flag:
            value = following
        elif word.startswith(f"{flag}="):
            value = word.removeprefix(f"{flag}=")
    return value


def _data_url(place: Workplace) -> str:
    return flag_value(place.plan.overrides, "--data-dir") or f"s3://{place.plan.bucket}/data"


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one a line; half a line, as of one that is killed, is none."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows += [row] if isinstance(row, dict) else []
    return rows
