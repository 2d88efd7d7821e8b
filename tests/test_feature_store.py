"""A recording is in the store whole or not at all, whatever ends the writing."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from utils import feature_store
from utils.errors import describe_os_error
from utils.feature_store import HEADER_BYTES, Column, FeatureStore, StoreError

COLUMNS = {"frames": Column("uint8", (2, 3)), "mfcc": Column("float16", (4,))}


def rows_of(key: str, column: str, count: int) -> np.ndarray:
    kind = COLUMNS[column]
    random = np.random.default_rng(list(f"{key} {column}".encode()))
    return random.integers(0, 256, (count, *kind.row_shape)).astype(kind.dtype)


def add(store: FeatureStore, key: str, frames: int = 5, mfcc: int | None = 7) -> None:
    """Adds a recording whose rows `check` knows."""
    arrays = {"frames": iter(np.array_split(rows_of(key, "frames", frames), 2))}
    if mfcc is not None:
        arrays["mfcc"] = iter([rows_of(key, "mfcc", mfcc)])
    store.add(key, arrays, {"frames": frames, "mfcc": mfcc})


def check(store: FeatureStore, *keys: str) -> None:
    """Asserts that these recordings, and no others, are in the store with their own rows."""
    assert len(store) == len(keys)
    for key in keys:
        assert key in store
        for column, count in store.info(key).items():
            assert store.num_rows(key, column) == (count or 0)
            found = store.get(key, column)
            if count is None:
                assert found is None
            else:
                assert found.dtype == COLUMNS[column].dtype
                np.testing.assert_array_equal(found, rows_of(key, column, count))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(folder) -> FeatureStore:
    return FeatureStore(folder, COLUMNS)


def test_arrays_come_back_as_they_were_added(folder, store):
    with store.writing():
        add(store, "a")
        add(store, "b", frames=1, mfcc=None)
        add(store, "c", frames=300)
        check(store, "a", "b", "c")
    check(store, "a", "b", "c")
    check(FeatureStore(folder, COLUMNS), "a", "b", "c")


def test_unknown_key_is_not_in_an_empty_store(store, folder):
    assert "a" not in store
    assert len(store) == 0
    assert not folder.exists()  # reading makes nothing


def test_arrays_are_read_only(store):
    with store.writing():
        add(store, "a")
    with pytest.raises(ValueError, match="read-only"):
        store.get("a", "frames")[0] = 0


def test_other_store_on_the_folder_sees_new_recordings_when_it_writes(folder, store):
    other = FeatureStore(folder, COLUMNS)
    with store.writing():
        add(store, "a")
    with other.writing():
        add(other, "b")
    check(other, "a", "b")


def test_array_that_was_read_stays_when_the_store_grows(store):
    with store.writing():
        add(store, "a")
        before = store.get("a", "frames")
        add(store, "b", frames=1000)
        np.testing.assert_array_equal(before, rows_of("a", "frames", 5))
        check(store, "a", "b")


def test_shards_are_plain_npy_files(folder, store):
    with store.writing():
        add(store, "a")
        add(store, "b", mfcc=None)
    frames = np.load(folder / "frames-00000.npy")
    np.testing.assert_array_equal(
        frames, np.concatenate([rows_of("a", "frames", 5), rows_of("b", "frames", 5)])
    )
    np.testing.assert_array_equal(np.load(folder / "mfcc-00000.npy"), rows_of("a", "mfcc", 7))
    assert len(np.load(folder / "frames-00000.npy", mmap_mode="r")) == 10


def test_full_shard_is_followed_by_the_next(folder, store, monkeypatch):
    monkeypatch.setattr(feature_store, "SHARD_BYTES", 50)  # 8 rows of frames, 6 of MFCC
    keys = [f"recording {k}" for k in range(6)]
    with store.writing():
        for key in keys:
            add(store, key)
    check(FeatureStore(folder, COLUMNS), *keys)
    # Two recordings of 5 rows fill a shard of frames; one of 7 rows fills one of MFCC.
    assert [len(np.load(path)) for path in sorted(folder.glob("frames-*"))] == [10, 10, 10]
    assert [len(np.load(path)) for path in sorted(folder.glob("mfcc-*"))] == [7] * 6


def test_writing_goes_on_in_the_last_shard(folder, store, monkeypatch):
    monkeypatch.setattr(feature_store, "SHARD_BYTES", 50)
    for key in ("a", "b", "c"):
        with FeatureStore(folder, COLUMNS).writing() as fresh:
            add(fresh, key)
    check(FeatureStore(folder, COLUMNS), "a", "b", "c")
    assert [len(np.load(path)) for path in sorted(folder.glob("frames-*"))] == [10, 5]


def test_rows_without_an_index_line_are_overwritten(folder, store, monkeypatch):
    """The process is killed when the rows are on the disk and the index line is not."""

    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    with store.writing():
        add(store, "a")
    with store.writing(), monkeypatch.context() as patch:
        patch.setattr(feature_store.json, "dumps", killed)
        with pytest.raises(Killed):
            add(store, "lost", frames=50, mfcc=50)
    assert len(np.load(folder / "frames-00000.npy")) == 55  # the rows are there, and count nothing
    fresh = FeatureStore(folder, COLUMNS)
    check(fresh, "a")
    with fresh.writing():
        add(fresh, "b", frames=2)
    check(FeatureStore(folder, COLUMNS), "a", "b")
    assert len(np.load(folder / "frames-00000.npy")) == 7
    size_bytes = (folder / "frames-00000.npy").stat().st_size
    assert size_bytes == HEADER_BYTES + 7 * COLUMNS["frames"].row_bytes


def test_error_halfway_through_the_rows_loses_that_recording_only(folder, store):
    def breaking():
        yield rows_of("lost", "frames", 3)
        raise ValueError("the source ended")

    with store.writing():
        add(store, "a")
        with pytest.raises(ValueError, match="the source ended"):
            store.add("lost", {"frames": breaking()}, {})
        add(store, "b")
    check(FeatureStore(folder, COLUMNS), "a", "b")
    assert len(np.load(folder / "frames-00000.npy")) == 10


@pytest.mark.parametrize("cut", [1, 10, "all but one"])
def test_half_an_index_line_is_dropped(folder, store, cut):
    with store.writing():
        add(store, "a")
        size_bytes = (folder / "index.jsonl").stat().st_size
        add(store, "lost")
    whole = (folder / "index.jsonl").stat().st_size
    os.truncate(folder / "index.jsonl", size_bytes + 1 if cut == "all but one" else whole - cut)
    fresh = FeatureStore(folder, COLUMNS)
    check(fresh, "a")
    with fresh.writing():
        add(fresh, "b")
    check(FeatureStore(folder, COLUMNS), "a", "b")
    lines = (folder / "index.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["a", "b"]


def test_second_writer_is_refused_and_the_first_goes_on(folder, store):
    other = FeatureStore(folder, COLUMNS)
    with store.writing():
        with pytest.raises(StoreError, match="being written by another run: wait for it"):
            other.writing().__enter__()
        add(store, "a")
    with other.writing():
        add(other, "b")
    check(other, "a", "b")


def test_lock_is_given_back_after_an_error(folder, store):
    with pytest.raises(ValueError, match="any"), store.writing():
        raise ValueError("any")
    with FeatureStore(folder, COLUMNS).writing() as other:
        add(other, "a")


def test_adding_needs_the_lock(store):
    with pytest.raises(RuntimeError, match="writing"):
        add(store, "a")
    with store.writing():
        pass
    with pytest.raises(RuntimeError, match="writing"):
        add(store, "a")


@pytest.mark.parametrize("line", [b"{'not': 'json'}\n", b"\x00\x00\xff\xfe\n", b"\xff\xff\xff\n"])
def test_damaged_index_is_refused_with_the_cure(folder, store, line):
    with store.writing():
        add(store, "a")
    with open(folder / "index.jsonl", "ab") as index:
        index.write(line)
    with pytest.raises(StoreError, match="is damaged: remove the folder"):
        FeatureStore(folder, COLUMNS)


def test_shard_cut_short_is_refused_with_the_cure(folder, store):
    with store.writing():
        add(store, "a")
        add(store, "b")
    os.truncate(folder / "frames-00000.npy", HEADER_BYTES + 7 * COLUMNS["frames"].row_bytes)
    fresh = FeatureStore(folder, COLUMNS)
    np.testing.assert_array_equal(fresh.get("a", "frames"), rows_of("a", "frames", 5))
    with pytest.raises(StoreError, match=r"frames-00000.npy is cut short: remove the folder"):
        fresh.get("b", "frames")


def test_full_disk_is_one_line_and_keeps_what_was_there(folder, store):
    with store.writing():
        add(store, "a", mfcc=None)
    (folder / "mfcc-00000.npy").symlink_to("/dev/full")
    with store.writing():
        with pytest.raises(OSError, match="space") as error:
            add(store, "lost", mfcc=100_000)
        assert describe_os_error(error.value).startswith("the disk is full")
        (folder / "mfcc-00000.npy").unlink()
        add(store, "b")
    check(FeatureStore(folder, COLUMNS), "a", "b")


@pytest.mark.parametrize("shape", [(1, 1, 3), (1024, 1024, 3), (20,), (1280,)])
def test_header_of_any_row_shape_fits(folder, shape):
    store = FeatureStore(folder, {"x": Column("float16", shape)})
    with store.writing():
        store.add("a", {"x": iter([np.ones((1, *shape), np.float16)])}, {})
    assert np.load(folder / "x-00000.npy", mmap_mode="r").shape == (1, *shape)
