"""Live: what a stream shows now, told in JSON lines as it changes."""

import json
import math
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TextIO

import psutil

from timeline.changes import Change, ChangeFinder, ChangeSettings
from timeline.classifier import Classifier
from timeline.commands import ChangeCommand
from timeline.live_windows import LiveWindows
from timeline.network import Network, network_of
from utils.connections import StreamLost, find_source
from utils.labels import BREAK_LABEL
from utils.streams import BLOCK_SECONDS, StreamBlock, StreamNote, StreamReader, WallClock

MIN_WINDOW_SECONDS = 2.0  # after a start or a gap: what less shows is not judged
MAX_GAP_SECONDS = 2.0  # no window reaches over a longer one
ARRIVALS = 120  # blocks whose arrival is remembered: a minute
DROPS_SECONDS = 10.0  # left out that are worth a line
POLL_SECONDS = 0.2  # between two looks at whether to stop, or at what a command said
ENDED, GAVE_UP, INTERRUPTED = 0, 3, 130  # exit codes


@dataclass(frozen=True)
class LiveOptions:
    """How a stream is watched."""

    changes: ChangeSettings = field(default_factory=ChangeSettings)
    status_seconds: float | None = None  # between two lines that say how it goes
    on_change: str | None = None  # a command, its words as in a shell
    give_up_minutes: float | None = None  # without a picture
    speed: float = 1.0  # at which a file is played


def run_live(
    address: str,
    model: Classifier,
    options: LiveOptions,
    out: TextIO,
    *,
    clock: WallClock | None = None,
    network: Network | None = None,
) -> int:
    """Watches a stream until it ends, and writes a line of JSON for all that happens.

    Returns the exit code: 0 at the end of the stream or after SIGTERM, 130 after Ctrl-C, 3 where it
    gave up. Raises UserError for a source or a command that can't be used.
    """
    clock = clock or WallClock()
    network = network or network_of(model.model)
    source = find_source(address)
    command = ChangeCommand(options.on_change) if options.on_change else None
    log = _Log(out, clock, command)
    watch = StreamWatch(model, network, options.changes, clock)
    give_up_seconds = options.give_up_minutes and 60 * options.give_up_minutes
    reader = StreamReader(
        source, model.spec, clock=clock, give_up_seconds=give_up_seconds, speed=options.speed
    )
    try:
        with _signals() as stops:
            code = _watch(reader, watch, log, stops, options.status_seconds)
    finally:
        reader.close()
        log.close(watch.seconds)
    return code


