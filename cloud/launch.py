"""Launch: a run on AWS from its plan to its results here: the story that the other parts tell."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cloud.aws import CloudError, caller
from cloud.fetch import fetch_run
from cloud.follow import Follower, close_attempt, end_without_word, log_tail
from cloud.images import find_image
from cloud.instances import describe_instance, is_gone
from cloud.known_runs import KnownRun, remember_run
from cloud.network import ensure_group, find_network
from cloud.order import Planned
from cloud.plan import Choice
from cloud.roles import ensure_roles
from cloud.run_record import (
    DONE,
    FAILED,
    INTERRUPTED,
    LIMIT,
    STOPPED,
    Attempt,
    AttemptEnd,
    RunPlan,
    RunRecord,
    dollars_until,
    money_spent,
    new_run_name,
    seconds_between,
    utc_now,
)
from cloud.s3 import write_bytes
from cloud.screen import Screen
from cloud.snapshot import take_snapshot
from cloud.start import (
    Ground,
    NoCapacityError,
    Run,
    StrandedError,
    start_attempt,
    write_off_stale,
)

# Exit codes
OK, FAILURE, ENDED_EARLY, NOT_RESTARTED, LEFT_RUNNING = 0, 1, 3, 4, 130
CODES = {DONE: OK, FAILED: FAILURE}  # of the other ends ENDED_EARLY
PAUSE_SECONDS = 60.0  # between looks for an instance where there was none


def begin_run(planned: Planned, root: Path, screen: Screen) -> tuple[Run, Ground]:
    """A run that is on record, and all that its instances need; none is started yet.

    Whatever AWS will refuse it refuses here, before anything is paid for.
    """
    order, region = planned.order, planned.region
    code = take_snapshot(root)
    if order.script not in code.names:
        raise CloudError(f"--script {order.script} is no file of {root}")
    ground = prepare_ground(planned.choices, order.bucket, region, screen.say)
    plan = RunPlan(
        run=new_run_name(order.script),
        bucket=order.bucket,
        region=region,
        script=order.script,
        overrides=list(order.overrides),
        code_sha256=code.sha256,
        created=utc_now(),
        owner=planned.owner,
        limits=planned.limits,
        disk_gb=planned.disk_gb,
        choices=[asdict(choice) for choice in planned.choices],
    )
    run = Run(plan, RunRecord(order.bucket, plan.run))
    screen.say("run", f"{plan.run} in {run.record.url}/")
    write_bytes(run.record.code_url, code.content)
    run.record.write_plan(plan)
    remember_run(root, KnownRun(plan.run, order.bucket, region, plan.created))
    kept = f", {', '.join(code.withheld)} kept here" if code.withheld else ""
    screen.say("code", f"{len(code.names)} files, {len(code.content) / 1e6:.1f} MB packed{kept}")
    return run, ground


def prepare_ground(
    choices: Sequence[Choice],
    bucket: str,
    region: str,
    say: Callable[[str, str], None] = lambda *_: None,
) -> Ground:
    """All that instances of these choices need, made where it is missing; it costs nothing."""
    account, partition, _ = caller(region)
    ground = Ground(account, partition, subnets={}, group="")
    for gpu in sorted({bool(choice.gpu) for choice in choices}):
        ground.images[gpu] = image = find_image(region, gpu=gpu)
        say("image", f"{image.name} ({image.image_id}, by its {image.source})")
    made = ensure_roles(bucket, region, account, partition)
    vpc, ground.subnets = find_network(region)
    ground.group = ensure_group(region, vpc)
    say("network", f"{vpc}, security group {ground.group} without a way in")
    if made:
        say("made", ", ".join(made))
    return ground


def start_first(run: Run, ground: Ground, screen: Screen) -> Attempt:
    """The first attempt with its instance. Raises CloudError; then none runs."""
    try:
        return _start(run, 1, ground, screen)
    except StrandedError:
        raise
    except BaseException:
        screen.say(
            "left", "no instance; roles, security group and the small files in S3 cost nothing"
        )
        raise


def find_live(run: Run) -> Attempt | None:
    """The attempt that is under way, or None; of one that ended unseen the end is written."""
    attempts = run.record.read_attempts()
    if not attempts or not attempts[-1].instance_id:
        return None
    last = attempts[-1]
    if run.record.read_end(last.number):
        return None
    instance = describe_instance(run.plan.region, last.instance_id)
    if not is_gone(instance):
        return last
    end_without_word(run, last, instance)
    return None


def is_done(run: Run) -> bool:
    numbers = run.record.attempt_numbers()
    end = run.record.read_end(numbers[-1]) if numbers else None
    return end is not None and end.state == DONE


def start_next(run: Run, screen: Screen) -> Attempt:
    """A new attempt, or the one that a launcher had begun to start when it was killed."""
    ground = prepare_ground(run.choices, run.plan.bucket, run.plan.region, screen.say)
    numbers = run.record.attempt_numbers()
    number = numbers[-1] if numbers else 1
    write_off_stale(run, number)
    if run.record.read_end(number):
        number += 1
    return _start(run, number, ground, screen)


def change_limits(run: Run, **limits: float | None) -> Run:
    """The run with these limits where they are not None, on record too."""
    given = {name: value for name, value in limits.items() if value is not None}
    if not given:
        return run
    plan = replace(run.plan, limits=replace(run.plan.limits, **given))
    run.record.write_plan(plan)
    return Run(plan, run.record)


def see_through(run: Run, attempt: Attempt, root: Path, screen: Screen) -> int:
    """Follows a run to its end, over interruptions, and fetches what it left; the exit code."""
    ground: Ground | None = None
    while True:
        try:
            end = Follower(run, attempt, screen).until_end()
        except KeyboardInterrupt:
            return _leave_or_stop(run, attempt, root, screen)
        minutes = max(seconds_between(attempt.launched or end.ended, end.ended), 0) / 60
        screen.say(
            end.state, f"attempt {attempt.number} after {minutes:.0f} min: {end.reason or 'ended'}"
        )
        gone = close_attempt(run, attempt, screen)
        if end.state != INTERRUPTED:
            return max(_conclude(run, attempt, end, root, screen), 0 if gone else FAILURE)
        begun = sum(a.launched is not None for a in run.record.read_attempts())
        if begun >= run.plan.limits.max_attempts:
            return _say_not_restarted(run, f"after {begun} instances", root, screen)
        try:
            ground = ground or prepare_ground(run.choices, run.plan.bucket, run.plan.region)
            attempt = _start_again(run, attempt.number, ground, screen)
        except CloudError as error:
            return _say_not_restarted(run, str(error), root, screen)
        except KeyboardInterrupt:
            return _say_not_restarted(run, "Ctrl-C", root, screen)


def stop_run(run: Run, attempt: Attempt, root: Path, screen: Screen) -> int:
    """Asks the instance to save and end, and ends it where it does not; the exit code."""
    seconds = run.plan.limits.stop_seconds
    run.record.ask_to_stop(attempt.number, f"asked by {run.plan.owner}")
    screen.say("stop", f"asked: it saves, sends what it has and ends, within {seconds:.0f} s")
    end = Follower(run, attempt, screen).until_end(seconds)
    gone = close_attempt(run, attempt, screen)
    if not end:
        reason, now = f"terminated: it did not end within {seconds:.0f} s", utc_now()
        end = AttemptEnd(STOPPED, reason, 1, now, dollars_until(attempt, now))
        run.record.write_end(attempt.number, end)
    return max(_conclude(run, attempt, end, root, screen), 0 if gone else FAILURE)


def fetch_results(run: Run, root: Path, screen: Screen) -> Path | None:
    """The folder runs/RUN with what the run has left on S3, or None where that is nothing."""
    folder = root / "runs" / run.plan.run
    copied = fetch_run(run.record, folder)
    if copied is None:
        screen.say("results", "none on S3 yet")
        return None
    screen.say("results", f"{folder} ({copied.files} files, {copied.size_bytes / 1e6:.1f} MB new)")
    report = folder / "report.html"
    if report.exists():
        screen.say("report", str(report))
    return folder


def say_how_to_go_on(run: Run, screen: Screen) -> None:
    name = run.plan.run
    screen.say("", "the instance goes on without this machine, and ends by itself")
    for verb, what in (
        (f"status {name}", "how far it is"),
        (f"logs {name} -f", "what it prints"),
        (f"fetch {name}", "what it has so far"),
        (f"stop {name}", "save, send, and end it"),
        (f"resume {name}", "attach again; also after an interruption, which needs it"),
    ):
        screen.print(f"  ./run_training.sh {verb:<58} {what}")


def _start(run: Run, number: int, ground: Ground, screen: Screen) -> Attempt:
    attempt = start_attempt(run, number, ground, screen.say)
    if attempt.instance_id:
        outside = attempt.deadline[:16].replace("T", " ")
        screen.say(
            "instance",
            f"{attempt.instance_id} is there; it powers off after {attempt.max_minutes} min at "
            f"the latest, and is terminated from outside at {outside} UTC",
        )
    return attempt


def _start_again(run: Run, last: int, ground: Ground, screen: Screen) -> Attempt:
    """The attempt after number `last`; tried for some time, for it may be the want of instances
    that interrupted that one.
    """
    seconds = run.plan.limits.capacity_minutes * 60
    pause_seconds = min(PAUSE_SECONDS, seconds / 4)
    looks = 1 + (int(seconds / pause_seconds) if seconds else 0)
    for looks_left in reversed(range(looks)):
        try:
            return _start_after(run, last, ground, screen)
        except NoCapacityError as error:
            if not looks_left:
                raise
            screen.say("no room", f"{error}; next look in {pause_seconds:.0f} s")
        time.sleep(pause_seconds)
    raise AssertionError("the last look returns or raises")


def _start_after(run: Run, last: int, ground: Ground, screen: Screen) -> Attempt:
    """The next attempt that was not interrupted too; it may be another launcher's, and over."""
    number = last + 1
    while (end := run.record.read_end(number)) and end.state == INTERRUPTED:
        number += 1
    if end:
        return run.record.read_attempt(number)[0]
    screen.say("again", f"attempt {number}, from where it was")
    return _start(run, number, ground, screen)


