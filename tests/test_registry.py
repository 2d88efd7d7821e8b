"""Versions are kept whole, one is champion, and there is always a way back, byte for byte."""

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mlflow_server import MlflowServer
from tests.steady import Stopwatch
from training import tracking
from training.registry import MODEL, Registry, RegistryError, Version
from training.tracking import TrackingError


@pytest.fixture
def runs(tmp_path) -> Path:
    return tmp_path / "runs"


def make_run(folder: Path, content: str) -> Path:
    """What a training leaves, as far as the registry looks at it."""
    run = folder / f"run-{content}"
    run.mkdir(parents=True)
    (run / MODEL).write_bytes(content.encode() * 1000)
    (run / "report.html").write_text(f"<p>{content}</p>")
    (run / "last.ckpt").write_bytes(b"not kept")
    return run


def add(registry: Registry, folder: Path, content: str) -> Version:
    return registry.add(make_run(folder, content), {"classes": ["ads", "games"]})


def crown(registry: Registry, folder: Path, *contents: str) -> list[Version]:
    """Versions that became champion one after the other."""
    versions = []
    for content in contents:
        versions.append(add(registry, folder, content))
        registry.promote(versions[-1], f"{content} is better")
    return versions


def test_a_version_holds_what_its_training_left_and_outlives_it(runs, tmp_path):
    registry = Registry(runs)
    version = add(registry, tmp_path, "a")
    shutil.rmtree(tmp_path / "run-a")
    assert version.name.startswith("0001-")
    assert version.id == version.files[MODEL].sha256[:16]
    assert version.model.read_bytes() == b"a" * 1000
    assert sorted(version.files) == [MODEL, "report.html"]
    assert version.facts["classes"] == ["ads", "games"]
    assert registry.versions() == [version]
    assert registry.champion is None


def test_same_weights_are_one_version(runs, tmp_path):
    registry = Registry(runs)
    first = add(registry, tmp_path / "once", "a")
    assert add(registry, tmp_path / "twice", "a") == first
    assert add(registry, tmp_path, "b").number == 2


def test_champion_is_a_link_that_other_scripts_follow(runs, tmp_path):
    first, second = crown(Registry(runs), tmp_path, "a", "b")
    assert (runs / "champion" / MODEL).read_bytes() == b"b" * 1000
    assert Registry(runs).champion == second
    moved = runs.rename(tmp_path / "elsewhere")  # the link is a relative one
    assert (moved / "champion" / MODEL).read_bytes() == b"b" * 1000
    assert [reign.version for reign in Registry(moved).history()] == [first.name, second.name]


def test_rollback_goes_back_champion_by_champion_and_restores_bytes(runs, tmp_path):
    registry = Registry(runs)
    versions = crown(registry, tmp_path, "a", "b", "c")
    before = {path: path.read_bytes() for path in runs.rglob("[0-9]*/*")}
    with Stopwatch() as watch:
        assert registry.rollback() == versions[1]
        assert registry.rollback() == versions[0]
    assert watch.seconds < 2
    assert (runs / "champion" / MODEL).read_bytes() == b"a" * 1000
    with pytest.raises(RegistryError, match="was the first champion"):
        registry.rollback()
    assert registry.rollback("3") == versions[2]
    assert registry.rollback(versions[1].name) == versions[1]
    assert registry.rollback(versions[0].id[:6]) == versions[0]
    assert before == {path: path.read_bytes() for path in runs.rglob("[0-9]*/*")}
    assert registry.history()[-1].why == f"rolled back from {versions[1].name}"


def test_only_a_former_champion_can_be_gone_back_to(runs, tmp_path):
    registry = Registry(runs)
    with pytest.raises(RegistryError, match="no champion yet"):
        registry.rollback()
    first, _ = crown(registry, tmp_path, "a", "b")
    never = add(registry, tmp_path, "c")
    with pytest.raises(RegistryError, match=f"never champion: go back to one of {first.name}"):
        registry.rollback(never.name)
    with pytest.raises(RegistryError, match="there is no version 9: 0001-"):
        registry.rollback("9")


def test_damaged_version_does_not_become_champion(runs, tmp_path):
    registry = Registry(runs)
    first, second = crown(registry, tmp_path, "a", "b")
    first.model.write_bytes(b"a" * 999 + b"x")
    with pytest.raises(RegistryError, match="is damaged or gone"):
        registry.rollback()
    assert registry.champion == second


def test_opponent_is_whom_a_model_took_over_from(runs, tmp_path):
    registry = Registry(runs)
    assert registry.opponent("0" * 16) is None
    first, second = crown(registry, tmp_path, "a", "b")
    assert registry.opponent(second.id) == first
    assert registry.opponent(first.id) is None
    assert registry.opponent("0" * 16) == second
    registry.rollback()
    assert registry.opponent(second.id) == first


