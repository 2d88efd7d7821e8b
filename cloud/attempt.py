"""Attempt: what an instance does: brings back, prepares, trains, sends, and says how it ended.

python -m cloud.attempt                      all of it; bootstrap.sh calls this
python -m cloud.attempt end STATE REASON     ends the one that runs, or does its last things
"""

import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloud.aws import CloudError
from cloud.ending import end_from_outside, finish, send_log
from cloud.machine import Processor, disk_words, gpu_percent, memory_kills
from cloud.mirror import STATE, Mirror, SupersededError
from cloud.run_folder import prepare_command, read_progress, train_command
from cloud.run_record import (
    DONE,
    FAILED,
    INTERRUPTED,
    SPOT,
    STOPPED,
    AttemptEnd,
    Heartbeat,
    utc_now,
)
from cloud.s3 import S3Error, S3ObjectError
from cloud.spot import Metadata, MetadataError
from cloud.work import Work
from cloud.workplace import Wish, Workplace, say

LOOK_SECONDS = 0.2
LAST_BEAT_SECONDS = 5.0  # for a heartbeat that is on its way when the attempt ends
STATE_LOOK_SECONDS = 0.5  # between looks for a new checkpoint
PATIENCE_SECONDS = 300.0  # with an S3 that refuses, before anything was begun
TRIES = 3  # of preparing or training, where S3 was what failed
S3_TROUBLE = re.compile(r"S3 can't be reached|S3 is too busy|no AWS credentials")
DISK_TROUBLE = re.compile(r"disk is full|No space left|Disk quota", re.IGNORECASE)
ASKED_CODES = {128 + signal.SIGINT, 128 + signal.SIGTERM}  # 130 is a training's that has saved
SEE_LINES = 6  # of the last ones printed, where the reason is looked for


def main() -> int:
    place = Workplace.from_environment()
    if sys.argv[1:2] == ["end"]:
        end_from_outside(place, Wish(sys.argv[2], " ".join(sys.argv[3].split())))
        return 0
    place.keep_process("attempt", os.getpid())
    end = Course(place).run()
    return 0 if end.state == DONE else 1


