"""Records: what each step of the pipeline was given, made and said, as JSON that people can read.

    runs/pipeline/train.json     {"inputs": ..., "outputs": ..., "warnings": [...], "seconds": ...}

A record is written whole when its step is done. A step without one, or whose inputs are others now,
has to be done (again); one that was killed half way has the record from before, or none.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from utils.errors import UserError
from utils.files import write_whole

FOLDER = "pipeline"  # below the folder of the runs


class PipelineError(UserError):
    """The pipeline can't go on; the message says why and what to do."""


@dataclass(frozen=True)
class StepRecord:
    """One step as it was last done."""

    step: str
    inputs: dict  # JSON; what decided what came out
    outputs: dict
    summary: str  # one line
    warnings: list[str]
    ended: str  # ISO 8601
    seconds: float


def read_record(folder: Path, step: str) -> StepRecord | None:
    """None where the step was never finished, or its record is of another version."""
    try:
        return StepRecord(**json.loads((folder / f"{step}.json").read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_record(folder: Path, record: StepRecord) -> None:
    write_json(folder / f"{record.step}.json", asdict(record))


def write_json(path: Path, value: object) -> str:
    """Writes the file, whole or not at all; the sha256 of its content."""
    content = json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def read_json(path: Path) -> dict:
    """What `write_json` wrote; {} where there is no such file."""
    return json.loads(path.read_bytes()) if path.exists() else {}


def digest(value: object) -> str:
    """16 hex digits that are the same for the same JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def changed_inputs(record: StepRecord | None, inputs: dict) -> str | None:
    """Why a step is to be done, in a few words; None where its inputs are as they were."""
    if record is None:
        return "not done yet"
    names = [
        name
        for name in sorted(inputs.keys() | record.inputs.keys())
        if inputs.get(name) != record.inputs.get(name)
    ]
    return f"other {' and '.join(names)}" if names else None


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[int]:
    """While no other pipeline works in this folder, nor a training that one has left behind.

    Yields the number of the open file that holds the lock: a child that inherits it holds it, too.
    Raises PipelineError where a pipeline is at work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode() or "0"
            if _is_alive(int(holder)):
                raise PipelineError(
                    f"another pipeline (process {holder}) works in {folder}: wait for it, or pass "
                    "another --runs-dir"
                ) from None
            print("waits       for the training of an earlier pipeline to save and end")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
