"""Small instance: what bootstrap.sh leaves for attempt and guard, with tests/short_train.py to run.

Nothing on it can switch off the computer that the tests run on: `shutdown` is a note in a folder.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import pytest

from cloud.attempt import Course
from cloud.run_record import Attempt, AttemptEnd, Latest, Limits, RunPlan, RunRecord, utc_now
from cloud.s3 import read_bytes, write_bytes
from cloud.user_data import user_data
from cloud.workplace import Workplace
from tests.machines import MARK, Clock, Hardware, Machine, kill_marked, wait_for

ROOT = Path(__file__).resolve().parent.parent
RUN = "2026-11-22_06-10-00-short_train-x7k2"
LIMITS = {
    "poll_seconds": 0.2,
    "heartbeat_seconds": 0.2,
    "upload_seconds": 0.3,
    "save_seconds": 5.0,
    "final_upload_seconds": 10.0,
}
LAUNCHER = """#!/bin/bash
set -e
case "$1" in
  set-up) echo "the environment is there" ;;
  prepare) shift; exec "$TEST_PYTHON" prepare.py "$@" ;;
  local) script="$2"; shift 3; exec "$TEST_PYTHON" "$script" "$@" ;;
esac
"""
# What bootstrap.sh asks of it, in a tenth of the seconds that the real one takes to start.
AWS = """#!{python} -SE
import http.client, os, pathlib, sys
def ask(method, path, body=None):
    connection = http.client.HTTPConnection(os.environ["AWS_ENDPOINT_URL"].removeprefix("http://"))
    credential = "Credential=test/20260101/us-east-1/s3/aws4_request"
    words = f"AWS4-HMAC-SHA256 {{credential}}, SignedHeaders=host, Signature=0"
    connection.request(method, "/" + path, body, {{"Authorization": words}})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        sys.exit(f"{{answer.status}}: {{path}}")
    return content
words = sys.argv[1:]
assert words[:2] == ["s3", "cp"], words
names = [word for before, word in zip(words, words[1:]) if before == "--include"]
source, target = [
    word
    for before, word in zip(words[1:], words[2:])
    if not word.startswith("--") and before not in ("--include", "--exclude")
]
for name in names:
    path = pathlib.Path(target, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ask("GET", source.removeprefix("s3://") + name))
if target.startswith("s3://"):
    path = pathlib.Path(source)
    for file in path.rglob("*") if "--recursive" in words else [path]:
        if file.is_file():
            name = file.relative_to(path).as_posix() if "--recursive" in words else ""
            ask("PUT", target.removeprefix("s3://") + name, file.read_bytes())
