"""A run has a folder of its own, whose files are whole and say how to do it again."""

import csv
import json
import os
import re
from pathlib import Path

import pytest
import torch

from tests.trainings import make_config
from training.run_log import RunError, RunLog, check_writable, package_versions

CPU = torch.device("cpu")


@pytest.fixture
def config(tmp_path):
    (tmp_path / "runs").mkdir()
    return make_config(tmp_path, seed=7)


def test_folder_is_named_by_time_and_script_and_latest_points_at_it(config):
    run = RunLog.create(config, "/somewhere/train.py", CPU)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-train", run.folder.name)
    latest = Path(config.runs_dir, "latest")
    assert latest.resolve() == run.folder.resolve()
    assert not os.readlink(latest).startswith("/")  # so that the clone can be moved


def test_runs_of_one_second_do_not_share_a_folder(config):
    runs = [RunLog.create(config, "train.py", CPU) for _ in range(3)]
    assert len({run.folder for run in runs}) == 3
    assert Path(config.runs_dir, "latest").resolve() == runs[-1].folder.resolve()


def test_config_says_how_to_do_the_run_again(config):
    run = RunLog.create(config, "/somewhere/train.py", CPU)
    found = run.read_json("config.json")
    assert found["script"] == "train.py"
    assert found["constants"]["SEED"] == 7
    assert found["constants"] == json.loads(json.dumps(config.constants()))
    assert found["versions"] == package_versions()
    assert found["machine"]["device"].startswith("CPU")
    assert found["code"]
    assert re.match(r"\d{4}-\d\d-\d\dT.*[+-]\d\d:\d\d$", found["started"])


def test_run_is_opened_by_its_folder_or_by_latest(config):
    made = RunLog.create(config, "train.py", CPU)
    for folder in (made.folder, Path(config.runs_dir, "latest")):
        run = RunLog.open(folder)
        RunLog.create(config, "train.py", CPU)  # latest points elsewhere now
        assert run.folder == made.folder.resolve()
        assert run.script == "train.py"
        Path(config.runs_dir, "latest").unlink()
        Path(config.runs_dir, "latest").symlink_to(made.folder.name)


def test_what_is_said_is_printed_and_kept(config, capsys):
    run = RunLog.create(config, "train.py", CPU)
    run.say("epoch 1 · 0.5")
    run.say()
    assert capsys.readouterr().out == "epoch 1 · 0.5\n\n"
    assert run.path("run.log").read_text(encoding="utf-8") == "epoch 1 · 0.5\n\n"


def test_metrics_hold_each_epoch_once(config):
    run = RunLog.create(config, "train.py", CPU)
    run.write_metrics([{"epoch": 1}, {"epoch": 2}])
    run.write_metrics([{"epoch": 1}, {"epoch": 2, "loss": 0.1}])
    lines = run.path("metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"epoch": 1}, {"epoch": 2, "loss": 0.1}]


def test_table_keeps_odd_file_names(config):
    run = RunLog.create(config, "train.py", CPU)
    odd = ['ads/a, "b".mp4', "ads/ü\nx.mp4", "ads/\udcff.mp4"]  # the last is not UTF-8 on the disk
    run.write_csv("rejected.csv", ("path", "reason"), [{"path": n, "reason": "r"} for n in odd])
    with open(run.path("rejected.csv"), newline="", encoding="utf-8") as file:
        found = [row["path"] for row in csv.DictReader(file)]
    assert found == [*odd[:2], "ads/?.mp4"]


def test_no_half_written_file_is_left(config, monkeypatch):
    run = RunLog.create(config, "train.py", CPU)
    monkeypatch.setattr("os.fsync", failing(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        run.write_json("metrics.json", {"accuracy": 1})
    assert sorted(path.name for path in run.folder.iterdir()) == ["config.json"]


def test_run_that_can_not_begin_leaves_no_folder(config, monkeypatch):
    monkeypatch.setattr("os.fsync", failing(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        RunLog.create(config, "train.py", CPU)
    assert list(Path(config.runs_dir).iterdir()) == []


def failing(error: Exception):
    def fail(*arguments: object, **named: object) -> None:
        raise error

    return fail


def test_folder_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "a" / "runs")
    assert list((tmp_path / "a" / "runs").iterdir()) == []


def test_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(RunError, match=r"mine .*--runs-dir$"):
        check_writable(tmp_path / "mine")


def test_folder_without_permission_is_refused(tmp_path, monkeypatch):
    # By a stub: for root, under whom containers run, there is no such folder.
    denied = PermissionError(13, "Permission denied")
    monkeypatch.setattr("tempfile.TemporaryFile", failing(denied))
    with pytest.raises(RunError, match=r"Permission denied.*--runs-dir$"):
        check_writable(tmp_path / "mine")


def test_missing_package_does_not_end_a_run(monkeypatch):
    monkeypatch.setattr("training.run_log.PACKAGES", ("torch", "no-such-package"))
    assert package_versions()["no-such-package"] == "not from PyPI"
