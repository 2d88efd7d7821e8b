"""Tracking: a run's numbers in TensorBoard always, and in MLflow where that is asked for.

MLflow and TensorBoard are imported when they are used: a training without them starts sooner.
"""

import contextlib
import json
import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from utils.config import Config
from utils.errors import Interrupted, UserError

if TYPE_CHECKING:  # it imports torch, which the registry need not wait for
    from training.run_log import RunLog

URI_VARIABLE = "MLFLOW_TRACKING_URI"
NAME_VARIABLE = "MLFLOW_EXPERIMENT_NAME"
EXPERIMENT = "ad-game-classifier"  # unless that variable says otherwise
IN_A_FILE = "sqlite:///"
ARTIFACTS = ("report.html", "best.safetensors", "config.json", "data.json", "metrics.json")
LONGEST_PARAM = 500  # characters; older servers refuse more
# A server that hangs must not hold up a training for the two hours that the defaults come to.
CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # what is trained here is nobody's business
}


class TrackingError(UserError):
    """MLflow was asked for and can't be had."""


def check_tracking(config: Config) -> None:
    """Raises TrackingError now, rather than after hours, where MLflow is wanted and missing."""
    uri = tracking_uri(config.runs_dir, config.track)
    if uri is not None:
        with explained(uri):
            open_client(uri).search_experiments(max_results=1)


def tracking_uri(runs_dir: str | Path, wanted: bool) -> str | None:
    """Where MLflow keeps its runs: the variable, else a database beside the runs; None for not."""
    uri = os.environ.get(URI_VARIABLE)
    if uri:
        return uri
    return f"{IN_A_FILE}{Path(runs_dir, 'mlflow.db').resolve()}" if wanted else None