def _conclude(run: Run, attempt: Attempt, end: AttemptEnd, root: Path, screen: Screen) -> int:
    """Brings the results here and says what they cost; the exit code."""
    code = CODES.get(end.state, ENDED_EARLY)
    try:
        if end.state == FAILED:
            for line in log_tail(run.record, attempt.number):
                screen.print(f"  | {line}")
        folder = fetch_results(run, root, screen)
        if folder and end.state == DONE:
            _point_latest(folder)
        say_cost(run, screen)
    except OSError as error:  # of S3, or of the disk here
        screen.say("results", f"are safe in {run.record.url}, and could not be fetched: {error}")
        screen.say("", f"again: ./run_training.sh fetch {run.plan.run}")
        code = code or FAILURE
    again = f"./run_training.sh resume {run.plan.run}"
    if end.state == FAILED:
        screen.say("failed", f"{end.reason}: mend it and run again; {again} goes on with this code")
    elif end.state in (STOPPED, INTERRUPTED):  # the latter by AWS, just when it was to stop
        screen.say("stopped", f"{again} goes on where it was")
    elif end.state == LIMIT:
        screen.say("limit", f"{again} --max-hours HOURS --max-cost DOLLARS goes on where it was")
    return code


def say_cost(run: Run, screen: Screen) -> None:
    attempts = run.record.read_attempts()
    ends = {a.number: end for a in attempts if (end := run.record.read_end(a.number))}
    dollars = money_spent(attempts, ends, utc_now())
    begun = sum(bool(a.launched or (a.number in ends and ends[a.number].dollars)) for a in attempts)
    count = f"{begun} instance{'s' * (begun != 1)}"
    screen.say("cost", f"${dollars:.3f} for {count}, by times and prices; the bill has the taxes")


def _point_latest(folder: Path) -> None:
    """Makes runs/latest this one, as a training here does: labelling takes it from there."""
    link = folder.with_name(f".latest-{os.getpid()}")
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    os.replace(link, folder.with_name("latest"))


def _say_not_restarted(run: Run, why: str, root: Path, screen: Screen) -> int:
    screen.say("ended", f"interrupted, and not started again: {why}")
    try:
        fetch_results(run, root, screen)
        say_cost(run, screen)
    except OSError as error:
        screen.say("results", f"are safe in {run.record.url}, and could not be fetched: {error}")
    screen.say("", f"to go on where it was: ./run_training.sh resume {run.plan.run}")
    return NOT_RESTARTED


def _leave_or_stop(run: Run, attempt: Attempt, root: Path, screen: Screen) -> int:
    screen.print()
    if screen.is_terminal:
        try:
            answer = screen.ask("Stop the training [s], or leave it running [Enter]?")
        except KeyboardInterrupt:
            answer = ""
        if answer in ("s", "stop"):
            stop_run(run, attempt, root, screen)
            return LEFT_RUNNING
    say_how_to_go_on(run, screen)
    return LEFT_RUNNING
