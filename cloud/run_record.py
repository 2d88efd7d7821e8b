"""Run record: what laptop and instance tell each other of a run, as small objects on S3.

    s3://BUCKET/runs/RUN/
        plan.json             RunPlan     laptop, before anything is paid for
        code.tar.gz                       laptop
        attempts/N.json       Attempt     laptop, before and after each call that may start one
        attempts/N-end.json   AttemptEnd  instance, last of all
        attempts/N.log                    instance, what it printed
        heartbeat.json        Heartbeat   instance, every few seconds
        files/SHA256/NAME                 instance, contents of the run folder, never overwritten
        latest.json           Latest      instance, when all that it names is there
        stop.json                         laptop: save, send, power off

Nobody overwrites what another wrote: an attempt is changed only by who has read its last state, so
of two launchers one starts an instance, and the first end that is written is the one that counts.
"""

import json
import os
import random
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

from cloud.aws import CloudError
from cloud.s3 import (
    S3ChangedError,
    list_objects,
    read_bytes,
    read_json,
    replace_bytes,
    split_url,
    write_bytes,
)

LIMITS_VARIABLE = "ADGAME_LIMITS"  # JSON with any of the Limits, for tests and for the curious
SPOT, ON_DEMAND = "spot", "on-demand"
STAGES = ("booting", "setting up", "preparing", "training", "uploading", "ended")
DONE, INTERRUPTED, FAILED, STOPPED, LIMIT = "done", "interrupted", "failed", "stopped", "limit"
STATES = (DONE, INTERRUPTED, FAILED, STOPPED, LIMIT)
RUN_NAME = r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[A-Za-z0-9_]+-[a-z0-9]{4}"

Record = TypeVar("Record")


class RecordError(CloudError):
    """A run, or one of its records, can't be used; one line that says what to do."""


@dataclass(frozen=True)
class Limits:
    """How long each thing may take, and cost; of all attempts of a run together, if not said."""

    max_hours: float = 6.0  # that instances run
    max_cost: float | None = None  # dollars; None is no limit but the hours
    max_attempts: int = 10
    idle_minutes: float = 15.0  # neither use of the machine nor progress, before it is given up
    set_up_minutes: float = 40.0  # from the start of an instance to that of its training
    poll_seconds: float = 5.0  # between looks for a spot notice and stop.json
    heartbeat_seconds: float = 10.0
    upload_seconds: float = 20.0  # between uploads of what is new
    save_seconds: float = 60.0  # for the training to save after SIGTERM
    final_upload_seconds: float = 90.0  # a spot notice leaves two minutes
    follow_seconds: float = 5.0  # between looks of the laptop
    silent_seconds: float = 600.0  # without a heartbeat, before the laptop gives an instance up
    stop_seconds: float = 240.0  # from stop.json to the end, before the laptop terminates
    take_over_seconds: float = 60.0  # for another launcher to start what it has claimed
    capacity_minutes: float = 30.0  # to look for another instance after an interruption

    @classmethod
    def from_environment(
        cls, defaults: Mapping[str, float] | None = None, **given: float | None
    ) -> "Limits":
        """The defaults, changed by ADGAME_LIMITS and then by what is given and not None.

        Raises RecordError for a variable that is no JSON object of numbers by these names.
        """
        text = os.environ.get(LIMITS_VARIABLE, "{}")
        try:
            values = json.loads(text)
            known = {item.name for item in fields(cls)}
            numbers = all(isinstance(value, int | float) for value in values.values())
            if not (values.keys() <= known and numbers):
                raise ValueError
        except (ValueError, AttributeError) as error:
            names = ", ".join(item.name for item in fields(cls))
            raise RecordError(
                f"{LIMITS_VARIABLE} is {text!r}: write a JSON object of numbers by any of {names}"
            ) from error
        known_values = {name: value for name, value in given.items() if value is not None}
        return cls(**{**(defaults or {}), **values, **known_values})


