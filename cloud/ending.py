"""Ending: the last upload of an attempt, bounded in time, and the end of the instance's power."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable

from cloud.mirror import Mirror, SupersededError
from cloud.run_folder import read_progress
from cloud.run_record import (
    DONE,
    FAILED,
    AttemptEnd,
    Heartbeat,
    utc_now,
)
from cloud.s3 import S3Error, write_bytes
from cloud.work import stop_process
from cloud.workplace import Wish, Workplace, say, wait_until_gone

LOG_BYTES = 8 << 20  # of what was printed; the end of it, where it is longer
RESULT_PATIENCE = 10  # times the usual, where nothing but the results of a whole training is left
RETRY_SECONDS = 1.0
MARGIN_SECONDS = 15.0  # for an attempt to be done, on top of all that it waits for
POWER_SECONDS = 10.0  # between calls of shutdown


def finish(
    place: Workplace,
    mirror: Mirror,
    wish: Wish,
    exit_code: int,
    last_heartbeat: Callable[[], Heartbeat],
) -> AttemptEnd:
    """Sends the run folder, what was printed and then the end, and returns that; raises nothing.

    It takes no longer than is allowed; what did not get through by then is said in the end.
    """
    place.drop_ballast()
    seconds = _allowed_seconds(place, wish)
    deadline = time.monotonic() + seconds
    # So much is left for the end itself, where the files can't be sent.
    trouble = _bounded(lambda: _send_all(place, mirror, wish), 0.8 * seconds)
    if trouble:
        lost = wish.state == DONE
        words = f"what is new could not be sent to S3 ({trouble})"
        wish = Wish(FAILED if lost else wish.state, f"{wish.reason}; but {words}")
    end = place.new_end(wish, exit_code)
    say(f"end         {end.state}: {end.reason}")

    def say_end() -> None:
        send_log(place)
        place.record.write_heartbeat(last_heartbeat())
        place.record.write_end(place.attempt.number, end)

    trouble = _bounded(lambda: _repeat(say_end), deadline - time.monotonic())
    if trouble:
        say(f"the end could not be written to S3: {trouble}")
    place.keep_end(end)
    return end


def end_from_outside(place: Workplace, wish: Wish) -> None:
    """Ends the attempt, whoever runs it, and does for it what it can't do itself any more.

    It is over in the time that saving and sending may take, and half a minute.
    """
    with place.ending():
        if place.end is not None:
            return
        wish = place.ask_to_end(wish)
        limits = place.limits
        attempt = place.process("attempt")
        if attempt is not None:
            say(f"the attempt is asked to end: {wish.reason}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(attempt, signal.SIGTERM)
            patience = limits.save_seconds + limits.final_upload_seconds + MARGIN_SECONDS
            if not wait_until_gone(attempt, patience):
                say("the attempt does not end: it is killed")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(attempt, signal.SIGKILL)
                wait_until_gone(attempt, MARGIN_SECONDS)
        if place.end is not None:
            return
        work = place.process("work")
        if work is not None and not stop_process(work, signal.SIGTERM, limits.save_seconds):
            say(f"the training did not save within {limits.save_seconds:g} s and was killed")
        say("what is here is sent to S3")
        mirror = Mirror(place.record, place.attempt.number, place.folder / "sending")
        finish(place, mirror, wish, 1, lambda: _heartbeat(place, wish))


def send_log(place: Workplace) -> None:
    """Sends what was printed. Raises S3Error."""
    with contextlib.suppress(FileNotFoundError), open(place.log, "rb") as log:
        size = os.fstat(log.fileno()).st_size
        log.seek(max(size - LOG_BYTES, 0))
        text = log.read(LOG_BYTES)
        write_bytes(place.record.log_url(place.attempt.number), text)


def power_off() -> None:
    """Asks for it until it happens: there is nothing else left to do on this instance."""
    while True:
        say("power off")
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["shutdown", "-P", "now"], timeout=POWER_SECONDS)
        time.sleep(POWER_SECONDS)


def _heartbeat(place: Workplace, wish: Wish) -> Heartbeat:
    return Heartbeat(
        place.attempt.number,
        utc_now(),
        "ended",
        **read_progress(place.run_folder),
        dollars_so_far=round(place.attempt.dollars_before + place.dollars(), 4),
        line=wish.reason,
    )


def _allowed_seconds(place: Workplace, wish: Wish) -> float:
    seconds = place.limits.final_upload_seconds
    if wish.state == DONE:
        return RESULT_PATIENCE * seconds
    if wish.by is not None:
        return max(min(seconds, wish.by - time.time()), 1.0)
    return seconds


def _send_all(place: Workplace, mirror: Mirror, wish: Wish) -> None:
    with contextlib.suppress(SupersededError):  # then it is not ours to send
        folder = place.run_folder
        if folder is not None:
            _repeat(lambda: mirror.send(folder))
        if wish.state == DONE:
            mirror.sweep()


def _repeat(act: Callable[[], object]) -> None:
    """Until S3 takes it; the caller bounds the time."""
    while True:
        try:
            act()
            return
        except S3Error as error:
            say(f"not yet: {error.filename}: {error.strerror}")
            time.sleep(RETRY_SECONDS)


def _bounded(act: Callable[[], None], seconds: float) -> str | None:
    """Why it is not done, or None. What hangs is left behind in its thread."""
    failures: list[str] = []

    def run() -> None:
        try:
            act()
        except Exception as error:  # said in the end, and on the instance's log
            failures.append(f"{type(error).__name__}: {' '.join(str(error).split())}")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(max(seconds, 0.0))
    if thread.is_alive():
        return f"not within {seconds:.0f} s"
    return failures[0] if failures else None
