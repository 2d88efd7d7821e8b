"""Guard: a process of its own that ends an attempt which does nothing, costs too much or is gone.

    python -m cloud.guard       until the instance is powered off; bootstrap.sh calls this

What it knows it reads from the workplace, the disk and the system alone, so that it needs neither
S3 nor the attempt.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from cloud.ending import end_from_outside, power_off
from cloud.machine import family_seconds, gpu_percent, memory_kills
from cloud.run_record import FAILED, LIMIT
from cloud.workplace import Wish, Workplace, say

BUSY_CORES = 0.1  # of one core: less is what a process does that waits
BUSY_GPU_PERCENT = 5.0
SAMPLES = 15  # of the use of the machine, in the time after which it counts as idle
SPIN_FACTOR = 4  # times the idle time without a sign of life, for what keeps the machine busy
RESERVE = 0.1  # part of the time that is kept for saving and sending, at most
BEGIN_SECONDS = 180.0  # from the guard's start to that of the attempt
OFF_SECONDS = 30.0  # from the end of an attempt until bootstrap.sh has powered off
QUIET = {"monitor.jsonl"}  # written every second, by a training that hangs too


@dataclass(frozen=True)
class Use:
    """What a look at the machine found."""

    cores: float  # that the work kept busy since the last look
    gpu_percent: float
    files: int  # a number that changes with any file of the run or the cache
    printed_bytes: int


@dataclass
class Activity:
    """When something was last seen to happen; times are in seconds, of any clock."""

    busy_at: float
    progress_at: float
    sign_at: float  # of life: progress, or something printed
    last: Use | None = field(default=None)

    def note(self, use: Use, now: float) -> None:
        if use.cores >= BUSY_CORES or use.gpu_percent >= BUSY_GPU_PERCENT:
            self.busy_at = now
        if self.last is None or use.files != self.last.files:
            self.progress_at = self.sign_at = now
        elif use.printed_bytes != self.last.printed_bytes:
            self.sign_at = now
        self.last = use

    def complaint(self, idle_minutes: float, now: float) -> str | None:
        """Why to give up, or None.

        Idle needs both: no use of the machine, which a slow download is too, and no progress.
        """
        idle = (now - max(self.busy_at, self.progress_at)) / 60
        if idle >= idle_minutes:
            return f"neither progress nor use of the machine for {idle_minutes:g} minutes: it hangs"
        spins = (now - self.sign_at) / 60
        if spins >= SPIN_FACTOR * idle_minutes:
            return (
                f"the machine is busy, but nothing was written or said for "
                f"{SPIN_FACTOR * idle_minutes:g} minutes: it hangs"
            )
        return None


class Guard:
    """Looks after one attempt; `look` says why it must end, if it must."""

    def __init__(self, place: Workplace):
        self._place = place
        self._kills = memory_kills()
        self._began = now = time.monotonic()
        self._activity = Activity(now, now, now)
        self._sampled_at = now
        self._seconds = 0.0  # of processor, at the last sample
        limits = place.limits
        self.poll_seconds = limits.poll_seconds
        self._sample_seconds = max(limits.poll_seconds, 60 * limits.idle_minutes / SAMPLES)

    def look(self) -> Wish | None:
        return self._beyond_limits() or self._gone() or self._idle()

    def _beyond_limits(self) -> Wish | None:
        place, limits = self._place, self._place.limits
        allowed = min(60.0 * place.attempt.max_minutes, 3600 * limits.max_hours)
        reserve = min(RESERVE * allowed, limits.save_seconds + limits.final_upload_seconds)
        if time.time() - place.started >= allowed - reserve:
            return Wish(LIMIT, f"the time that was allowed is used up ({allowed / 3600:.2g} hours)")
        spent = place.attempt.dollars_before + place.dollars()
        reserved = reserve / 3600 * place.attempt.dollars_per_hour
        if limits.max_cost is not None and spent + reserved >= limits.max_cost:
            return Wish(
                LIMIT, f"${spent:.2f} of the ${limits.max_cost:.2f} that were allowed are spent"
            )
        return None

    def _gone(self) -> Wish | None:
        if self._place.process("attempt") is not None:
            return None
        if not self._place.has_begun("attempt"):
            if time.monotonic() - self._began < BEGIN_SECONDS:
                return None
            return Wish(FAILED, f"the attempt did not begin within {BEGIN_SECONDS:g} s")
        why = "memory ran out" if memory_kills() > self._kills else "signal 9?"
        return Wish(FAILED, f"the process that ran the attempt was killed ({why})")

    def _idle(self) -> Wish | None:
        now = time.monotonic()
        if not self._place.has_begun("attempt"):
            self._activity = Activity(now, now, now)
        elif now - self._sampled_at >= self._sample_seconds:
            self._activity.note(self._use(now - self._sampled_at), now)
            self._sampled_at = now
        complaint = self._activity.complaint(self._place.limits.idle_minutes, now)
        return Wish(FAILED, complaint) if complaint else None

    def _use(self, seconds: float) -> Use:
        # The attempt itself, which sends heartbeats to the end, counts only where it has no work.
        root = self._place.process("work") or self._place.process("attempt")
        before, self._seconds = self._seconds, family_seconds(root) if root else 0.0
        cores = max(self._seconds - before, 0.0) / seconds
        output = self._place.output
        printed_bytes = output.stat().st_size if output.exists() else 0
        folders = (self._place.runs, self._place.home / self._place.cache)
        return Use(cores, gpu_percent() or 0.0, hash(_marks(*folders)), printed_bytes)


def main() -> None:
    place = Workplace.from_environment()
    guard = Guard(place)
    while place.end is None:
        wish = guard.look()
        if wish is not None:
            say(f"guard       {wish.reason}")
            end_from_outside(place, wish)
            break
        time.sleep(guard.poll_seconds)
    time.sleep(min(OFF_SECONDS, place.limits.final_upload_seconds))
    power_off()


def _marks(*folders: Path) -> frozenset[tuple[str, int, int]]:
    """Name, size and time of all files below, of half-written ones too."""
    marks = set()
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in set(names) - QUIET:
                path = os.path.join(parent, name)
                try:
                    status = os.stat(path)
                except OSError:  # gone, or replaced at this moment
                    continue
                marks.add((path, status.st_size, status.st_mtime_ns))
    return frozenset(marks)


if __name__ == "__main__":
    main()
