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
    frames = np.load(folder / "frames-main-00000.npy")
    np.testing.assert_array_equal(
        frames, np.concatenate([rows_of("a", "frames", 5), rows_of("b", "frames", 5)])
    )
    np.testing.assert_array_equal(np.load(folder / "mfcc-main-00000.npy"), rows_of("a", "mfcc", 7))
    assert len(np.load(folder / "frames-main-00000.npy", mmap_mode="r")) == 10


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
    assert (
        len(np.load(folder / "frames-main-00000.npy")) == 55
    )  # the rows are there, and count nothing
    fresh = FeatureStore(folder, COLUMNS)
    check(fresh, "a")
    with fresh.writing():
        add(fresh, "b", frames=2)
    check(FeatureStore(folder, COLUMNS), "a", "b")
    assert len(np.load(folder / "frames-main-00000.npy")) == 7
    size_bytes = (folder / "frames-main-00000.npy").stat().st_size
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
    assert len(np.load(folder / "frames-main-00000.npy")) == 10


@pytest.mark.parametrize("cut", [1, 10, "all but one"])
def test_half_an_index_line_is_dropped(folder, store, cut):
    with store.writing():
        add(store, "a")
        size_bytes = (folder / "index-main.jsonl").stat().st_size
        add(store, "lost")
    whole = (folder / "index-main.jsonl").stat().st_size
    os.truncate(
        folder / "index-main.jsonl", size_bytes + 1 if cut == "all but one" else whole - cut
    )
    fresh = FeatureStore(folder, COLUMNS)
    check(fresh, "a")
    with fresh.writing():
        add(fresh, "b")
    check(FeatureStore(folder, COLUMNS), "a", "b")
    lines = (folder / "index-main.jsonl").read_text().splitlines()
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
    with open(folder / "index-main.jsonl", "ab") as index:
        index.write(line)
    with pytest.raises(StoreError, match="is damaged: remove the folder"):
        FeatureStore(folder, COLUMNS)


def test_shard_cut_short_is_refused_with_the_cure(folder, store):
    with store.writing():
        add(store, "a")
        add(store, "b")
    os.truncate(folder / "frames-main-00000.npy", HEADER_BYTES + 7 * COLUMNS["frames"].row_bytes)
    fresh = FeatureStore(folder, COLUMNS)
    np.testing.assert_array_equal(fresh.get("a", "frames"), rows_of("a", "frames", 5))
    with pytest.raises(
        StoreError,
        match="frames-main-00000.npy is cut short: run .* --verify",
    ):
        fresh.get("b", "frames")


def test_full_disk_is_one_line_and_keeps_what_was_there(folder, store):
    with store.writing():
        add(store, "a", mfcc=None)
    (folder / "mfcc-main-00000.npy").symlink_to("/dev/full")
    with store.writing():
        with pytest.raises(OSError, match="space") as error:
            add(store, "lost", mfcc=100_000)
        assert describe_os_error(error.value).startswith("the disk is full")
        (folder / "mfcc-main-00000.npy").unlink()
        add(store, "b")
    check(FeatureStore(folder, COLUMNS), "a", "b")


@pytest.mark.parametrize("shape", [(1, 1, 3), (1024, 1024, 3), (20,), (1280,)])
def test_header_of_any_row_shape_fits(folder, shape):
    store = FeatureStore(folder, {"x": Column("float16", shape)})
    with store.writing():
        store.add("a", {"x": iter([np.ones((1, *shape), np.float16)])}, {})
    assert np.load(folder / "x-main-00000.npy", mmap_mode="r").shape == (1, *shape)


def damage(path: Path, row: int, kind: Column) -> None:
    with open(path, "r+b") as file:
        file.seek(HEADER_BYTES + row * kind.row_bytes)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def wrong(store: FeatureStore) -> dict[str, str]:
    return {key: reason for key, reason in store.damaged(store) if reason}


def test_one_wrong_bit_names_its_recording_and_no_other(folder, store):
    with store.writing():
        for key in ("a", "b", "c"):
            add(store, key)
    assert wrong(store) == {}
    damage(folder / "mfcc-main-00000.npy", 7, COLUMNS["mfcc"])  # the first row of b
    assert wrong(store) == {"b": "mfcc-main-00000.npy holds other bytes than written"}


def test_recordings_that_lost_their_shard_are_named(folder, store):
    with store.writing():
        add(store, "a")
        add(store, "b", mfcc=None)
    os.truncate(folder / "frames-main-00000.npy", HEADER_BYTES + 7 * COLUMNS["frames"].row_bytes)
    (folder / "mfcc-main-00000.npy").unlink()
    assert wrong(store) == {
        "a": "mfcc-main-00000.npy can't be read: No such file or directory",
        "b": "frames-main-00000.npy is cut short",
    }


def test_forgotten_recordings_are_gone_and_can_be_added_again(folder, store):
    with store.writing():
        for key in ("a", "b", "c"):
            add(store, key)
    store.forget(["b", "unknown"])
    check(store, "a", "c")
    check(FeatureStore(folder, COLUMNS), "a", "c")
    with store.writing():
        add(store, "b")
    check(FeatureStore(folder, COLUMNS), "a", "b", "c")
    assert wrong(store) == {}


