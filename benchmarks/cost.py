"""Cost: hours and dollars of training on an archive, from the rates measured on this machine.

    python -m benchmarks.prepare --data-dir CLIPS/train
    python -m benchmarks.frozen
    python -m benchmarks.cost
    python -m benchmarks.cost --hours 1000
    python -m benchmarks.cost --keep          plans of runs on AWS go by these rates from now on

The arithmetic is that of cloud/plan.py, with its bundled prices. An estimate, not a bill: nothing
here has run on these instances. Every assumption is printed.
"""

import argparse
import json
import math
import shlex
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import cost_optimized_train
import train
from benchmarks.figures import FOLDER, write_figures
from cloud.plan import ON_DEMAND, RATES, SPOT, Constraints, Rates, Videos, describe_plan, make_plan
from cloud.prices import bundled_prices
from models.encoders import trunk_input
from utils.errors import UserError, run_main
from utils.files import write_whole

SCRIPTS = (cost_optimized_train, train)
REGION = "us-east-1"
MEASURED_SIZE = 96 * 96  # of the frames that benchmarks.frozen runs the trunk over
TRAININGS = 8  # the first, five folds, a random split, the one that is kept


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=200.0, help="of video [200]")
    parser.add_argument("--keep", action="store_true", help=f"write {RATES.name} in cloud/")
    options = parser.parse_args()

    prepare, frozen = read_figures("prepare"), read_figures("frozen")
    rates = {f"{m.__name__}.py": script_rates(m, prepare, frozen) for m in SCRIPTS}
    videos = Videos(0, 0, options.hours, estimated=False)
    prices = bundled_prices(REGION)
    for of_script in rates.values():
        choices = make_plan(videos, of_script, prices, Constraints())
        lines = describe_plan("BUCKET", videos, of_script, prices, choices)
        print("\n".join(lines[1:]), end="\n\n")  # the first is about files in a bucket
    say_assumptions()
    default = next(iter(rates.values()))
    spot, on_demand = (
        make_plan(videos, default, prices, Constraints(markets=(market,)))[0]
        for market in (SPOT, ON_DEMAND)
    )
    write_figures(
        "cost",
        {
            f"hours_{options.hours:g}h": spot.hours,
            f"dollars_{options.hours:g}h_spot": spot.dollars,
            f"dollars_{options.hours:g}h_on_demand": on_demand.dollars,
        },
    )
    if options.keep:
        keep(rates)
    return 0


def read_figures(name: str) -> dict:
    """The record of a benchmark. Raises UserError where it has not run."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        raise UserError(f"{path} is not there: run python -m benchmarks.{name} first")
    return json.loads(path.read_bytes())


def script_rates(script: ModuleType, prepare: dict, frozen: dict) -> Rates:
    """What was measured, brought to the constants of a script."""
    decoded, embedded = prepare["figures"], frozen["figures"]
    cores = int(frozen["machine"].split()[0])
    seen = trunk_input(script.FRAME_SIZE, script.TRUNK_SIZE)
    enlarging = math.prod(seen) / MEASURED_SIZE
    per_clip = script.TRAIN_FRAMES / cost_optimized_train.TRAIN_FRAMES
    return Rates(
        f"{script.__name__}.py",
        source(prepare, frozen),
        script.FPS,
        math.prod(script.FRAME_SIZE) * 3,
        decoding_rate(decoded, script.FRAMES),
        embedded["frames_per_second"] / cores / enlarging,
        script.CLIP_HOP_SECONDS,
        script.EPOCHS * TRAININGS,
        embedded["head_clips_per_second"] / per_clip,
    )


def decoding_rate(figures: dict[str, float], frames: str) -> float:
    """Times real time a core, of the clips or of the made 1280x720 recording: the slower one.

    Both as two workers do it, which get in each other's way.
    """
    clips = figures["fast_times_real_time"] * figures["two_workers_over_one"] / 2
    fast = min(clips, figures["long_recording_times_real_time"] / 2)
    return fast * figures[f"{frames}_times_real_time"] / figures["fast_times_real_time"]


def source(*records: dict) -> str:
    """Where, when and how it was measured; without the folders of that machine."""
    commands = (shlex.split(record["command"]) for record in records)
    short = ["`" + " ".join(Path(word).name for word in words) + "`" for words in commands]
    return f"{records[0]['machine']}, {max(r['date'] for r in records)}: {' and '.join(short)}"


def say_assumptions() -> None:
    print(
        "assumed:\n"
        "  a vCPU does what a core did where it was measured\n"
        "  recordings like those (larger pictures take longer in proportion)\n"
        "  decoding, trunk and heads of train.py take longer than those of "
        "cost_optimized_train.py\n"
        "    in proportion to frames, picture sizes and frames a span\n"
        "  the trunk stays frozen and runs on the processor, on GPU instances too\n"
        "  the heads take as long on any instance as where they were measured\n"
        "  reading from S3 in the same region keeps up with decoding and is free"
    )


def keep(rates: dict[str, Rates]) -> None:
    """Writes the file that plans are made from."""
    scripts = {name: asdict(of_script) for name, of_script in rates.items()}
    for values in scripts.values():
        text = values.pop("source")
        del values["script"]
    write_whole(RATES, json.dumps({"source": text, "scripts": scripts}, indent=2).encode() + b"\n")
    print(f"written to {RATES.name}")


if __name__ == "__main__":
    run_main(main)
