"""Runs are compared, promoted and rolled back from the page, and their reports can do nothing."""

import json
import math
import shutil
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.pages import make_settings, open_page
from training.registry import MODEL
from web.settings import Settings


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return make_settings(tmp_path)


@pytest.fixture
def page(settings):
    with open_page(settings) as client:
        yield client


def leave_run(settings: Settings, source: Path, name: str, *, minute: int = 0) -> Path:
    """A finished run, other than all of another name, and the latest."""
    run = settings.runs_dir / name
    shutil.copytree(source, run)
    config = json.loads((run / "config.json").read_text())
    config["started"] = f"2026-01-01T12:{minute:02d}:00+00:00"
    (run / "config.json").write_text(json.dumps(config))
    # The header's recipe, which safetensors pads with spaces, is another file with one more field.
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(run / MODEL, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = {**file.metadata(), "copy": name}
    save_file(tensors, run / MODEL, metadata)
    (settings.runs_dir / "latest").unlink(missing_ok=True)
    (settings.runs_dir / "latest").symlink_to(name)
    return run


def overview(page: TestClient) -> dict:
    answer = page.get("/api/runs")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_without_a_run_the_overview_is_empty(page):
    assert overview(page) == {"runs": [], "versions": [], "champion": None, "history": []}


def test_runs_have_their_numbers_side_by_side_the_newest_first(page, settings, trained_run):
    leave_run(settings, trained_run, "one")
    leave_run(settings, trained_run, "two", minute=1)
    runs = overview(page)["runs"]
    assert [run["name"] for run in runs] == ["two", "one"]
    metrics = json.loads((trained_run / "metrics.json").read_text())
    for run in runs:
        assert run["state"] == "finished"
        assert run["has_report"]
        assert run["metrics"]["balanced_accuracy"] == metrics["balanced_accuracy"]
    assert [run["in_use"] for run in runs] == [True, False]


def test_numbers_that_are_none_are_left_out(page, settings, trained_run):
    run = leave_run(settings, trained_run, "one")
    (run / "metrics.json").write_text(json.dumps({"auc": math.nan, "nll": 0.5, "names": ["a"]}))
    assert overview(page)["runs"][0]["metrics"] == {"nll": 0.5}


def test_promoting_needs_no_pipeline_and_is_used_at_once(page, settings, trained_run):
    leave_run(settings, trained_run, "one")
    leave_run(settings, trained_run, "two", minute=1)
    answer = page.post("/api/runs/one/promote", json={"reason": "it hears better"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["note"] is None
    found = overview(page)
    assert found["champion"] == answer.json()["champion"]
    assert [run["name"] for run in found["runs"]] == ["two", "one"]  # the champion's copy is no run
    assert [run["in_use"] for run in found["runs"]] == [False, True]
    assert [run["version"] for run in found["runs"]] == [None, found["champion"]]
    assert [version["champion"] for version in found["versions"]] == [True]
    assert found["history"][0]["why"] == "it hears better"


def test_rollback_goes_back_to_the_champion_before(page, settings, trained_run):
    leave_run(settings, trained_run, "one")
    leave_run(settings, trained_run, "two", minute=1)
    first = page.post("/api/runs/one/promote").json()["champion"]
    second = page.post("/api/runs/two/promote").json()["champion"]
    assert first != second
    assert page.post("/api/champion/rollback").json()["champion"] == first
    assert overview(page)["champion"] == first
    answer = page.post("/api/champion/rollback", json={"version": second})
    assert answer.json()["champion"] == second
    answer = page.post("/api/champion/rollback", json={"version": "0009"})
    assert answer.status_code == 409
    assert "there is no version 0009" in answer.json()["error"]


def test_without_a_champion_there_is_no_way_back(page):
    answer = page.post("/api/champion/rollback")
    assert answer.status_code == 409
    assert "there is no champion yet" in answer.json()["error"]


def test_version_whose_run_is_gone_can_be_promoted_again(page, settings, trained_run):
    one = leave_run(settings, trained_run, "one")
    leave_run(settings, trained_run, "two", minute=1)
    first = page.post("/api/runs/one/promote").json()["champion"]
    page.post("/api/runs/two/promote")
    shutil.rmtree(one)
    assert page.post(f"/api/runs/{first}/promote").json()["champion"] == first
    assert overview(page)["champion"] == first


def test_promotion_is_done_here_where_mlflow_is_away(page, settings, trained_run, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    leave_run(settings, trained_run, "one")
    answer = page.post("/api/runs/one/promote")
    assert answer.status_code == 200, answer.text
    assert "MLflow does not answer" in answer.json()["note"]
    assert overview(page)["champion"] == answer.json()["champion"]


def test_run_that_did_not_end_well_is_not_promoted(page, settings, trained_run):
    run = leave_run(settings, trained_run, "one")
    (run / "report.html").unlink()
    answer = page.post("/api/runs/one/promote")
    assert answer.status_code == 409
    assert "has not ended well" in answer.json()["error"]
    assert overview(page)["champion"] is None


@pytest.mark.parametrize("name", ["none", "..", "%2e%2e%2fcache", "latest", "champion", "models"])
def test_names_are_those_of_runs_and_versions_alone(page, settings, trained_run, name):
    leave_run(settings, trained_run, "one")
    page.post("/api/runs/one/promote")
    assert page.get(f"/runs/{name}/report").status_code == 404
    assert page.post(f"/api/runs/{name}/promote").status_code in (404, 405)


def test_report_is_a_page_that_can_do_nothing(page, settings, trained_run):
    leave_run(settings, trained_run, "one")
    answer = page.get("/runs/one/report")
    assert answer.status_code == 200
    assert answer.content == (trained_run / "report.html").read_bytes()
    policy = answer.headers["content-security-policy"]
    assert policy.endswith("; sandbox")
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_half_trained_model_is_not_used_before_it_was_judged(page, settings, trained_run):
    leave_run(settings, trained_run, "one")
    run = leave_run(settings, trained_run, "two", minute=1)
    (run / "metrics.json").unlink()
    assert [r["in_use"] for r in overview(page)["runs"]] == [False, True]
    shutil.copy(trained_run / "metrics.json", run)
    assert [r["in_use"] for r in overview(page)["runs"]] == [True, False]
