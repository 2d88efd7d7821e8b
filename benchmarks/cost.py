"""Cost: hours and dollars of training on an archive, from the rates measured on this machine.

    python -m benchmarks.prepare --data-dir CLIPS/train
    python -m benchmarks.frozen
    python -m benchmarks.cost
    python -m benchmarks.cost --hours 1000

An estimate, not a bill: nothing here has run on these instances. Every assumption is printed.
"""

import argparse
import json
from dataclasses import dataclass

from benchmarks.figures import FOLDER, write_figures
from utils.errors import UserError, run_main

# us-east-1, dollars an hour; spot prices are the middle of the zones' and change by the hour.
# From a public catalogue of prices (skypilot-catalog, catalogs/v8/aws/vms.csv, commit e385a0d),
# which has no date of its own and is not older than the end of 2025.
PRICES_READ = "2026-11-21"


@dataclass(frozen=True)
class Instance:
    """A machine that can be rented; prices are dollars an hour."""

    name: str
    vcpus: int
    on_demand: float
    spot: float


INSTANCES = (
    Instance("c7i.2xlarge", 8, 0.357, 0.147),
    Instance("c7i.4xlarge", 16, 0.714, 0.315),
    Instance("c7i.8xlarge", 32, 1.428, 0.572),
    Instance("g4dn.xlarge", 4, 0.526, 0.213),
    Instance("g5.xlarge", 4, 1.006, 0.483),
    Instance("g6.xlarge", 4, 0.8048, 0.420),
)
START_MINUTES = 10.0  # boot, and the packages of the lock: 2.5 minutes on two idle cores
DISK_DOLLARS_GB_MONTH = 0.08  # gp3
HOURS_A_MONTH = 730.0
FPS, FRAME_BYTES = 4, 96 * 96 * 3  # of cost_optimized_train.py
ENLARGING = (144 / 96) ** 2  # its TRUNK_SIZE over the size that benchmarks.frozen measures at
CLIP_HOP_SECONDS = 5.0
MEASURED_CLIPS = 72_000  # that head_epoch_seconds was measured with
HEAD_EPOCHS = 8 * (1 + 5 + 1 + 1)  # the first training, five folds, a random split, the kept one


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=200.0, help="of video [200]")
    options = parser.parse_args()

    prepare, cores = read_figures("prepare")
    frozen, _ = read_figures("frozen")
    say_assumptions(prepare, frozen, cores, options.hours)
    print(f"{'':<14}{'vCPUs':>6}{'hours':>8}{'spot':>9}{'on demand':>11}")
    totals = {}
    for instance in INSTANCES:
        hours = total_hours(instance, options.hours, prepare, frozen, cores)
        disk = disk_gigabytes(options.hours) * DISK_DOLLARS_GB_MONTH * hours / HOURS_A_MONTH
        totals[instance] = hours, instance.spot * hours + disk, instance.on_demand * hours + disk
        hours, spot, on_demand = totals[instance]
        print(f"{instance.name:<14}{instance.vcpus:>6}{hours:8.1f}{spot:9.2f}{on_demand:11.2f}")
    hours, spot, on_demand = min(totals.values(), key=lambda total: total[1])
    write_figures(
        "cost",
        {
            f"hours_{options.hours:g}h": hours,
            f"dollars_{options.hours:g}h_spot": spot,
            f"dollars_{options.hours:g}h_on_demand": on_demand,
        },
    )
    return 0


def read_figures(name: str) -> tuple[dict[str, float], int]:
    """What a benchmark measured, and on how many cores. Raises UserError where it has not run."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        raise UserError(f"{path} is not there: run python -m benchmarks.{name} first")
    record = json.loads(path.read_bytes())
    return record["figures"], int(record["machine"].split()[0])


def total_hours(
    instance: Instance, video_hours: float, prepare: dict, frozen: dict, cores: int
) -> float:
    """Hours that an instance is rented for: start, decoding, the trunk over all frames, heads."""
    decoding = video_hours / (decoding_rate(prepare) * instance.vcpus)
    frames_per_hour = frozen["frames_per_second"] / ENLARGING * 3600 * instance.vcpus / cores
    trunk = video_hours * 3600 * FPS / frames_per_hour
    clips = video_hours * 3600 / CLIP_HOP_SECONDS
    heads = HEAD_EPOCHS * frozen["head_epoch_seconds"] * clips / MEASURED_CLIPS / 3600
    return START_MINUTES / 60 + decoding + trunk + heads


def decoding_rate(prepare: dict) -> float:
    """Times real time a core, of the clips or of the made 1280x720 recording: the slower one."""
    clips = prepare["fast_times_real_time"] * prepare["two_workers_over_one"] / 2
    return min(clips, prepare["long_recording_times_real_time"] / 2)


def disk_gigabytes(video_hours: float) -> float:
    return video_hours * 3600 * FPS * FRAME_BYTES / 1e9 + 30  # and the system and its packages


def say_assumptions(prepare: dict, frozen: dict, cores: int, video_hours: float) -> None:
    print(
        f"{video_hours:g} hours of video; measured here, {cores} cores:\n"
        f"  decoding at {decoding_rate(prepare):.0f}x real time a core, the slower of the clips "
        "and of a made recording of 1280x720\n"
        f"  trunk at {frozen['frames_per_second']:.0f} frames/s of 96x96, taken as "
        f"{frozen['frames_per_second'] / ENLARGING:.0f} at the 144x144 that they are enlarged to; "
        f"{frozen['head_epoch_seconds']:.1f} s for an epoch of the heads over "
        f"{MEASURED_CLIPS:,} clips\n"
        "assumed:\n"
        f"  a vCPU does what a core did here, and {FPS} frames/s are kept, as in "
        "cost_optimized_train.py\n"
        "  recordings like that (larger pictures take longer in proportion)\n"
        "  the trunk stays frozen and runs on the processor, on GPU instances too\n"
        f"  {HEAD_EPOCHS} epochs of heads, judging every group included; a start of "
        f"{START_MINUTES:g} minutes\n"
        "  reading from S3 in the same region keeps up with decoding and is free\n"
        f"  prices of us-east-1 as read on {PRICES_READ}; a disk of "
        f"{disk_gigabytes(video_hours):.0f} GB at ${DISK_DOLLARS_GB_MONTH:g} a GB and month"
    )


if __name__ == "__main__":
    run_main(main)
