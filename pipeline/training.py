"""Training: the training script as a child process, gone on with where it was broken off."""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from pipeline.records import PipelineError, digest, read_json
from pipeline.steps import Pipeline, Step
from training.registry import MODEL, hash_file
from utils.errors import Interrupted

RESULTS = (MODEL, "metrics.json", "report.html")  # what a finished run has; the report comes last
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
STOPPED = 130  # the exit code of a training that has saved and ended
# What a run may differ in and still be the same training.
NOT_OF_THE_RESULT = ("runs_dir", "cache_dir", "workers", "track", "checkpoint_minutes", "data_dir")


class Train(Step):
    name = "train"
    about = "train a challenger with the training script, or go on with one that was broken off"

    def inputs(self, pipeline: Pipeline) -> dict:
        config = pipeline.settings.train_config()
        constants = {
            name: value
            for name, value in config.constants().items()
            if name.lower() not in NOT_OF_THE_RESULT
        }
        return {
            "recordings": pipeline.outputs("prepare")["train"],
            "script": pipeline.settings.train_script,
            "constants": digest(constants),
        }

    def lost(self, pipeline: Pipeline, outputs: dict) -> str | None:
        model = Path(outputs["run"], MODEL)
        known = any(version.id == outputs["model"] for version in pipeline.registry.versions())
        return None if known or model.exists() else f"{model} is gone"

    def run(self, pipeline: Pipeline) -> tuple[dict, str]:
        listed, before = pipeline.outputs("prepare")["list"], pipeline.record(self.name)
        done = before.outputs["run"] if before and pipeline.again else None
        found = [run for run in find_runs(pipeline, listed) if str(run) != done]
        run = found[-1] if found else None
        if run is None or not is_finished(run):
            if run is not None:
                pipeline.say("", f"goes on with {run}")
            train(pipeline, listed, run)
            run = next(r for r in reversed(find_runs(pipeline, listed)) if is_finished(r))
        metrics = read_json(run / "metrics.json")
        outputs = {
            "run": str(run),
            "model": hash_file(run / MODEL)[:16],
            "metrics": {
                name: metrics.get(name) for name in ("balanced_accuracy", "auc", "nll", "clips")
            },
        }
        accuracy = metrics.get("balanced_accuracy")
        return outputs, f"{run.name}, balanced accuracy {accuracy:.3f} on its own validation"


def find_runs(pipeline: Pipeline, listed: str) -> list[Path]:
    """Trainings on this list with these constants, finished or not, in the order they began."""
    settings = pipeline.settings
    wanted = _essence(settings.train_config().constants())
    found = []
    for path in Path(settings.runs_dir).glob("*/config.json"):
        config = read_json(path)
        constants = config.get("constants", {})
        if path.parent.is_symlink() or constants.get("DATA_DIR") != listed:
            continue
        if config.get("script") == settings.script.name and _essence(constants) == wanted:
            found.append(path.parent)
    return sorted(found)


def is_finished(run: Path) -> bool:
    return all((run / name).exists() for name in RESULTS)


def train(pipeline: Pipeline, listed: str, resume: Path | None) -> None:
    """Runs the script to its end. Raises Interrupted where it was stopped, PipelineError where it
    failed: what it said is on the screen.
    """
    settings = pipeline.settings
    command = [sys.executable, str(settings.script), *shlex.split(settings.train_flags)]
    command += ["--data-dir", listed, "--cache-dir", settings.cache_dir]
    command += ["--runs-dir", settings.runs_dir, "--seed", str(settings.seed), "--track", "true"]
    if resume is not None:
        command += ["--resume", str(resume)]
    inherited = () if pipeline.lock is None else (pipeline.lock,)
    end_with_us = partial(_end_with_parent, os.getpid())
    # Threads that spin while they wait make it three times slower beside other work.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    child = subprocess.Popen(command, env=environment, pass_fds=inherited, preexec_fn=end_with_us)
    before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        code = child.wait()
    except KeyboardInterrupt:  # Ctrl-C reaches the child as well, which saves before it ends
        code = child.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    if code in (STOPPED, -signal.SIGTERM, -signal.SIGINT):
        raise Interrupted("the training was stopped: the same command goes on from there")
    if code:
        raise PipelineError(
            f"train: {settings.train_script} ended with code {code}, and said why above: mend "
            "that, and the same command goes on from there"
        )


def _end_with_parent(parent: int) -> None:
    # A training that outlives a killed pipeline would write beside the one that goes on: it is told
    # to save and end, and holds the pipeline's lock until it has.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was killed before this was asked for
        os._exit(STOPPED)


def _essence(constants: dict) -> str:
    return digest({k: v for k, v in constants.items() if k.lower() not in NOT_OF_THE_RESULT})
