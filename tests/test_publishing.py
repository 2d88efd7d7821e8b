"""A release is complete before the alias names it, and comes back as it was."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from cloud import s3 as s3_module
from search.clip_store import open_clip_store
from tests.pipelines import OUTSIDE, RUN_VARIABLE, pipeline_flags, run_pipe, state_of
from tests.s3_server import one_after, some_after
from training.checkpoint import load_checkpoint, save_checkpoint
from training.registry import MODEL, Registry

PREFIX = "store/pipeline"


@pytest.fixture
def folder(finished_pipeline, tmp_path, monkeypatch, trained_run) -> Path:
    """A copy of a pipeline that ran once, without S3."""
    for name in set(OUTSIDE) - {"S3_BUCKET_NAME"}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(RUN_VARIABLE, str(trained_run))
    return Path(shutil.copytree(finished_pipeline, tmp_path / "copy", symlinks=True))


@pytest.fixture
def bucket(s3, monkeypatch) -> str:
    name = s3.new_bucket()
    monkeypatch.setenv("S3_BUCKET_NAME", name)
    s3_module.forget_connection()
    yield name
    s3_module.forget_connection()


@pytest.fixture
def run(folder, copying_script, clips_folder):
    def run(*more: object, place: Path = folder):
        return run_pipe(place, pipeline_flags(clips_folder, copying_script), *more)

    return run


def read(s3, bucket: str, key: str) -> bytes:
    return s3.client.get_object(Bucket=bucket, Key=f"{PREFIX}/{key}")["Body"].read()


def release_of(s3, bucket: str) -> dict:
    """The manifest that the alias names, after all that it names was held against its hash."""
    release = json.loads(read(s3, bucket, "champion.json"))["release"]
    manifest = json.loads(read(s3, bucket, f"releases/{release}.json"))
    for name, file in manifest["files"].items():
        content = read(s3, bucket, f"objects/{file['sha256']}/{Path(name).name}")
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert len(content) == file["size_bytes"]
    return manifest


def crown_another(folder: Path, tmp_path: Path) -> None:
    """Makes a model champion that differs in its bytes alone."""
    run_dir = tmp_path / "another"
    shutil.copytree((folder / "runs" / "champion").resolve(), run_dir)
    (run_dir / "version.json").unlink()
    checkpoint = load_checkpoint(run_dir / MODEL)
    save_checkpoint(run_dir / MODEL, checkpoint.model, {**checkpoint.recipe, "note": "another"})
    registry = Registry(folder / "runs")
    registry.promote(registry.add(run_dir, {}), "for the test")


def test_release_holds_model_index_clips_and_report_and_the_alias_comes_last(
    s3, bucket, folder, run
):
    outcome = run()
    assert outcome.code == 0, outcome.err
    manifest = release_of(s3, bucket)
    champion = Registry(folder / "runs").champion
    assert manifest["champion"] == champion.name
    names = set(manifest["files"])
    assert {MODEL, "report.html", "clips.sqlite", "index/index.json", "profile.json"} <= names
    assert any(name.endswith("-vectors.npy") for name in names)
    puts = [path for method, path in s3.requests if method in ("PUT", "POST")]
    assert puts[-1].endswith(f"{PREFIX}/champion.json")
    assert puts[-2].split("/")[-2] == "releases"


def test_clips_of_a_release_are_those_of_the_store(s3, bucket, folder, run, tmp_path):
    assert run().code == 0
    file = release_of(s3, bucket)["files"]["clips.sqlite"]
    dump = tmp_path / "dump.sqlite"
    dump.write_bytes(read(s3, bucket, f"objects/{file['sha256']}/clips.sqlite"))
    with open_clip_store(str(dump)) as there, open_clip_store(cache_dir=folder / "cache") as here:
        assert there.state() == here.state()


def test_nothing_is_sent_twice(s3, bucket, run):
    assert run().code == 0
    s3.requests.clear()
    said = run().out
    assert "publish     nothing changed" in said
    run("--only", "publish", "--again")
    assert not [p for m, p in s3.requests if m == "PUT" and "/releases/" not in p]


@pytest.mark.parametrize("part", ["objects/", "releases/", "champion.json"])
def test_release_that_breaks_off_leaves_the_old_one_valid(
    s3, bucket, folder, run, tmp_path, monkeypatch, part
):
    assert run().code == 0
    before = release_of(s3, bucket)
    crown_another(folder, tmp_path)
    monkeypatch.setattr(s3_module, "MAX_ATTEMPTS", 1)
    s3_module.forget_connection()
    with s3.faulty(one_after(1 if part == "objects/" else 0, "denied", "PUT", part)):
        outcome = run("--from", "embed")
    assert outcome.code == 1
    assert "access denied" in outcome.last
    assert release_of(s3, bucket) == before
    outcome = run("--from", "embed")
    assert outcome.code == 0, outcome.err
    after = release_of(s3, bucket)
    assert after["champion"] == Registry(folder / "runs").champion.name != before["champion"]


def test_content_that_arrives_damaged_is_sent_again(s3, bucket, run):
    with s3.faulty(one_after(0, "spoil", "PUT", "objects/")):
        outcome = run()
    assert outcome.code == 0, outcome.err
    release_of(s3, bucket)


def test_alias_that_somebody_moved_is_moved_back(s3, bucket, run):
    assert run().code == 0
    before = release_of(s3, bucket)
    s3.client.put_object(
        Bucket=bucket, Key=f"{PREFIX}/champion.json", Body=b'{"release": "0123456789abcdef"}'
    )
    said = run().out
    assert "publish     begins (s3://" in said
    assert release_of(s3, bucket) == before


@pytest.fixture
def fresh(tmp_path, mlflow_database) -> Path:
    """The folder of a machine on which nothing was done yet."""
    place = tmp_path / "fresh"
    (place / "runs").mkdir(parents=True)
    shutil.copy(mlflow_database, place / "runs" / "mlflow.db")
    return place


def test_fresh_machine_goes_on_as_if_it_were_the_one_that_published(
    s3, bucket, folder, run, fresh, tmp_path
):
    crown_another(folder, tmp_path)
    assert run("--from", "embed").code == 0
    outcome = run(place=fresh)
    assert outcome.code == 0, outcome.err
    # What was decoded stays where it was; nothing else is done again.
    begun = [line.split()[0] for line in outcome.out.splitlines() if " begins (" in line]
    assert begun == ["prepare", "publish"]
    expected, found = state_of(folder), state_of(fresh)
    assert len(found["reigns"]) == 2
    with open_clip_store(cache_dir=folder / "cache") as store:
        champion = Registry(fresh / "runs").champion
        assert store.state(model_version=champion.id) == found["store"]
    assert found | {"store": ""} == expected | {"store": ""}  # it has other models' clips, too
    release_of(s3, bucket)
    assert "publish     nothing changed" in run(place=fresh).out


def test_machine_with_a_champion_of_its_own_takes_the_published_one(
    s3, bucket, folder, run, tmp_path
):
    assert run().code == 0
    other = Path(shutil.copytree(folder, tmp_path / "other", symlinks=True))
    crown_another(other, tmp_path)
    assert run("--from", "embed", place=other).code == 0
    before, theirs = (Registry(place / "runs").champion for place in (folder, other))
    assert run("--only", "ingest").code == 0
    champion = Registry(folder / "runs").champion
    assert champion.model.read_bytes() == theirs.model.read_bytes()
    assert Registry(folder / "runs").rollback() == before
    said = run("--only", "ingest").out
    assert "taken over" not in said, "going back here is not undone by what was seen before"


def test_rollback_publishes_without_the_recordings(s3, bucket, folder, run, fresh, tmp_path):
    assert run().code == 0
    before = release_of(s3, bucket)
    crown_another(folder, tmp_path)
    assert run("--from", "embed").code == 0
    outcome = run("rollback", place=fresh)
    assert outcome.code == 0, outcome.err
    after = release_of(s3, bucket)
    assert after["champion"] == before["champion"]
    own = {n: f for n, f in before["files"].items() if not n.startswith("state/")}
    assert own == {n: f for n, f in after["files"].items() if not n.startswith("state/")}
    reigns = [reign.version for reign in Registry(fresh / "runs").history()]
    assert len(reigns) == 3
    assert reigns[0] == reigns[2] == before["champion"]
    said = run("--only", "ingest").out  # the other machine follows
    assert "taken over" in said
    assert Registry(folder / "runs").champion.name == before["champion"]


def test_rollback_does_not_wait_for_s3(s3, bucket, folder, run, tmp_path, monkeypatch):
    crown_another(folder, tmp_path)
    before, _ = Registry(folder / "runs").versions()
    monkeypatch.setattr(s3_module, "MAX_ATTEMPTS", 1)
    s3_module.forget_connection()
    with s3.faulty(some_after(0, 9, "denied", "GET", "champion.json")):
        outcome = run("rollback")
    assert outcome.code == 0, outcome.err
    assert "S3 does not follow" in outcome.out
    assert Registry(folder / "runs").champion == before


@pytest.mark.parametrize("part", ["index/", "models/champions.json", "clips.sqlite"])
def test_takeover_that_breaks_off_is_done_again(s3, bucket, folder, run, fresh, monkeypatch, part):
    assert run().code == 0
    file = next(f for n, f in release_of(s3, bucket)["files"].items() if part in n)
    monkeypatch.setattr(s3_module, "MAX_ATTEMPTS", 1)
    s3_module.forget_connection()
    with s3.faulty(one_after(0, "denied", "GET", file["sha256"])):
        assert run("--only", "ingest", place=fresh).code == 1
    assert Registry(fresh / "runs").champion is None
    assert run("--only", "ingest", place=fresh).code == 0
    assert state_of(fresh) == state_of(folder)


def test_published_champion_that_is_damaged_is_not_taken(s3, bucket, run, fresh):
    assert run().code == 0
    file = release_of(s3, bucket)["files"][MODEL]
    key = f"{PREFIX}/objects/{file['sha256']}/{MODEL}"
    content = bytearray(s3.client.get_object(Bucket=bucket, Key=key)["Body"].read())
    content[-1] ^= 1
    s3.client.put_object(Bucket=bucket, Key=key, Body=bytes(content))
    outcome = run("--only", "ingest", place=fresh)
    assert outcome.code == 1
    assert "damaged" in outcome.last
    assert Registry(fresh / "runs").champion is None


def test_other_names_of_the_keys_are_accepted(s3, bucket, run, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3_module.forget_connection()
    assert "no AWS credentials" in run().last
    monkeypatch.setenv("ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_KEY", "test")
    s3_module.forget_connection()
    outcome = run()
    assert outcome.code == 0, outcome.err
    release_of(s3, bucket)
    assert "AWS_ACCESS_KEY_ID" not in os.environ