def test_last_recording_forgotten_and_added_again_gives_the_same_files(folder, store):
    with store.writing():
        for key in ("a", "b"):
            add(store, key)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    store.forget(["b"])
    with store.writing():
        add(store, "b")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_writers_fill_one_store_with_files_of_their_own(folder, store):
    others = [FeatureStore(folder, COLUMNS) for _ in range(2)]
    with others[0].writing("node1"), others[1].writing("node2"), store.writing():
        for key in "ad":
            add(others[0], key)
        for key in "be":
            add(others[1], key)
        add(store, "c")
    check(FeatureStore(folder, COLUMNS), *"abcde")
    store.refresh()
    check(store, *"abcde")
    assert list(store) == ["c", "a", "d", "b", "e"]  # by writer
    shards = sorted(path.name for path in folder.glob("frames-*"))
    assert shards == [f"frames-{writer}-00000.npy" for writer in ("main", "node1", "node2")]


def test_writer_is_refused_only_while_another_has_its_name(folder, store):
    other = FeatureStore(folder, COLUMNS)
    with store.writing("node1"):
        with pytest.raises(StoreError, match="being written by another run"):
            other.writing("node1").__enter__()
        with other.writing("node2"):
            add(other, "a")
        with pytest.raises(ValueError, match="is not a writer's name"):
            other.writing("node-3").__enter__()


def test_recording_of_two_writers_is_one_and_survives_compaction_once(folder, store):
    with store.writing("node1"):
        add(store, "a")
        add(store, "b")
    with store.writing("node2"):
        pass
    with FeatureStore(folder, COLUMNS).writing("node2") as other:
        other._entries.clear()  # it was not there yet when node2 looked
        add(other, "a")
        add(other, "c")
    fresh = FeatureStore(folder, COLUMNS)
    check(fresh, "a", "b", "c")
    assert fresh.unused_bytes() == 5 * COLUMNS["frames"].row_bytes + 7 * COLUMNS["mfcc"].row_bytes
    fresh.compact()
    assert fresh.unused_bytes() == 0
    check(FeatureStore(folder, COLUMNS), "a", "b", "c")
    fresh.forget(["a"])
    check(FeatureStore(folder, COLUMNS), "b", "c")


def test_compaction_gives_back_the_rows_of_forgotten_recordings(folder, store, monkeypatch):
    monkeypatch.setattr(feature_store, "SHARD_BYTES", 50)  # two recordings a shard of frames
    keys = [f"recording {k}" for k in range(7)]
    with store.writing():
        for key in keys:
            add(store, key)
    untouched = (folder / "frames-main-00002.npy").read_bytes()
    store.forget([keys[0], keys[2], keys[3]])
    before = sum(path.stat().st_size for path in folder.glob("*.npy"))
    unused = store.unused_bytes()
    assert unused >= 15 * COLUMNS["frames"].row_bytes
    store.compact()
    after = sum(path.stat().st_size for path in folder.glob("*.npy"))
    assert before - after == unused
    assert store.unused_bytes() == 0
    assert (folder / "frames-main-00002.npy").read_bytes() == untouched
    kept = [keys[k] for k in (1, 4, 5, 6)]
    fresh = FeatureStore(folder, COLUMNS)
    check(fresh, *kept)
    assert wrong(fresh) == {}
    with fresh.writing():
        add(fresh, "new")
    check(FeatureStore(folder, COLUMNS), *kept, "new")


@pytest.mark.parametrize("step", range(8))
def test_compaction_that_is_killed_loses_nothing(folder, store, monkeypatch, step):
    """At each of the moments at which a file of the store is about to be written or removed."""

    class Killed(BaseException):
        pass

    with store.writing():
        for key in ("a", "b", "c"):
            add(store, key)
    store.forget(["b"])
    left = [step]

    def counted(function):
        def call(*arguments, **options):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(feature_store, "write_whole", counted(feature_store.write_whole))
        patch.setattr(feature_store, "_finish_shard", counted(feature_store._finish_shard))
        patch.setattr(feature_store.Path, "unlink", counted(feature_store.Path.unlink))
        try:
            store.compact()
        except Killed:
            assert step < 7
        else:
            assert step == 7  # an index, and for two shards: rows, index and removal
    fresh = FeatureStore(folder, COLUMNS)
    check(fresh, "a", "c")
    assert wrong(fresh) == {}
    with fresh.writing():
        add(fresh, "b")
    fresh.compact()
    assert fresh.unused_bytes() == 0
    check(FeatureStore(folder, COLUMNS), "a", "b", "c")


def test_store_that_is_written_is_neither_compacted_nor_shortened(folder, store):
    with store.writing():
        add(store, "a")
    other = FeatureStore(folder, COLUMNS)
    with store.writing("node1"):
        add(store, "b")
        for change in (other.compact, lambda: other.forget(["a"])):
            with pytest.raises(StoreError, match="being written by another run"):
                change()
    check(FeatureStore(folder, COLUMNS), "a", "b")


def test_rows_of_another_shape_are_a_mistake(store):
    with store.writing(), pytest.raises(ValueError, match="frames has rows of"):
        store.add("a", {"frames": iter([np.zeros((2, 3, 2), np.uint8)])}, {})
