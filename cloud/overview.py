"""Overview: what S3 says of runs on AWS: how far they are, what they print and what they cost."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cloud.aws import AwsError, CloudError
from cloud.follow import describe_heartbeat
from cloud.instances import describe_instance
from cloud.known_runs import KnownRun
from cloud.run_record import (
    Attempt,
    AttemptEnd,
    Heartbeat,
    RunPlan,
    RunRecord,
    money_spent,
    utc_now,
)
from cloud.s3 import S3Error, S3ObjectError, head, read_bytes

COLUMNS = ("run", "state", "epoch", "best", "dollars", "instance")


@dataclass(frozen=True)
class RunState:
    """All that the records say of one run."""

    plan: RunPlan
    attempts: list[Attempt]
    ends: dict[int, AttemptEnd]
    heartbeat: Heartbeat | None

    @property
    def dollars(self) -> float:
        return money_spent(self.attempts, self.ends, utc_now())

    @property
    def state(self) -> str:
        """How the last attempt ended, or its stage, or that none has begun."""
        if not self.attempts:
            return "not begun"
        number = self.attempts[-1].number
        if number in self.ends:
            return self.ends[number].state
        is_its_own = self.heartbeat and self.heartbeat.attempt == number
        return self.heartbeat.stage if is_its_own else "starting"


def read_state(record: RunRecord) -> RunState:
    """Raises RecordError where there is no such run, and S3Error."""
    plan, attempts = record.read_plan(), record.read_attempts()
    ends = {a.number: end for a in attempts if (end := record.read_end(a.number))}
    return RunState(plan, attempts, ends, record.read_heartbeat())


def table_lines(known: Sequence[KnownRun]) -> list[str]:
    """A line for each run, and one above them."""
    rows = [COLUMNS]
    for one in known:
        try:
            rows.append(_row(one, read_state(RunRecord(one.bucket, one.run))))
        except (CloudError, S3Error) as error:
            reason = error.strerror if isinstance(error, S3Error) else str(error)
            rows.append((one.run, f"unknown: {reason}", "", "", "", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[1] = min(widths[1], 14)
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def detail_lines(state: RunState) -> list[str]:
    """All that is known of one run, its instances as EC2 shows them now."""
    plan = state.plan
    command = " ".join([plan.script, *plan.overrides])
    lines = [
        f"run       {plan.run} in s3://{plan.bucket}/runs/{plan.run}/",
        f"trains    {command} (begun {plan.created}, {plan.region})",
        f"state     {state.state}",
    ]
    if state.heartbeat:
        lines.append(f"heartbeat {state.heartbeat.time} {describe_heartbeat(state.heartbeat)}")
        if state.heartbeat.line and state.heartbeat.stage != "ended":
            lines.append(f"          {state.heartbeat.line}")
    for attempt in state.attempts:
        what = f"{attempt.instance_type} {attempt.market} {attempt.zone}"
        end = state.ends.get(attempt.number)
        how = f"{end.state}: {end.reason} (${end.dollars:.3f})" if end else "not ended"
        name = attempt.instance_id or "no instance"
        lines.append(f"attempt {attempt.number} {name} {what} {how}")
        if attempt.instance_id and attempt is state.attempts[-1]:
            lines.append(f"          {_instance_words(plan.region, attempt)}")
    lines.append(f"cost      ${state.dollars:.3f} so far, by times and prices")
    return lines


def log_lines(
    record: RunRecord, *, follow: bool, wait: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """What the instances of a run printed, line by line; while it goes on, if it is followed.

    Raises CloudError where nothing was printed yet and nothing is waited for.
    """
    plan, number, shown, etag, has_shown = record.read_plan(), 0, 0, None, False
    while True:
        numbers = record.attempt_numbers()
        ended = bool(numbers) and record.read_end(numbers[-1]) is not None
        for current in (n for n in numbers if n >= number):
            if current != number:
                number, shown, etag = current, 0, None
            try:
                there = head(record.log_url(number)).etag
                if there != etag:
                    etag, text = there, read_bytes(record.log_url(number))[0]
                    whole = text[shown:] if ended else text[shown : text.rfind(b"\n") + 1]
                    shown, has_shown = shown + len(whole), True
                    yield from whole.decode("utf-8", errors="replace").splitlines()
            except S3ObjectError:
                continue  # that instance has sent nothing yet
        if not follow or ended:
            break
        wait(max(plan.limits.follow_seconds, 0.1))
    if not has_shown:
        raise CloudError(f"{record.run} has printed nothing yet: --follow waits for it")


def _row(known: KnownRun, state: RunState) -> tuple[str, ...]:
    heartbeat = state.heartbeat
    epoch = ""
    if heartbeat and heartbeat.epoch is not None:
        epoch = f"{heartbeat.epoch}/{heartbeat.epochs or '?'}"
    last = state.attempts[-1] if state.attempts else None
    instance = ""
    if last and last.number not in state.ends:
        instance = f"{last.instance_id or 'being started'} {last.instance_type} {last.market}"
    best = (heartbeat.best or "") if heartbeat else ""
    return (known.run, state.state, epoch, best, f"{state.dollars:.3f}", instance)


def _instance_words(region: str, attempt: Attempt) -> str:
    try:
        found = describe_instance(region, attempt.instance_id)
    except AwsError as error:
        return f"EC2 can't be asked: {error}"
    return f"EC2 shows it as {found.state}" if found else "EC2 knows it no more: it is gone"
