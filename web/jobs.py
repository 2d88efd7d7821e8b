"""Jobs: long work in the background, one record each, that outlives the process doing it.

A job is a file, `<id>.json`, written whole at each change of its state. So a job that was waiting
or running when the process stopped, or was killed, is known to the next one, which goes on with it
where its kind can be done again from the start (`resumable`), else says that it was interrupted.
"""

import contextlib
import fcntl
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path

from utils.errors import UserError, describe_os_error
from utils.files import write_whole
from utils.media import MediaError
from web.errors import NotFound, TooMany

LANES = {"compute": 1, "media": 2, "train": 1}  # how many jobs of each are done at a time
QUEUED, RUNNING, DONE = "queued", "running", "done"
FAILED, CANCELLED, INTERRUPTED = "failed", "cancelled", "interrupted"
OPEN_STATES = (QUEUED, RUNNING)
KEPT_JOBS = 300  # that ended; older ones are forgotten
MAX_ATTEMPTS = 3  # of a job at which the process was killed: it may be what kills it
TELL_SECONDS = 0.2  # between two reports of a job that are passed on
ETA_AFTER_SECONDS, ETA_AFTER_PART = 2.0, 0.01  # before that it would be a guess
STOP_SECONDS = 5.0  # for the running jobs to notice that we stop
LOG = logging.getLogger("web")


class Cancelled(Exception):
    """Raised in a job's thread by `Handle.check` when the job is to end."""


class TooManyJobs(TooMany):
    """As many are queued and running as may be."""


@dataclass(frozen=True)
class Job:
    """A job as it is at a moment; dates are ISO 8601."""

    id: str
    kind: str
    title: str
    recording: str | None  # id of the one it is about
    arguments: dict
    state: str = QUEUED
    progress: float | None = None  # 0 to 1
    note: str = ""
    eta_seconds: float | None = None
    created_at: str = ""
    started_at: str | None = None
    ended_at: str | None = None
    error: str | None = None
    result: dict | None = None
    attempts: int = 0  # begun, without those that were interrupted in an orderly way

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES

    def to_api(self) -> dict:
        """All but what is between us and the record."""
        values = asdict(self)
        del values["arguments"], values["attempts"]
        return values


Run = Callable[["Handle", dict], dict | None]


@dataclass(frozen=True)
class Kind:
    """How jobs of a name are done: `run(handle, arguments)` returns what becomes the result."""

    run: Run
    lane: str
    resumable: bool