def open_client(uri: str) -> object:
    """An MlflowClient; made anew for each use, which costs nothing. Raises ImportError."""
    for name, value in CLIENT_SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # they report each table that they make
        logging.getLogger(name).setLevel(logging.WARNING)
    database = Path(uri.removeprefix(IN_A_FILE))
    if uri.startswith(IN_A_FILE) and "?" not in uri and not database.exists():
        # MLflow can't go on with a database of which it has made half the tables.
        partial = database.with_name(f".{database.name}.{os.getpid()}.partial")
        partial.unlink(missing_ok=True)
        MlflowClient(f"{IN_A_FILE}{partial}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(partial, database)
        partial.unlink()
    return MlflowClient(uri)


@contextlib.contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turns what MLflow raises into a TrackingError of one line with the cure."""
    try:
        yield
    except ImportError as error:
        raise TrackingError(
            f"tracking with MLflow needs the package {error.name}: pip install mlflow-skinny "
            f"sqlalchemy alembic, or leave out --track and {URI_VARIABLE}"
        ) from error
    except Exception as error:  # each kind of store raises its own; it is passed on as one line
        raise TrackingError(
            f"MLflow does not answer at {_without_password(uri)} ({_first_line(error, uri)}): "
            f"start it, correct {URI_VARIABLE}, or leave it and --track out"
        ) from error


def experiment_id(client: object, uri: str, runs_dir: str | Path) -> str:
    """Of the experiment that all runs are in, made where it is not there."""
    name = os.environ.get(NAME_VARIABLE, EXPERIMENT)
    known = client.get_experiment_by_name(name)
    if known is not None:
        return known.experiment_id
    # A database in a file has no place of its own for files: not the folder we happen to be in.
    place = Path(runs_dir, "mlflow").resolve().as_uri()
    return client.create_experiment(name, place if uri.startswith("sqlite") else None)


class Tracking:
    """Context manager: what is written into the run's metrics.jsonl goes to the trackers, too.

    `finish` hands over the final metrics. A tracker that fails is said once and does without;
    nothing it meets ends a training.
    """

    def __init__(self, run: "RunLog", config: Config):
        self._run = run
        uri = tracking_uri(config.runs_dir, config.track)
        self._trackers: list[_Tracker] = [_TensorBoard(run.path("tensorboard"))]
        if uri is not None:
            self._trackers.append(_Mlflow(uri, run, config))

    def __enter__(self) -> "Tracking":
        self._run.on_metrics = self.log_epochs
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._run.on_metrics = None
        state = "FINISHED"
        if kind is not None:
            state = "KILLED" if issubclass(kind, Interrupted | KeyboardInterrupt) else "FAILED"
        for tracker in self._trackers:
            self._try(tracker, "close", state)

    def log_epochs(self, history: Sequence[dict]) -> None:
        """Passes on the lines of `history` that came since the last call."""
        for tracker in self._trackers:
            if not tracker.is_lost:
                self._try(tracker, "log_epochs", history)

    def finish(self, metrics: dict) -> None:
        """Passes on what the run came to, and all that a tracker that was lost has missed."""
        history = self._run.history()
        for tracker in self._trackers:
            tracker.is_lost = False
            self._try(tracker, "log_epochs", history)
            if not tracker.is_lost:
                self._try(tracker, "finish", metrics)

    def _try(self, tracker: "_Tracker", method: str, argument: object) -> None:
        try:
            getattr(tracker, method)(argument)
        except Exception as error:  # clients and stores raise anything; it is said, not swallowed
            if not tracker.is_lost:
                self._run.say(
                    f"{tracker.name} is lost ({_first_line(error)}): the training goes on, and "
                    "its numbers are in metrics.jsonl"
                )
            tracker.is_lost = True


class _Tracker(ABC):
    """What takes numbers from a run."""

    name: str
    is_lost = False

    @abstractmethod
    def log_epochs(self, history: Sequence[dict]) -> None: ...

    @abstractmethod
    def finish(self, metrics: dict) -> None: ...

    @abstractmethod
    def close(self, state: str) -> None: ...


class _TensorBoard(_Tracker):
    """Scalars below the run folder, for `tensorboard --logdir runs`."""

    name = "TensorBoard"

    def __init__(self, folder: Path):
        self._folder = folder
        self._writer = None
        self._logged = 0

    def log_epochs(self, history: Sequence[dict]) -> None:
        # The first epoch opens it: the import takes half a second, which no first step waits for.
        if self._writer is None and history:
            from torch.utils.tensorboard import SummaryWriter

            # A resumed run writes all its epochs anew, and what it wrote before is passed over.
            self._writer = SummaryWriter(str(self._folder), purge_step=history[0]["epoch"])
        for row in history[self._logged :]:
            for name, value in _numbers(row).items():
                self._writer.add_scalar(f"epoch/{name}", value, row["epoch"])
        self._logged = len(history)
        if self._writer is not None:
            self._writer.flush()

    def finish(self, metrics: dict) -> None:
        if self._writer is not None:
            for name, value in _numbers(metrics).items():
                self._writer.add_scalar(f"result/{name}", value, self._logged)

    def close(self, state: str) -> None:
        if self._writer is not None:
            self._writer.close()


class _Mlflow(_Tracker):
    """A run of that name in an MLflow store; a resumed training goes on in the same one."""

    name = "MLflow"

    def __init__(self, uri: str, run: "RunLog", config: Config):
        self._uri = uri
        self._run = run
        self._config = config
        self._id: str | None = None
        self._last_epoch = 0

    def log_epochs(self, history: Sequence[dict]) -> None:
        self._open()
        for row in history:
            if row["epoch"] > self._last_epoch:
                self._log(_numbers(row), row["epoch"])
                self._last_epoch = row["epoch"]

    def finish(self, metrics: dict) -> None:
        self._log({f"result.{name}": v for name, v in _numbers(metrics).items()}, self._last_epoch)
        client = open_client(self._uri)
        for name in ARTIFACTS:
            if self._run.path(name).exists():
                client.log_artifact(self._id, str(self._run.path(name)))

    def close(self, state: str) -> None:
        self._open()
        open_client(self._uri).set_terminated(self._id, state)

    def _open(self) -> None:
        """Makes the run, or finds the one that mlflow.json names."""
        if self._id is not None:
            return
        client, note = open_client(self._uri), self._run.path("mlflow.json")
        if note.exists():
            self._id = json.loads(note.read_text(encoding="utf-8"))["run_id"]
            client.update_run(self._id, status="RUNNING")
            known = client.get_metric_history(self._id, "train_loss")
            self._last_epoch = max((metric.step for metric in known), default=0)
            return
        experiment = experiment_id(client, self._uri, self._config.runs_dir)
        made = client.create_run(experiment, run_name=self._run.folder.name)
        self._id = made.info.run_id
        self._run.write_json(
            "mlflow.json", {"run_id": self._id, "uri": _without_password(self._uri)}
        )
        for name, value in self._config.constants().items():
            client.log_param(self._id, name, str(value)[:LONGEST_PARAM])

    def _log(self, numbers: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(self._run.path("metrics.jsonl").stat().st_mtime * 1000)
        rows = [Metric(name, value, now, step) for name, value in numbers.items()]
        open_client(self._uri).log_batch(self._id, metrics=rows)


def _numbers(values: dict) -> dict[str, float]:
    """The finite numbers among flat values; counts and yes or no, too."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _first_line(error: Exception, uri: str = "") -> str:
    text = str(error).replace(uri, _without_password(uri)) if uri else str(error)
    lines = text.strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
