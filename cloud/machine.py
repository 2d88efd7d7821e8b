"""Machine: how busy an instance is, and whether its memory or its disk was too small."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

ANSWER_SECONDS = 10.0  # of nvidia-smi; a driver that hangs answers never
FULL_BYTES = 64 << 20  # less than this free is a full disk


class Processor:
    """How busy the whole machine was since the last look."""

    def __init__(self):
        self._before = _ticks()

    def percent(self) -> float | None:
        """Of all cores together; None where too little time went by."""
        (busy_before, all_before), (busy, total) = self._before, _ticks()
        self._before = busy, total
        return (
            round(100 * (busy - busy_before) / (total - all_before), 1)
            if total > all_before
            else None
        )


def gpu_percent() -> float | None:
    """Of the busiest NVIDIA GPU; None where there is none, or its driver does not answer."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True
        )
        return max((float(line) for line in done.stdout.split()), default=None)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def family(process: int) -> dict[int, str]:
    """A process and all that descend from it, with when each began, as `process_start` says it."""
    found = {number: fields for number, fields in _processes()}
    members, new = {}, {process} & found.keys()
    while new:
        members |= {number: found[number][19] for number in new}
        new = {number for number, fields in found.items() if int(fields[1]) in new}
    return members


def family_seconds(process: int) -> float:
    """Processor time of a process and its descendants, and of those of theirs that are gone."""
    members = family(process)
    ticks = sum(sum(map(int, f[11:15])) for number, f in _processes() if number in members)
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_kills() -> int:
    """How many processes the kernel has killed for want of memory since it started."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def disk_words(path: Path) -> str | None:
    """For example `0.02 GB of 100 GB are free`, where the disk is full, else None."""
    usage = shutil.disk_usage(path)
    if usage.free >= FULL_BYTES:
        return None
    return f"{usage.free / 1e9:.2f} GB of {usage.total / 1e9:.0f} GB are free in {path}"


def _ticks() -> tuple[int, int]:
    """Busy and all ticks of all cores since the boot."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, idle, waiting, *others = map(int, fields)  # the rest are guests' in user
    busy = user + nice + system + sum(others)
    return busy, busy + idle + waiting


def _processes() -> Iterator[tuple[int, list[str]]]:
    """Each with the fields of /proc/PID/stat behind its name: state, parent, and so on."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone meanwhile
            yield int(path.parent.name), path.read_text().rpartition(")")[2].split()
