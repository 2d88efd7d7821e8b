"""Vector index: against exact neighbours, as a store changes, damaged, and killed while saving."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from search import trees
from search.clip_store import EmbeddedClip, open_clip_store
from search.trees import Trees
from search.vector_index import INFO, Hit, IndexMismatch, VectorIndex, open_index
from tests.test_clip_store import make_clip

MODEL = "m1"


def clips_of(vectors: np.ndarray, first: int = 0, **more) -> list[EmbeddedClip]:
    return [make_clip(first + n, vector=vector, **more) for n, vector in enumerate(vectors)]


def scenes(count: int, size: int = 32, seed: int = 0) -> np.ndarray:
    """(count, size) float32 in ten groups."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(10, size))
    points = centres[rng.integers(10, size=count)] + 0.5 * rng.normal(size=(count, size))
    return points.astype(np.float32)


def built(clips: list[EmbeddedClip], kind: str = "exact") -> VectorIndex:
    index = VectorIndex(MODEL)
    index.add(clips)
    index.build(kind)
    return index


def truth(clips: list[EmbeddedClip], query: np.ndarray, k: int) -> list[str]:
    """By the definition of a cosine."""

    def cosine(clip: EmbeddedClip) -> float:
        return float(clip.vector @ query / np.linalg.norm(clip.vector) / np.linalg.norm(query))

    return [clip.id for clip in sorted(clips, key=cosine, reverse=True)[:k]]


def ids(hits: list[Hit]) -> list[str]:
    return [hit.id for hit in hits]


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv("MONGODB_URL", raising=False)
    with open_clip_store(str(tmp_path / "clips.sqlite")) as store:
        yield store


@pytest.fixture
def small_trees(monkeypatch):
    """ANNOY, whose trees a few clips are enough for."""
    pytest.importorskip("annoy")
    monkeypatch.setattr(trees, "MIN_VECTORS", 100)
    monkeypatch.setattr(trees, "SAMPLE", 40)


def test_nearest_are_those_with_the_highest_cosine():
    clips = clips_of(scenes(200))
    index = built(clips[:150])
    index.add(clips[150:])  # not built yet
    questions = scenes(5, seed=1)
    for question, hits in zip(questions, index.query(questions, 7), strict=True):
        assert ids(hits) == truth(clips, question, 7)
        assert all(-1 <= hit.similarity <= 1.0001 for hit in hits)
    (hits,) = index.query(3 * clips[3].vector, 1)
    assert ids(hits) == [clips[3].id]
    assert hits[0].similarity == pytest.approx(1)


def test_fewer_than_asked_for_are_all():
    clips = clips_of(scenes(3))
    assert len(built(clips).query(clips[0].vector, 10)[0]) == 3
    assert VectorIndex(MODEL).query(clips[0].vector, 10) == [[]]


def test_clip_without_any_length_is_like_nothing():
    clips = clips_of(np.concatenate([np.zeros((1, 32), np.float32), scenes(3)]))
    (hits,) = built(clips).query(clips[1].vector, 4)
    assert dict(zip(ids(hits), (h.similarity for h in hits), strict=True))[clips[0].id] == 0


def test_new_clips_are_found_at_once_and_removed_ones_not():
    clips = clips_of(scenes(60))
    index = built(clips[:50])
    index.add(clips[50:])
    assert ids(index.query(clips[55].vector, 1)[0]) == [clips[55].id]
    index.remove([clips[55].id, clips[5].id])
    assert clips[55].id not in ids(index.query(clips[55].vector, 60)[0])
    assert ids(index.query(clips[5].vector, 60)[0]) == truth(
        [c for c in clips if c.id not in (clips[5].id, clips[55].id)], clips[5].vector, 60
    )
    index.build()
    assert len(index) == 58


def test_clip_that_is_put_again_counts_once():
    clips = clips_of(scenes(20))
    index = built(clips)
    index.add([replace(clips[0], vector=clips[1].vector)])
    assert len(index) == 20
    assert set(ids(index.query(clips[1].vector, 2)[0])) == {clips[0].id, clips[1].id}


def test_answers_can_be_limited_without_getting_fewer():
    clips = clips_of(scenes(100))
    index = built(clips[:80])
    index.add(clips[80:])
    some = clips[::9]
    (hits,) = index.query(clips[0].vector, 5, among={clip.id for clip in some})
    assert ids(hits) == truth(some, clips[0].vector, 5)
    assert index.query(clips[0].vector, 5, among=()) == [[]]


