"""From recordings to a champion in use: done once, taken up anywhere, and taken back."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import run_pipeline
import search_clips
from cloud.s3 import S3Folder
from pipeline.records import only_one
from search.clip_store import open_clip_store
from search.vector_index import VectorIndex
from tests.mongo_server import MongoServer
from tests.pipelines import (
    OUTSIDE,
    RUN_VARIABLE,
    pipeline_flags,
    run_pipe,
    state_of,
)
from tests.trainings import (
    SMALL,
    fill_heads,
    flags,
    link_clips,
    make_config,
    run_script,
    write_clip,
)
from training.checkpoint import load_checkpoint, save_checkpoint
from training.registry import MODEL, Registry, default_checkpoint
from utils.training_data import load_training_data

ROOT = Path(__file__).resolve().parent.parent
NAMES = [step.name for step in run_pipeline.STEPS]


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch, trained_run):
    for name in OUTSIDE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(RUN_VARIABLE, str(trained_run))


@pytest.fixture
def folder(finished_pipeline, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished_pipeline, tmp_path / "copy", symlinks=True))


@pytest.fixture
def run(folder, copying_script, clips_folder):
    """Runs it there, on the same clips or others, and returns what it said."""

    def run(*more: object, clips: Path = clips_folder) -> str:
        outcome = run_pipe(folder, pipeline_flags(clips, copying_script), *more)
        assert outcome.code == 0, outcome.err
        return outcome.out

    return run


def done(said: str) -> list[str]:
    """The steps that were done."""
    return [line.split()[0] for line in said.splitlines() if " begins (" in line]


def make_model(source: Path, folder: Path, value: float | None) -> Path:
    """A run like `source` whose heads are random, or all of one value."""
    shutil.copytree(source, folder)
    checkpoint = load_checkpoint(folder / MODEL)
    torch.manual_seed(3)
    fill_heads(checkpoint.model, value)
    save_checkpoint(folder / MODEL, checkpoint.model, checkpoint.recipe)
    return folder


def test_first_run_ends_with_a_champion_a_store_and_an_index(
    finished_pipeline, clips_folder, trained_run
):
    said = (finished_pipeline / "said").read_text()
    assert done(said) == NAMES
    champion = Registry(finished_pipeline / "runs").champion
    assert champion.model.read_bytes() == (trained_run / MODEL).read_bytes()
    assert default_checkpoint(finished_pipeline / "runs").samefile(champion.model)
    with open_clip_store(cache_dir=finished_pipeline / "cache") as store:
        state = store.state(model_version=champion.id)
        assert set(store.recordings()) == {str(path) for path in clips_folder.rglob("*.mp4")}
    index = finished_pipeline / "cache" / "search" / champion.id
    assert len(VectorIndex.load(index, model_version=champion.id, state=state)) > 10
    assert "publish     done in 0.0 s: skipped, no bucket is set (BUCKET or S3_BUCKET_NAME)" in said


def test_nothing_is_done_again_where_nothing_changed(folder, run):
    before = state_of(folder)
    said = run()
    assert done(said) == []
    assert said.count("nothing changed since") == len(NAMES)
    assert state_of(folder) == before


def test_judging_groups_are_never_trained_on(finished_pipeline, clips_folder):
    rows = json.loads((finished_pipeline / "runs" / "pipeline" / "snapshot.json").read_text())
    sides = {row["group"]: row["side"] for row in rows}
    assert sorted(sides.values()) == ["test"] * 6 + ["train"] * 4
    listed = next((finished_pipeline / "runs" / "pipeline" / "lists").glob("*.txt")).read_text()
    paths = {line.partition("\t")[0] for line in listed.splitlines()}
    assert paths == {str(clips_folder / r["name"]) for r in rows if r["side"] == "train"}
    version = Registry(finished_pipeline / "runs").champion
    assert set(version.facts["trained_on"]) == {r["key"] for r in rows if r["side"] == "train"}
    judged = json.loads((finished_pipeline / "runs" / "pipeline" / "test_clips.json").read_text())
    assert {clip[0] for clip in judged} == {r["name"] for r in rows if r["side"] == "test"}


def test_dry_run_says_what_would_run_and_why_and_does_nothing(folder, clips_folder, tmp_path, run):
    new = link_clips(clips_folder, tmp_path / "clips")
    write_clip(new / "ads" / "9.mp4", "ads", 9)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    said = run("--dry-run", clips=new).splitlines()
    assert said[0] == "ingest      would run: other files and source"
    assert said[1] == "validate    would run where ingest makes something else of it"
    assert len(said) == len(NAMES)
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_dry_run_before_anything_was_done(tmp_path, clips_folder, copying_script):
    said = run_pipe(
        tmp_path, pipeline_flags(clips_folder, copying_script), "--dry-run"
    ).out.splitlines()
    assert all("would run: not done yet" in line for line in said)


def test_lrcn_is_trained_judged_and_searched_with(
    tmp_path, clips_folder, trunk_file, mlflow_database
):
    """With the real training script: a network that takes the frames in their order."""
    flags_of_lrcn = {
        **SMALL,
        "model": "lrcn",
        "weights": trunk_file,
        "fine_tune_blocks": 0,
        "epochs": 8,
        "head_learning_rate": 0.01,
        "folds": 0,
    }
    arguments = [
        f"--train-flags={' '.join(flags(**flags_of_lrcn))}",
        *flags(data_dir=clips_folder, min_class_minutes=0.1),
    ]
    (tmp_path / "runs").mkdir()
    shutil.copy(mlflow_database, tmp_path / "runs" / "mlflow.db")
    outcome = run_pipe(tmp_path, arguments)
    assert outcome.code == 0, outcome.err
    assert done(outcome.out) == NAMES
    champion = Registry(tmp_path / "runs").champion
    assert champion is not None, outcome.out
    assert load_checkpoint(champion.model).model.config["name"] == "lrcn"
    assert done(run_pipe(tmp_path, arguments).out) == []
    asked = clips_folder / "games" / "0.mp4"
    with contextlib.chdir(tmp_path):
        found = run_script(search_clips, "query", asked, "--json", "-k", 3)
    assert found.code == 0, found.err
    places = json.loads(found.out)["similar"]
    assert {place["label"] for place in places} == {"games"}
    assert str(asked) not in {place["recording"] for place in places}


def test_new_recordings_go_all_the_way(folder, clips_folder, tmp_path, run):
    new = link_clips(clips_folder, tmp_path / "clips")
    write_clip(new / "ads" / "9.mp4", "ads", 9)
    write_clip(new / "games" / "9.mp4", "games", 9)
    said = run(clips=new)
    assert done(said)[:3] == ["ingest", "validate", "prepare"]
    assert "embed" in done(said)
    champion = Registry(folder / "runs").champion
    with open_clip_store(cache_dir=folder / "cache") as store:
        assert str(new / "ads" / "9.mp4") in store.recordings()
        assert len(store.recordings(model_version=champion.id)) == 12  # the old places are gone


def test_a_worse_challenger_is_registered_and_not_promoted(
    folder, trained_run, tmp_path, monkeypatch, run
):
    before = state_of(folder)
    worse = make_model(trained_run, tmp_path / "worse", 0.0)
    monkeypatch.setenv(RUN_VARIABLE, str(worse))
    said = run("--from", "train", "--again")
    assert "0002-" in said
    assert "is not promoted: worse by 0.5" in said
    registry = Registry(folder / "runs")
    assert registry.champion.name == before["champion"]
    assert len(registry.versions()) == 2
    summary = max(folder.glob("runs/run-*/pipeline.md")).read_text()
    assert "is not promoted" in summary
    assert "| balanced accuracy | 0.500 | 1.000 |" in summary


def test_rollback_restores_the_bytes_and_search_follows(folder, trained_run, tmp_path, run):
    run()
    before = state_of(folder)
    # The champion becomes one that knows nothing; then the first model challenges it.
    worse = make_model(trained_run, tmp_path / "worse", 0.0)
    registry = Registry(folder / "runs")
    registry.promote(registry.add(worse, {}), "for the test")
    assert done(run("--from", "embed")) == ["embed", "index", "publish"]
    other = state_of(folder)
    assert other["link"] != before["link"]
    said = run("rollback")
    assert f"{before['champion']} is champion" in said
    run("--from", "embed")
    after = state_of(folder)
    assert after["link"] == before["link"]
    assert after["index"] == before["index"]
    assert done(run()) == []  # it stays so
    listed = run("versions")
    assert f"{before['champion']} became champion: rolled back from" in listed


def test_one_step_alone_and_from_a_step_on(folder, run):
    run()
    assert done(run("--only", "evaluate")) == []
    assert done(run("--only", "evaluate", "--again")) == ["evaluate"]
    assert done(run("--from", "embed", "--again")) == NAMES[6:]
    (folder / "runs" / "pipeline" / "index.json").unlink()
    assert done(run("--from", "evaluate")) == ["index"]


def test_step_that_needs_another_first_says_so(tmp_path, clips_folder, copying_script):
    outcome = run_pipe(tmp_path, pipeline_flags(clips_folder, copying_script), "--only", "evaluate")
    assert outcome.code == 1
    assert outcome.last == (
        "error: train was not done yet: run run_pipeline.py without --only, or --from"
    )


def test_what_somebody_else_removed_is_made_again(folder, run):
    run()
    before = state_of(folder)
    champion = Registry(folder / "runs").champion
    with open_clip_store(cache_dir=folder / "cache") as store:
        store.delete(label="ads")
    said = run()
    assert "holds other clips now" in said
    shutil.rmtree(folder / "cache" / "search" / champion.id)
    assert done(run()) == ["index"]
    assert state_of(folder) == before


def test_failures_stop_it_with_a_line_each(tmp_path, clips_folder, copying_script):
    few = link_clips(clips_folder, tmp_path / "clips")
    for number in (1, 2):
        (few / "ads" / f"{number}.mp4").unlink()
    (few / "games" / "broken.mp4").write_bytes(b"no video")
    outcome = run_pipe(tmp_path, pipeline_flags(few, copying_script), "--min-class-minutes", "9")
    assert outcome.code == 1
    assert "  WARNING   1 of 9 videos can't be read: games/broken.mp4 (" in outcome.out
    failures = [line for line in outcome.out.splitlines() if line.startswith("  FAILURE")]
    assert len(failures) == 3
    assert "ads has 3 groups, and 5 are needed (3 to judge on, 2 to learn from)" in failures[0]
    assert outcome.last.startswith("error: validate: 3 checks failed, the first: ads has 3 groups")
    assert not (tmp_path / "runs" / "pipeline" / "validate.json").exists()


def test_another_mixture_than_last_time_is_drift(
    folder, clips_folder, tmp_path, run, copying_script
):
    run()
    new = link_clips(clips_folder, tmp_path / "clips")
    for number in range(20, 32):
        write_clip(new / "ads" / f"{number}.mp4", "ads", number, 6)
    more = ["--from", "ingest", "--max-class-drift"]
    outcome = run_pipe(folder, pipeline_flags(new, copying_script), *more, "0.2")
    assert outcome.code == 1
    assert "of the time is of another class than in the last run" in outcome.last


def test_two_pipelines_do_not_work_at_once(folder, clips_folder, copying_script):
    with only_one(folder / "runs" / "pipeline"):
        outcome = run_pipe(folder, pipeline_flags(clips_folder, copying_script))
    assert outcome.code == 1
    assert f"another pipeline (process {os.getpid()}) works in" in outcome.last


def test_recordings_on_s3_are_prepared_and_listed_by_their_addresses(
    tmp_path, clips_folder, copying_script, mlflow_database, s3, monkeypatch
):
    bucket = s3.new_bucket()
    for path in clips_folder.rglob("*.mp4"):
        s3.put(bucket, **{f"data/{path.relative_to(clips_folder)}": path.read_bytes()})
    (tmp_path / "runs").mkdir()
    shutil.copy(mlflow_database, tmp_path / "runs" / "mlflow.db")
    arguments = pipeline_flags(f"s3://{bucket}/data", copying_script)
    outcome = run_pipe(tmp_path, arguments)
    assert outcome.code == 0, outcome.err
    listed = next((tmp_path / "runs" / "pipeline" / "lists").glob("*.txt"))
    places = [line.partition("\t")[0] for line in listed.read_text().splitlines()]
    assert len(places) == 4
    assert all(place.startswith(f"s3://{bucket}/data/") for place in places)
    s3.requests.clear()
    # What training reads is prepared already: nothing is fetched once more.
    monkeypatch.chdir(tmp_path)
    config = make_config(tmp_path, data_dir=listed.relative_to(tmp_path), cache_dir="cache")
    assert len(load_training_data(config, S3Folder).keys) == 4
    assert s3.count("GET", "data/") == 0


def test_failed_training_is_said_and_begun_again(
    folder, clips_folder, tmp_path, monkeypatch, copying_script
):
    monkeypatch.setenv(RUN_VARIABLE, str(tmp_path / "nowhere"))
    arguments = pipeline_flags(clips_folder, copying_script)
    outcome = run_pipe(folder, arguments, "--from", "train", "--again")
    assert outcome.code == 1
    assert "train: " in outcome.last
    assert "ended with code 1, and said why above" in outcome.last
    assert Registry(folder / "runs").champion is not None


def test_mongodb_that_goes_away_is_said_and_what_was_put_is_kept(
    folder, clips_folder, monkeypatch, run, copying_script
):
    server = MongoServer()
    monkeypatch.setenv("MONGODB_URL", server.url)
    puts = []

    def lose(command: str) -> str | None:
        puts.extend([command] if command in ("update", "insert", "bulkWrite") else [])
        return "lose" if len(puts) > 3 else None

    server.fault = lose
    monkeypatch.setattr("search.mongo_store.FIRST_WAIT_SECONDS", 0.01)
    outcome = run_pipe(folder, pipeline_flags(clips_folder, copying_script))
    assert outcome.code == 1
    assert outcome.last.startswith("error: ")
    assert "127.0.0.1" in outcome.last
    assert not outcome.err.count("Traceback")
    server.fault = lambda command: None
    said = run()
    assert done(said)[0] == "embed"
    assert done(run()) == []
    server.stop()


def test_help_teaches_the_steps():
    done = subprocess.run(
        [sys.executable, ROOT / "run_pipeline.py", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    for step in run_pipeline.STEPS:
        assert f"  {step.name:<9} {step.about}" in done.stdout


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_one_that_nothing_broke(
    tmp_path, clips_folder, trained_run, run
):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.pipelines", tmp_path, clips_folder, trained_run, "20"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["kills"] == 20
    assert len(said["in"]) >= 4, said  # in several steps
