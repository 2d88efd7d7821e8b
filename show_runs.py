"""Shows the trainings below runs/: how far each is, how good, how fast, and how it ended.

./run_training.sh status
python show_runs.py --all
python show_runs.py --json
"""

import argparse
import json
import sys
from pathlib import Path

from training.run_progress import (
    FAILED,
    INTERRUPTED,
    RunProgress,
    epoch_words,
    format_clock,
    list_runs,
)
from utils.errors import run_main

RUNS_DIR = Path("runs")
SHOWN = 20  # the newest; --all shows every one
COLUMNS = ("run", "script", "state", "epoch", "best", "clips/s", "ETA", "age")


def main() -> int:
    options = _read_options()
    runs = list_runs(options.runs_dir)
    if options.json:
        print(json.dumps([_describe(run) for run in runs], indent=2))
        return 0
    if not runs:
        print(f"no run in {options.runs_dir}/ yet: begin one with ./run_training.sh local")
        return 0
    shown = runs if options.all else runs[:SHOWN]
    for line in _table([COLUMNS, *map(_row, shown)]):
        print(line)
    for run in shown:
        if run.reason and run.state in (FAILED, INTERRUPTED):
            print(f"{run.folder.name} {run.state}: {run.reason}")
    if len(shown) < len(runs):
        print(f"{len(runs) - len(shown)} older runs are not shown: --all shows them")
    return 0


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python show_runs.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--runs-dir", type=Path, default=RUNS_DIR, help="the folder of the runs [%(default)s]"
    )
    parser.add_argument("--all", action="store_true", help=f"not only the {SHOWN} newest")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def _row(run: RunProgress) -> tuple[str, ...]:
    rate = run.clips_per_second
    return (
        run.folder.name,
        run.script,
        run.state,
        epoch_words(run),
        run.best,
        "" if rate is None else f"{rate:.3g}" if rate < 100 else f"{rate:.0f}",
        format_clock(run.eta_seconds),
        format_clock(run.age_seconds),
    )


def _describe(run: RunProgress) -> dict:
    values = {name: getattr(run, name) for name in vars(run) if name not in ("history", "machine")}
    return {**values, "folder": str(run.folder)}


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a folder's name may be no text of this terminal
    run_main(main)
