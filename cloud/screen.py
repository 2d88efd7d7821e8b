"""Screen: what a person is told while a run starts and goes on, and what he is asked."""

import shutil
import sys
import time

LINE_SECONDS = 30.0  # between lines of the live view where it can't be refreshed in place


class Screen:
    """Lines on stdout, and on a terminal one more below them that is refreshed in place."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty() and sys.stdin.isatty()
        self._key: object = None  # of the last line of the live view
        self._shown_seconds = float("-inf")
        self._has_live_line = False

    def say(self, what: str, text: str) -> None:
        """A line that stays; `what` is one word."""
        self.print(f"{what:<9} {text}")

    def print(self, line: str = "") -> None:
        self._clear()
        print(line, flush=True)

    def live(self, line: str, key: object) -> None:
        """Shows where things stand; a line where `key` is new, or the last is some time ago."""
        if self.is_terminal:
            self._clear()
            width = shutil.get_terminal_size().columns - 1
            print(line[:width], end="", flush=True)
            self._has_live_line = True
        elif key != self._key or time.monotonic() - self._shown_seconds > LINE_SECONDS:
            self._key, self._shown_seconds = key, time.monotonic()
            print(line, flush=True)

    def ask(self, question: str) -> str:
        """The answer, in lower case; "" where there is none to be had."""
        self._clear()
        try:
            return input(f"{question} ").strip().lower()
        except EOFError:
            return ""

    def _clear(self) -> None:
        if self._has_live_line:
            print("\r\033[K", end="")
            self._has_live_line = False