@dataclass(frozen=True)
class RunPlan:
    """What the laptop decided, once, before the first attempt."""

    run: str
    bucket: str
    region: str
    script: str  # for example "cost_optimized_train.py"
    overrides: list[str]  # what follows `--`
    code_sha256: str
    created: str  # ISO 8601, UTC, as all times here
    owner: str  # last part of the caller's ARN
    limits: Limits = field(default_factory=Limits)
    disk_gb: int = 30  # for the system, the packages and the features
    choices: list[dict[str, Any]] = field(default_factory=list)  # as planned, in the order to try


@dataclass(frozen=True)
class Attempt:
    """One instance; `instance_id` is None until it is known to have been started."""

    number: int  # from 1
    client_token: str
    instance_type: str
    market: str  # spot or on-demand
    zone: str
    dollars_per_hour: float
    max_minutes: int  # until it powers itself off: by what hours and dollars are left of the run
    dollars_before: float  # that earlier attempts cost
    deadline: str  # when it is terminated from outside, and its tag
    launcher: str  # which process may start it; another one takes over by changing this
    instance_id: str | None = None
    launched: str | None = None


@dataclass(frozen=True)
class AttemptEnd:
    """How an attempt ended; written by the instance, or by the laptop for one that could not."""

    state: str  # one of STATES
    reason: str  # one line
    exit_code: int
    ended: str
    dollars: float  # that this attempt cost


@dataclass(frozen=True)
class Heartbeat:
    """Where an attempt stands; None where that is not known (yet)."""

    attempt: int
    time: str
    stage: str  # one of STAGES
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    best: str | None = None  # for example "AUC 0.981"
    gpu_percent: float | None = None
    cpu_percent: float | None = None
    dollars_so_far: float | None = None  # of all attempts
    line: str = ""  # the last one printed


@dataclass(frozen=True)
class Latest:
    """The files of the run folder that are on S3, all of one moment."""

    files: dict[str, dict[str, Any]]  # by name in the folder: sha256, size_bytes
    attempt: int
    written: str


class RunRecord:
    """The records of one run; all of them raise S3Error where S3 can't be had."""

    def __init__(self, bucket: str, run: str):
        self.run = run
        self.url = f"s3://{bucket}/runs/{run}"
        split_url(self.url)

    @property
    def code_url(self) -> str:
        return f"{self.url}/code.tar.gz"

    @property
    def files_url(self) -> str:
        return f"{self.url}/files"

    def log_url(self, number: int) -> str:
        return f"{self.url}/attempts/{number}.log"

    def read_plan(self) -> RunPlan:
        """Raises RecordError where there is no such run."""
        plan = self._read("plan.json", RunPlan)[0]
        if plan is None:
            raise RecordError(
                f"{self.url} is not a run: ./run_training.sh status lists those begun here; "
                "--bucket and --region find others"
            )
        return plan

    def write_plan(self, plan: RunPlan) -> None:
        self._write("plan.json", plan)

    def attempt_numbers(self) -> list[int]:
        names = (item.url.rpartition("/")[2] for item in list_objects(f"{self.url}/attempts"))
        return sorted(int(m[1]) for name in names if (m := re.fullmatch(r"(\d+)\.json", name)))

    def read_attempts(self) -> list[Attempt]:
        """All of them, the first first."""
        found = (self.read_attempt(number)[0] for number in self.attempt_numbers())
        return [attempt for attempt in found if attempt]

    def read_attempt(self, number: int) -> tuple[Attempt | None, str | None]:
        """With the ETag that `write_attempt` wants for the next change of it."""
        return self._read(f"attempts/{number}.json", Attempt)

    def write_attempt(self, attempt: Attempt, etag: str | None) -> str:
        """Writes it where it still has this ETag, or is new (None); returns the next ETag.

        Raises S3ChangedError where another launcher was faster: it is his attempt then.
        """
        return self._replace(f"attempts/{attempt.number}.json", attempt, etag)

    def read_end(self, number: int) -> AttemptEnd | None:
        return self._read(f"attempts/{number}-end.json", AttemptEnd)[0]

    def write_end(self, number: int, end: AttemptEnd) -> bool:
        """Whether this is the end that counts: False where one is written already."""
        try:
            self._replace(f"attempts/{number}-end.json", end, None)
        except S3ChangedError:
            return False
        return True

    def read_heartbeat(self) -> Heartbeat | None:
        return self._read("heartbeat.json", Heartbeat)[0]

    def write_heartbeat(self, heartbeat: Heartbeat) -> None:
        self._write("heartbeat.json", heartbeat)

    def read_latest(self) -> Latest | None:
        return self._read("latest.json", Latest)[0]

    def write_latest(self, latest: Latest) -> None:
        self._write("latest.json", latest)

    def ask_to_stop(self, number: int, reason: str) -> None:
        """Asks this attempt and those before it; a later one, of a run resumed, goes on."""
        asked = {"attempt": number, "time": utc_now(), "reason": reason}
        write_bytes(f"{self.url}/stop.json", _to_json(asked))

    def stop_reason(self, number: int) -> str | None:
        """Why attempt `number` is asked to stop, or None where it is not."""
        asked = read_json(f"{self.url}/stop.json")[0]
        return str(asked.get("reason", "")) if asked.get("attempt", 0) >= number else None

    def _read(self, name: str, kind: type[Record]) -> tuple[Record | None, str | None]:
        url = f"{self.url}/{name}"
        found, etag = read_json(url)
        return (parse(kind, found, url), etag) if etag else (None, None)

    def _write(self, name: str, record: Any) -> None:
        write_bytes(f"{self.url}/{name}", _to_json(asdict(record)))

    def _replace(self, name: str, record: Any, etag: str | None) -> str:
        url, content = f"{self.url}/{name}", _to_json(asdict(record))
        try:
            return replace_bytes(url, content, etag)
        except S3ChangedError:
            # It may be our own: its answer was lost, and the repeated request found it there.
            there, there_etag = read_bytes(url)
            if there != content:
                raise
            return there_etag


