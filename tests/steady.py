"""Steady: seconds of a computer that goes on, and waiting by them; none pass while it stands still.

A busy computer may leave its processes alone for 20 seconds. Whoever counts those finds that
something took too long, though nothing had a chance to happen.
"""

import resource
import threading
import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_SECONDS = 60.0  # of a test that waits for what is due at once: only a failure takes them
LOOK_SECONDS = 0.05
MOST_SECONDS = 0.25  # that count between two looks at the clock

Found = TypeVar("Found")
_lock = threading.Lock()
_seen = _steady = time.monotonic()


def steady_seconds() -> float:
    """As `time.monotonic()`, which goes on by MOST_SECONDS at most from one call to the next.

    So it is for loops, and counts as long as at least one of them asks for it.
    """
    global _seen, _steady
    with _lock:
        now = time.monotonic()
        _steady += min(now - _seen, MOST_SECONDS)
        _seen = now
        return _steady


class Stopwatch:
    """How long something takes, also what only waits; a thread counts as `steady_seconds` does."""

    def __enter__(self) -> "Stopwatch":
        self.seconds = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _count(self) -> None:
        before, is_over = time.monotonic(), False
        while not is_over:
            is_over = self._over.wait(LOOK_SECONDS)
            now = time.monotonic()
            self.seconds += min(now - before, MOST_SECONDS)
            before = now


def children_seconds() -> float:
    """The processor's time that went into children of this process which have ended.

    Of what is not to take long: by the clock, it does on a busy computer.
    """
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def wait_until(
    holds: Callable[[], Found],
    seconds: float = PATIENCE_SECONDS,
    *,
    what: Callable[[], object] = lambda: "it",
    every_seconds: float = 0.02,
) -> Found:
    """What `holds()` returns, as soon as that is true; AssertionError with `what()` if it is not.

    Each turn counts as MOST_SECONDS at most.
    """
    left = seconds
    while True:
        began = time.monotonic()
        if found := holds():
            return found
        assert left > 0, f"waited {seconds:g} s in vain for {what()}"
        time.sleep(every_seconds)
        left -= min(time.monotonic() - began, MOST_SECONDS)
