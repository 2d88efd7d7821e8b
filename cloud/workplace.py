"""Workplace: the folder of an instance in which start script, attempt and guard leave word."""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from cloud.run_record import Attempt, AttemptEnd, Limits, RunPlan, RunRecord, parse, utc_now

HOME_VARIABLE, HOME = "ADGAME_HOME", "/opt/ad-game-classifier"
FOLDER = "on-aws"  # below the home; bootstrap.sh knows it, too
NVME = Path("/opt/dlami/nvme")  # the instance's own fast disk, where its image mounts one
LOOK_SECONDS = 0.1
LONGEST_BOOT_SECONDS = 300.0  # from the launch to the start script


@dataclass(frozen=True)
class Wish:
    """That the attempt ends: in which state, why, and by when it must (seconds since 1970)."""

    state: str
    reason: str
    by: float | None = None


class Workplace:
    """What is known here of one attempt. All paths are below `home`, where the code lies."""

    def __init__(self, home: Path):
        self.home = home
        self.folder = home / FOLDER
        self.runs = home / "runs"
        self.log = self.folder / "log"  # all that is printed here
        self.output = self.folder / "output"  # of the work alone
        self.plan = parse(RunPlan, self._read("plan.json"), str(self.folder / "plan.json"))
        self.attempt = parse(Attempt, self._read("attempt.json"), str(self.folder / "attempt.json"))
        self.record = RunRecord(self.plan.bucket, self.plan.run)

    @classmethod
    def from_environment(cls) -> "Workplace":
        """Raises FileNotFoundError or RecordError where bootstrap.sh has not prepared it."""
        return cls(Path(os.environ.get(HOME_VARIABLE) or HOME))

    @property
    def limits(self) -> Limits:
        return self.plan.limits

    @property
    def cache(self) -> Path:
        """Relative to the home, or on the instance's own disk: features of 200 hours are 80 GB."""
        return NVME / "cache" if os.access(NVME, os.W_OK) else Path("cache")

    @property
    def started(self) -> float:
        """When the start script began, in seconds since 1970."""
        return float((self.folder / "started").read_text())

    def dollars(self) -> float:
        """What this attempt cost until now: EC2 counts from the launch, before any script runs."""
        boot_seconds = 0.0
        if self.attempt.launched:
            boot_seconds = self.started - datetime.fromisoformat(self.attempt.launched).timestamp()
        if not 0 <= boot_seconds <= LONGEST_BOOT_SECONDS:  # the laptop's clock is wrong
            boot_seconds = 0.0
        hours = (time.time() - self.started + boot_seconds) / 3600
        return max(hours, 0.0) * self.attempt.dollars_per_hour

    @property
    def run_folder(self) -> Path | None:
        """The folder of the training: the one that was brought back, or that it made here."""
        brought_back = self.runs / self.plan.run
        if brought_back.exists():
            return brought_back
        latest = self.runs / "latest"
        return latest.resolve() if latest.exists() else None

    # --- that it is to end

    def ask_to_end(self, wish: Wish) -> Wish:
        """Returns what counts: the first wish, or this one where it is the first."""
        self.drop_ballast()
        with contextlib.suppress(OSError):
            _create(self.folder / "wish.json", asdict(wish))
        return self.wish or wish

    def drop_ballast(self) -> None:
        """On a full disk, what is still to be said needs some room."""
        (self.folder / "ballast").unlink(missing_ok=True)

    @property
    def wish(self) -> Wish | None:
        found = self._read("wish.json")
        return Wish(**found) if found else None

    # --- that it has ended

    @property
    def end(self) -> AttemptEnd | None:
        """How it ended, once all that could be done for it was done."""
        found = self._read("end.json")
        return AttemptEnd(**found) if found else None

    def keep_end(self, end: AttemptEnd) -> None:
        with contextlib.suppress(OSError):  # there is one already, or no room for it
            _create(self.folder / "end.json", asdict(end))

    def new_end(self, wish: Wish, exit_code: int) -> AttemptEnd:
        return AttemptEnd(wish.state, wish.reason, exit_code, utc_now(), round(self.dollars(), 4))

    # --- who is at work

    def keep_process(self, role: str, process: int) -> None:
        """Remembers the process of the attempt, or of the work that outlives a killed attempt."""
        path = self.folder / f"{role}.process"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"process": process, "began": process_start(process)}))
        os.replace(partial, path)

    def process(self, role: str) -> int | None:
        """The process in that role; None where it is gone, or has not begun."""
        found = self._read(f"{role}.process")
        process, began = found.get("process"), found.get("began")
        return process if began is not None and process_start(process) == began else None

    def has_begun(self, role: str) -> bool:
        return (self.folder / f"{role}.process").exists()

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Held by who ends the attempt from outside; the next one waits, and finds it done."""
        with open(self.folder / "ending.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the system takes it off who is killed
            yield

    def _read(self, name: str) -> dict:
        """{} where there is no such file yet, or a disk that was full kept it from being whole."""
        try:
            found = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def say(line: str) -> None:
    """Prints a line into the log, if the disk has room for it."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


def process_start(process: int) -> str | None:
    """When a process began, in ticks since the boot; None where it is gone or a zombie.

    With it, a number that was given to another process meanwhile is told.
    """
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def wait_until_gone(process: int, seconds: float) -> bool:
    """Whether the process, which need not be a child, ended within that time."""
    began, end = process_start(process), time.monotonic() + seconds
    while began is not None and process_start(process) == began:
        if time.monotonic() >= end:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def _create(path: Path, values: dict) -> None:
    """Writes a file whole, unless there is one. Raises FileExistsError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(values), encoding="utf-8")
    try:
        os.link(partial, path)
    finally:
        partial.unlink()
