"""Run log: the folder of one training, and what is said and measured into it."""

import csv
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime
from importlib import metadata
from pathlib import Path

import torch
from tqdm import tqdm

from training.device import describe_device
from training.run_progress import read_json_lines
from utils.config import Config
from utils.errors import UserError
from utils.files import write_whole

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "opencv-python-headless",
    "av",
    "librosa",
    "scikit-learn",
    "safetensors",
)


class RunError(UserError):
    """The folder of the runs can't be used."""


class RunLog:
    """A folder below runs/: run.log for people, metrics.jsonl and JSON files for machines."""

    def __init__(self, folder: Path, script: str):
        self.folder = folder
        self.script = script
        self.on_metrics: Callable[[list[dict]], None] | None = None  # told of each epoch's line

    @classmethod
    def create(cls, config: Config, script: str, device: torch.device) -> "RunLog":
        """A new folder `<time>-<script>` with its config.json, which `latest` points at now."""
        runs_dir = Path(config.runs_dir)
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        name = f"{stamp}-{Path(script).stem}"
        taken = sum(1 for _ in runs_dir.glob(f"{name}*"))  # two runs in one second
        folder = runs_dir / (f"{name}-{taken + 1}" if taken else name)
        folder.mkdir(parents=True)
        run = cls(folder, Path(script).name)
        try:
            run.write_json("config.json", _describe_run(run.script, config, device))
            _point_latest(runs_dir, folder)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return run

    @classmethod
    def open(cls, folder: Path) -> "RunLog":
        """The folder of an earlier run, which has a config.json."""
        folder = folder.resolve()  # `latest` may point elsewhere later
        return cls(folder, json.loads((folder / "config.json").read_text())["script"])

    def path(self, name: str) -> Path:
        return self.folder / name

    def say(self, line: str = "") -> None:
        """Prints a line and keeps it in run.log."""
        tqdm.write(line)
        with open(self.path("run.log"), "a", encoding="utf-8") as log:
            log.write(line + "\n")

    def write_json(self, name: str, value: object) -> None:
        write_whole(self.path(name), json.dumps(value, indent=2).encode() + b"\n")

    def write_csv(self, name: str, columns: tuple[str, ...], rows: list[dict]) -> None:
        with io.StringIO(newline="") as text:
            writer = csv.DictWriter(text, columns)
            writer.writeheader()
            writer.writerows(rows)
            write_whole(self.path(name), text.getvalue().encode(errors="replace"))

    def write_metrics(self, history: list[dict]) -> None:
        """metrics.jsonl, a line per epoch; written anew so that a resumed run repeats none."""
        text = "".join(json.dumps(row) + "\n" for row in history)
        write_whole(self.path("metrics.jsonl"), text.encode())
        if self.on_metrics is not None:
            self.on_metrics(history)

    def history(self) -> list[dict]:
        """The lines of metrics.jsonl, one an epoch."""
        return read_json_lines(self.path("metrics.jsonl"))

    def read_json(self, name: str) -> dict:
        return json.loads(self.path(name).read_text(encoding="utf-8"))


def check_writable(folder: str | Path) -> None:
    """Makes the folder; raises RunError now rather than after the videos were decoded."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(
            f"can't write into {folder} ({error.strerror}): "
            "change its permissions or pass another folder with --runs-dir"
        ) from error


def python_command() -> str:
    """How this Python is called from here: .venv/bin/python, not another one of that name."""
    own = Path(sys.executable)
    return str(own.relative_to(Path.cwd())) if own.is_relative_to(Path.cwd()) else "python"


def package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # another build, such as opencv-python
            versions[name] = "not from PyPI"
    return versions


def _describe_run(script: str, config: Config, device: torch.device) -> dict:
    """What config.json holds: with the same videos, enough to do the run again."""
    return {
        "script": script,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "constants": config.constants(),
        "code": _code_version(),
        "versions": package_versions(),
        "machine": {
            "device": describe_device(device),
            "processors": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


def _code_version() -> str:
    """The commit of the code, marked where files were changed since; or "unknown"."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def _point_latest(runs_dir: Path, folder: Path) -> None:
    link = runs_dir / f".latest-{os.getpid()}"
    link.symlink_to(folder.name)
    os.replace(link, runs_dir / "latest")
