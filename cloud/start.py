"""Start: one instance for an attempt of a run, by whichever launcher is the first."""

import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from cloud.aws import AwsError, CloudError
from cloud.images import Image, find_image
from cloud.instances import (
    CapacityError,
    Instance,
    Place,
    find_instances,
    start_instance,
    terminate,
)
from cloud.plan import ON_DEMAND, Choice
from cloud.run_record import (
    FAILED,
    INTERRUPTED,
    Attempt,
    AttemptEnd,
    RunPlan,
    RunRecord,
    dollars_until,
    money_spent,
    seconds_between,
    utc_now,
)
from cloud.s3 import S3ChangedError, S3Error
from cloud.schedule import schedule_end

DEADLINE_MARGIN = timedelta(minutes=10)  # of what ends an instance from outside, after its own end
PATIENCE = 3  # interruptions on spot, before an instance on demand is tried first
STALE_SECONDS = 600.0  # after which a claim without an instance is not taken over, but written off


class NoCapacityError(CloudError):
    """None of the choices could be had."""


class StrandedError(CloudError):
    """An instance may run that could be neither kept track of nor terminated."""


class SpentError(CloudError):
    """The hours or dollars of the run are used up."""


@dataclass
class Ground:
    """What instances of a run are started on."""

    account: str
    partition: str
    subnets: dict[str, str]  # by zone
    group: str
    images: dict[bool, Image] = field(default_factory=dict)  # by whether with a GPU


@dataclass(frozen=True)
class Run:
    """A run as the launcher holds it."""

    plan: RunPlan
    record: RunRecord
    launcher: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    @property
    def choices(self) -> list[Choice]:
        return [Choice(**values) for values in self.plan.choices]


def start_attempt(
    run: Run, number: int, ground: Ground, say: Callable[[str, str], None]
) -> Attempt:
    """The attempt with its instance, which this launcher has started, or another one.

    Without an instance_id where that one was killed, and the instance has come to its end since.
    Raises NoCapacityError, SpentError, AwsError. What was started here and can't be kept track of
    is terminated before anything is raised, on Ctrl-C too.
    """
    attempts = [a for a in run.record.read_attempts() if a.number < number]
    ends = {a.number: end for a in attempts if (end := run.record.read_end(a.number))}
    choices = order_choices(run.choices, attempts, ends)
    claimed, etag = run.record.read_attempt(number)
    tried: list[str] = []
    spent: SpentError | None = None
    try:
        if claimed:
            claimed, etag = _wait_or_take_over(run, claimed, etag)
            if claimed.instance_id or run.record.read_end(number):
                return claimed
            say("start", f"attempt {number}, which another launcher had begun")
            started = _try(run, claimed, etag, ground, tried)
            if started:
                return started
            etag = run.record.read_attempt(number)[1]
        for choice in choices:
            try:
                attempt = _new_attempt(run, number, choice, attempts, ends)
            except SpentError as error:
                spent = spent or error  # another choice may be cheap enough
                continue
            etag = run.record.write_attempt(attempt, etag)
            price = f"${choice.dollars_per_hour:.3f} an hour"
            say("start", f"{attempt.instance_type} {attempt.market} {choice.zone}, {price}")
            started = _try(run, attempt, etag, ground, tried)
            if started:
                return started
    except S3ChangedError:  # another launcher claimed it, and what we started is his: same token
        return start_attempt(run, number, ground, say)
    if etag:
        end = AttemptEnd(INTERRUPTED, "no instance could be had", 1, utc_now(), 0.0)
        run.record.write_end(number, end)
    if spent and not tried:
        raise spent
    raise NoCapacityError(
        f"AWS has none of the {len(choices)} instances just now ({'; '.join(tried[-3:])}): try "
        "again later, allow others (no --instance, --spot-only), or use a bucket in another region"
    )


def write_off_stale(run: Run, number: int) -> None:
    """Writes the end of an attempt that a launcher claimed some time ago and never started.

    Its deadline is no good any more; and a call with its token might give an instance of then.
    """
    attempt = run.record.read_attempt(number)[0]
    if attempt is None or attempt.instance_id or run.record.read_end(number):
        return
    left = seconds_between(utc_now(), attempt.deadline) - DEADLINE_MARGIN.total_seconds()
    if attempt.max_minutes * 60 - left > STALE_SECONDS and not _find(run, attempt):
        end = AttemptEnd(INTERRUPTED, "its launcher ended before it started", 1, utc_now(), 0.0)
        run.record.write_end(number, end)


def order_choices(
    choices: Sequence[Choice], attempts: Sequence[Attempt], ends: dict[int, AttemptEnd]
) -> list[Choice]:
    """In the order to try: as planned, but where an instance was interrupted, later.

    On spot first, until that was interrupted PATIENCE times. What was begun with a GPU goes on with
    one, and what was begun without goes on without: other parts of the network learn there.
    """
    kinds = {choice.instance_type: bool(choice.gpu) for choice in choices}
    begun = next((kinds[a.instance_type] for a in attempts if a.launched), None)
    choices = [c for c in choices if begun is None or bool(c.gpu) == begun]
    lost = [
        (a.instance_type, a.zone, a.market)
        for a in attempts
        if a.launched and a.number in ends and ends[a.number].state == INTERRUPTED
    ]
    patient = sum(market != ON_DEMAND for _, _, market in lost) < PATIENCE

    def key(choice: Choice) -> tuple:
        times = lost.count((choice.instance_type, choice.zone, choice.market))
        return ((choice.market == ON_DEMAND) == patient, times)

    return sorted(choices, key=key)


