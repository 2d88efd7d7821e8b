"""What a run writes reaches TensorBoard and MLflow, and neither can end a training."""

import json
import sqlite3
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cost_optimized_train
from tests.trainings import flags, make_config, run_script
from training import tracking
from training.run_log import RunLog
from training.tracking import URI_VARIABLE, Tracking, TrackingError, check_tracking
from utils.config import Config
from utils.errors import Interrupted

ROWS = [{"phase": "heads", "epoch": n, "train_loss": 1 / n, "val_auc": None} for n in (1, 2, 3)]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in (URI_VARIABLE, "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in tracking.CLIENT_SETTINGS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "runs").mkdir()
    return make_config(tmp_path)


@pytest.fixture
def run(config) -> RunLog:
    return RunLog.create(config, "train.py", torch.device("cpu"))


def scalars(run: RunLog) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(run.path("tensorboard"))).Reload()
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def train_until(run: RunLog, config: Config, rows: list[dict], error: BaseException) -> None:
    with Tracking(run, config):
        run.write_metrics(rows)
        raise error


def test_each_epoch_and_the_results_are_scalars_of_tensorboard(run, config):
    with Tracking(run, config) as tracking:
        for count in (1, 2, 3, 3):  # a checkpoint in the middle of an epoch writes no new line
            run.write_metrics(ROWS[:count])
        tracking.finish({"auc": 0.9, "confusion": [[1]], "demo": False, "sound_only_auc": None})
    found = scalars(run)
    assert found["epoch/train_loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert found["result/auc"] == [(3, pytest.approx(0.9))]
    assert not {"epoch/val_auc", "epoch/phase", "result/confusion"} & set(found)


def test_resumed_run_has_each_epoch_once(run, config):
    with Tracking(run, config):
        run.write_metrics(ROWS)
    time.sleep(1.1)  # TensorBoard reads its files by the second in which they were begun
    again = RunLog.open(run.folder)
    with Tracking(again, config):
        again.write_metrics([*ROWS[:2], {**ROWS[2], "train_loss": 5.0}])
    assert [step for step, _ in scalars(run)["epoch/train_loss"]] == [1, 2, 3]
    assert scalars(run)["epoch/train_loss"][-1] == (3, 5.0)


def test_nothing_is_imported_before_the_first_epoch_is_over(run, config, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with Tracking(run, config) as tracking:
        tracking.log_epochs([])
    assert not run.path("tensorboard").exists()
    assert not run.path("run.log").exists()  # nothing was missed


def test_without_tensorboard_it_is_said_once_and_training_goes_on(run, config, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with Tracking(run, config):
        for count in (1, 2, 3):
            run.write_metrics(ROWS[:count])
    said = run.path("run.log").read_text()
    assert said.count("TensorBoard is lost") == 1
    assert len(run.history()) == 3


def test_without_mlflow_nothing_asks_for_it(config):
    check_tracking(config)


def test_missing_package_is_said_before_training_with_the_cure(tmp_path, monkeypatch, small_flags):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    runs = tmp_path / "runs"
    done = run_script(cost_optimized_train, *small_flags, *flags(runs_dir=runs, track=True))
    assert done.code == 1
    assert done.last == (
        "error: tracking with MLflow needs the package mlflow: pip install mlflow-skinny "
        "sqlalchemy alembic, or leave out --track and MLFLOW_TRACKING_URI"
    )
    assert list(runs.iterdir()) == []


def test_server_that_does_not_answer_is_said_before_training(config, monkeypatch):
    monkeypatch.setenv(URI_VARIABLE, "http://someone:secret@127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"does not answer at http://127\.0\.0\.1:9 ") as error:
        check_tracking(config)
    assert "secret" not in str(error.value).partition("(")[0]
    assert "\n" not in str(error.value)


def stored(database: Path, query: str) -> list[tuple]:
    with sqlite3.connect(database) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.slow
def test_mlflow_holds_the_run_with_its_constants_metrics_and_files(config, tmp_path):
    config = make_config(tmp_path, track=True)
    check_tracking(config)
    run = RunLog.create(config, "train.py", torch.device("cpu"))
    with pytest.raises(Interrupted):
        train_until(run, config, ROWS[:2], Interrupted("stopped"))
    database = tmp_path / "runs" / "mlflow.db"
    assert stored(database, "select name, status from runs") == [(run.folder.name, "KILLED")]
    run = RunLog.open(run.folder)
    with Tracking(run, config) as tracking:
        run.write_metrics(ROWS)
        run.write_json("metrics.json", {"auc": 0.9})
        tracking.finish({"auc": 0.9})
    assert stored(database, "select name, status from runs") == [(run.folder.name, "FINISHED")]
    losses = stored(database, "select step, value from metrics where key = 'train_loss'")
    assert sorted(losses) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert stored(database, "select value from metrics where key = 'result.auc'") == [(0.9,)]
    constants = dict(stored(database, "select key, value from params"))
    assert constants == {name: str(value) for name, value in config.constants().items()}
    files = {path.name for path in (tmp_path / "runs" / "mlflow").rglob("*.json")}
    assert files == {"config.json", "metrics.json"}
    assert json.loads(run.path("mlflow.json").read_text())["run_id"]


class Server:
    """Stands in for an MLflow client whose server goes away and may come back."""

    def __init__(self):
        self.is_there = True
        self.steps: list[int] = []
        self.files: list[str] = []
        self.state = ""

    def __getattr__(self, name):
        if not self.is_there:
            raise ConnectionError(f"{name}: connection refused\nand more")
        return getattr(self, f"do_{name}")

    def do_get_experiment_by_name(self, name):
        return None

    def do_create_experiment(self, name, place):
        return "1"

    def do_create_run(self, experiment, run_name):
        return type("Run", (), {"info": type("Info", (), {"run_id": "7"})})

    def do_log_param(self, run_id, name, value):
        pass

    def do_log_batch(self, run_id, metrics):
        self.steps += sorted({metric[3] for metric in metrics})

    def do_log_artifact(self, run_id, path):
        self.files.append(Path(path).name)

    def do_set_terminated(self, run_id, state):
        self.state = state


@pytest.fixture
def server(monkeypatch) -> Server:
    made = Server()
    monkeypatch.setattr(tracking, "open_client", lambda uri: made)
    monkeypatch.setenv(URI_VARIABLE, "http://made")
    entities = type(sys)("mlflow.entities")
    entities.Metric = lambda *values: values
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return made


def test_server_lost_midway_is_said_once_and_given_the_rest_when_it_is_back(run, config, server):
    with Tracking(run, config) as tracking:
        run.write_metrics(ROWS[:1])
        server.is_there = False
        run.write_metrics(ROWS[:2])
        run.write_metrics(ROWS)
        server.is_there = True
        tracking.finish({"auc": 0.9})
    assert server.steps == [1, 2, 3, 3]  # the last are the results
    assert server.files == ["config.json"]
    assert server.state == "FINISHED"
    said = run.path("run.log").read_text()
    assert said.count("MLflow is lost") == 1
    assert "connection refused): the training goes on" in said


def test_server_that_stays_away_ends_nothing(run, config, server):
    with Tracking(run, config) as tracking:
        server.is_there = False
        run.write_metrics(ROWS)
        tracking.finish({"auc": 0.9})
    assert len(run.history()) == 3
    assert scalars(run)["result/auc"]


def test_error_of_the_training_passes_through_and_is_the_run_s_state(run, config, server):
    with pytest.raises(KeyError, match="training"):
        train_until(run, config, ROWS, KeyError("training"))
    assert server.state == "FAILED"
    assert run.on_metrics is None
