"""Machines: instances of the made AWS, on which a start script really runs, and what is around it.

A machine is a folder, a session of processes that carry its mark in their environment, a PATH on
which nothing can switch off the computer that the tests run on, and a metadata service. What the
machine asks for by `shutdown` or `systemd-run` its world does, in scaled minutes.
"""

import contextlib
import gzip
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psutil

from tests.imds import MetadataService
from tests.steady import steady_seconds, wait_until

ROOT = Path(__file__).resolve().parent.parent
MARK = "ADGAME_TEST_MACHINE"  # in the environment of each process of a machine
POLL_SECONDS = 0.03
SYSTEM_FOLDERS = ("/usr/local/bin", "/usr/bin", "/bin")  # no sbin: nothing there is needed
# What would act on the computer that runs the tests: asked of the world instead, or not there.
ASKED = ("shutdown", "poweroff", "halt", "reboot", "systemctl", "systemd-run", "apt-get", "dnf")
FORBIDDEN = ("apt", "yum", "sudo", "su", "init", "telinit", "mount", "umount", "aws", "nvidia-smi")
ASK = """#!/bin/bash
file={requests}/.$$.$RANDOM
printf '%s\\0' "${{0##*/}}" "$@" >"$file"
mv "$file" "${{file/\\/./\\/request-}}"
"""
# The AWS command takes half a second of processor, each time. This one has the world do it.
AWS = """#!/bin/bash
name=$$.$RANDOM
printf '%s\\0' aws "{requests}/reply-$name" "$PWD" "$@" >"{requests}/.$name"
mv "{requests}/.$name" "{requests}/request-$name"
until [[ -e "{requests}/reply-$name" ]]; do {sleep} 0.03; done
{{ read -r code; cat >&2; }} <"{requests}/reply-$name"
exit "$code"
"""
# Scripts wait a tenth of what they wait elsewhere.
SLEEP = """#!/bin/bash
printf -v seconds '%d.%03d' $(( $1 / 10 )) $(( $1 * 100 % 1000 ))
exec {sleep} "$seconds"
"""
GPU = """#!/bin/bash
case "$*" in
  *list-gpus* | -L) echo "GPU 0: Tesla T4 (UUID: GPU-0)" ;;
  *driver_version*) echo 595.91 ;;
  *) cat {percent} ;;
esac
"""


@dataclass(frozen=True)
class Hardware:
    """What an instance was asked to be."""

    instance_id: str
    instance_type: str
    market: str  # spot or on-demand
    zone: str
    has_gpu: bool
    shutdown_behavior: str  # terminate or stop


@dataclass
class Clock:
    """How long things take on a made machine."""

    minute_seconds: float = 60.0  # of `shutdown +1` and `systemd-run --on-active=1min`
    stop_seconds: float = 30.0  # from SIGTERM to SIGKILL when the system stops; 90 on a real one