def test_another_models_clips_are_refused():
    with pytest.raises(ValueError, match="not of this model"):
        VectorIndex(MODEL).add([make_clip(0, model="m2")])


def test_saved_index_answers_as_before(tmp_path):
    clips = clips_of(scenes(80))
    index = built(clips)
    index.save(tmp_path / "index")
    again = VectorIndex.load(tmp_path / "index", model_version=MODEL, state=index.state)
    questions = scenes(4, seed=2)
    assert again.query(questions, 5) == index.query(questions, 5)
    assert (again.digests, again.kind) == (index.digests, "exact")


def test_index_of_another_model_state_or_version_is_refused(tmp_path):
    index = built(clips_of(scenes(20)))
    index.save(tmp_path)
    with pytest.raises(IndexMismatch, match="not of m2"):
        VectorIndex.load(tmp_path, model_version="m2")
    with pytest.raises(IndexMismatch, match="which is 0123 now"):
        VectorIndex.load(tmp_path, model_version=MODEL, state="0123")
    info = json.loads((tmp_path / INFO).read_text())
    (tmp_path / INFO).write_text(json.dumps({**info, "format": 99}))
    with pytest.raises(IndexMismatch, match="another version of the code"):
        VectorIndex.load(tmp_path, model_version=MODEL)
    with pytest.raises(IndexMismatch, match="no index that can be read"):
        VectorIndex.load(tmp_path / "none", model_version=MODEL)


@pytest.mark.parametrize("name", ["vectors.npy", "clips.txt", INFO])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_damage_is_found_and_the_index_built_anew(tmp_path, store, name, how):
    clips = clips_of(scenes(20))
    store.put(clips)
    open_index(store, tmp_path / "index", model_version=MODEL)
    (path,) = (tmp_path / "index").glob(f"*{name}")
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :])
    with pytest.raises(IndexMismatch):
        VectorIndex.load(tmp_path / "index", model_version=MODEL)
    again = open_index(store, tmp_path / "index", model_version=MODEL)
    assert ids(again.query(clips[3].vector, 5)[0]) == truth(clips, clips[3].vector, 5)
    VectorIndex.load(tmp_path / "index", model_version=MODEL, state=store.state())


def test_index_follows_its_store(tmp_path, store):
    clips = clips_of(scenes(120))
    store.put(clips[:100])
    folder = tmp_path / "index"
    open_index(store, folder, model_version=MODEL)
    saved = (folder / INFO).read_bytes()
    store.put(clips[100:105])
    store.delete(ids=[clips[7].id])
    index = open_index(store, folder, model_version=MODEL)
    assert index.state == store.state()
    assert ids(index.query(clips[102].vector, 1)[0]) == [clips[102].id]
    assert clips[7].id not in ids(index.query(clips[7].vector, 105)[0])
    assert (folder / INFO).read_bytes() == saved  # few: served without building it anew
    store.put(clips[105:])
    open_index(store, folder, model_version=MODEL)
    VectorIndex.load(folder, model_version=MODEL, state=store.state())  # many: built anew


def test_fresh_index_holds_all_that_the_store_does(tmp_path, store):
    clips = clips_of(scenes(101))
    store.put(clips[:100])
    store.put([make_clip(0, model="m2", size=32)])
    open_index(store, tmp_path / "index", model_version=MODEL)
    store.put(clips[100:])
    open_index(store, tmp_path / "index", model_version=MODEL, fresh=True)
    state = store.state(model_version=MODEL)
    assert len(VectorIndex.load(tmp_path / "index", model_version=MODEL, state=state)) == 101


def test_same_clips_give_the_same_files_in_whatever_order_they_came(tmp_path, small_trees):
    clips = clips_of(scenes(150))
    for name, order in (("a", clips), ("b", clips[::-1])):
        built(order, "annoy").save(tmp_path / name)
    files = [sorted((tmp_path / name).iterdir()) for name in "ab"]
    assert [p.name for p in files[0]] == [p.name for p in files[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))


