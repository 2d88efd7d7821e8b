"""Workers: processes that read recordings for the page, so that none of those can end it."""

import threading
from collections.abc import Callable
from concurrent.futures import wait

from utils.media import MediaError
from utils.processes import PoolClosed, WorkerLost, WorkerPool

CHECK_SECONDS = 0.1
STALL_SECONDS = 120.0  # of processor time without a sign of life: a process starts torch first


class Worker:
    """A process that does one task at a time, started when there is one, and kept for the next."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._pool: WorkerPool | None = None
        self._closed = False

    def run(
        self,
        function: Callable,
        *arguments: object,
        progress: Callable[[object], None] = lambda _: None,
        check: Callable[[], None] = lambda: None,
    ) -> object:
        """What `function(*arguments, report)` of a module returns or raises, in the process.

        `check` is called ten times a second, here, and may raise: the process is then ended, and
        what it raised comes out. Raises MediaError where the process crashed or got nowhere.
        """
        while not self._turn.acquire(timeout=CHECK_SECONDS):
            check()
        try:
            return self._run(function, arguments, progress, check)
        except WorkerLost as error:
            raise MediaError(str(error)) from None
        except PoolClosed:
            raise MediaError("the page stopped meanwhile: try again") from None
        finally:
            self._turn.release()

    def close(self) -> None:
        """Ends the process and what it does, for good."""
        self._closed = True
        pool = self._pool
        if pool is not None:
            pool.close()

    def _run(self, function: Callable, arguments: tuple, progress: Callable, check: Callable):
        if self._closed:
            raise PoolClosed
        if self._pool is None:
            self._pool = WorkerPool(1, stall_seconds=STALL_SECONDS)
        future = self._pool.submit(function, *arguments, progress=progress)
        try:
            while not wait([future], CHECK_SECONDS).done:
                check()
        except BaseException:
            self._pool.close()  # with the task in it
            self._pool = None
            raise
        return future.result()