@dataclass
class Machine:
    """An instance that was started; `ended` says why it is no more."""

    hardware: Hardware
    folder: Path
    clock: Clock
    mark: str
    credentials: Callable[[], tuple[str, str, str] | None]  # the three keys of its role
    copy: Callable[["Machine", Path, list[str]], None]  # what `aws s3 cp` does
    on_end: Callable[["Machine"], None]
    asked: list[list[str]] = field(default_factory=list)  # commands of ASKED, in order
    started: float = field(default_factory=time.monotonic)
    ended: str | None = None
    ended_at: float | None = None
    metadata: MetadataService | None = None  # from its start on
    timers_seconds: float = 0.0  # to add to the times of its timers
    _timers: list[tuple[float, str, list[str]]] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.hardware.instance_id

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def console(self) -> str:
        """What its start script printed."""
        return (self.folder / "console").read_text(errors="replace")

    def set_gpu_percent(self, percent: int) -> None:
        (self.folder / "gpu").write_text(f"{percent}\n")

    def make_folders(self) -> None:
        """What there is when it is switched on."""
        for name in ("bin", "home", "root", "tmp", "requests"):
            (self.folder / name).mkdir(parents=True)
        self.set_gpu_percent(90)
        make_environment(self.home / ".venv")
        ask = ASK.format(requests=shlex.quote(str(self.folder / "requests")))
        for name in ASKED:
            self.add_tool(name, ask)
        if self.hardware.has_gpu:
            self.add_tool("nvidia-smi", GPU.format(percent=shlex.quote(str(self.folder / "gpu"))))
        (self.folder / "bin" / "aws").symlink_to(Path(sys.executable).parent / "aws")

    def hurry(self) -> None:
        """Has scripts wait less, and copy to and from S3 without the seconds of the AWS command."""
        sleep = shutil.which("sleep", path=os.pathsep.join(SYSTEM_FOLDERS))
        self.add_tool("aws", AWS.format(requests=self.folder / "requests", sleep=sleep))
        self.add_tool("sleep", SLEEP.format(sleep=sleep))

    def add_tool(self, name: str, text: str) -> None:
        """A command of its own, or instead of the one that there was."""
        path = self.folder / "bin" / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o700)

    def start(self, user_data: bytes, environment: dict[str, str]) -> None:
        """Runs the user data as cloud-init does: only where it is a script."""
        self.metadata = self._metadata_service()
        if user_data[:2] == b"\x1f\x8b":
            user_data = gzip.decompress(user_data)
        script = self.folder / "user-data"
        script.write_bytes(user_data)
        script.chmod(0o700)
        self._environment = {
            "PATH": f"{self.folder / 'bin'}:{_tools()}",
            "HOME": str(self.folder / "root"),
            "TMPDIR": str(self.folder / "tmp"),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "ADGAME_HOME": str(self.home),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata.url,
            MARK: self.mark,
            **environment,
        }
        if user_data.startswith(b"#!"):
            self._run([str(script)])
        threading.Thread(target=self._serve, name=self.id, daemon=True).start()

    def processes(self, word: str | None = None) -> list[psutil.Process]:
        """Those that belong to this machine; those with this word in their command line."""
        found = marked_processes(self.mark)
        return [process for process in found if word is None or word in _command(process)]

    def signal(self, *words: str, number: int = signal.SIGKILL) -> bool:
        """Whether there was a process with each word in its command line: a signal to each of them.

        All are found before the first is hit, whose end may be that of others.
        """
        found = [self.processes(word) for word in words]
        for processes in found:
            for process in processes:
                _signal(process, number)
        return all(found)

    def interrupt(self, seconds: float) -> None:
        """Notice, and the end `seconds` later; from its start on."""
        wait_until(lambda: self.metadata is not None)
        self.metadata.give_notice(seconds)
        self._timers.append((steady_seconds() + seconds, "spot interruption", ["end"]))

    def terminate(self, reason: str) -> None:
        """Ends it from outside, as EC2 does: the system stops, then the power is off."""
        self._timers.append((0.0, reason, ["end"]))

    def vanish(self) -> None:
        """Ends it without a word to anybody: a broken host."""
        self._timers.append((0.0, "vanished", ["vanish"]))

    def forget_timers(self) -> None:
        """As `shutdown -c` does, and a reboot."""
        self._timers.clear()

    def wait(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
        return wait_for(lambda: self.ended is not None, seconds)

    # What happens on it

    def _metadata_service(self) -> MetadataService:
        hardware, keys = self.hardware, self.credentials()
        service = MetadataService(
            instance_id=hardware.instance_id,
            instance_type=hardware.instance_type,
            zone=hardware.zone,
            market=hardware.market,
            keys=keys or ("", "", ""),
        )
        if keys is None:
            del service.documents["iam/security-credentials/"]
        return service

    def _run(self, command: list[str]) -> None:
        with open(self.folder / "console", "ab") as console:
            self._last = subprocess.Popen(
                command,
                cwd="/",
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def _serve(self) -> None:
        """Does what the machine asks for, until it is no more."""
        while self.ended is None:
            self._take_requests()
            for timer in sorted(self._timers):
                if timer[0] + self.timers_seconds <= steady_seconds():
                    self._timers.remove(timer)
                    self._fire(timer[1], timer[2])
                    break
            time.sleep(POLL_SECONDS)

    def _take_requests(self) -> None:
        for path in sorted((self.folder / "requests").glob("request-*"), key=_modified):
            self._take(path.read_text().split("\0")[:-1])
            path.unlink()

    def _take(self, command: list[str]) -> None:
        if command[0] == "aws":
            threading.Thread(target=self._copy, args=(command[1:],), daemon=True).start()
            return
        self.asked.append(command)
        name, words = command[0], command[1:]
        if name == "shutdown" and "-c" in words:
            self._timers = [timer for timer in self._timers if timer[1] != "shutdown timer"]
        elif name == "shutdown":
            when = next((word for word in words if word == "now" or word.startswith("+")), "+1")
            seconds = 0.0 if when == "now" else int(when[1:]) * self.clock.minute_seconds
            why = "shut itself down" if when == "now" else "shutdown timer"
            self._timers.append((steady_seconds() + seconds, why, ["power-off"]))
        elif name == "poweroff" or (name == "systemctl" and "poweroff" in words):
            self._timers.append((steady_seconds(), "shut itself down", ["power-off"]))
        elif name == "systemd-run":
            seconds, rest = _systemd_timer(words)
            self._timers.append(
                (
                    steady_seconds() + seconds * self.clock.minute_seconds / 60,
                    "systemd timer" if seconds else "service",
                    ["run", *rest],
                )
            )

    def _copy(self, words: list[str]) -> None:
        reply, folder = Path(words[0]), Path(words[1])
        try:
            self.copy(self, folder, words[2:])
            said = "0\n"
        except Exception as error:  # as the command would: in a line, with a code
            said = f"1\nfatal error: {error}\n"
        partial = reply.with_name(f".{reply.name}")
        partial.write_text(said)
        with contextlib.suppress(FileNotFoundError):  # the machine is no more
            partial.rename(reply)

    def _fire(self, reason: str, action: list[str]) -> None:
        if action[0] == "run":
            self._run(action[1:])
        else:
            self._end(reason, by_itself=action[0] == "power-off", at_once=action[0] == "vanish")

    def _end(self, reason: str, *, by_itself: bool, at_once: bool = False) -> None:
        """The system stops: SIGTERM to all, SIGKILL to those that are left after a while."""
        deadline = steady_seconds() + (0 if at_once else self.clock.stop_seconds)
        if not at_once:
            for process in self.processes():
                _signal(process, signal.SIGTERM)
        asked = len(self.asked)  # a script that has done all it can asks for what is under way
        while steady_seconds() < deadline and len(self.asked) == asked and self.processes():
            self._take_requests()
            time.sleep(POLL_SECONDS)
        kill_marked(self.mark)
        self.metadata.close()
        self._last.wait()
        self.ended_at = time.monotonic()
        self.ended = reason if by_itself or at_once else f"terminated: {reason}"
        self.on_end(self)


# Processes


def marked_processes(mark: str) -> Iterator[psutil.Process]:
    """Those whose mark is this one, or begins with it; a process keeps that of its parent."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            found = process.environ().get(MARK, "")
            if (found == mark or found.startswith(f"{mark}/")) and (
                process.status() != psutil.STATUS_ZOMBIE
            ):
                yield process


def kill_marked(mark: str, seconds: float = 10.0) -> None:
    """Ends all of them, also those that are being started meanwhile."""
    deadline = steady_seconds() + seconds
    while found := list(marked_processes(mark)):
        for process in found:
            _signal(process, signal.SIGKILL)
        assert steady_seconds() < deadline, f"not to be killed: {found}"
        time.sleep(0.005)


def keep_watch(mark: str) -> subprocess.Popen:
    """A process that ends all with this mark as soon as this one has ended, however it did."""
    words = [sys.executable, "-m", "tests.machines", mark]
    return subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True)


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Whether it comes true within so many seconds."""
    deadline = steady_seconds() + seconds
    while not condition():
        if steady_seconds() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def make_environment(folder: Path) -> None:
    """A .venv that is this one, with a stamp by which run_training.sh takes it for set up."""
    from hashlib import sha256

    folder.mkdir(parents=True)
    for path in Path(sys.prefix).iterdir():
        if path.name != "set-up-done":
            (folder / path.name).symlink_to(path)
    lock = sha256((ROOT / "Pipfile.lock").read_bytes()).hexdigest()
    (folder / "set-up-done").write_text(f"{sys.version.split()[0]} {lock} default\n")


@cache
def _tools() -> str:
    """A folder with the commands of this computer, less those that could do harm to it."""
    import atexit
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="machine-tools-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    hidden = {*ASKED, *FORBIDDEN}
    for system in SYSTEM_FOLDERS:
        for path in Path(system).iterdir() if Path(system).is_dir() else ():
            if path.name not in hidden and not (folder / path.name).is_symlink():
                (folder / path.name).symlink_to(path)
    (folder / "python3").unlink(missing_ok=True)
    (folder / "python3").symlink_to(sys._base_executable)
    return str(folder)


def _systemd_timer(words: list[str]) -> tuple[float, list[str]]:
    """Seconds until a command runs (0 where it is no timer), and the command."""
    seconds = 0.0
    for number, word in enumerate(words):
        if word.startswith("--on-active="):
            text = word.partition("=")[2]
            units = {"min": 60, "m": 60, "h": 3600, "s": 1, "sec": 1, "": 1}
            amount = text.rstrip("abcdefghijklmnopqrstuvwxyz")
            seconds = float(amount) * units[text[len(amount) :]]
        elif not word.startswith("-"):
            return seconds, words[number:]
    return seconds, []


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error, OSError):
        return process.cmdline()
    return []


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.Error, ProcessLookupError):
        process.send_signal(number)


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns


if __name__ == "__main__":
    sys.stdin.read()
    kill_marked(sys.argv[1])
