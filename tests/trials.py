"""Trials: a launcher, a bucket and machines, what is done to them, and what must then hold."""

import contextlib
import json
import re
import shutil
import time
import uuid
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

from tests.aws_world import SECRET, World
from tests.laptops import Laptop, Launcher
from tests.machines import Machine, kill_marked, wait_for
from tests.short_train import STEPS, final_state, next_state
from utils.files import write_whole

HERE = Path(__file__).resolve().parent
EPOCHS = 5
KIND = "c7i.2xlarge"  # what most trials rent: a few requests less than a plan among all
PREPARE = 'print("prepared")\n'
# Short where a trial waits for them, long where they would come too early on a busy computer.
LIMITS = {
    "max_hours": 0.5,
    "max_attempts": 8,
    "poll_seconds": 0.4,
    "heartbeat_seconds": 1,
    "upload_seconds": 1,
    "follow_seconds": 0.4,
    "save_seconds": 5,
    "final_upload_seconds": 30,
    "silent_seconds": 120,
    "stop_seconds": 60,
    "take_over_seconds": 8,
    "set_up_minutes": 4,
    "capacity_minutes": 0.02,
}


@dataclass(frozen=True)
class Row:
    """A fault point in the table: what was done, and what came of it."""

    fault: str
    outcome: str  # the last words of the launcher, or of the end that the instance wrote
    exit_code: int | None  # of the launcher; None where it did not live to have one
    seconds: float  # from the fault, or the end of the launcher, until no instance was left
    bound_seconds: float
    instances_left: int
    epochs_done: int  # that were finished on instances, before or after the fault
    epochs_lost: int  # of those, what neither S3 nor the laptop has
    test: str


@dataclass
class Book:
    """Rows of all processes that run tests, a file each."""

    folder: Path
    test: str = ""
    rows: list[Row] = field(default_factory=list)

    def note(self, row: Row) -> None:
        self.rows.append(row)
        (self.folder / f"{uuid.uuid4().hex}.json").write_text(json.dumps(asdict(row)))

    def all_rows(self) -> list[Row]:
        rows = [Row(**json.loads(path.read_text())) for path in self.folder.glob("*.json")]
        return sorted(rows, key=lambda row: (row.test, row.fault))


