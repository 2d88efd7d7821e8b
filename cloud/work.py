"""Work: a child process of an attempt, in a session of its own, whose output goes into a file.

So it is not hurt where the attempt is killed, can then still be asked to save, and what it says is
not lost in a pipe that nobody reads any more.
"""

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence

from cloud.machine import family
from cloud.workplace import Workplace, process_start, wait_until_gone

LAST_LINES = 30
READ_SECONDS = 0.2
KILLED_SECONDS = 10.0  # for the system to clear a killed process away
LINE_CHARACTERS = 500  # a longer one is cut: it may be a file that somebody printed
ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "TQDM_MININTERVAL": "10",  # a bar is a line here, and those go to S3
}


class Work:
    """A command that runs in the home of an attempt; each line of its output is passed to `say`."""

    def __init__(self, command: Sequence[str], place: Workplace, say: Callable[[str], None]):
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._say = say
        self._over = threading.Event()
        with open(place.output, "ab") as output:
            self._reading = open(place.output, "rb")  # noqa: SIM115 closed with the reader
            self._reading.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(
                command,
                cwd=place.home,
                env={**os.environ, **ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        place.keep_process("work", self._process.pid)
        self._reader = threading.Thread(target=self._read, name="output", daemon=True)
        self._reader.start()

    def wait(self, seconds: float) -> int | None:
        """The exit code as a shell gives it, 137 after signal 9; None where it still runs then."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        # What it left running would go on to use the machine, and the output.
        _kill_group(self._process.pid)
        self._over.set()
        self._reader.join(KILLED_SECONDS)
        return code if code >= 0 else 128 - code

    def stop(self, number: int, seconds: float) -> int:
        """Asks it to end with a signal, waits so long, kills it then; returns the exit code."""
        stop_process(self._process.pid, number, seconds)
        code = self.wait(KILLED_SECONDS)
        return 128 + signal.SIGKILL if code is None else code  # it hangs within the kernel

    def _read(self) -> None:
        half = ""
        with self._reading:
            while True:
                over = self._over.wait(READ_SECONDS)
                text = half + self._reading.read().decode("utf-8", errors="replace")
                *lines, half = re.split(r"[\r\n]+", text)
                for line in [*lines, half] if over else lines:
                    if line := re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line).rstrip():
                        self.last_lines.append(line[:LINE_CHARACTERS])
                        self._say(line[:LINE_CHARACTERS])
                if over:
                    return


def stop_process(process: int, number: int, seconds: float) -> bool:
    """Whether a process ended by a signal in time; what is left of it and its own is killed."""
    members = family(process)  # torchrun's are in sessions of their own
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)
    ended = wait_until_gone(process, seconds)
    _kill_group(process)
    for member, began in members.items():
        if process_start(member) == began:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
    return ended


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