def new_run_name(script: str, now: datetime | None = None) -> str:
    """For example `2026-11-22_06-10-00-cost_optimized_train-x7k2`."""
    moment = (now or datetime.now(UTC)).strftime("%Y-%m-%d_%H-%M-%S")
    stem = re.sub(r"[^A-Za-z0-9_]", "_", script.removesuffix(".py"))
    return f"{moment}-{stem}-{''.join(random.choices(string.ascii_lowercase + string.digits, k=4))}"


def check_run_name(run: str) -> str:
    """Returns it. Raises RecordError for what can't be one."""
    if not re.fullmatch(RUN_NAME, run):
        raise RecordError(
            f"{run!r} is not the name of a run on AWS: ./run_training.sh status lists them"
        )
    return run


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def seconds_between(start: str, end: str) -> float:
    """Of two times as they stand in the records."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def parse(kind: type[Record], found: Mapping[str, Any], url: str) -> Record:
    """A record from its JSON; what a newer version has added is left out.

    Raises RecordError where something is missing.
    """
    known = {item.name: found[item.name] for item in fields(kind) if item.name in found}
    try:
        if kind is RunPlan and "limits" in known:
            known["limits"] = parse(Limits, known["limits"], url)
        return kind(**known)
    except TypeError as error:
        raise RecordError(
            f"{url} is not the record of a {kind.__name__} ({error}): it was written by another "
            "version, or is not ours"
        ) from error


def money_spent(attempts: Sequence[Attempt], ends: Mapping[int, AttemptEnd], now: str) -> float:
    """Dollars of all attempts; of one without an end as if it ran until now or its deadline."""
    return sum(
        ends[attempt.number].dollars if attempt.number in ends else dollars_until(attempt, now)
        for attempt in attempts
    )


def dollars_until(attempt: Attempt, now: str) -> float:
    """What an attempt has cost at that time, which is at most its deadline."""
    if not attempt.launched:
        return 0.0
    until = min(now, attempt.deadline, key=datetime.fromisoformat)
    hours = max(seconds_between(attempt.launched, until), 0.0) / 3600
    return round(hours * attempt.dollars_per_hour, 6)


def _to_json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, indent=1, sort_keys=True).encode()