class Trial:
    """A laptop, an AWS and a bucket with videos; trainings are short ones, if not said."""

    def __init__(self, folder: Path, book: Book | None = None):
        self.world = World(folder / "aws")
        self.world.change_machine = Machine.hurry
        self.book = book
        self.limits = dict(LIMITS)
        self.bucket = self.world.new_bucket()
        for name in ("ads/1.mp4", "games/1.mp4"):
            self.world.put(self.bucket, f"data/{name}", b"a video" * 1000)
        self.laptop = Laptop(self.world, folder / "laptop")
        shutil.copy(HERE / "short_train.py", self.laptop.folder)
        (self.laptop.folder / "prepare_data.py").write_text(PREPARE)
        self.limit()

    def close(self) -> None:
        self.world.close()
        assert not self.world.processes(), "a process survived"

    def limit(self, **limits: float) -> None:
        """Other limits for the runs that follow."""
        self.limits |= limits
        self.laptop.environment["ADGAME_LIMITS"] = json.dumps(self.limits)

    # What is done

    def command(self, *options: str, overrides: tuple[str, ...] = ()) -> list[str]:
        words = ["run", self.bucket, "--yes", "--script", "short_train.py", *options]
        if "--instance" not in options and "--any" not in options:
            words += ["--instance", KIND]
        words = [word for word in words if word != "--any"]
        return [*words, "--", "--epochs", str(EPOCHS), *overrides]

    def start(self, *options: str, overrides: tuple[str, ...] = ()) -> Launcher:
        self.launcher = self.laptop.start(*self.command(*options, overrides=overrides))
        return self.launcher

    def run(
        self, *options: str, overrides: tuple[str, ...] = (), seconds: float = 600
    ) -> tuple[int, str]:
        return self.start(*options, overrides=overrides).finish(seconds)

    def verb(self, verb: str, *options: str, seconds: float = 600) -> tuple[int, str]:
        """A verb that is about the run."""
        return self.laptop.run(verb, self.run_name, *options, seconds=seconds)

    def resume(self, **how) -> tuple[int, str]:
        return self.verb("resume", "--yes", **how)

    # What there is

    @property
    def run_name(self) -> str:
        found = sorted((self.laptop.folder / "runs" / "aws").glob("*.json"))
        return found[-1].stem if found else ""

    def machine(self, number: int = 1, seconds: float = 120) -> Machine:
        """The number-th that was started, once it is."""
        machines = self.world.machines
        assert wait_for(lambda: len(machines) >= number, seconds), self.launcher.said
        return machines[number - 1]

    def wait_for_epoch(self, epoch: int, number: int = 1, seconds: float = 120) -> Machine:
        """The machine, once its training has finished so many epochs."""
        machine = self.machine(number)
        done = wait_for(lambda: done_epochs(machine) >= epoch or machine.ended, seconds)
        assert done, machine.console
        assert machine.ended is None, (machine.ended, machine.console)
        return machine

    def wait_for_saved(self, epoch: int, number: int = 1) -> Machine:
        """The machine, once so many epochs of its training have arrived on S3."""
        machine = self.wait_for_epoch(epoch, number)
        assert wait_for(lambda: self.saved_epochs() >= epoch, 60), machine.console
        return machine

    def saved_epochs(self) -> int:
        state = _parse_state(self.saved().get("last.ckpt"))
        return state["epoch"] if state else 0

    def record(self, name: str) -> dict | None:
        """A JSON object of the run on S3."""
        found = self.world.objects(self.bucket, f"runs/{self.run_name}/{name}")
        return json.loads(next(iter(found.values()))) if found else None

    def saved(self) -> dict[str, bytes]:
        """The files that latest.json on S3 names, each whole."""
        latest = self.record("latest.json") or {"files": {}}
        objects = self.world.objects(self.bucket, f"runs/{self.run_name}/files/")
        files = {}
        for name, file in latest["files"].items():
            content = objects[f"runs/{self.run_name}/files/{file['sha256']}/{name}"]
            assert sha256(content).hexdigest() == file["sha256"], name
            files[name] = content
        return files

    def fetched(self, name: str) -> bytes | None:
        path = self.laptop.folder / "runs" / self.run_name / name
        return path.read_bytes() if path.exists() else None

    # What must hold

    def check(
        self,
        fault: str | list[str],
        said: tuple[int | None, str],
        *,
        code: int | None,
        says: str = "",
        finished: bool = False,
        bound_seconds: float = 60,
        grace_seconds: float = 0.0,
    ) -> None:
        """Notes the fault points in the table, and asserts what is promised of each.

        `finished` says that the results of a whole training are on the laptop. `grace_seconds` is
        how old an epoch may be at the end of its machine that could not be sent any more.
        """
        start = time.monotonic()
        self.world.wait_until_empty(bound_seconds)
        left, seconds = self.world.left(), time.monotonic() - start
        done, kept = self._count_epochs(grace_seconds)
        for one in [fault] if isinstance(fault, str) else fault:
            if self.book:
                self.book.note(
                    Row(
                        fault=one,
                        outcome=_last_words(said[1]) or self._end_words(),
                        exit_code=said[0],
                        seconds=round(seconds, 1),
                        bound_seconds=bound_seconds,
                        instances_left=len(left),
                        epochs_done=done,
                        epochs_lost=max(done - kept, 0),
                        test=self.book.test,
                    )
                )
        where = self._describe(said)
        assert not left, f"{left} left after {bound_seconds} s\n{where}"
        assert self.world.volumes_left() == [], where
        assert done <= kept, f"{done} epochs were finished and {kept} are kept\n{where}"
        assert said[0] == code, where
        assert "Traceback" not in said[1], where
        assert re.search(says, said[1]), f"does not say {says!r}\n{where}"
        self._check_one_at_a_time()
        self._check_secrets(said[1])
        if finished:
            assert self.fetched("best.safetensors") == final_state(EPOCHS).encode(), where
            assert self.fetched("report.html"), where

    def check_end(self, state: str, reason: str, number: int = 1) -> None:
        end = self.record(f"attempts/{number}-end.json")
        assert end, f"attempt {number} has no end\n{self._describe((None, ''))}"
        assert end["state"] == state, end
        assert re.search(reason, end["reason"]), end

    def _count_epochs(self, grace_seconds: float) -> tuple[int, int]:
        """Epochs that were finished on any machine, and those that S3 or the laptop has."""
        done = 0
        for machine in self.world.machines:
            state = _state_on(machine)
            if state:
                last = time.time() - grace_seconds
                if machine.ended_at is not None:
                    last -= time.monotonic() - machine.ended_at
                done = max(done, sum(row["time"] <= last for row in state["history"]))
        kept = [0]
        for content in (self.saved().get("last.ckpt"), self.fetched("last.ckpt")):
            state = _parse_state(content)
            if state:
                assert state["state"] == chain(state["epoch"], state["step"]), "not exactly resumed"
                kept.append(state["epoch"])
        return done, max(kept)

    def _check_one_at_a_time(self) -> None:
        """No two trainings of the run at once: they would write over each other's results."""
        spans = sorted((m.started, m.ended_at or time.monotonic()) for m in self.world.machines)
        for (_, ended), (started, _) in zip(spans, spans[1:], strict=False):
            assert ended <= started, "two instances at the same time"

    def _check_secrets(self, said: str) -> None:
        secret = SECRET.encode()
        assert SECRET not in said
        for machine in self.world.machines:
            assert SECRET not in machine.console
            assert secret not in (machine.folder / "user-data").read_bytes()
        for key, content in self.world.objects(self.bucket).items():
            assert secret not in content, key

    def _end_words(self) -> str:
        ends = [
            self.record(f"attempts/{n}-end.json") for n in range(len(self.world.machines), 0, -1)
        ]
        return next((f"{end['state']}: {end['reason']}" for end in ends if end), "")

    def _describe(self, said: tuple[int | None, str]) -> str:
        parts = [f"launcher, exit code {said[0]}:", said[1]]
        for machine in self.world.machines:
            parts += [f"{machine.id}, {machine.ended}:", machine.console[-6000:]]
        return "\n".join(parts)


