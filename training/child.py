"""Child: a training script as a process of its own, which saves and ends when we do."""

import contextlib
import ctypes
import hashlib
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# What a finished run has; the report comes last.
RESULTS = ("best.safetensors", "metrics.json", "report.html")
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
STOPPED = 130  # the exit code of a training that has saved and ended
# What a run may differ in and still be the same training.
NOT_OF_THE_RESULT = ("runs_dir", "cache_dir", "workers", "track", "checkpoint_minutes", "data_dir")


def start_training(
    script: Path, flags: Sequence[str], *, resume: Path | None = None, **how: object
) -> subprocess.Popen:
    """The process of a training script, or of one that goes on with a run; `how` is Popen's.

    It is told to save and end when the thread that started it ends, whatever ended that: a training
    that outlives us would write beside the one that goes on.
    """
    command = [sys.executable, __file__, str(os.getpid()), str(script), *flags]
    if resume is not None:
        command += ["--resume", str(resume)]
    # Threads that spin while they wait make it three times slower beside other work.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    return subprocess.Popen(command, env=environment, **how)


def was_stopped(code: int) -> bool:
    """Whether a training with this exit code has saved and can be gone on with."""
    return code in (STOPPED, -signal.SIGTERM, -signal.SIGINT)


def find_trainings(runs_dir: str | Path, script: str, constants: dict) -> list[Path]:
    """Runs of a script on these data with these constants, finished or not, the oldest first."""
    wanted, found = digest_constants(constants), []
    for path in Path(runs_dir).glob("*/config.json"):
        if path.parent.is_symlink():
            continue
        config = {}
        with contextlib.suppress(OSError, ValueError):  # it is being written, or damaged
            config = json.loads(path.read_bytes())
        own = config.get("constants", {})
        same_data = own.get("DATA_DIR") == constants["DATA_DIR"]
        if same_data and config.get("script") == script and digest_constants(own) == wanted:
            found.append(path.parent)
    return sorted(found)


def is_finished(run: Path) -> bool:
    return all((run / name).exists() for name in RESULTS)


def digest_constants(constants: dict) -> str:
    """Hex digits that are the same for constants that give the same training on the same data."""
    kept = {k: v for k, v in constants.items() if k.lower() not in NOT_OF_THE_RESULT}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _become(parent: int, script: Path, flags: list[str]) -> None:
    """Is the training script from here on, as `python script.py FLAGS` would be.

    Not done by Popen's preexec_fn, which may wait for ever for a lock that a thread of ours held.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was killed before this was asked for
        sys.exit(STOPPED)
    sys.argv = [str(script), *flags]
    sys.path[0] = str(script.parent)
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    _become(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
