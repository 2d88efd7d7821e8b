"""Readers: processes that look into recordings for the page, so that none of those can end it."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from utils.media import MediaError
from utils.processes import PoolClosed, WorkerLost, WorkerPool

PROCESSES = 3  # light ones: they know no network
STALL_SECONDS = 120.0  # of processor time that a task may take without a sign of life


class Readers:
    """Processes for short tasks, started with the first one; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: WorkerPool | None = None
        self._closed = False

    def submit(self, function: Callable, *arguments: object) -> Future:
        """The result of `function(*arguments, report)` of a light module, to be given to `result`.

        Cancelling it takes it out of the queue.
        """
        with self._lock:
            if self._closed:
                raise MediaError("the page is about to stop: try again")
            self._pool = self._pool or WorkerPool(PROCESSES, stall_seconds=STALL_SECONDS)
            return self._pool.submit(function, *arguments)

    def run(self, function: Callable, *arguments: object) -> object:
        """The same, waited for. Raises what the function raises, MediaError for a crash in it."""
        with reading():
            return self.submit(function, *arguments).result()

    def close(self) -> None:
        """Ends the processes and what they do, for good."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Where a task's result is waited for: that its process was lost is the recording's fault."""
    try:
        yield
    except WorkerLost as error:
        raise MediaError(str(error)) from None
    except PoolClosed:
        raise MediaError("the page stopped meanwhile: try again") from None
