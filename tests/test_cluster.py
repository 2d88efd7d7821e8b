"""Recordings prepared on a Ray cluster are in the store once each, whoever is lost on the way."""

import builtins
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from tests.preparing import run, write_recordings
from utils.audio import MfccSpec
from utils.cluster import ClusterError
from utils.features import FeatureSpec
from utils.preparation import prepare_recordings
from utils.prepared_set import PreparedSet, open_feature_store
from utils.progress import Progress
from utils.recordings import find_recordings
from utils.sources import Folder

SPEC = FeatureSpec(4.0, (32, 48), "fast", False, MfccSpec())


@pytest.fixture
def cluster():
    """A head that works nothing, and two nodes of one core."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    cluster.nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    data = write_recordings(tmp_path_factory.mktemp("shelf") / "data", 16)
    (data / "ads" / "bad.mp4").write_text("no video")
    return data


def prepare(data: Path, cache: Path, cluster: str | None) -> PreparedSet:
    how = {"workers": 2, "max_rejected": 0.2, "cluster": cluster}
    return prepare_recordings(find_recordings(Folder(data)), Folder(data), SPEC, cache, **how)


def kill_a_worker() -> None:
    workers = [
        process
        for process in psutil.Process().children(recursive=True)
        if process.cmdline() and process.cmdline()[0].startswith("ray::Preparer")
    ]
    workers[0].kill()


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["a process", "a node"])
def test_every_recording_is_in_the_store_once(shelf, tmp_path, cluster, lost, monkeypatch):
    cache = tmp_path / "cache"
    ended, done = Progress.ended, []

    def lose(progress: Progress, *arguments) -> None:
        """On the way, while the workers are given nothing more to do."""
        ended(progress, *arguments)
        if done or len(open_feature_store(cache, SPEC)) < 3:
            return
        if lost == "a process":
            kill_a_worker()
        elif lost == "a node":
            cluster.remove_node(cluster.nodes[0], allow_graceful=False)
        done.append(len(open_feature_store(cache, SPEC)))

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "ended", lose)
        prepared = prepare(shelf, cache, cluster.address)
    assert done[0] < 16
    assert [item.recording.name for item in prepared.rejected] == ["ads/bad.mp4"]
    alone = prepare(shelf, tmp_path / "alone", None)
    assert prepared.keys == alone.keys
    lines = [
        line
        for path in prepared.store.folder.glob("index-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(lines) == len(prepared.store) == 16
    for key in alone.store:
        for column in alone.store.columns:
            assert (prepared.store.get(key, column) == alone.store.get(key, column)).all()
    assert not any(reason for _, reason in prepared.store.damaged(prepared.store))
    assert not (prepared.store.folder / "incoming").exists()
    assert prepare(shelf, cache, cluster.address).keys == prepared.keys  # without connecting


def test_missing_ray_is_one_line_with_the_cure(shelf, tmp_path, monkeypatch):
    really_import = builtins.__import__

    def without_ray(name, *arguments, **options):
        if name == "ray":
            raise ImportError("No module named 'ray'")
        return really_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(ClusterError, match="-m pip install ray"):
        prepare(shelf, tmp_path / "cache", "")


def test_cluster_that_is_not_there_is_one_line(shelf):
    code, _, err = run(shelf, "--ray", "127.0.0.1:1", "--cache-dir", str(shelf.parent / "none"))
    assert code == 1
    assert err.splitlines()[-1].startswith("error: the Ray cluster 127.0.0.1:1 can't be reached")
