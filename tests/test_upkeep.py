"""Stores are described without decoding, and lose only what nobody needs."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from tests.pools import InThisProcess
from tests.preparing import write_recordings
from utils import preparation
from utils.audio import MfccSpec
from utils.feature_store import StoreError
from utils.features import FeatureSpec
from utils.preparation import prepare_recordings
from utils.prepared_set import PreparedSet, open_feature_store
from utils.recordings import Recording, find_recordings
from utils.rejects import Rejects
from utils.sources import Folder
from utils.upkeep import (
    PrunePlan,
    damaged_recordings,
    plan_prune,
    prune,
    source_status,
    store_statuses,
)

SPEC = FeatureSpec(4.0, (32, 48), "fast", False, MfccSpec())


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(preparation, "WorkerPool", InThisProcess)


@pytest.fixture
def data(tmp_path) -> Path:
    data = write_recordings(tmp_path / "data", 4)
    (data / "ads" / "bad.mp4").write_text("no video")
    return data


def found(data: Path) -> list[Recording]:
    return find_recordings(Folder(data))


def prepare(data: Path, spec: FeatureSpec = SPEC) -> PreparedSet:
    return prepare_recordings(
        found(data), Folder(data), spec, data.parent / "cache", workers=2, max_rejected=0.5
    )


def status_of(data: Path, spec: FeatureSpec = SPEC):
    return source_status(found(data), Folder(data), spec, data.parent / "cache")


def plan_of(data: Path) -> PrunePlan:
    return plan_prune(found(data), Folder(data), SPEC, data.parent / "cache")


def prune_all(data: Path) -> None:
    prune(plan_of(data), found(data), Folder(data), data.parent / "cache")


def test_status_tells_what_became_of_each_recording(data):
    assert (len(status_of(data).pending), status_of(data).unknown) == (5, 5)
    prepared = prepare(data)
    (data / "ads" / "000.mp4").rename(data / "ads" / "renamed.mp4")
    status = status_of(data)
    assert set(status.prepared.values()) < set(prepared.keys.values())
    assert len(status.prepared) == 3
    assert [recording.name for recording in status.rejected] == ["ads/bad.mp4"]
    assert [recording.name for recording in status.pending] == ["ads/renamed.mp4"]
    assert status.unknown == 1
    other = status_of(data, dataclasses.replace(SPEC, fps=5.0))
    assert (len(other.pending), other.unknown) == (5, 1)


def test_stores_are_described_from_their_own_words(data):
    assert store_statuses(data.parent / "cache") == []
    prepare(data)
    strange = data.parent / "cache" / "features" / "strange"
    strange.mkdir()
    (strange / "file").write_bytes(bytes(100))
    by_name = {status.folder.name: status for status in store_statuses(data.parent / "cache")}
    own = by_name[SPEC.id]
    assert (own.spec, own.recordings, own.rejected) == (SPEC, 4, 1)
    assert own.seconds == pytest.approx(2 + 3 + 4 + 2)
    assert own.size_bytes > 11 * 4 * 32 * 48 * 3
    assert by_name["strange"].spec is None
    assert by_name["strange"].size_bytes == 100


def test_nothing_is_pruned_that_a_recording_needs(data):
    prepared = prepare(data)
    before = sorted(prepared.store)
    plan = plan_of(data)
    assert (plan.keys, plan.others, plan.size_bytes) == ([], [], 0)
    prune_all(data)
    assert sorted(open_feature_store(data.parent / "cache", SPEC)) == before
    assert len(status_of(data).prepared) == 4
    assert len(status_of(data).rejected) == 1


def test_prune_removes_lost_recordings_other_stores_and_unfinished_work(data):
    prepared = prepare(data)
    prepare(data, dataclasses.replace(SPEC, fps=5.0))
    left = prepared.store.folder / "incoming" / "key"
    left.mkdir(parents=True)
    (left / "frames").write_bytes(bytes(1000))
    lost = next(r for r in prepared.keys if r.name == "ads/002.mp4")
    for name in ("ads/002.mp4", "ads/bad.mp4"):
        (data / name).unlink()
    plan = plan_of(data)
    assert plan.keys == [prepared.keys[lost]]
    assert plan.store_bytes == prepared.store.size_bytes(prepared.keys[lost])
    assert plan.incoming_bytes == 1000
    assert len(plan.others) == 1
    before = sum(path.stat().st_size for path in prepared.store.folder.rglob("*.npy"))
    prune_all(data)
    after = sum(path.stat().st_size for path in prepared.store.folder.rglob("*.npy"))
    assert before - after == plan.store_bytes
    store = open_feature_store(data.parent / "cache", SPEC)
    assert len(store) == 3
    assert not any(reason for _, reason, _ in damaged_recordings(store))
    assert [status.folder for status in store_statuses(data.parent / "cache")] == [store.folder]
    assert len(Rejects(store.folder)) == 0
    assert len(status_of(data).prepared) == 3
    assert plan_of(data).size_bytes == 0


def test_store_that_is_being_written_is_not_pruned(data):
    store = prepare(data).store
    shutil.rmtree(data / "ads")
    with store.writing("node1"), pytest.raises(StoreError, match="being written"):
        prune(plan_of(data), found(data), Folder(data), data.parent / "cache")
    assert len(open_feature_store(data.parent / "cache", SPEC)) == 4
