"""Retraining: the training script as a job, on the data and the corrections, as it was trained."""

import contextlib
import difflib
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from training.child import (
    NOT_OF_THE_RESULT,
    digest_constants,
    find_trainings,
    is_finished,
    start_training,
    was_stopped,
)
from training.run_progress import RunProgress, epoch_words, format_clock, read_progress, run_folders
from utils.config import Config, ConfigError, config_of_run, make_config, read_constants
from utils.errors import UserError
from utils.files import write_whole
from web.corrections import Corrections
from web.errors import ApiError
from web.jobs import Handle
from web.material import LIST, Material, gather
from web.model_in_use import ModelInUse
from web.runs import read_metrics
from web.settings import Settings

KIND = "retrain"
SCRIPT = Path(__file__).resolve().parent.parent / "cost_optimized_train.py"
OURS = ("data_dir", "cache_dir", "runs_dir", "weights", "track")  # constants nobody may send
WEIGHTS = ("auto", "imagenet", "none")  # that are known on every machine
LOOK_SECONDS = 0.5  # between two looks at the training
STOP_SECONDS = 120.0  # in which a training that is told to end has saved
TRAINED, JUDGED = 0.8, 0.95  # part of a job at the end of the last epoch, and while judging
LAST_BYTES = 4000  # of what the training printed
STARTED, LOG = "started.json", "retraining.log"


class BadConstants(ApiError):
    """Constants that no training has."""

    status = 422


