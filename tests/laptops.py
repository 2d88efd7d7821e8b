"""Laptop: a copy of the project, from which the launcher is run as a person would run it."""

import atexit
import compileall
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.aws_world import World
from tests.machines import ROOT


class Laptop:
    """A copy of the project from which the launcher is run, as a person would run it."""

    def __init__(self, world: World, folder: Path, rooms: tuple[str, ...] = ("cloud", "utils")):
        self.world, self.folder = world, folder
        shutil.copytree(_clone(rooms), folder)
        self.environment = {
            **{key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ},
            **world.environment,
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, *words: str, **environment: str) -> "Launcher":
        return Launcher(words, self.folder, {**self.environment, **environment})

    def run(self, *words: str, seconds: float = 600, **environment: str) -> tuple[int, str]:
        """Exit code, and what it said."""
        return self.start(*words, **environment).finish(seconds)


class Launcher:
    """train_on_aws.py, started in a session of its own."""

    def __init__(self, words: tuple[str, ...], folder: Path, environment: dict[str, str]):
        handle, name = tempfile.mkstemp(dir=folder.parent, prefix="said-")
        self._said = Path(name)
        with open(handle, "wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "train_on_aws.py", *words],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._said.read_text(errors="replace")

    def signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)

    def finish(self, seconds: float = 600) -> tuple[int, str]:
        """Exit code, and what it said; one that does not end is killed, and fails the test."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self._process.wait()
            message = f"the launcher did not end within {seconds} s:\n{self.said}"
            raise AssertionError(message) from None
        return code, self.said

    def kill(self) -> tuple[None, str]:
        """Signal 9, and what it had said."""
        self.signal(signal.SIGKILL)
        self._process.wait()
        return None, self.said


@functools.cache
def _clone(rooms: tuple[str, ...]) -> Path:
    """The project, compiled once for all that copy it."""
    folder = Path(tempfile.mkdtemp(prefix="clone-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for path in (*ROOT.glob("*.py"), *ROOT.glob("Pipfile*"), ROOT / "run_training.sh"):
        shutil.copy2(path, folder)
    for room in rooms:
        without = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / room, folder / room, ignore=without)
        compileall.compile_dir(folder / room, quiet=1)
    return folder
