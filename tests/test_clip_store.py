"""Clip store: one contract for both stores, over a real socket for MongoDB, and its failures."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from search.clip_store import (
    ClipStore,
    ClipStoreError,
    EmbeddedClip,
    clip_id,
    open_clip_store,
)
from tests.mongo_server import MongoServer
from tests.steady import Stopwatch, wait_until

PASSWORD = "p@ss:/word"


def make_clip(number: int, *, model: str = "m1", label: str | None = "ads", size: int = 8, **more):
    """Clip `number` of ten a recording."""
    recording, start = f"data/ads/{number // 10}.mp4", 5.0 * (number % 10)
    vector = np.random.default_rng(number).normal(size=size).astype(np.float32)
    span = (recording, f"key{number // 10}", start, start + 10.0)
    clip = EmbeddedClip(clip_id(*span, model), *span, label, "channel", model, vector)
    return replace(clip, **more)


def values_of(clip: EmbeddedClip) -> tuple:
    values = dict(vars(clip))
    return values.pop("vector").tobytes(), {k: v for k, v in values.items() if k != "digest"}


@pytest.fixture(scope="module")
def server() -> Iterator[MongoServer]:
    server = MongoServer({"ann": PASSWORD})
    yield server
    server.stop()


@pytest.fixture
def mongo(server, monkeypatch) -> Iterator[MongoServer]:
    """A server with nothing in it that MONGODB_URL names."""
    monkeypatch.setenv("MONGODB_URL", server.url)
    monkeypatch.setenv("MONGODB_USERNAME", "ann")
    monkeypatch.setenv("MONGODB_PASSWORD", PASSWORD)
    monkeypatch.setattr("search.mongo_store.FIRST_WAIT_SECONDS", 0.01)
    server.data.drop_database("video_search")
    server.commands.clear()
    yield server
    server.fault = lambda command: None


@pytest.fixture(params=["sqlite", "mongodb", "real mongodb"])
def store(request, tmp_path, monkeypatch) -> Iterator[ClipStore]:
    if request.param == "mongodb":
        request.getfixturevalue("mongo")
    elif request.param == "real mongodb":
        if not os.environ.get("MONGODB_TEST_URI"):
            pytest.skip("MONGODB_TEST_URI names no MongoDB server")
        monkeypatch.setenv("MONGODB_URL", os.environ["MONGODB_TEST_URI"])
        monkeypatch.setattr("search.mongo_store.COLLECTION", "clips_of_tests")
        for name in ("MONGODB_USERNAME", "MONGODB_PASSWORD"):
            monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.delenv("MONGODB_URL", raising=False)
    with open_clip_store(cache_dir=tmp_path / "cache") as store:
        store.delete(ids=list(store.digests()))
        yield store
        store.delete(ids=list(store.digests()))


def test_what_was_put_comes_back_to_the_bit(store):
    clips = [make_clip(0), make_clip(1, label=None), make_clip(2, group="ü/ß")]
    assert store.put(clips) == 3
    assert [values_of(store.get(clip.id)) for clip in clips] == [values_of(c) for c in clips]
    assert store.get(clips[0].id).vector.dtype == np.float32
    assert store.get("0" * 32) is None


def test_putting_again_replaces(store):
    store.put([make_clip(0)])
    store.put([make_clip(0, label="games")])
    assert [clip.label for clip in store.find()] == ["games"]


def test_filters_are_joined(store):
    store.put(make_clip(n, label="ads" if n % 2 else "games") for n in range(20))
    store.put(make_clip(n, model="m2") for n in range(5))
    assert store.count() == 25
    assert store.count(label="games") == 10
    assert store.count(model_version="m2") == 5
    assert store.count(recording="data/ads/1.mp4") == 10
    assert store.count(recording="data/ads/0.mp4", model_version="m1", label="ads") == 5
    found = list(store.find(recording="data/ads/0.mp4", model_version="m1", label="ads"))
    assert {clip.start_seconds for clip in found} == {5.0, 15.0, 25.0, 35.0, 45.0}
    assert store.recordings(model_version="m2") == {"data/ads/0.mp4": "key0"}
    assert store.recordings() == {"data/ads/0.mp4": "key0", "data/ads/1.mp4": "key1"}
    assert store.models() == {"m1": 20, "m2": 5}


def test_clips_come_sorted_by_id_in_any_number(store):
    clips = [make_clip(n) for n in range(700)]
    store.put(clips)
    ids = [clip.id for clip in store.find()]
    assert ids == sorted(clip.id for clip in clips)
    assert list(store.digests()) == ids
    assert set(store.get_many(ids)) == set(ids)


def test_vectors_are_left_out_where_they_are_not_wanted(store):
    store.put([make_clip(0)])
    (clip,) = store.find(vectors=False)
    assert (clip.vector.shape, clip.recording) == ((0,), "data/ads/0.mp4")


def test_deleting_takes_what_fits_and_nothing_else(store):
    clips = [make_clip(n) for n in range(20)]
    store.put(clips)
    store.put([make_clip(0, model="m2")])
    assert store.delete(recording="data/ads/0.mp4", model_version="m1") == 10
    assert store.delete(ids=[clips[10].id, clips[0].id, "none"]) == 1
    assert store.delete(ids=[]) == 0
    assert store.delete(ids=[clips[11].id], model_version="m2") == 0
    assert store.count() == 10
    with pytest.raises(ValueError, match="everything"):
        store.delete()


def test_state_says_what_is_there_and_not_how_it_came(store):
    empty = store.state()
    clips = [make_clip(n) for n in range(6)]
    store.put(clips[:4])
    some = store.state()
    store.put(clips[4:])
    full = store.state()
    store.delete(ids=[clip.id for clip in clips])
    assert store.state() == empty
    store.put(reversed(clips))
    assert store.state() == full
    assert len({empty, some, full}) == 3
    store.put([replace(clips[0], label="games")])
    relabelled = store.state()
    store.put([replace(clips[0], vector=clips[1].vector)])
    assert len({full, relabelled, store.state()}) == 3
    assert store.state(model_version="m2") == empty


def test_both_stores_have_the_same_state(mongo, tmp_path):
    clips = [make_clip(n, label=None if n % 3 else "ads") for n in range(12)]
    with (
        open_clip_store() as one,
        open_clip_store(str(tmp_path / "clips.sqlite")) as other,
    ):
        one.put(clips)
        other.put(clips)
        assert one.state() == other.state()


def test_a_clip_that_can_not_be_stored_leaves_the_others_alone(store):
    store.put([make_clip(0)])

    def broken() -> Iterator[EmbeddedClip]:
        yield make_clip(1)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        store.put(broken())
    assert store.count() == 1


def test_what_no_database_is_at_is_refused(tmp_path):
    with pytest.raises(ClipStoreError, match="can't be at ftp://"):
        open_clip_store("ftp://user:secret@host/x")


# SQLite


def test_another_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine (x)")
    with pytest.raises(ClipStoreError, match="of another program"):
        open_clip_store(str(path))
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]


@pytest.mark.parametrize("content", [b"no database at all" * 100, b""])
def test_damaged_file_says_what_to_do(tmp_path, content):
    path = tmp_path / "clips.sqlite"
    path.write_bytes(content)
    if content:
        with pytest.raises(ClipStoreError, match="remove it, and index the recordings again"):
            open_clip_store(str(path))
    else:
        with open_clip_store(str(path)) as store:
            assert store.count() == 0


def test_file_of_another_version_says_so(tmp_path):
    path = tmp_path / "clips.sqlite"
    open_clip_store(str(path)).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(ClipStoreError, match="found 99"):
        open_clip_store(str(path))


def test_two_that_open_a_new_file_at_once_both_get_it(tmp_path):
    path, found = tmp_path / "clips.sqlite", []

    def work(number: int) -> None:
        with open_clip_store(str(path)) as store:
            store.put([make_clip(number)])
            found.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open_clip_store(str(path)) as store:
        assert (sorted(found), store.count()) == (list(range(8)), 8)


def test_killed_writer_leaves_whole_puts_and_nothing_else(tmp_path):
    for wait in (0.02, 0.05, 0.1, 0.15, 0.2):
        path = tmp_path / f"{wait}.sqlite"
        open_clip_store(str(path)).close()
        child = os.fork()
        if child == 0:
            with open_clip_store(str(path)) as store:
                for start in range(0, 100_000, 10):
                    store.put(make_clip(n, size=1280) for n in range(start, start + 10))
            os._exit(0)
        wait_until(lambda path=path: count_clips(path))
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with open_clip_store(str(path)) as store:
            clips = list(store.find())
            assert len(clips) % 10 == 0  # a put is all or nothing
            digests = store.digests()
            assert all(clip.digest == digests[clip.id] for clip in clips)
        assert clips


def count_clips(path: Path) -> int:
    with open_clip_store(str(path)) as store:
        return len(store.digests())


# MongoDB


def test_password_is_needed_and_never_said(mongo, monkeypatch):
    monkeypatch.setenv("MONGODB_PASSWORD", "wrong-secret")
    with pytest.raises(ClipStoreError, match="check MONGODB_USERNAME") as caught:
        open_clip_store()
    assert "wrong-secret" not in str(caught.value)
    monkeypatch.delenv("MONGODB_USERNAME")
    with pytest.raises(ClipStoreError, match="set MONGODB_USERNAME"):
        open_clip_store()


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://ann:top:secret@host/",
        "mongodb://ann:topsecret@host:port/",
        "mongodb://ann:topsecret@host/a%2Fb.c",
    ],
)
def test_address_with_a_mistake_is_said_without_its_password(url, monkeypatch):
    monkeypatch.delenv("MONGODB_USERNAME", raising=False)
    with pytest.raises(ClipStoreError) as caught:
        open_clip_store(f"{url}?serverSelectionTimeoutMS=50")
    message = str(caught.value)
    assert "secret" not in message
    assert "\n" not in message


def test_server_that_is_not_there_is_said_in_time(mongo, monkeypatch):
    monkeypatch.setenv("MONGODB_URL", mongo.hasty_url)
    mongo.stop()
    try:
        with (
            Stopwatch() as watch,
            pytest.raises(ClipStoreError, match="does not answer within 1.5 s: start it"),
        ):
            open_clip_store()
    finally:
        mongo.start()
    assert watch.seconds < 10


def test_restart_in_the_middle_is_survived(mongo):
    with open_clip_store() as store:
        store.put(make_clip(n) for n in range(10))
        mongo.stop()
        mongo.start()
        assert store.put(make_clip(n) for n in range(10, 20)) == 10
        assert store.count() == 20


@pytest.mark.parametrize("fault", ["lose", "lose answer"])
@pytest.mark.parametrize("command", ["update", "find", "delete", "aggregate"])
def test_lost_connections_are_made_again(mongo, fault, command):
    with open_clip_store() as store:
        store.put(make_clip(n) for n in range(10))
        left = [fault, fault]
        mongo.fault = lambda asked: left.pop() if asked == command and left else None
        store.put([make_clip(3, label="games")])
        assert store.recordings() == {"data/ads/0.mp4": "key0"}
        assert store.count(label="games") == 1
        store.delete(label="games")
        assert store.count() == 9
        assert left == []


def test_connection_that_stays_lost_says_that_all_is_kept(mongo):
    with open_clip_store() as store:
        store.put([make_clip(0)])
        mongo.fault = lambda command: "lose" if command == "update" else None
        with pytest.raises(ClipStoreError, match="what was stored is kept"):
            store.put([make_clip(1)])
        mongo.fault = lambda command: None
        assert store.put([make_clip(1)]) == 1
        assert store.count() == 2


def test_killed_writer_leaves_whole_clips_on_the_server(mongo):
    def work() -> None:
        with open_clip_store() as store:
            store.put(make_clip(n, size=1280) for n in range(100_000))

    for wait in (0.3, 0.6):
        child = os.fork()
        if child == 0:
            try:
                work()
            finally:
                os._exit(0)
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with open_clip_store() as store:
        digests = store.digests()
        assert all(clip.digest == digests[clip.id] for clip in store.find())


def test_vectors_lie_there_as_float32_bytes_beside_indexes(mongo):
    clip = make_clip(0)
    with open_clip_store() as store:
        store.put([clip])
    document = mongo.data["video_search"]["clips"].find_one()
    assert document["vector"] == clip.vector.astype("<f4").tobytes()
    keys = [i["key"] for i in mongo.data["video_search"]["clips"].index_information().values()]
    assert [("model_version", 1), ("_id", 1), ("digest", 1)] in keys


def test_database_of_the_address_is_used(mongo):
    with open_clip_store(mongo.url.replace("/?", "/mine?authSource=admin&")) as store:
        store.put([make_clip(0)])
    assert mongo.data["mine"]["clips"].count_documents({}) == 1
    mongo.data.drop_database("mine")
