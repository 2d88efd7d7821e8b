"""Progress of runs, read from the files that a training keeps current.

Needs nothing but Python: what looks at runs starts at once, and where nothing is installed.
"""

import contextlib
import json
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

RUNNING, FINISHED, FAILED, INTERRUPTED = "running", "finished", "failed", "interrupted"
VERSION_FILE = "version.json"  # of a registered model, which is the copy of a run
SILENT_SECONDS = 15.0  # the monitor writes each second; a machine that swaps may skip some
BEST = {"val_auc": "AUC", "val_balanced_accuracy": "balanced"}


@dataclass(frozen=True)
class RunProgress:
    """Where one run stands; None where a file does not say (yet)."""

    folder: Path
    script: str
    state: str
    reason: str  # why it failed or stopped, else ""
    age_seconds: float | None  # since it began
    epoch: int
    epochs: int | None
    phase: str
    best: str  # for example "AUC 0.981", of the final judgement once there is one
    clips_per_second: float | None
    eta_seconds: float | None  # of the epochs that are left; judging comes on top
    history: list[dict]  # the lines of metrics.jsonl
    machine: list[dict]  # the lines of monitor.jsonl, read from its end


def list_runs(runs_dir: Path, now: float | None = None) -> list[RunProgress]:
    """The runs below a folder, the newest first; [] where there is none."""
    runs = [read_progress(folder, now) for folder in run_folders(runs_dir)]
    return sorted(runs, key=lambda run: run.age_seconds if run.age_seconds is not None else 1e18)


def run_folders(runs_dir: Path) -> set[Path]:
    """Where the runs below a folder are: `latest` leads to one of them, `champion` to none."""
    folders = {path.parent.resolve() for path in runs_dir.glob("*/config.json")}
    return {folder for folder in folders if not (folder / VERSION_FILE).exists()}


def read_progress(folder: Path, now: float | None = None) -> RunProgress:
    """Where the run in a folder stands at `now` (seconds since 1970), by default the present."""
    now = time.time() if now is None else now
    config, metrics = _read_json(folder / "config.json"), _read_json(folder / "metrics.json")
    constants = config.get("constants", {})
    history = [line for line in read_json_lines(folder / "metrics.jsonl") if "epoch" in line]
    machine = read_json_lines(folder / "monitor.jsonl", last_bytes=200_000)
    state, reason = _state(folder, metrics, machine, now)
    last = history[-1] if history else {}
    epochs = last.get("epochs", constants.get("EPOCHS"))
    return RunProgress(
        folder=folder,
        script=config.get("script", "?"),
        state=state,
        reason=reason,
        age_seconds=_age(config.get("started"), now),
        epoch=last.get("epoch", 0),
        epochs=epochs,
        phase=last.get("phase", ""),
        best=_best(history, metrics),
        clips_per_second=last.get("clips_per_second"),
        eta_seconds=_eta(folder, history, epochs, now) if state == RUNNING else None,
        history=history,
        machine=[line for line in machine if "seconds" in line],
    )


def epoch_words(run: RunProgress) -> str:
    """For example `3/8 heads`; `judging` once the last epoch of a running one is over."""
    if run.state == RUNNING and run.epochs and run.epoch >= run.epochs:
        return "judging"
    whole = "" if run.epochs is None else f"/{run.epochs}"
    return f"{run.epoch}{whole} {run.phase}".strip()


def format_clock(seconds: float | None) -> str:
    """For example `0:01:30` or `3 days`; "" for None."""
    if seconds is None:
        return ""
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.0f} days"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def read_json_lines(path: Path, *, last_bytes: int | None = None) -> list[dict]:
    """Returns the objects of a file with one JSON object a line; [] where there is no file.

    `last_bytes` reads the end alone. A process that was killed leaves half a line, also in the
    middle of a file that a resumed run went on with: what does not parse is left out.
    """
    if not path.exists():
        return []
    with path.open("rb") as file:
        if last_bytes is not None and path.stat().st_size > last_bytes:
            file.seek(-last_bytes, 2)
        text = file.read().decode("utf-8", errors="replace")
    lines = []
    for part in text.split("\n"):
        with contextlib.suppress(json.JSONDecodeError):
            line = json.loads(part)
            if isinstance(line, dict):
                lines.append(line)
    return lines


def _state(folder: Path, metrics: dict, machine: list[dict], now: float) -> tuple[str, str]:
    """The state and its reason. A process that was killed says nothing more: it is interrupted."""
    ended = machine[-1] if machine and "ended" in machine[-1] else None
    if ended is not None:
        return ended["ended"], ended.get("reason", "")
    written = [_modified(folder / name) for name in ("monitor.jsonl", "config.json")]
    if now - max(written) < SILENT_SECONDS:
        return RUNNING, ""
    return (FINISHED, "") if metrics else (INTERRUPTED, "ended without a word")


def _best(history: list[dict], metrics: dict) -> str:
    if metrics.get("auc") is not None:
        return f"AUC {metrics['auc']:.3f}"
    if metrics.get("balanced_accuracy") is not None:
        return f"balanced {metrics['balanced_accuracy']:.3f}"
    for key, name in BEST.items():
        known = [row[key] for row in history if row.get(key) is not None]
        if known:
            return f"{name} {max(known):.3f}"
    return ""


def _eta(folder: Path, history: list[dict], epochs: int | None, now: float) -> float | None:
    """Seconds until the last epoch ends, if none ends early: by the last epochs of this phase."""
    if not history or not epochs:
        return None
    phase = history[-1].get("phase")
    recent = [row["seconds"] for row in history[-3:] if row.get("phase") == phase]
    spent = now - _modified(folder / "metrics.jsonl")  # in the epoch that is going on
    left = (epochs - history[-1]["epoch"]) * sum(recent) / len(recent)
    return max(left - spent, 0.0)


def _age(started: str | None, now: float) -> float | None:
    try:
        return max(now - datetime.fromisoformat(started).timestamp(), 0.0)
    except (TypeError, ValueError):
        return None


def _modified(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def _read_json(path: Path) -> dict:
    """{} where there is no file, or none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else {}
    return {}