def dying(work: Callable[[], object], at: int) -> bool:
    """Does the work in a process that ends as `kill -9` ends one, before its write number `at`.

    Returns whether it came that far.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    numbers = itertools.count()
    for name in ("replace", "rename", "symlink", "fsync", "mkdir"):
        real = getattr(os, name)

        def counted(*words, real=real, **more):
            if next(numbers) == at:
                os._exit(9)
            return real(*words, **more)

        setattr(os, name, counted)
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def test_killed_at_any_write_a_promotion_is_finished_or_undone(tmp_path):
    for at in itertools.count():
        runs = tmp_path / str(at) / "runs"
        crown(Registry(runs), runs.parent, "a")
        run = make_run(runs.parent, "b")

        def promote_b(runs: Path = runs, run: Path = run) -> None:
            registry = Registry(runs)
            registry.finish()
            registry.promote(registry.add(run, {}), "b is better")

        was_killed = dying(promote_b, at)
        there = Registry(runs).champion
        assert there is not None
        there.check()  # also between a kill and the next start there is one, and it is whole
        registry = Registry(runs)
        said = registry.finish()
        promoted = registry.champion.model.read_bytes() == b"b" * 1000
        assert promoted == (len(registry.history()) == 2)
        assert said is None or promoted
        promote_b()
        assert [v.number for v in registry.versions()] == [1, 2]
        assert (runs / "champion" / MODEL).read_bytes() == b"b" * 1000
        assert [r.version[:4] for r in registry.history()] == ["0001", "0002"]
        assert not list(registry.folder.glob(".*.partial"))
        if not was_killed:
            break
    assert at > 10


# MLflow


@pytest.fixture(scope="module")
def server(tmp_path_factory, mlflow_database):
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copy(mlflow_database, folder / "server.db")
    server = MlflowServer(folder)
    yield server
    server.stop()


@pytest.fixture(params=["embedded", "server"])
def uri(request, runs, monkeypatch, tmp_path) -> str:
    for name, value in tracking.CLIENT_SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(tracking.NAME_VARIABLE, tmp_path.name)  # a place of its own on the server
    if request.param == "server":
        return request.getfixturevalue("server").url
    runs.mkdir()
    shutil.copy(request.getfixturevalue("mlflow_database"), runs / "mlflow.db")
    return tracking.tracking_uri(runs, wanted=True)


def in_mlflow(uri: str, name: str) -> dict[str, str]:
    """Our name of the version that has each alias."""
    client = tracking.open_client(uri)
    aliases = client.get_registered_model(name).aliases
    return {a: client.get_model_version(name, v).tags["version"] for a, v in aliases.items()}


def test_mlflow_has_the_same_versions_champion_and_challenger(uri, runs, tmp_path):
    registry = Registry(runs, uri)
    first, second = crown(registry, tmp_path, "a", "b")
    third = add(registry, tmp_path, "c")
    assert in_mlflow(uri, tmp_path.name) == {"champion": second.name, "challenger": third.name}
    registry.rollback()
    assert in_mlflow(uri, tmp_path.name)["champion"] == first.name
    client = tracking.open_client(uri)
    known = client.search_model_versions(f"name='{tmp_path.name}'")
    assert {v.tags["sha256"] for v in known} == {v.files[MODEL].sha256 for v in registry.versions()}
    run = client.get_model_version(tmp_path.name, "1").run_id
    there = client.download_artifacts(run, MODEL, str(tmp_path / "run-a"))
    assert Path(there).read_bytes() == b"a" * 1000


def test_champion_that_is_chosen_in_mlflow_is_followed(uri, runs, tmp_path):
    registry = Registry(runs, uri)
    first, second = crown(registry, tmp_path, "a", "b")
    assert registry.finish() is None
    tracking.open_client(uri).set_registered_model_alias(tmp_path.name, "champion", "1")
    assert registry.finish() == f"champion is {first.name}, as chosen in MLflow"
    assert registry.champion == first
    assert registry.finish() is None


def test_change_made_without_mlflow_is_told_to_it_and_not_undone(uri, runs, tmp_path):
    registry = Registry(runs, uri)
    first, second = crown(registry, tmp_path, "a", "b")
    Registry(runs).rollback()
    assert in_mlflow(uri, tmp_path.name)["champion"] == second.name
    assert registry.finish() == f"MLflow is told that {first.name} is champion"
    assert registry.champion == first
    assert in_mlflow(uri, tmp_path.name)["champion"] == first.name


def test_promotion_while_the_server_is_away_is_finished_when_it_is_back(
    server, runs, tmp_path, monkeypatch
):
    for name, value in tracking.CLIENT_SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(tracking.NAME_VARIABLE, tmp_path.name)
    registry = Registry(runs, server.url)
    first, second = crown(registry, tmp_path, "a", "b")
    server.stop()
    with pytest.raises(TrackingError, match="MLflow does not answer at http"):
        registry.rollback()
    assert Registry(runs).champion == first  # here it holds at once
    server.start()
    assert registry.finish() == f"MLflow is told that {first.name} is champion"
    assert registry.finish() is None
    assert in_mlflow(server.url, tmp_path.name)["champion"] == first.name
    assert json.loads((runs / "models" / "champions.json").read_text())["pending"] is None


def test_database_that_was_lost_is_told_the_champion_anew(
    runs, tmp_path, monkeypatch, mlflow_database
):
    for name, value in tracking.CLIENT_SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(tracking.NAME_VARIABLE, tmp_path.name)
    runs.mkdir()
    for name in ("first.db", "second.db"):
        shutil.copy(mlflow_database, runs / name)
    registry = Registry(runs, f"sqlite:///{runs}/first.db")
    champion = crown(registry, tmp_path, "a")[0]
    other = f"sqlite:///{runs}/second.db"
    Registry(runs, other).finish()
    assert in_mlflow(other, tmp_path.name) == {"champion": champion.name}
