"""Follow: an attempt watched from the laptop until it has ended, and is seen to be gone."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from cloud.aws import AwsError, CloudError, forget_clients
from cloud.instances import (
    GONE,
    Instance,
    describe_instance,
    find_instances,
    is_gone,
    terminate,
    wait_for_disks,
    wait_until_gone,
)
from cloud.run_record import (
    INTERRUPTED,
    Attempt,
    AttemptEnd,
    Heartbeat,
    RunRecord,
    dollars_until,
    seconds_between,
    utc_now,
)
from cloud.s3 import S3Error, S3ObjectError, forget_connection, read_bytes
from cloud.schedule import delete_schedule, schedule_name
from cloud.screen import Screen
from cloud.start import Run

UNKNOWN_SECONDS = 120.0  # for which EC2 may not know an instance that it has just started
LAST_WORD_SECONDS = 120.0  # for the end marker of an instance that is shutting down
LOG_LINES = 15


@dataclass
class Follower:
    """Watches one attempt."""

    run: Run
    attempt: Attempt
    screen: Screen
    stage: str = "starting"
    _heartbeat: Heartbeat | None = None
    _known: bool = False  # whether EC2 has shown the instance
    _looked_seconds: float = field(default_factory=time.monotonic)
    _silent_seconds: float = 0.0
    _leaving_seconds: float = 0.0
    _lost: str = ""  # since when there is no connection

    def until_end(self, seconds: float = float("inf")) -> AttemptEnd | None:
        """How the attempt ended; None where it has not after so many seconds.

        An instance that ended without a word, or that is silent for too long and was terminated,
        was interrupted. What can't be reached is tried again until the instance must have ended.
        """
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            try:
                end = self._look()
            except (AwsError, S3Error) as error:
                self._wait_for_connection(error)
            else:
                if self._lost:
                    self.screen.say("network", "AWS answers again")
                    self._lost = ""
                if end:
                    return end
            time.sleep(self.run.plan.limits.follow_seconds)
        return None

    def _look(self) -> AttemptEnd | None:
        since_last = time.monotonic() - self._looked_seconds
        record, number = self.run.record, self.attempt.number
        heartbeat = record.read_heartbeat()
        end = record.read_end(number)
        if end:
            return end
        instance = describe_instance(self.run.plan.region, self.attempt.instance_id)
        self._looked_seconds = time.monotonic()
        if heartbeat and heartbeat.attempt == number and heartbeat != self._heartbeat:
            self._heartbeat, self.stage, self._silent_seconds = heartbeat, heartbeat.stage, 0.0
        else:
            # A laptop that slept has not looked: such a time is no silence.
            self._silent_seconds += min(since_last, 4 * self.run.plan.limits.follow_seconds + 1)
        self._show(instance)
        if self._has_left(instance, since_last):
            return end_without_word(self.run, self.attempt, instance)
        if self._silent_seconds > self.run.plan.limits.silent_seconds:
            return self._give_up(f"no heartbeat for {self._silent_seconds:.0f} s")
        if instance and instance.state in ("stopping", "stopped"):
            return self._give_up("the instance was stopped by hand, and ours are never stopped")
        return None

    def _has_left(self, instance: Instance | None, since_last: float) -> bool:
        """Whether no word can come from it any more."""
        if instance is None:
            return self._known or self._silent_seconds > UNKNOWN_SECONDS
        self._known = True
        if instance.state == "shutting-down":
            self._leaving_seconds += since_last
        return instance.state == "terminated" or self._leaving_seconds > LAST_WORD_SECONDS

    def _give_up(self, reason: str) -> AttemptEnd:
        self.screen.say("give up", f"{self.attempt.instance_id}: {reason}: it is terminated")
        terminate(self.run.plan.region, self.attempt.instance_id)
        return end_without_word(self.run, self.attempt, None, reason)

    def _wait_for_connection(self, error: AwsError | S3Error) -> None:
        now = utc_now()
        reason = error.strerror if isinstance(error, S3Error) else str(error)
        if not self._lost:
            self._lost = now
            self.screen.say("network", f"AWS can't be asked: {reason}")
            self.screen.say("", "the instance goes on without this machine; this tries again")
        elif seconds_between(self.attempt.deadline, now) > 0 or self._is_over(error, now):
            raise CloudError(
                f"AWS could not be asked since {self._lost} ({reason}), and the instance has ended "
                f"meanwhile: see ./run_training.sh status {self.run.plan.run}, or resume it"
            ) from error
        forget_clients()  # new credentials, as after `aws sso login`, are looked for
        forget_connection()

    def _is_over(self, error: AwsError | S3Error, now: str) -> bool:
        """Whether S3 alone is silent, for long, while EC2 says that the instance is gone."""
        if not isinstance(error, S3Error):
            return False
        if seconds_between(self._lost, now) < self.run.plan.limits.silent_seconds:
            return False
        with contextlib.suppress(AwsError):
            return is_gone(describe_instance(self.run.plan.region, self.attempt.instance_id))
        return False

    def _show(self, instance: Instance | None) -> None:
        state = f"instance {instance.state}" if instance else "instance not seen yet"
        seconds = max(seconds_between(self.attempt.launched, utc_now()), 0.0)
        minutes, rest = divmod(round(seconds), 60)
        where = f"{self.attempt.instance_type} {self.attempt.market} {self.attempt.zone}"
        words = describe_heartbeat(self._heartbeat) if self._heartbeat else f"starting · {state}"
        clock = f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
        epoch = self._heartbeat.epoch if self._heartbeat else None
        self.screen.live(f"{words} · {where} · {clock}", (self.stage, epoch))


def describe_heartbeat(heartbeat: Heartbeat) -> str:
    """For example `training · epoch 3/8 · loss 0.412 · AUC 0.981 · GPU 87 % · $0.021`."""
    parts = [heartbeat.stage]
    if heartbeat.epoch is not None:
        whole = f"/{heartbeat.epochs}" if heartbeat.epochs else ""
        parts.append(f"epoch {heartbeat.epoch}{whole}")
    if heartbeat.loss is not None:
        parts.append(f"loss {heartbeat.loss:.4g}")
    if heartbeat.best:
        parts.append(heartbeat.best)
    if heartbeat.gpu_percent is not None:
        parts.append(f"GPU {heartbeat.gpu_percent:.0f} %")
    if heartbeat.cpu_percent is not None:
        parts.append(f"CPU {heartbeat.cpu_percent:.0f} %")
    if heartbeat.dollars_so_far is not None:
        parts.append(f"${heartbeat.dollars_so_far:.3f}")
    return " · ".join(parts)


def end_without_word(
    run: Run, attempt: Attempt, instance: Instance | None, reason: str = ""
) -> AttemptEnd:
    """The end of an attempt whose instance could write none; or the one that it just has.

    `instance` is as EC2 shows it, None where it does not.
    """
    ended = (instance and instance.ended) or utc_now()
    words = f" ({instance.reason})" if instance and instance.reason else ""
    reason = reason or f"its instance ended without a word{words}, as when AWS takes it back"
    end = AttemptEnd(INTERRUPTED, reason, 1, ended, dollars_until(attempt, ended))
    run.record.write_end(attempt.number, end)
    return run.record.read_end(attempt.number) or end


def close_attempt(run: Run, attempt: Attempt, screen: Screen) -> bool:
    """Ends what an attempt may have left, and says what is seen; whether nothing is billed."""
    region, name = run.plan.region, run.plan.run
    ids = {attempt.instance_id} - {None}
    refused: list[AwsError] = []
    with _noted(refused):
        ids |= {instance.instance_id for instance in find_instances(region, run=name)}
    states = {}
    for instance_id in sorted(ids):
        with _noted(refused):
            terminate(region, instance_id)
        with _noted(refused):
            states[instance_id] = wait_until_gone(region, instance_id)
    disks = None
    with _noted(refused):
        disks = wait_for_disks(region, name)
    with _noted(refused):
        delete_schedule(region, schedule_name(name, attempt.number))
    gone = len(states) == len(ids) and all(state in GONE for state in states.values())
    for instance_id, state in states.items():
        screen.say("gone" if state in GONE else "not gone", f"{instance_id} is {state}")
    if disks:
        screen.say("disks", f"{', '.join(disks)} are still there: ./run_training.sh reap")
    elif disks is not None and gone:
        screen.say("", "no instance and no disk of this run is billed any more")
    for error in refused:
        screen.say("refused", str(error))
    if not gone:
        screen.say("", "see with ./run_training.sh reap; the instance also ends by itself")
    return gone and disks == []


def log_tail(record: RunRecord, number: int, lines: int = LOG_LINES) -> list[str]:
    """The last lines of what the instance printed; [] where nothing has arrived."""
    try:
        content = read_bytes(record.log_url(number))[0]
    except S3ObjectError:
        return []
    return content.decode("utf-8", errors="replace").splitlines()[-lines:]


@contextlib.contextmanager
def _noted(refused: list[AwsError]) -> Iterator[None]:
    """Goes on after a refusal, so that one does not keep the rest from being ended."""
    try:
        yield
    except AwsError as error:
        refused.append(error)