def chain(epoch: int, step: int) -> str:
    """The state of a training after so many epochs, and steps of the next one."""
    state = "begin"
    for number in range(epoch * STEPS + step):
        state = next_state(state, *divmod(number, STEPS))
    return state


def done_epochs(machine: Machine) -> int:
    state = _state_on(machine)
    return state["epoch"] if state else 0


def _state_on(machine: Machine) -> dict | None:
    """The newest state of a short training on the disk of a machine."""
    found = (machine.home / "runs").glob("*/last.ckpt")
    states = [state for path in found if (state := _parse_state(_read(path)))]
    return max(states, key=lambda state: (state["epoch"], state["step"]), default=None)


def _read(path: Path) -> bytes | None:
    """None where its folder was given its name between listing and reading it."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def _parse_state(content: bytes | None) -> dict | None:
    """None for what is not of a short training."""
    return json.loads(content) if content and content.startswith(b"{") else None


def _last_words(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def kill_all(machine: Machine) -> None:
    """Signal 9 to every process of a machine: only what the system itself does is left."""
    kill_marked(machine.mark)


def write_table(rows: list[Row]) -> None:
    """runs/benchmarks/aws_faults.json and .md; of each fault point the worst row counts."""
    from benchmarks import figures  # with torch, which takes seconds

    worst: dict[str, Row] = {}
    for row in rows:
        known = worst.get(row.fault)
        if known is None or _badness(row) > _badness(known):
            worst[row.fault] = row
    points = list(worst.values())
    figures.write_figures(
        "aws_faults",
        {
            "fault_points": len(points),
            "instances_left": sum(row.instances_left for row in points),
            "checkpoints_lost": sum(row.epochs_lost for row in points),
        },
        "python -m pytest -n 2 tests/test_aws_faults.py",
    )
    lines = [
        "| fault | exit code | epochs done, lost | instances left, after | last words |",
        "|---|---|---|---|---|",
    ]
    for row in points:
        words = row.outcome.replace("|", "/")[:120]
        code = "killed" if row.exit_code is None else row.exit_code
        lines.append(
            f"| {row.fault} | {code} | {row.epochs_done}, {row.epochs_lost} "
            f"| {row.instances_left}, {row.seconds:.0f} s | {words} |"
        )
    lines += [
        "",
        "Where a machine died without a word, epochs of its last six seconds do not count as done.",
        "",
    ]
    write_whole(figures.FOLDER / "aws_faults.md", "\n".join(lines).encode())


def _badness(row: Row) -> tuple:
    return (row.instances_left, row.epochs_lost, row.seconds)