class Handle:
    """What a running job says and asks."""

    def __init__(self, jobs: "Jobs", job: Job):
        self.job = job
        self._jobs = jobs
        self._ending = threading.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._told = 0.0

    def report(self, progress: float | None, note: str = "") -> None:
        """How far it is, 0 to 1 or None where nobody knows; may be called as often as one likes.

        Raises Cancelled, as `check` does.
        """
        self.check()
        now = time.monotonic()
        if now - self._told < TELL_SECONDS and progress != 1:
            return
        self._told = now
        elapsed, eta_seconds = now - self._started, None
        if progress is not None:
            progress = min(max(float(progress), 0.0), 1.0)
            if elapsed > ETA_AFTER_SECONDS and progress > ETA_AFTER_PART:
                eta_seconds = round(elapsed * (1 - progress) / progress, 1)
        self._jobs._progressed(self.job.id, progress, note, eta_seconds)

    def check(self) -> None:
        """Raises Cancelled where the job is to end."""
        if self._ending.is_set():
            raise Cancelled

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Calls it, in another thread, when the job is to end; at once where it is already."""
        with self._lock:
            if not self._ending.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def end(self) -> None:
        """Asks the job to end."""
        with self._lock:
            self._ending.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:  # the others are to be called all the same
                LOG.exception("a job could not be told to end")


class Jobs:
    """All jobs, in the order in which they were made; safe to use from any thread."""

    def __init__(self, folder: Path, max_jobs: int):
        self._folder = folder
        self._max_jobs = max_jobs
        self._kinds: dict[str, Kind] = {}
        self._jobs: dict[str, Job] = {}
        self._handles: dict[str, Handle] = {}
        self._queues: dict[str, queue.SimpleQueue] = {lane: queue.SimpleQueue() for lane in LANES}
        self._threads: list[threading.Thread] = []
        self._listeners: list[Callable[[Job], None]] = []
        self._lock = threading.RLock()
        self._owner: int | None = None  # file descriptor of the lock on the folder
        self._stopping = False

    def kind(self, name: str, run: Run, *, lane: str, resumable: bool = True) -> None:
        """Says how jobs of a kind are done; before `start`."""
        assert lane in LANES
        self._kinds[name] = Kind(run, lane, resumable)

    def start(self) -> None:
        """Takes up what an earlier process left. Raises UserError where another one is at work."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._own_folder()
        self._stopping = False
        with self._lock:
            self._jobs = {job.id: job for job in self._read()}
            for job in list(self._jobs.values()):
                self._take_up(job)
        for lane, count in LANES.items():
            for number in range(count):
                name = f"{lane}-{number}"
                thread = threading.Thread(target=self._work, args=(lane,), name=name, daemon=True)
                thread.start()
                self._threads.append(thread)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Interrupts what runs and records it; what does not notice in time is left to itself."""
        with self._lock:
            if self._owner is None:
                return
            self._stopping = True
            handles = list(self._handles.values())
            for handle in handles:
                job = self._jobs[handle.job.id]
                attempts = max(0, job.attempts - 1)
                self._change(job, state=INTERRUPTED, attempts=attempts, ended_at=_now())
        for handle in handles:
            handle.end()
        for lane, count in LANES.items():
            for _ in range(count):
                self._queues[lane].put(None)
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._threads.clear()
        os.close(self._owner)
        self._owner = None

    def submit(
        self, kind: str, arguments: dict, *, title: str, recording: str | None = None
    ) -> Job:
        """A job that is queued now, or the same one where it is queued or running already.

        Raises TooManyJobs.
        """
        with self._lock:
            opened = [job for job in self._jobs.values() if job.is_open]
            for job in opened:
                if (job.kind, job.arguments) == (kind, arguments):
                    return job
            if len(opened) >= self._max_jobs:
                raise TooManyJobs(
                    f"{len(opened)} jobs are waiting, which is the most: wait or cancel some"
                )
            job = Job(self._new_id(), kind, title, recording, arguments, created_at=_now())
            self._write(job)
            self._set(job)
            self._queues[self._kinds[kind].lane].put(job.id)
            self._forget_old()
            return job

    def cancel(self, job_id: str) -> Job:
        """The job, which ends soon where it runs; one that has ended stays as it is."""
        with self._lock:
            job = self.find(job_id)
            handle = self._handles.get(job_id)
            if job.state == QUEUED:
                job = self._change(job, state=CANCELLED, ended_at=_now())
        if handle is not None:
            handle.end()
        return self.find(job_id)

    def find(self, job_id: str) -> Job:
        """Raises NotFound."""
        try:
            return self._jobs[job_id]
        except KeyError:
            raise NotFound("there is no such job, or it was long ago: see /api/jobs") from None

    def all(self) -> list[Job]:
        """Those that are known, the newest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: job.id, reverse=True)

    def open(self) -> list[Job]:
        """Those that are queued or running, in their order."""
        return [job for job in reversed(self.all()) if job.is_open]

    def of_recording(self) -> dict[str, Job]:
        """For each recording that something is being done to, the latest job at it."""
        return {job.recording: job for job in self.open() if job.recording}

    def latest(self, kind: str) -> Job | None:
        return next((job for job in self.all() if job.kind == kind), None)

    @contextlib.contextmanager
    def listening(self, listener: Callable[[Job], None]):
        """Tells `listener`, in any thread, each job that changes; it must not block."""
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)

    def _own_folder(self) -> None:
        """Two processes would do every job twice, and write over each other's records."""
        owner = os.open(self._folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(owner)
            raise UserError(
                f"another serve.py works in {self._folder.parent}: use its page, stop it, or pass "
                "another --cache-dir"
            ) from None
        self._owner = owner

    def _new_id(self) -> str:
        """One that sorts behind all others, whatever the clock says."""
        last = max(self._jobs, default="0")
        return f"{max(time.time_ns() // 1000, int(last, 16) + 1):014x}"

    def _read(self) -> list[Job]:
        names = {field.name for field in fields(Job)}
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                values = json.loads(path.read_bytes())
                int(path.stem, 16)
                found.append(Job(**{**{name: values[name] for name in names}, "id": path.stem}))
            except (ValueError, KeyError, TypeError):
                LOG.warning("%s is damaged: the job is forgotten", path)
                path.unlink()
        return found

    def _take_up(self, job: Job) -> None:
        """What becomes of a job of an earlier process."""
        kind = self._kinds.get(job.kind)
        if job.state not in (*OPEN_STATES, INTERRUPTED) or (
            job.state == INTERRUPTED and not (kind and kind.resumable)
        ):
            return
        if kind is None or (job.state == RUNNING and not kind.resumable):
            line = "the server stopped while it ran: start it again"
            self._change(job, state=INTERRUPTED, error=line, ended_at=_now())
        elif job.attempts >= MAX_ATTEMPTS:
            line = f"the server was killed {job.attempts} times while at this: start it again"
            self._change(job, state=FAILED, error=line, ended_at=_now())
        else:
            started = {"started_at": None, "ended_at": None, "progress": None, "eta_seconds": None}
            self._change(job, state=QUEUED, note="", **started)
            self._queues[kind.lane].put(job.id)

    def _work(self, lane: str) -> None:
        """A thread of a lane: one job after the other."""
        while (job_id := self._queues[lane].get()) is not None and not self._stopping:
            with self._lock:
                job = self._jobs.get(job_id)
                if job is None or job.state != QUEUED or self._stopping:
                    continue
                began = {"started_at": _now(), "attempts": job.attempts + 1}
                job = self._change(job, state=RUNNING, **began)
                handle = self._handles[job_id] = Handle(self, job)
            outcome = self._do(handle)
            with self._lock:
                del self._handles[job_id]
                job = self._jobs[job_id]
                if job.state == RUNNING:  # else it was recorded as interrupted
                    self._change(job, ended_at=_now(), eta_seconds=None, **outcome)

    def _do(self, handle: Handle) -> dict:
        """How a job ended, as fields of it."""
        kind, job = self._kinds[handle.job.kind], handle.job
        try:
            result = kind.run(handle, dict(job.arguments))
            json.dumps(result)  # what can't be recorded is a bug of the kind, and ends no thread
        except Cancelled:
            return {"state": CANCELLED}
        except (UserError, MediaError) as error:
            return {"state": FAILED, "error": " ".join(str(error).split())}
        except OSError as error:
            LOG.exception("%s: %s failed", job.kind, job.title)
            return {"state": FAILED, "error": describe_os_error(error) or str(error)}
        except Exception as error:
            LOG.exception("%s: %s failed, which is a bug", job.kind, job.title)
            return {"state": FAILED, "error": f"{type(error).__name__}: {error}"}
        return {"state": DONE, "progress": 1.0, "result": result}

    def _progressed(
        self, job_id: str, progress: float | None, note: str, eta_seconds: float | None
    ) -> None:
        with self._lock:
            job = self._jobs[job_id]
            if job.state == RUNNING:
                self._set(replace(job, progress=progress, note=note, eta_seconds=eta_seconds))

    def _change(self, job: Job, **values: object) -> Job:
        """The job with other values, recorded; where the disk is full, in memory at least."""
        job = replace(job, **values)
        try:
            self._write(job)
        except OSError as error:
            LOG.error("job %s can't be recorded: %s", job.id, error)
        self._set(job)
        return job

    def _set(self, job: Job) -> None:
        self._jobs[job.id] = job
        for listener in self._listeners:
            listener(job)

    def _write(self, job: Job) -> None:
        write_whole(self._folder / f"{job.id}.json", json.dumps(asdict(job)).encode())

    def _forget_old(self) -> None:
        ended = [job for job in self.all() if not job.is_open]
        for job in ended[KEPT_JOBS:]:
            del self._jobs[job.id]
            (self._folder / f"{job.id}.json").unlink(missing_ok=True)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")
