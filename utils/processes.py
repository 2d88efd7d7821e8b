"""Processes: spawned workers that start light, and a pool that survives what they are given."""

import contextlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import connection, parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess

import psutil

STALL_SECONDS = 30.0  # of its own processor time that a task may take between two signs of life
STALL_FACTOR = 4  # by the clock it may be so many times longer: a disk, a network, a busy machine
LOOK_SECONDS = 0.5  # between two looks at a silent worker
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

_STARTING = threading.Lock()  # several threads start processes, which changes the main module


class WorkerLost(Exception):
    """The process that did a task ended, or was ended as it got nowhere; the message says how."""


class PoolClosed(Exception):
    """The pool was closed before or while the task was done."""


class LightProcess(SpawnProcess):
    """A spawned process that does not import the main script again.

    What it runs must live in a module. The training scripts import torch, which takes seconds and
    500 MB, and no worker that decodes a video needs it.
    """

    @staticmethod
    def _Popen(process: BaseProcess) -> object:  # multiprocessing's own hook, its spelling
        main = sys.modules["__main__"].__dict__
        with _STARTING:
            hidden = {name: main.pop(name) for name in ("__spec__", "__file__") if name in main}
            main["__spec__"] = None
            try:
                return SpawnProcess._Popen(process)
            finally:
                main.update(hidden)


class LightContext(SpawnContext):
    """A context for pools: spawned, since a forked child inherits locks of the parent's threads."""

    Process = LightProcess


class WorkerPool:
    """Processes that do a task each at a time, first come, first served; started when needed.

    concurrent.futures ends the whole pool with one worker, does not tell which task it was, waits
    for ever for one that hangs, and leaves the workers of a killed parent behind. Here a task that
    kills or blocks its process fails alone, and workers end with their parent, whatever ended it.
    """

    def __init__(self, size: int, *, stall_seconds: float = STALL_SECONDS):
        self._stall_seconds = stall_seconds
        self._closed = threading.Event()
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        for _ in range(size):
            self._idle.put(None)  # a worker that is not started yet
        self._running: set[_Worker] = set()
        self._threads = ThreadPoolExecutor(size, "worker")

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self,
        function: Callable,
        *arguments: object,
        progress: Callable[[object], None] | None = None,
    ) -> Future:
        """The result of `function(*arguments, report)` in a worker process.

        The function calls `report(value)` as it gets on, which `progress` is handed in a thread of
        this process. The future raises what the function raised, WorkerLost for a process that
        ended or gave no sign of life, and PoolClosed.
        """
        return self._threads.submit(self._do, function, arguments, progress or (lambda _: None))

    def close(self) -> None:
        """Ends the workers and what they are doing."""
        self._closed.set()
        for worker in list(self._running):
            worker.kill()
        # What waits is not cancelled, of which concurrent.futures.wait() would not hear: it fails.
        self._threads.shutdown()
        while not self._idle.empty():
            if (worker := self._idle.get()) is not None:
                worker.kill()

    def _do(self, function: Callable, arguments: tuple, progress: Callable) -> object:
        worker = self._idle.get()
        try:
            for attempt in (1, 2):
                if self._closed.is_set():
                    raise PoolClosed
                worker = worker or _Worker()
                self._running.add(worker)
                if self._closed.is_set():  # meanwhile, so that `close` did not see this worker
                    raise PoolClosed
                try:
                    return worker.do(function, arguments, progress, self._stall_seconds)
                except WorkerLost:
                    killed = worker.exit_code == -signal.SIGKILL
                    worker.kill()
                    self._running.discard(worker)
                    worker = None
                    if self._closed.is_set():
                        raise PoolClosed from None
                    # A machine without memory kills any process: not always the one to blame.
                    if not killed or attempt == 2:
                        raise
        finally:
            self._running.discard(worker)
            self._idle.put(worker)


class _Worker:
    """A process and the pipe to it."""

    def __init__(self) -> None:
        self._pipe, end = connection.Pipe()
        self._process = LightProcess(target=_serve, args=(end,), daemon=True, name="worker")
        self._process.start()
        end.close()
        self._measured = psutil.Process(self._process.pid)
        self.exit_code: int | None = None

    def do(
        self, function: Callable, arguments: tuple, progress: Callable, stall_seconds: float
    ) -> object:
        try:
            self._pipe.send((function, arguments))
            silent_seconds, busy = 0.0, self._busy_seconds()
            while True:
                looked = time.monotonic()
                if self._pipe.poll(LOOK_SECONDS):
                    kind, value = self._pipe.recv()
                    if kind == "result":
                        return value
                    if kind == "error":
                        raise value
                    progress(value)
                    silent_seconds, busy = 0.0, self._busy_seconds()
                    continue
                # Ctrl-Z, or a machine that stands still, stops the worker as it stops us.
                silent_seconds += min(time.monotonic() - looked, 2 * LOOK_SECONDS)
                if (
                    self._busy_seconds() - busy > stall_seconds
                    or silent_seconds > STALL_FACTOR * stall_seconds
                ):
                    raise WorkerLost(f"decoding made no progress for {stall_seconds:g} s")
        except (EOFError, ConnectionError, psutil.NoSuchProcess):
            self._process.join(5)
            self.exit_code = self._process.exitcode
            raise WorkerLost(_describe_exit(self.exit_code)) from None

    def kill(self) -> None:
        with contextlib.suppress(ValueError):  # it was closed
            self._process.kill()
            self._process.join()

    def _busy_seconds(self) -> float:
        times = self._measured.cpu_times()
        return times.user + times.system


def _describe_exit(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "the decoder was killed, twice: perhaps the machine has too little memory for it"
    with contextlib.suppress(ValueError, TypeError):
        return f"the decoder crashed on it ({signal.Signals(-code).name})"
    return f"the decoder crashed on it (exit code {code})"


def _serve(pipe: connection.Connection) -> None:
    """Does the tasks that come through the pipe, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.environ.update(ONE_THREAD)  # read when numpy is imported: as many processes as cores run
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(value: object) -> None:
        pipe.send(("progress", value))

    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            message = ("result", function(*arguments, report))
        except Exception as error:  # the parent raises it
            error.add_note(f"In a worker process:\n{traceback.format_exc()}")
            message = ("error", error)
        pipe.send(message)


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)
