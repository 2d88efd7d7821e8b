"""Many recordings are labelled at once as they are one by one, and a bad one costs only itself."""

import shutil
from pathlib import Path

import pytest

from label_recording import load_classifier
from tests.trainings import write_clip
from timeline.batch import label_on_cluster, label_recordings
from timeline.classifier import Classifier
from timeline.labelled import Labelled, Method
from utils.media import MediaError


@pytest.fixture(scope="module")
def classifier(trained_run, tmp_path_factory) -> Classifier:
    cache_dir = tmp_path_factory.mktemp("cache")
    return load_classifier(trained_run / "best.safetensors", cache_dir)[0]


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("archive")
    write_clip(folder / "a.mp4", "ads", 8, 12.0)
    write_clip(folder / "b.mp4", "games", 8, 12.0)
    (folder / "c.mp4").write_text("no video")
    shutil.copy(folder / "a.mp4", folder / "d.mp4")
    return [folder / f"{name}.mp4" for name in "abcd"]


@pytest.fixture(scope="module")
def one_by_one(paths, classifier) -> dict[Path, Labelled | MediaError]:
    told: list[tuple[Path, float, float]] = []
    outcomes = label_recordings(
        paths, classifier, Method(), jobs=1, report=lambda *done: told.append(done)
    )
    found = dict(outcomes)
    assert list(found) == paths
    assert [done for done in told if done[0] == paths[0]][-1][1:] == (12.0, 12.0)
    return found


def same(found: dict, expected: dict) -> bool:
    assert {path.name for path in found} == {path.name for path in expected}
    assert isinstance(found[next(p for p in found if p.name == "c.mp4")], MediaError)
    timelines = [
        {path: outcome.timeline for path, outcome in outcomes.items() if path.name != "c.mp4"}
        for outcomes in (found, expected)
    ]
    return timelines[0] == timelines[1]


def test_one_by_one_each_gets_its_label(paths, one_by_one):
    labels = [one_by_one[path].timeline.segments[0].label for path in (*paths[:2], paths[3])]
    assert labels == ["ads", "games", "ads"]


def test_processes_find_the_same(paths, classifier, one_by_one):
    told: set[Path] = set()
    outcomes = label_recordings(
        paths, classifier, Method(), jobs=2, report=lambda path, *_: told.add(path)
    )
    assert same(dict(outcomes), one_by_one)
    assert told >= {paths[0], paths[1], paths[3]}


@pytest.mark.slow
def test_cluster_finds_the_same(paths, classifier, one_by_one):
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
    )
    try:
        outcomes = dict(label_on_cluster(paths, classifier, Method(), address=cluster.address))
    finally:
        cluster.shutdown()
    assert same(outcomes, one_by_one)
