"""Training: the training script as a child process, gone on with where it was broken off."""

import shlex
import signal
from pathlib import Path

from pipeline.records import PipelineError, digest, read_json
from pipeline.steps import Pipeline, Step
from training.child import (
    NOT_OF_THE_RESULT,
    find_trainings,
    is_finished,
    start_training,
    was_stopped,
)
from training.registry import MODEL, hash_file
from utils.errors import Interrupted


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
    constants = {**settings.train_config().constants(), "DATA_DIR": listed}
    return find_trainings(settings.runs_dir, settings.script.name, constants)


def train(pipeline: Pipeline, listed: str, resume: Path | None) -> None:
    """Runs the script to its end. Raises Interrupted where it was stopped, PipelineError where it
    failed: what it said is on the screen.
    """
    settings = pipeline.settings
    flags = [*shlex.split(settings.train_flags), "--data-dir", listed]
    flags += ["--cache-dir", settings.cache_dir, "--runs-dir", settings.runs_dir]
    flags += ["--seed", str(settings.seed), "--track", "true"]
    inherited = () if pipeline.lock is None else (pipeline.lock,)
    child = start_training(settings.script, flags, resume=resume, pass_fds=inherited)
    before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        code = child.wait()
    except KeyboardInterrupt:  # Ctrl-C reaches the child as well, which saves before it ends
        code = child.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    if was_stopped(code):
        raise Interrupted("the training was stopped: the same command goes on from there")
    if code:
        raise PipelineError(
            f"train: {settings.train_script} ended with code {code}, and said why above: mend "
            "that, and the same command goes on from there"
        )