def _new_attempt(
    run: Run,
    number: int,
    choice: Choice,
    before: Sequence[Attempt],
    ends: dict[int, AttemptEnd],
) -> Attempt:
    """With what hours and dollars are left. Raises SpentError where that is below a minute."""
    limits, now = run.plan.limits, utc_now()
    spent = money_spent(before, ends, now)
    hours_left = limits.max_hours - sum(_hours(a, ends, now) for a in before)
    rate = choice.dollars / choice.hours if choice.hours else choice.dollars_per_hour
    if limits.max_cost is not None:
        hours_left = min(hours_left, (limits.max_cost - spent) / rate)
    minutes = int(hours_left * 60)
    if minutes < 1:
        raise SpentError(
            f"${spent:.2f} are spent in {len(before)} attempts, which leaves no minute on "
            f"{choice.instance_type} within the limits: raise them, "
            f"./run_training.sh resume {run.plan.run} --max-cost DOLLARS --max-hours HOURS"
        )
    deadline = datetime.now(UTC) + timedelta(minutes=minutes) + DEADLINE_MARGIN
    words = f"{run.plan.run} {number} {choice.instance_type} {choice.market} {choice.zone}"
    return Attempt(
        number=number,
        client_token=hashlib.sha256(words.encode()).hexdigest()[:32],
        instance_type=choice.instance_type,
        market=choice.market,
        zone=choice.zone,
        dollars_per_hour=round(rate, 6),
        max_minutes=minutes,
        dollars_before=round(spent, 6),
        deadline=deadline.isoformat(timespec="seconds"),
        launcher=run.launcher,
    )


def _hours(attempt: Attempt, ends: dict[int, AttemptEnd], now: str) -> float:
    if not attempt.launched:
        return 0.0
    ended = ends[attempt.number].ended if attempt.number in ends else now
    return max(seconds_between(attempt.launched, ended), 0.0) / 3600


def _try(
    run: Run, attempt: Attempt, etag: str | None, ground: Ground, tried: list[str]
) -> Attempt | None:
    """The attempt with its instance, or None where there is no such instance to be had."""
    plan = run.plan
    try:
        place = _place(run, attempt, ground)
        instance = start_instance(plan, attempt, place)
        attempt = replace(attempt, instance_id=instance.instance_id, launched=instance.launched)
        if instance.zone:
            attempt = replace(attempt, zone=instance.zone)
        run.record.write_attempt(attempt, etag)
        schedule_end(
            plan.region, plan.run, attempt, account=ground.account, partition=ground.partition
        )
        return attempt
    except CapacityError as error:
        tried.append(f"{attempt.instance_type} {attempt.market} {attempt.zone}: {error.code}")
        return None
    except S3ChangedError:
        theirs = run.record.read_attempt(attempt.number)[0]
        if attempt.instance_id and theirs and theirs.client_token != attempt.client_token:
            terminate(plan.region, attempt.instance_id)  # they went on to another choice
        raise
    except BaseException as error:
        try:
            _undo(run, attempt, str(error) or type(error).__name__)
        except (AwsError, S3Error) as second:
            raise StrandedError(
                f"{error}; and what was started may still run ({second}): it ends by itself after "
                f"{attempt.max_minutes} min, or now by ./run_training.sh reap --all"
            ) from error
        raise


def _place(run: Run, attempt: Attempt, ground: Ground) -> Place:
    has_gpu = next(
        (bool(c.gpu) for c in run.choices if c.instance_type == attempt.instance_type), True
    )
    if has_gpu not in ground.images:
        ground.images[has_gpu] = find_image(run.plan.region, gpu=has_gpu)
    # Without a zone any will do, and always the same one for the same attempt.
    subnet = ground.subnets.get(attempt.zone) or next(iter(ground.subnets.values()))
    return Place(run.plan.region, subnet, ground.group, ground.images[has_gpu])


def _undo(run: Run, attempt: Attempt, reason: str) -> None:
    """Terminates what was started, as far as that is known, and says that the attempt is over."""
    region = run.plan.region
    ids = {attempt.instance_id} if attempt.instance_id else set()
    try:
        ids |= {i.instance_id for i in _find(run, attempt)}
    finally:
        for instance_id in ids:
            terminate(region, instance_id)
    dollars = dollars_until(attempt, utc_now())
    end = AttemptEnd(FAILED, f"could not be started: {reason}"[:500], 1, utc_now(), dollars)
    run.record.write_end(attempt.number, end)


def _find(run: Run, attempt: Attempt) -> list[Instance]:
    return find_instances(run.plan.region, run=run.plan.run, attempt=attempt.number)


def _wait_or_take_over(run: Run, claimed: Attempt, etag: str) -> tuple[Attempt, str]:
    """The attempt once another launcher has started it, or it is over, or it is ours to start.

    Raises S3ChangedError where a third one was faster.
    """
    patience_seconds = run.plan.limits.take_over_seconds
    end = time.monotonic() + patience_seconds
    while not claimed.instance_id and time.monotonic() < end and claimed.launcher != run.launcher:
        time.sleep(min(run.plan.limits.follow_seconds, 2.0))
        now, now_etag = run.record.read_attempt(claimed.number)
        if now_etag != etag:
            claimed, etag, end = now, now_etag, time.monotonic() + patience_seconds
        if run.record.read_end(claimed.number):
            return claimed, etag
    if claimed.instance_id:
        return claimed, etag
    claimed = replace(claimed, launcher=run.launcher)
    return claimed, run.record.write_attempt(claimed, etag)
