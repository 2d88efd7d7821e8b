"""Shows a training while it goes on: its losses, and what processor, memory and GPU do.

    ./run_training.sh monitor                 the latest run; Ctrl-C leaves it
    python watch_run.py runs/RUN

Prints once where its output is no terminal, and ends with the training.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from training.run_progress import RUNNING, RunProgress, epoch_words, format_clock, read_progress
from utils.errors import UserError, run_main

LATEST = Path("runs/latest")
REFRESH_SECONDS = 1.0
HOME_AND_CLEAR = "\x1b[H\x1b[J"
BARS = "▁▂▃▄▅▆▇█"
LABEL_WIDTH, VALUE_WIDTH = 14, 26


def main() -> int:
    options = _read_options()
    if not (options.run / "config.json").exists():
        raise UserError(
            f"{options.run} is not the folder of a run: ./run_training.sh status lists them, "
            "./run_training.sh local begins one"
        )
    folder = options.run.resolve()  # `latest` may point elsewhere soon
    if not sys.stdout.isatty():
        print("\n".join(draw(read_progress(folder), 80)))
        return 0
    while True:
        run = read_progress(folder)
        width = shutil.get_terminal_size().columns
        sys.stdout.write(HOME_AND_CLEAR + "\n".join(draw(run, width)) + "\n")
        sys.stdout.flush()
        if run.state != RUNNING:
            return 0
        time.sleep(REFRESH_SECONDS)


def draw(run: RunProgress, width: int) -> list[str]:
    """The lines of one picture, none longer than `width`."""
    eta = "" if run.eta_seconds is None else f"  ETA {format_clock(run.eta_seconds)}"
    lines = [
        f"{run.folder.name}  {run.state}{': ' + run.reason if run.reason else ''}",
        f"{epoch_words(run)}  {run.best}{eta}  age {format_clock(run.age_seconds)}",
        "",
    ]
    for title, key, form in (
        ("train loss", "train_loss", "{:.3f}"),
        ("val loss", "val_loss", "{:.3f}"),
        ("val AUC", "val_auc", "{:.3f}"),
        ("clips/s", "clips_per_second", "{:.0f}"),
        ("waiting", "wait_fraction", "{:.1%}"),
    ):
        lines += _row(title, form, [row.get(key) for row in run.history], width)
    lines.append("")
    for title, key, unit, scale in (
        ("processor", "cpu_percent", "%", 1),
        ("training", "process_cpu_percent", "% of a core", 1),
        ("memory", "memory_bytes", "GB", 1e9),
        ("machine", "memory_percent", "% of memory", 1),
        ("read", "read_bytes_per_second", "MB/s", 1e6),
    ):
        values = [_scaled(line.get(key), scale) for line in run.machine]
        lines += _row(title, "{:.3g} " + unit, values, width)
    for number, gpu in enumerate((run.machine or [{}])[-1].get("gpus") or []):
        percents = [
            line["gpus"][number]["utilization_percent"]
            for line in run.machine
            if len(line.get("gpus") or []) > number
        ]
        told = [
            ("{:.1f} GB", _scaled(gpu.get("memory_bytes"), 1e9)),
            ("{:.0f} W", gpu.get("power_watts")),
            ("{:.0f} °C", gpu.get("temperature_celsius")),
        ]
        words = " ".join(form.format(value) for form, value in told if value is not None)
        lines += _row(f"GPU {number}", "{:.0f}% " + words, percents, width)
    return [line[:width].rstrip() for line in lines]


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python watch_run.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run", nargs="?", type=Path, default=LATEST, metavar="RUN", help="folder [%(default)s]"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def _row(title: str, form: str, values: Sequence[float | None], width: int) -> list[str]:
    """One line with the last value and the way there; [] where nothing was measured."""
    known = [value for value in values if value is not None]
    if not known:
        return []
    room = width - LABEL_WIDTH - VALUE_WIDTH
    value = form.format(known[-1])
    return [f"{title:<{LABEL_WIDTH}}{value:<{VALUE_WIDTH}}{_spark(known[-max(room, 0) :])}"]


def _spark(values: Sequence[float]) -> str:
    """A bar for each value, from the lowest to the highest of them."""
    low, high = min(values, default=0), max(values, default=0)
    span = (high - low) or 1
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in values)


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value / scale


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # bars where the terminal has them
    run_main(main)