class Course:
    """One attempt from its first look at S3 to its end."""

    def __init__(self, place: Workplace):
        self._place = place
        self._limits = place.limits
        self._number = place.attempt.number
        self._mirror = Mirror(place.record, self._number, place.folder / "sending")
        self._stage = "preparing"
        self._line = ""
        self._wish: Wish | None = None
        self._terminated = False  # a signal came
        self._asked = threading.Event()
        self._changed = threading.Event()  # the stage
        self._beating = threading.Lock()  # a heartbeat is on its way
        self._processor = Processor()

    def run(self) -> AttemptEnd:
        """How it ended; that is on S3 already, or could not be put there in time."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        for name, act in (
            ("heartbeat", self._beat),
            ("mirror", self._send),
            ("look at S3", self._watch_laptop),
            ("look for notices", self._watch_notices),
        ):
            threading.Thread(target=self._run_thread, args=(name, act), daemon=True).start()
        try:
            wish, code = self._work()
        except (OSError, CloudError) as error:
            where = f"{error.filename}: {error.strerror}" if isinstance(error, S3Error) else error
            wish, code = self._look() or Wish(FAILED, str(where)), 1
        except Exception as error:  # not even then may what was learned be lost
            traceback.print_exc()
            wish, code = Wish(FAILED, f"a bug: {type(error).__name__}: {error}"), 1
        self._enter("uploading")
        return finish(self._place, self._mirror, wish, code, self._last_heartbeat)

    # --- the work

    def _work(self) -> tuple[Wish, int]:
        self._say(f"attempt {self._number} of {self._place.plan.run}")
        folder = self._place.runs / self._place.plan.run
        self._place.runs.mkdir(exist_ok=True)
        if self._patiently(lambda: self._mirror.bring_back(folder)):
            epoch = read_progress(folder).get("epoch", 0)
            self._say(f"brought back the run as it was after epoch {epoch}")
        for stage, command, number in (
            ("preparing", prepare_command, signal.SIGINT),
            ("training", train_command, signal.SIGTERM),
        ):
            self._enter(stage)
            wish, code = self._do(command, number)
            if wish is not None:
                return wish, code
        progress = read_progress(self._place.run_folder)
        words = ", ".join(
            filter(None, (f"{progress.get('epoch', 0)} epochs", progress.get("best")))
        )
        return Wish(DONE, f"trained: {words}"), 0

    def _do(
        self, command: Callable[[Workplace], list[str]], number: int
    ) -> tuple[Wish | None, int]:
        """(None, 0) where it went well, else why the attempt ends now, and the exit code."""
        for tries_left in reversed(range(TRIES)):
            if wish := self._look():
                return self._with_what_is_kept(wish), 128 + number
            kills = memory_kills()
            work = Work(command(self._place), self._place, self._say)
            while (code := work.wait(LOOK_SECONDS)) is None:
                if wish := self._look():
                    self._say(f"{self._stage} is asked to save and to end: {wish.reason}")
                    code = work.stop(number, self._save_seconds(wish))
                    break
            if code == 0:
                return None, 0
            if wish := wish or self._look():
                return self._with_what_is_kept(wish), code
            if code in ASKED_CODES:  # as when the system stops, which asks all at once
                wish = Wish(INTERRUPTED, f"{self._stage} was asked to end from outside")
                return self._with_what_is_kept(wish), code
            said = list(work.last_lines)[-SEE_LINES:]
            if not (tries_left and any(S3_TROUBLE.search(line) for line in said)):
                break
            self._say("S3 was in the way: once more")
        return Wish(FAILED, self._why_failed(code, said, memory_kills() > kills)), code

    def _save_seconds(self, wish: Wish) -> float:
        """At most half of what a notice leaves: the other half is for sending what was saved."""
        if wish.by is None:
            return self._limits.save_seconds
        return max(min(self._limits.save_seconds, (wish.by - time.time()) / 2), 1.0)

    def _with_what_is_kept(self, wish: Wish) -> Wish:
        return Wish(wish.state, f"{wish.reason}; {self._kept_words()}", wish.by)

    def _kept_words(self) -> str:
        folder = self._place.run_folder
        if folder is None or not (folder / STATE).exists():
            return "nothing was learned yet"
        progress = read_progress(folder)
        return f"saved after epoch {progress.get('epoch', 0)} of {progress.get('epochs', '?')}"

    def _why_failed(self, code: int, said: list[str], out_of_memory: bool) -> str:
        """One line: what ended, and why as far as can be told."""
        what = self._place.plan.script if self._stage == "training" else "preparing the videos"
        full = disk_words(self._place.home)
        last = next((line for line in reversed(said) if line.startswith("error: ")), None)
        last = (last or (said[-1] if said else "it said nothing")).removeprefix("error: ")
        if code > 128:
            name = signal.Signals(code - 128).name if code - 128 in set(signal.Signals) else "?"
            if out_of_memory:
                return f"{what} was killed, memory ran out: take an instance with more of it"
            return f"{what} was killed by signal {code - 128} ({name}); last it said: {last}"
        if full or any(DISK_TROUBLE.search(line) for line in said):
            return f"the disk is full{f' ({full})' if full else ''}: {what} ended with {last}"
        return f"{what} ended with code {code}: {last}"

    def _patiently(self, act: Callable[[], Any]) -> Any:
        """What it returns, once S3 lets it; gives up when the end is asked for, or in the end."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return act()
            except S3Error as error:
                gone = isinstance(error, S3ObjectError)
                if gone or time.monotonic() > deadline or self._look():
                    raise
                self._say(f"not yet: {error.filename}: {error.strerror}")
                self._asked.wait(1.0)

    # --- that it is to end

    def _on_signal(self, number: int, frame: object) -> None:
        self._terminated = True  # nothing more: the main thread may be in the middle of anything

    def _look(self) -> Wish | None:
        """Why the attempt is to end, or None."""
        if self._wish is None and self._terminated:
            self._ask(Wish(INTERRUPTED, "SIGTERM: the instance is shut down, or was asked to"))
        return self._wish

    def _ask(self, wish: Wish) -> None:
        if self._wish is None:
            self._wish = self._place.ask_to_end(wish)
            self._asked.set()

    # --- beside it, in threads

    def _run_thread(self, name: str, act: Callable[[], None]) -> None:
        """A thread that breaks would be missed by nobody, so it ends the attempt."""
        try:
            act()
        except Exception as error:
            traceback.print_exc()
            self._ask(Wish(FAILED, f"the {name} broke: {type(error).__name__}: {error}"))

    def _watch_laptop(self) -> None:
        said = False
        while self._goes_on():
            try:
                reason = self._place.record.stop_reason(self._number)
                if reason is not None:
                    self._ask(Wish(STOPPED, reason or "stopped from the laptop"))
                said = False
            except S3Error as error:
                if not said:
                    self._say(f"can't look for a wish to stop: {error.strerror}")
                said = True

    def _watch_notices(self) -> None:
        """In a thread of its own: a notice leaves no time to wait for an S3 that is slow."""
        if self._place.attempt.market != SPOT:
            return
        metadata, rebalanced, said = Metadata(), None, False
        while self._goes_on():
            try:
                if notice := metadata.spot_notice():
                    by = notice.time.timestamp()
                    self._ask(Wish(INTERRUPTED, notice.describe(), by))
                # No reason to end: many are never followed by a notice, and checkpoints are sent
                # as they are written. Where one comes, there are still its two minutes.
                if not rebalanced and (rebalanced := metadata.rebalance_time()):
                    self._say(f"EC2 said at {rebalanced} that it may take the instance back")
            except MetadataError as error:
                if not said:
                    self._say(f"no notices of an interruption can be had: {error}")
                said = True

    def _goes_on(self) -> bool:
        """Waits for the next look, and says whether there is still something to look for."""
        return not self._asked.wait(self._limits.poll_seconds) and self._stage != "ended"

    def _beat(self) -> None:
        failed = False
        while self._stage != "ended":
            try:
                with self._beating:
                    if self._stage != "ended":
                        self._place.record.write_heartbeat(self._heartbeat(self._stage))
                failed = False
            except S3Error as error:
                if not failed:
                    self._say(f"no heartbeat reaches S3: {error.strerror}")
                failed = True
            self._changed.wait(self._limits.heartbeat_seconds)
            self._changed.clear()

    def _send(self) -> None:
        """Sends what is new every few seconds, and each new checkpoint at once."""
        sent_state, sent_at, note = None, 0.0, None
        while self._stage not in ("uploading", "ended"):
            folder = self._place.run_folder
            state = _stamp(folder / STATE) if folder else None
            due = time.monotonic() - sent_at >= self._limits.upload_seconds
            if due or state != sent_state:
                try:
                    if folder is not None:
                        self._mirror.send(folder)
                    send_log(self._place)
                except SupersededError as error:
                    self._ask(Wish(STOPPED, str(error)))
                    return
                except OSError as error:  # S3's, or of a disk that is full
                    self._say(f"not sent yet: {error.filename}: {error.strerror}")
                sent_at, sent_state = time.monotonic(), state
                if self._mirror.note != note:
                    note = self._mirror.note
                    self._say(note)
            time.sleep(min(STATE_LOOK_SECONDS, self._limits.upload_seconds))

    def _last_heartbeat(self) -> Heartbeat:
        self._enter("ended")  # and no other comes after it, but one that hangs on its way
        if self._beating.acquire(timeout=LAST_BEAT_SECONDS):
            self._beating.release()
        return self._heartbeat("ended")

    def _heartbeat(self, stage: str) -> Heartbeat:
        dollars = self._place.attempt.dollars_before + self._place.dollars()
        return Heartbeat(
            attempt=self._number,
            time=utc_now(),
            stage=stage,
            **read_progress(self._place.run_folder),
            gpu_percent=gpu_percent(),
            cpu_percent=self._processor.percent(),
            dollars_so_far=round(dollars, 6),
            line=self._line,
        )

    def _enter(self, stage: str) -> None:
        self._stage = stage
        self._changed.set()

    def _say(self, line: str) -> None:
        self._line = line
        say(line)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


if __name__ == "__main__":
    os._exit(main())  # a thread that hangs in a request must not hold up the end
