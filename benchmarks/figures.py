"""Figures: what a benchmark measured, as a table and as runs/benchmarks/<name>.json."""

import json
import os
import platform
import shlex
import sys
from datetime import date
from pathlib import Path

import torch

from utils.files import write_whole

FOLDER = Path("runs/benchmarks")


def write_figures(name: str, figures: dict[str, float], command: str | None = None) -> None:
    """Prints the figures and keeps them with the machine, the date and the command.

    The command is that of the benchmark of this name, if not said.
    """
    for figure, value in figures.items():
        print(f"{figure:<44} {value:10.4g}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    record = {
        "figures": figures,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, "
        f"{'CUDA' if torch.cuda.is_available() else 'no CUDA'}",
        "date": date.today().isoformat(),
        "command": command or shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
    }
    write_whole(FOLDER / f"{name}.json", json.dumps(record, indent=2).encode() + b"\n")
    print(f"written to {FOLDER / f'{name}.json'}")