"""
PREPARE = """
import json, os, pathlib, sys, time
pathlib.Path("prepared.json").write_text(json.dumps(sys.argv[1:]))
print("decoding", flush=True)
exec(os.environ.get("TEST_PREPARE", ""))
"""


class SmallInstance:
    """One attempt of a run; `next` is the instance of the next one."""

    def __init__(self, folder: Path, s3, *, bucket: str | None = None, number: int = 1):
        self.folder, self.s3, self.number = folder, s3, number
        self.bucket = bucket or s3.new_bucket()
        self.record = RunRecord(self.bucket, RUN)
        hardware = Hardware("i-1", "g4dn.xlarge", "spot", "us-east-1a", False, "terminate")
        self.mark = str(folder)
        self.machine = Machine(
            hardware,
            folder,
            Clock(minute_seconds=1.0, stop_seconds=6.0),
            self.mark,
            credentials=lambda: None,
            copy=lambda *_: None,
            on_end=lambda _: None,
        )
        self.machine.make_folders()
        self.machine.add_tool("aws", AWS.format(python=sys.executable))
        self.home = self.machine.home
        self.variables = {
            **s3.environment,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",  # where shutdown only makes a note
            "ADGAME_HOME": str(self.home),
            "AWS_MAX_ATTEMPTS": "2",
            "TEST_PYTHON": sys.executable,
            MARK: self.mark,
        }
        self.limits = Limits(**LIMITS)
        self.launcher = LAUNCHER
        self.processes: list[subprocess.Popen] = []

    def begin(self, *overrides: str, market: str = "on-demand", **limits: float) -> None:
        """Writes what laptop and start script would have."""
        self.limits = Limits(**{**LIMITS, **limits})
        self.write_code(self.home)
        self.write_records(*overrides, market=market)
        place = self.home / "on-aws"
        place.mkdir()
        (place / "started").write_text(f"{time.time():.0f}")
        (place / "plan.json").write_text(json.dumps(asdict(self.record.read_plan())))
        attempt, _ = self.record.read_attempt(self.number)
        (place / "attempt.json").write_text(json.dumps(asdict(attempt)))
        (place / "log").write_text("the start script was here\n")

    def write_code(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        shutil.copytree(ROOT / "cloud", folder / "cloud")
        shutil.copy(ROOT / "tests" / "short_train.py", folder)
        (folder / "prepare.py").write_text(PREPARE)
        (folder / "run_training.sh").write_text(self.launcher)
        (folder / "run_training.sh").chmod(0o755)

    def write_records(
        self, *overrides: str, market: str = "on-demand", code_sha256: str = ""
    ) -> None:
        plan = RunPlan(
            RUN,
            self.bucket,
            "us-east-1",
            "short_train.py",
            list(overrides),
            code_sha256,
            utc_now(),
            "tester",
            self.limits,
        )
        self.record.write_plan(plan)
        attempt = Attempt(
            self.number,
            "token",
            "g4dn.xlarge",
            market,
            "us-east-1a",
            0.5,
            60,
            0.25 * (self.number - 1),
            "2099-01-01T00:00:00+00:00",
            "me",
        )
        self.record.write_attempt(attempt, None)

    def boot(self, *overrides: str, damage: bytes = b"", **limits: float) -> None:
        """Runs the user data, as EC2 would; the code on S3 has `damage` at its end."""
        self.limits = Limits(**{**LIMITS, **limits})
        code = self.folder / "code"
        self.write_code(code)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            tar.add(code, ".")
        self.write_records(*overrides, code_sha256=sha256(archive.getvalue()).hexdigest())
        write_bytes(self.record.code_url, archive.getvalue() + damage)
        text = user_data(self.record.read_plan(), self.record.read_attempt(self.number)[0])
        variables = {name: value for name, value in self.variables.items() if name != "PATH"}
        self.machine.start(text.encode(), variables)

    def next(self, *overrides: str, **limits: float) -> "SmallInstance":
        folder = self.folder.with_name(f"{self.folder.name}-{self.number + 1}")
        instance = SmallInstance(folder, self.s3, bucket=self.bucket, number=self.number + 1)
        instance.begin(*overrides, **limits)
        return instance

    @property
    def place(self) -> Workplace:
        return Workplace(self.home)

    def start(self, module: str, *arguments: str, **variables: str) -> subprocess.Popen:
        with open(self.home / "on-aws" / "log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"cloud.{module}", *arguments],
                cwd=self.home,
                env={**os.environ, **self.variables, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def run(self, *, during: Callable[[], None] | None = None) -> AttemptEnd:
        """Runs the attempt in this process, which saves seconds, and `during` beside it.

        Returns the end that is on S3.
        """
        failures: list[BaseException] = []

        def disturb() -> None:
            try:
                during()
            except BaseException as error:  # raised below, in the thread of the test
                failures.append(error)

        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        self.place.keep_process("attempt", os.getpid())
        log = (self.home / "on-aws" / "log").open("a")
        with log, pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(log):
            for name, value in self.variables.items():
                patch.setenv(name, value)
            if during:
                threading.Thread(target=disturb, daemon=True).start()
            Course(self.place).run()
        for number, handler in before.items():
            signal.signal(number, handler)
        if failures:
            raise failures[0]
        return self.end

    @property
    def end(self) -> AttemptEnd | None:
        return self.record.read_end(self.number)

    @property
    def log(self) -> str:
        return (self.home / "on-aws" / "log").read_text()

    @property
    def was_powered_off(self) -> bool:
        notes = (path.read_text() for path in (self.folder / "requests").glob("request-*"))
        return any(note.split("\0")[:3] == ["shutdown", "-P", "now"] for note in notes)

    def latest(self) -> Latest:
        latest = self.record.read_latest()
        assert latest is not None
        return latest

    def read(self, name: str) -> bytes:
        """A file of the run as it is on S3."""
        key = f"runs/{RUN}/files/{self.latest().files[name]['sha256']}/{name}"
        return self.s3.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def s3_text(self, name: str) -> str:
        """A text object of the run."""
        return read_bytes(f"{self.record.url}/{name}")[0].decode()

    def epochs_on_s3(self) -> int:
        """Finished ones, by the state that a next attempt would go on from."""
        latest = self.record.read_latest()
        if latest is None or "last.ckpt" not in latest.files:
            return 0
        return json.loads(self.read("last.ckpt"))["epoch"]

    def wait_for(self, condition: Callable[[], object], seconds: float = 90) -> None:
        assert wait_for(condition, seconds), self.log

    def wait_for_epoch(self, epoch: int, seconds: float = 90) -> None:
        self.wait_for(lambda: self.epochs_on_s3() >= epoch, seconds)

    def kill(self, role: str, number: int = signal.SIGKILL) -> None:
        process = self.place.process(role)
        assert process is not None, self.log
        os.kill(process, number)

    @property
    def script(self) -> str:
        """The word by which the process of the start script is known."""
        return str(self.machine.folder / "user-data")

    def close(self) -> None:
        kill_marked(self.mark)
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
