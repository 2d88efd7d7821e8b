"""Commands: what is run when a live stream changes, beside the watching."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Mapping

from utils.errors import UserError

TIME_LIMIT_SECONDS = 10.0
MAX_REPORTS = 100  # that wait to be taken
CLOSE_SECONDS = 1.0  # more than a command's own limit, for the last one
STDERR = 2  # the file descriptor
PREFIX = "CHANGE_"  # of the variables that a command finds


class ChangeCommand:
    """Runs a command with each change, one at a time and without a shell, in a thread of its own.

    The command gets the change as JSON in its last argument, and each field in a variable of the
    environment (`CHANGE_EVENT`, `CHANGE_LABEL`, ...). While one runs only the newest change waits:
    those between are left out, so that the state after the last one is right. Raises UserError for
    a command that can't be run.
    """

    def __init__(self, command: str, *, time_limit_seconds: float = TIME_LIMIT_SECONDS):
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise UserError(f"the command {command!r} can't be split: {error}") from error
        if not self._words or shutil.which(self._words[0]) is None:
            raise UserError(
                f"the command {command!r} begins with no program that can be found: "
                "pass a path, or what is on the PATH (it is run without a shell)"
            )
        self._limit_seconds = time_limit_seconds
        self._waiting: Mapping[str, object] | None = None
        self._is_closed = False
        self._changed = threading.Condition()
        self._reports: deque[dict] = deque(maxlen=MAX_REPORTS)
        self._thread = threading.Thread(target=self._work, daemon=True, name="on-change")
        self._thread.start()

    def run(self, event: Mapping[str, object]) -> None:
        """Asks for a run with this change, in place of one that waits. Returns at once."""
        with self._changed:
            if self._waiting is not None:
                self._report(self._waiting, "skipped", "a newer change came while it waited")
            self._waiting = event
            self._changed.notify()

    def taken_reports(self) -> list[dict]:
        """What went wrong since the last time, oldest first."""
        with self._changed:
            reports = list(self._reports)
            self._reports.clear()
        return reports

    def close(self) -> None:
        """Waits for the command that runs and the change that waits, as long as they may take."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(2 * self._limit_seconds + CLOSE_SECONDS)

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._waiting is None and not self._is_closed:
                    self._changed.wait()
                if self._waiting is None:
                    return
                event, self._waiting = self._waiting, None
            problem = self._problem_of_run(event)
            if problem is not None:
                with self._changed:
                    self._report(event, "failed", problem)

    def _problem_of_run(self, event: Mapping[str, object]) -> str | None:
        fields = {f"{PREFIX}{name.upper()}": str(value) for name, value in event.items()}
        try:
            process = subprocess.Popen(
                [*self._words, json.dumps(event)],
                env={**os.environ, **fields},
                stdin=subprocess.DEVNULL,  # the stream may come from ours
                stdout=STDERR,  # ours is for JSON lines
                start_new_session=True,  # Ctrl-C is for us, and what it starts ends with it
            )
        except OSError as error:
            return f"it can't be run ({error.strerror})"
        try:
            code = process.wait(self._limit_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"it took more than {self._limit_seconds:g} s and was ended"
        return None if code == 0 else f"its exit code is {code}"

    def _report(self, event: Mapping[str, object], status: str, reason: str) -> None:
        report = {"event": "command", "status": status, "reason": reason}
        self._reports.append({**report, "id": event.get("id"), "command": self._words[0]})