def _watch(
    reader: StreamReader,
    watch: "StreamWatch",
    log: "_Log",
    stops: list[int],
    status_seconds: float | None,
) -> int:
    """Writes what happens until the stream ends or a signal comes; returns the exit code."""
    code, status_at, dropped = None, -math.inf, 0.0
    while code is None:
        try:
            item = reader.take(POLL_SECONDS)
            for event in watch.take(item) if item is not None else ():
                log.write(event)
        except EOFError:
            code = ENDED
        except StreamLost as error:
            log.write({"event": "gave_up", "seconds": watch.seconds, "description": str(error)})
            code = GAVE_UP
        if stops:
            code = INTERRUPTED if stops[0] == signal.SIGINT else ENDED
        log.write_reports(watch.seconds)
        if reader.dropped_seconds >= dropped + DROPS_SECONDS:
            dropped = reader.dropped_seconds
            says = f"{dropped:.0f} s left out until now: this machine is too slow for the stream"
            log.write({"event": "damage", "seconds": watch.seconds, "description": says})
        is_due = status_seconds is not None and log.now >= status_at + status_seconds
        if is_due or code is not None:
            status_at = log.now
            log.write(watch.status(reader.dropped_seconds))
    return code


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects the numbers of SIGTERM and SIGINT instead of ending; in other threads none come."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda got, _: received.append(got)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class StreamWatch:
    """What happens in a stream, out of its blocks and notes. Memory does not grow."""

    def __init__(
        self,
        model: Classifier,
        network: Network,
        settings: ChangeSettings,
        clock: WallClock,
    ):
        self.seconds = 0.0  # of the newest frame's end
        self._clock = clock
        self._finder = ChangeFinder(model.classes, settings)
        self._windows = LiveWindows(model, network)
        self._classes = model.classes
        self._fps = model.spec.fps
        self._arrivals: deque[tuple[float, float]] = deque(maxlen=ARRIVALS)
        self._said: dict[str, float] | None = None
        self._lag_seconds = 0.0
        self._reconnects = self._num_corrupt = self._num_frames = 0
        self._is_connected = False
        self._status_at = clock.monotonic()

    def take(self, item: StreamBlock | StreamNote) -> Iterator[dict]:
        """Yields the events of what was read next."""
        if isinstance(item, StreamNote):
            self._reconnects += item.kind == "reconnected"
            if item.kind != "damage":
                self._is_connected = item.kind != "lost"
            yield {"event": item.kind, "seconds": item.seconds, "description": item.description}
            return
        if item.seconds - self.seconds > MAX_GAP_SECONDS:
            self._windows.clear()
        self.seconds = item.seconds + len(item.frames) / self._fps
        self._arrivals.append((self.seconds, item.arrived))
        self._lag_seconds = item.lag_seconds + self._clock.monotonic() - item.arrived
        self._num_corrupt += item.num_corrupt
        self._num_frames += len(item.frames)
        self._windows.take(item)
        if self._windows.seconds < MIN_WINDOW_SECONDS:
            return
        probabilities = self._windows.judge()  # (windows, C)
        mean = zip(self._classes, probabilities.mean(axis=0).tolist(), strict=True)
        self._said = {name: round(probability, 4) for name, probability in mean}
        for change in self._finder.step(self.seconds, probabilities):
            yield self._event(change)

    def status(self, dropped_seconds: float) -> dict:
        """How it goes since the last time that this was asked."""
        now = self._clock.monotonic()
        passed, self._status_at = now - self._status_at, now
        frames, self._num_frames = self._num_frames, 0
        return {
            "event": "status",
            "seconds": self.seconds,
            "label": self._finder.label,
            "probabilities": self._said,
            "fps": round(frames / passed, 2) if passed > 0 else 0.0,
            "lag_seconds": round(self._lag_seconds, 2),
            "dropped_seconds": round(dropped_seconds, 1),
            "corrupt_pictures": self._num_corrupt,
            "connected": self._is_connected,
            "reconnects": self._reconnects,
            "memory_mb": round(psutil.Process().memory_info().rss / 2**20, 1),
        }

    def _event(self, change: Change) -> dict:
        name = "change"
        if change.label == BREAK_LABEL:
            name = "enter_break"
        elif BREAK_LABEL in self._classes and change.previous in (BREAK_LABEL, None):
            name = "return_to_game"
        # To return to a game late is worse than to return in vain.
        holds = change.status == "confirmed" or (
            change.status == "provisional" and change.previous == BREAK_LABEL
        )
        arrived = self._arrival(change.seconds)
        latency = self._clock.monotonic() - arrived
        return {
            "event": name,
            "status": change.status,
            "id": change.id,
            "seconds": change.seconds,
            "happened": _iso(self._clock.time() - latency),
            "latency_seconds": round(latency, 2),
            "label": change.label,
            "previous": change.previous,
            "shows": change.label if holds else change.previous,
            "confidence": round(change.confidence, 4),
        }

    def _arrival(self, seconds: float) -> float:
        """When the picture of that time came, of the clock's `monotonic`."""
        for end, arrived in self._arrivals:
            if end > seconds:
                return arrived - (end - seconds) if end - seconds < 2 * BLOCK_SECONDS else arrived
        return self._clock.monotonic()


class _Log:
    """Lines of JSON, each with the time at which it was written, and the command of changes."""

    def __init__(self, out: TextIO, clock: WallClock, command: ChangeCommand | None):
        self._out = out
        self._clock = clock
        self._command = command
        self._shown: str | None = None  # what the command was told last

    @property
    def now(self) -> float:
        return self._clock.monotonic()

    def write(self, event: dict) -> None:
        """Writes an event at once and runs the command if it is a change that holds.

        Raises BrokenPipeError where nobody reads.
        """
        line = {"event": event["event"], "time": _iso(self._clock.time()), **event}
        line["seconds"] = round(event["seconds"], 3)
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()
        if self._command is not None and event.get("shows", self._shown) != self._shown:
            self._shown = event["shows"]
            self._command.run(line)

    def write_reports(self, seconds: float) -> None:
        """Writes what went wrong with the command since the last time."""
        for report in self._command.taken_reports() if self._command else ():
            self.write({**report, "seconds": seconds})

    def close(self, seconds: float) -> None:
        """Lets the command end, and reports it."""
        if self._command is not None:
            self._command.close()
            self.write_reports(seconds)


def _iso(seconds: float) -> str:
    """For example `2026-11-22T02:50:54.123Z`."""
    time = datetime.fromtimestamp(seconds, UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
