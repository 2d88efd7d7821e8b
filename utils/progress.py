"""Progress: how much of the video is done, how fast, and what it will cost."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm


class Progress:
    """Counts seconds of video and says them in one line that a person can plan by.

    The length of a recording is known once it was opened; before that it is taken to have the
    bytes per second of those that were.
    """

    def __init__(
        self,
        sizes_bytes: dict[str, int],
        *,
        verb: str = "prepared",
        prepared_seconds: float = 0.0,
        price_per_hour: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.verb = verb  # what is done to the video
        self._sizes_bytes = sizes_bytes  # of what is to be decoded
        self._prepared_seconds = prepared_seconds
        self._price_per_hour = price_per_hour
        self._clock = clock
        self._started = clock()
        self._lengths_seconds: dict[str, float] = {}  # as the container says, then as decoded
        self._decoded_seconds: dict[str, float] = {}
        self._found_seconds: dict[str, float] = {}  # in finished parts of an earlier run
        self._ended: set[str] = set()
        self.num_rejected = 0

    def opened(self, name: str, seconds: float) -> None:
        """The container's word on the length of a recording."""
        if name not in self._ended:
            self._lengths_seconds[name] = max(0.0, seconds)

    def decoded(self, name: str, seconds: float) -> None:
        """So much more of a recording was decoded."""
        self._decoded_seconds[name] = self._decoded_seconds.get(name, 0.0) + seconds

    def reached(self, name: str, seconds: float) -> None:
        """So much of a recording is decoded now."""
        self._decoded_seconds[name] = seconds

    def found(self, name: str, seconds: float) -> None:
        """So much of a recording was decoded by an earlier run."""
        self._found_seconds[name] = seconds

    def restart(self, name: str) -> None:
        """What was decoded of a recording was in vain."""
        self._decoded_seconds.pop(name, None)
        self._found_seconds.pop(name, None)

    def ended(self, name: str, seconds: float) -> None:
        """A recording is prepared, in all its seconds, or rejected (0)."""
        self._ended.add(name)
        self._lengths_seconds[name] = seconds
        self._decoded_seconds[name] = min(seconds, self._decoded_seconds.get(name, 0.0))
        self.num_rejected += seconds == 0

    @property
    def elapsed_seconds(self) -> float:
        return self._clock() - self._started

    @property
    def decoded_seconds(self) -> float:
        """Seconds of video decoded by this run."""
        return sum(self._decoded_seconds.copy().values())

    @property
    def fraction(self) -> float | None:
        """Of the seconds of video that are done, 0 to 1; None while no recording was opened."""
        done, left = self._prepared_seconds + self._done_seconds(), self._left_seconds()
        return None if left is None else done / max(done + left, 1e-9)

    def line(self) -> str:
        """`3.2/200.0 h · 148x real time · ETA 1:20:31 · 2 rejected · $0.31 of about $1.04`."""
        done = self._prepared_seconds + self._done_seconds()
        left = self._left_seconds()
        rate = self.decoded_seconds / max(self.elapsed_seconds, 1e-9)
        eta = left / rate if left is not None and rate > 0 else None
        in_minutes = left is not None and done + left < 3600
        unit, unit_seconds = ("min", 60) if in_minutes else ("h", 3600)
        total = "?" if left is None else f"{(done + left) / unit_seconds:.1f}"
        words = [
            f"{done / unit_seconds:.1f}/{total} {unit}",
            f"{rate:.0f}x real time",
            f"ETA {'?' if eta is None else format_seconds(eta)}",
            f"{self.num_rejected} rejected",
        ]
        if self._price_per_hour is not None:
            spent = self._dollars(self.elapsed_seconds)
            words.append(
                spent
                if eta is None
                else f"{spent} of about {self._dollars(self.elapsed_seconds + eta)}"
            )
        return " · ".join(words)

    def summary(self) -> str:
        """What this run did."""
        rate = self.decoded_seconds / max(self.elapsed_seconds, 1e-9)
        words = [
            f"{self.verb} {self.decoded_seconds / 3600:.2f} h of video in "
            f"{format_seconds(self.elapsed_seconds)}",
            f"{rate:.0f}x real time",
            f"{self.num_rejected} rejected",
        ]
        if self._price_per_hour is not None:
            words.append(self._dollars(self.elapsed_seconds))
        return " · ".join(words)

    def _done_seconds(self) -> float:
        """Of recordings in the store or in the works; those of an earlier run's parts count too."""
        decoded, found = self._decoded_seconds.copy(), self._found_seconds.copy()
        lengths = self._lengths_seconds.copy()
        return sum(
            seconds
            if name in self._ended
            else min(seconds, decoded.get(name, 0.0) + found.get(name, 0.0))
            for name, seconds in lengths.items()
        )

    def _left_seconds(self) -> float | None:
        """None while no recording was opened, so that nothing is known."""
        lengths = self._lengths_seconds.copy()
        known_bytes = sum(self._sizes_bytes[name] for name, length in lengths.items() if length)
        if not known_bytes and len(lengths) < len(self._sizes_bytes):
            return None
        unknown_bytes = sum(s for name, s in self._sizes_bytes.items() if name not in lengths)
        known_seconds = sum(lengths.values())
        guess = unknown_bytes * known_seconds / known_bytes if unknown_bytes else 0.0
        return max(0.0, known_seconds + guess - self._done_seconds())

    def _dollars(self, seconds: float) -> str:
        return f"${seconds / 3600 * self._price_per_hour:.2f}"


class ProgressBar:
    """The line of a Progress on the terminal, or now and then in a log."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._interval_seconds = 0.5 if sys.stderr.isatty() else 30.0
        self._shown = time.monotonic()
        self._bar = tqdm(bar_format="{desc}", desc=f"{progress.verb}: starting", leave=False)

    def show(self) -> None:
        if time.monotonic() - self._shown > self._interval_seconds:
            self._shown = time.monotonic()
            self._bar.set_description_str(f"{self._progress.verb}: {self._progress.line()}")

    def close(self) -> None:
        self._bar.set_description_str(f"{self._progress.verb}: {self._progress.line()}")
        self._bar.close()


def format_seconds(seconds: float) -> str:
    """Such as 1:20:31, or 0:42."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