class Retraining:
    """What would be learned, and the job that learns it."""

    def __init__(self, settings: Settings, model: ModelInUse, corrections: Corrections):
        self._settings = settings
        self._model = model
        self._corrections = corrections
        self._folder = settings.review_dir / KIND

    def gather(self) -> Material:
        return gather(self._settings, self._corrections)

    def check(self, constants: Mapping[str, object]) -> None:
        """Raises BadConstants."""
        self._config(constants)

    def run(self, handle: Handle, arguments: dict) -> dict:
        """Trains to the end, or goes on with a training of the same that was broken off.

        Cancelling it, and a page that stops, let the training save and end.
        """
        handle.report(None, "finding recordings")
        material = self.gather()
        if material.why is not None:
            raise UserError(material.why)
        config = self._config(arguments["constants"])
        data_dir = material.data_dir
        if data_dir is None:
            listed = self._folder / LIST
            material.write_list(listed, self._settings)
            data_dir = str(listed)
        config = replace(config, data_dir=data_dir)
        training = _Training(config, f"{material.digest}-{digest_constants(config.constants())}")
        resume = self._broken_off(training)
        run = self._train(handle, training, resume)
        known = self._model.find()
        return {
            "run": run.name,
            "metrics": read_metrics(run),
            "in_use": known is not None and known.path.parent == run.resolve(),
            "resumed": resume is not None,
        }

    def _train(self, handle: Handle, training: "_Training", resume: Path | None) -> Path:
        """The folder of the finished run. Raises Cancelled, UserError."""
        before = run_folders(self._settings.runs_dir)
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / LOG
        with open(log, "wb") as said:
            how = {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": subprocess.STDOUT}
            child = start_training(SCRIPT, _flags(training.config), resume=resume, **how)
        run = resume
        try:
            handle.on_cancel(child.terminate)
            while child.poll() is None:
                if run is None and (run := self._begun(training, before)) is not None:
                    self._remember(training, run)
                handle.report(*_progress(run, log))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(LOOK_SECONDS)
        finally:
            _end(child)
        handle.check()
        if was_stopped(child.returncode):
            raise UserError("the training was stopped: start it again, and it goes on from there")
        run = run or self._begun(training, before)
        if child.returncode or run is None or not is_finished(run):
            (self._folder / STARTED).unlink(missing_ok=True)  # it would fail again
            raise UserError(_reason(log, child.returncode))
        return run

    def _begun(self, training: "_Training", before: set[Path]) -> Path | None:
        """The folder that it has made by now."""
        constants = training.config.constants()
        found = find_trainings(self._settings.runs_dir, SCRIPT.name, constants)
        return next((run for run in reversed(found) if run.resolve() not in before), None)

    def _broken_off(self, training: "_Training") -> Path | None:
        """The last training begun here, where it was of the same and has not ended."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            started = json.loads((self._folder / STARTED).read_bytes())
            run = self._settings.runs_dir / str(started["run"])
            is_same = started["digest"] == training.digest and (run / "config.json").exists()
            return run if is_same and not is_finished(run) else None
        return None

    def _remember(self, training: "_Training", run: Path) -> None:
        content = {"run": run.name, "digest": training.digest}
        write_whole(self._folder / STARTED, json.dumps(content).encode())

    def _config(self, constants: Mapping[str, object]) -> Config:
        """The constants of the model in use, else the script's, and these over them."""
        script = read_constants(SCRIPT)
        names = {name for name in Config.__dataclass_fields__ if name not in OURS}
        for name in constants:
            if name.lower() not in names or name != name.upper():
                near = difflib.get_close_matches(name.upper(), [n.upper() for n in names], 3, 0.5)
                hint = f"did you mean {' or '.join(near)}?" if near else "see the top of the script"
                raise BadConstants(f"{name[:50]!r} is no constant that can be set here: {hint}")
        known = self._model.find()
        values: dict[str, object] = {}
        if known is not None:
            with contextlib.suppress(ConfigError):  # of another version, or without its config.json
                run = config_of_run(known.path.parent)
                kept = names.difference(NOT_OF_THE_RESULT)
                values = {name: getattr(run, name) for name in kept}
                if run.weights in WEIGHTS or os.path.isfile(run.weights):
                    values["weights"] = run.weights
        values |= {name.lower(): _as_text(value) for name, value in constants.items()}
        values |= {
            "cache_dir": str(self._settings.cache_dir),
            "runs_dir": str(self._settings.runs_dir),
        }
        if self._settings.weights is not None:
            values["weights"] = self._settings.weights
        try:
            return make_config(script, values)
        except ConfigError as error:
            raise BadConstants(str(error)) from None


@dataclass(frozen=True)
class _Training:
    """How to train, and a digest of that and of what is learned from."""

    config: Config
    digest: str


def _flags(config: Config) -> list[str]:
    """Those that make the script train with this configuration; --name=value is one word each."""
    own = make_config(read_constants(SCRIPT), {}).constants()
    return [
        f"--{name.lower().replace('_', '-')}={_as_text(value)}"
        for name, value in config.constants().items()
        if value != own[name]
    ]


def _as_text(value: object) -> str:
    """A value as the command line has it."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def _progress(run: Path | None, log: Path) -> tuple[float | None, str]:
    """How far it is, and that in words: before the first epoch, the last that the script said."""
    progress = None if run is None else read_progress(run)
    if progress is None or not progress.epochs or not progress.history:
        return None, _last_line(log)
    if progress.epoch >= progress.epochs:
        return JUDGED, f"judging {progress.best}"
    return TRAINED * progress.epoch / progress.epochs, _words(progress)


def _words(progress: RunProgress) -> str:
    left = format_clock(progress.eta_seconds)
    words = [f"epoch {epoch_words(progress)}", progress.best, f"{left} left" * bool(left)]
    return ", ".join(word for word in words if word)


def _last_line(log: Path) -> str:
    """Of what was printed, behind what a bar drew over; "" before anything was."""
    lines = _tail(log).replace("\r", "\n").splitlines()
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")


def _reason(log: Path, code: int) -> str:
    """Why it failed: the script's own line, which has the cure."""
    lines = [line.strip() for line in _tail(log).replace("\r", "\n").splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error: ")]
    if said:
        return said[-1].removeprefix("error: ")
    return f"the training ended with code {code}: {lines[-1] if lines else 'it said nothing'}"


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError), open(log, "rb") as file:
        file.seek(max(0, os.path.getsize(log) - LAST_BYTES))
        return file.read().decode("utf-8", "replace")
    return ""


def _end(child: subprocess.Popen) -> None:
    """Waits for what was told to end; what does not save in time is killed."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