def test_saving_leaves_only_what_belongs_to_it(tmp_path):
    built(clips_of(scenes(10))).save(tmp_path)
    (tmp_path / ".left.1234.partial").write_text("of a killed process")
    built(clips_of(scenes(12))).save(tmp_path)
    tag = json.loads((tmp_path / INFO).read_text())["tag"]
    names = {INFO, "lock", f"{tag}-clips.txt", f"{tag}-vectors.npy"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_killed_while_saving_leaves_an_old_or_a_new_index(tmp_path):
    clips = clips_of(scenes(4000, size=256))
    old = built(clips[:2000])
    old.save(tmp_path)
    states = {old.state, built(clips).state}
    for wait in (0.0, 0.01, 0.02, 0.04, 0.08):
        child = os.fork()
        if child == 0:
            while True:
                built(clips).save(tmp_path)
                old.save(tmp_path)
        time.sleep(0.3 + wait)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert VectorIndex.load(tmp_path, model_version=MODEL).state in states


# ANNOY


def test_annoy_reaches_the_recall_that_it_says(tmp_path, store, small_trees):
    clips = clips_of(scenes(2000))
    store.put(clips)
    index = open_index(store, tmp_path / "index", model_version=MODEL, kind="annoy")
    assert index.trees.recall >= trees.TARGET_RECALL
    questions = scenes(100, seed=5)
    exact = built(clips).query(questions, 10)
    found = index.query(questions, 10)
    hits = sum(len(set(ids(a)) & set(ids(b))) for a, b in zip(exact, found, strict=True))
    assert hits / 1000 >= trees.TARGET_RECALL - 0.01
    again = VectorIndex.load(tmp_path / "index", model_version=MODEL)
    assert (again.trees, again.query(questions, 10)) == (index.trees, found)


def test_trees_of_many_dimensions_grow_in_fewer(tmp_path, small_trees, monkeypatch):
    monkeypatch.setattr(trees, "PROJECTED", 16)
    rng = np.random.default_rng(0)
    vectors = scenes(500, size=8) @ rng.normal(size=(8, 64)).astype(np.float32)
    clips = clips_of(vectors)
    index = built(clips, "annoy")
    assert index.trees.projected == 16
    index.save(tmp_path)
    again = VectorIndex.load(tmp_path, model_version=MODEL)
    (hits,) = again.query(vectors[3], 5)
    assert ids(hits) == truth(clips, vectors[3], 5)


def test_annoy_finds_what_is_new_and_not_what_is_gone(tmp_path, store, small_trees):
    clips = clips_of(scenes(310))
    store.put(clips[:300])
    open_index(store, tmp_path / "index", model_version=MODEL, kind="annoy")
    store.put(clips[300:])
    gone = set(truth(clips[:300], clips[0].vector, 12))
    store.delete(ids=sorted(gone))
    index = open_index(store, tmp_path / "index", model_version=MODEL)
    assert index.kind == "annoy"
    (hits,) = index.query(clips[0].vector, 10)
    left = [clip for clip in clips if clip.id not in gone]
    assert ids(hits) == truth(left, clips[0].vector, 10)
    assert ids(index.query(clips[305].vector, 1)[0]) == [clips[305].id]


def test_recall_that_can_not_be_had_is_said_and_the_search_exact(small_trees, monkeypatch):
    monkeypatch.setattr(trees, "TREE_COUNTS", (1,))
    monkeypatch.setattr(trees, "NODES", (1,))
    clips = clips_of(np.random.default_rng(0).normal(size=(400, 32)).astype(np.float32))
    index = built(clips, "annoy")
    assert (index.kind, index.trees) == ("exact", None)
    assert "does not reach a recall of 0.99" in index.note
    assert ids(index.query(clips[0].vector, 5)[0]) == truth(clips, clips[0].vector, 5)


def test_without_annoy_the_search_is_exact_and_says_so(tmp_path, store, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "annoy", None)
    clips = clips_of(scenes(200))
    store.put(clips)
    monkeypatch.setattr("search.vector_index.TREES_FROM", 100)
    index = open_index(store, tmp_path / "index", model_version=MODEL)
    assert (index.kind, "ANNOY is not installed" in index.note) == ("exact", True)
    again = open_index(store, tmp_path / "index", model_version=MODEL)
    assert again.note == index.note


def test_saved_trees_are_of_no_use_without_annoy(tmp_path, store, small_trees, monkeypatch):
    store.put(clips_of(scenes(200)))
    open_index(store, tmp_path / "index", model_version=MODEL, kind="annoy")
    monkeypatch.setitem(__import__("sys").modules, "annoy", None)
    assert open_index(store, tmp_path / "index", model_version=MODEL).kind == "exact"


def test_equal_vectors_do_not_count_as_lost(small_trees):
    vectors = np.repeat(scenes(20), 20, axis=0)  # each spot ran twenty times
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert Trees.grow(unit, 0.99).settings.recall >= 0.99


def test_folder_that_is_in_the_way_says_so(tmp_path):
    (tmp_path / "index").write_text("a file")
    with pytest.raises(OSError, match="exists"):
        built(clips_of(scenes(3))).save(Path(tmp_path, "index"))
