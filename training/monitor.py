"""Monitor of the machine while a run trains: processor, memory, storage and GPU, every second."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil
import pynvml

from training.run_progress import FAILED, FINISHED, INTERRUPTED, read_json_lines
from utils.errors import Interrupted

INTERVAL_SECONDS = 1.0
SHORTEST_INTERVAL_SECONDS = 0.1  # psutil's percentages are noise over less
JOIN_SECONDS = 2.0  # a driver that hangs must not hold up the end of a training
READING_ERRORS = (psutil.Error, pynvml.NVMLError, OSError, NotImplementedError, AttributeError)


class Monitor:
    """Context manager that appends one JSON object a second to a file, from a daemon thread.

    A line holds seconds (going on from the file's last line), cpu_percent (of the whole machine),
    process_cpu_percent (this process and its children, 100 = one core), memory_bytes (their
    resident memory, shared pages counted in each), memory_percent (of the whole machine),
    read_bytes_per_second and write_bytes_per_second (theirs, from and to storage), and gpus: a
    list of utilization_percent, memory_bytes, power_watts, temperature_celsius. A reading that
    fails is null. The last line says how the run ended. Nothing is ever raised: when the file
    cannot be written, `note` says why.
    """

    def __init__(self, path: Path, *, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self.note: str | None = None
        self._path = path
        self._interval_seconds = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)

    def __enter__(self) -> "Monitor":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(JOIN_SECONDS)
        if self.note is None:
            self._write_end(error)

    def _watch(self) -> None:
        try:
            self._write_lines()
        except OSError as error:
            self.note = f"{self._path} cannot be written, machine use is not recorded: {error}"

    def _write_end(self, error: BaseException | None) -> None:
        """Says how the run ended: the line that `read_progress` looks for."""
        line = {"ended": FINISHED}
        if error is not None:
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            words = str(error).splitlines() or [type(error).__name__]
            line = {"ended": INTERRUPTED if stopped else FAILED, "reason": words[0]}
        try:
            with self._path.open("ab") as file:
                file.write(json.dumps(line).encode() + b"\n")
        except OSError as failure:
            self.note = f"{self._path} cannot be written: {failure}"

    def _write_lines(self) -> None:
        offset_seconds = _resume(self._path)
        processes, gpus = _Processes(), _Gpus()
        psutil.cpu_percent()  # the first call only sets the point to count from
        # Unbuffered: a worker forked by a data loader would flush a copy of the buffer at its end.
        with self._path.open("ab", buffering=0) as file:
            start = last = time.monotonic()
            stopped = False
            while not stopped:
                elapsed = time.monotonic() - start
                # Whole intervals from the start: no drift, and no burst after a pause.
                stopped = self._stop.wait(self._interval_seconds - elapsed % self._interval_seconds)
                now = time.monotonic()
                if now - last < SHORTEST_INTERVAL_SECONDS:
                    continue
                line = {
                    "seconds": round(offset_seconds + now - start, 2),
                    "cpu_percent": _reading(psutil.cpu_percent),
                    **processes.read(now - last),
                    "memory_percent": _reading(lambda: psutil.virtual_memory().percent),
                    "gpus": gpus.read(),
                }
                file.write(json.dumps(line).encode() + b"\n")
                last = now
        gpus.close()


def read_monitor(path: Path) -> list[dict]:
    """Returns the lines of a monitor file; [] without one. Half-written lines are left out."""
    return [line for line in read_json_lines(path) if "seconds" in line]


class _Processes:
    """Readings of this process and its children, as differences since the last reading."""

    def __init__(self) -> None:
        self._own = psutil.Process()
        self._known: dict[psutil.Process, tuple[int, int] | None] = {}
        self.read(INTERVAL_SECONDS)

    def read(self, seconds: float) -> dict[str, float | None]:
        children = _reading(lambda: self._own.children(recursive=True)) or []
        # The object seen before stays in use: it holds the point to count from.
        seen = {process: process for process in self._known}
        processes = [seen.get(process, process) for process in (self._own, *children)]
        percents = [_reading(process.cpu_percent) for process in processes]
        resident = [_reading(lambda p=process: p.memory_info().rss) for process in processes]
        moved = {process: _reading(lambda p=process: _moved_bytes(p)) for process in processes}
        pairs = [(self._known.get(p) or now, now) for p, now in moved.items() if now is not None]
        self._known = moved
        return {
            "process_cpu_percent": _sum(percents),
            "memory_bytes": _sum(resident),
            "read_bytes_per_second": _sum([(now[0] - was[0]) / seconds for was, now in pairs]),
            "write_bytes_per_second": _sum([(now[1] - was[1]) / seconds for was, now in pairs]),
        }


class _Gpus:
    """Readings of the NVIDIA GPUs; of none where the driver or its library is missing."""

    def __init__(self) -> None:
        self._handles = []
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]

    def read(self) -> list[dict[str, float | None]]:
        return [
            {
                "utilization_percent": _reading(
                    lambda h=handle: pynvml.nvmlDeviceGetUtilizationRates(h).gpu
                ),
                "memory_bytes": _reading(lambda h=handle: pynvml.nvmlDeviceGetMemoryInfo(h).used),
                "power_watts": _reading(lambda h=handle: pynvml.nvmlDeviceGetPowerUsage(h) / 1000),
                "temperature_celsius": _reading(
                    lambda h=handle: pynvml.nvmlDeviceGetTemperature(h, pynvml.NVML_TEMPERATURE_GPU)
                ),
            }
            for handle in self._handles
        ]

    def close(self) -> None:
        if self._handles:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


def _resume(path: Path) -> float:
    """Returns the seconds a new line goes on from; ends a half-written last line."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")
    lines = read_monitor(path)
    return lines[-1]["seconds"] if lines else 0.0


def _moved_bytes(process: psutil.Process) -> tuple[int, int]:
    counters = process.io_counters()
    return counters.read_bytes, counters.write_bytes


def _reading(read: Callable[[], object]) -> object:
    """Returns what read() returns, None where this machine does not offer it."""
    try:
        return read()
    except READING_ERRORS:
        return None


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 1) if known else None
