"""search_clips.py finds places again, keeps its store in step with the recordings, and says so."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import search_clips
from search.clip_store import open_clip_store
from search.embedder import ClipEmbedder
from search.embeddings import model_version
from search.places import find_places
from search.vector_index import VectorIndex
from tests.media import write_video
from tests.mongo_server import MongoServer
from tests.test_clip_store import make_clip
from tests.trainings import ROOT, Outcome, run_script, write_clip
from training.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import STOPPED

SPOT_SECONDS = 6
SPOT_PITCHES = (2100.0, 900.0, 3000.0, 500.0, 1500.0, 2700.0)


def draw_spot(seconds: float, height: int, width: int) -> np.ndarray:
    """Another picture each second."""
    rng = np.random.default_rng(500 + int(seconds))
    blocks = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return blocks.repeat(height // 4, axis=0).repeat(width // 6, axis=1)


def draw_match(number: int) -> Callable[[float, int, int], np.ndarray]:
    """Waves that go by, others for each number."""
    waves = np.random.default_rng(number).uniform(1, 7, (3, 3))

    def draw(seconds: float, height: int, width: int) -> np.ndarray:
        y, x = np.mgrid[:height, :width] / max(height, width)
        bands = [np.sin(2 * np.pi * (f * x + g * y + h * seconds / 9)) for f, g, h in waves]
        return np.clip(128 + 90 * np.stack(bands, axis=-1), 0, 255).astype(np.uint8)

    return draw


def write_recording(path: Path, seconds: int, spots: Sequence[int], number: int) -> Path:
    """A game in which the spot runs from some seconds on."""
    game = draw_match(number)

    def draw(now: float, height: int, width: int) -> np.ndarray:
        spot = next((start for start in spots if start <= now < start + SPOT_SECONDS), None)
        if spot is None:
            return game(now, height, width)
        return draw_spot(now - spot, height, width)

    pitches = [300.0 + 40 * number] * seconds
    for start in spots:
        pitches[start : start + SPOT_SECONDS] = SPOT_PITCHES
    path.parent.mkdir(parents=True, exist_ok=True)
    how = {"fps": 8, "size": (64, 96), "tone_hz": pitches, "sample_rate": 16000}
    return write_video(path, seconds=seconds, draw=draw, **how)


@pytest.fixture(scope="module")
def checkpoint(trained_run) -> Path:
    return trained_run / "best.safetensors"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """Two recordings with the spot, three times in all, one without, and an ad."""
    folder = tmp_path_factory.mktemp("shelf") / "archive"
    write_recording(folder / "games" / "one.mp4", 24, (8,), 1)
    write_recording(folder / "games" / "two.mp4", 36, (4, 22), 2)
    write_recording(folder / "games" / "none.mp4", 15, (), 3)
    write_clip(folder / "ads" / "other.mp4", "ads", 5, 9.0)
    return folder


@pytest.fixture(scope="module")
def spot(tmp_path_factory) -> Path:
    """The spot alone, between black bars of another encoder's."""
    folder = tmp_path_factory.mktemp("spot")
    how = {"fps": 8, "size": (64, 96), "sample_rate": 16000, "options": {"crf": "30"}}
    return write_video(folder / "spot.mp4", seconds=6, draw=draw_spot, tone_hz=SPOT_PITCHES, **how)


Search = Callable[..., Outcome]


@pytest.fixture
def archive(tmp_path, shelf, monkeypatch) -> Path:
    for name in ("MONGODB_URL", "MONGODB_USERNAME", "MONGODB_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    return Path(shutil.copytree(shelf, tmp_path / "archive"))


@pytest.fixture(scope="module")
def ready_cache(tmp_path_factory, shelf, checkpoint) -> Path:
    """A cache in which the shelf's features are prepared."""
    cache = tmp_path_factory.mktemp("ready")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MONGODB_URL", raising=False)
        done = run_script(
            search_clips, "index", shelf, "--cache-dir", cache, "--checkpoint", checkpoint
        )
    assert done.code == 0, done.err
    return cache


@pytest.fixture
def cache(tmp_path, ready_cache) -> Path:
    """The features alone."""
    target = tmp_path / "cache"
    shutil.copytree(ready_cache / "features", target / "features")
    return target


@pytest.fixture
def search(cache, checkpoint) -> Search:
    """search_clips.py with a cache of its own."""

    def run(command: str, *arguments: object) -> Outcome:
        places = ("--cache-dir", cache, "--checkpoint", checkpoint)
        return run_script(search_clips, command, *arguments, *places)

    return run


@pytest.fixture
def indexed(archive, search) -> Path:
    done = search("index", archive)
    assert done.code == 0, done.err
    return archive


def answer(done: Outcome) -> dict:
    assert done.code == 0, done.err
    return json.loads(done.out)


def state_of(cache: Path) -> str:
    with open_clip_store(str(cache / "clips.sqlite")) as store:
        return store.state()


def overlap(place: dict, name: str, start: float, end: float) -> bool:
    return (
        Path(place["recording"]).name == Path(name).name
        and place["start_seconds"] < end
        and start < place["end_seconds"]
    )


def test_most_alike_places_are_where_the_spot_ran(indexed, search, spot):
    found = answer(search("query", spot, "--json", "-k", 3))["similar"]
    for name, start in (("one.mp4", 8), ("two.mp4", 4), ("two.mp4", 22)):
        assert any(overlap(place, name, start, start + 6) for place in found), found
    assert [place["score"] for place in found] == sorted(
        (place["score"] for place in found), reverse=True
    )


def test_same_spot_is_found_to_the_second_and_first(indexed, search, spot):
    found = answer(search("query", spot, "--same", "--json", "-k", 2))
    times = [
        (Path(p["recording"]).name, p["start_seconds"], p["end_seconds"]) for p in found["same"]
    ]
    for found_time, expected in zip(
        times, [("one.mp4", 8, 14), ("two.mp4", 4, 10), ("two.mp4", 22, 28)], strict=True
    ):
        assert found_time[0] == expected[0]
        assert found_time[1] == pytest.approx(expected[1], abs=1)
        assert found_time[2] == pytest.approx(expected[2], abs=1.5)
    for place in found["similar"]:
        assert not any(
            overlap(place, Path(p["recording"]).name, p["start_seconds"], p["end_seconds"])
            for p in found["same"]
        )


def test_stretch_of_a_recording_finds_the_others_and_not_itself(indexed, search):
    asked = ("--start", 22, "--end", 28, "--same", "--json")
    found = answer(search("query", indexed / "games" / "two.mp4", *asked))
    names = [(Path(p["recording"]).name, round(p["start_seconds"])) for p in found["same"]]
    assert names == [("one.mp4", 8), ("two.mp4", 4)]
    for place in found["similar"]:
        assert not overlap(place, "two.mp4", 22, 28)


def test_question_is_answered_without_torch_and_in_the_same_way(
    indexed, search, spot, cache, checkpoint
):
    asked = ("query", spot, "--json", "-k", 20, "--cache-dir", cache, "--checkpoint", checkpoint)
    program = f"""
import sys, search_clips
sys.argv = {["search_clips.py", *map(str, asked)]!r}
code = search_clips.main()
sys.exit(code or "torch" in sys.modules)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["similar"]
    shutil.rmtree(cache / "embedders")
    by_torch = answer(search("query", spot, "--json", "-k", 20))["similar"]
    for one, other in zip(found, by_torch, strict=True):
        assert one.pop("score") == pytest.approx(other.pop("score"), abs=1e-5)
        assert one == other
    assert (cache / "embedders").is_dir(), "the next question is answered sooner"


def test_answers_are_different_places(indexed, search):
    found = answer(search("query", indexed / "games" / "none.mp4", "--json", "-k", 20))["similar"]
    assert len(found) > 3
    for number, place in enumerate(found):
        for other in found[:number]:
            assert not overlap(
                place, other["recording"], other["start_seconds"], other["end_seconds"]
            )


def test_answers_can_be_of_one_class(indexed, search, spot):
    found = answer(search("query", spot, "--json", "--label", "ads"))["similar"]
    assert {place["label"] for place in found} == {"ads"}
    assert all("other.mp4" in place["recording"] for place in found)
    assert answer(search("query", spot, "--json", "--label", "news"))["similar"] == []


def test_table_names_recording_and_time(indexed, search, spot):
    done = search("query", spot, "--same", "-k", 1)
    lines = done.out.splitlines()
    assert lines[0] == "The same ran 3 times elsewhere."
    assert re.search(r"^1  0\.\d{3}  same (picture|sound)  games +0:0\d\.\d - 0:1\d\.\d ", lines[2])
    assert lines[2].endswith("archive/games/one.mp4")


def test_airings_say_how_often_and_when(indexed, search):
    (ran,) = (spot for spot in answer(search("airings", "--json")) if 4.5 < spot["seconds"] < 7.5)
    assert [Path(p["recording"]).name for p in ran["places"]] == ["one.mp4", "two.mp4", "two.mp4"]
    starts = [place["start_seconds"] for place in ran["places"]]
    assert starts == pytest.approx([8, 4, 22], abs=1)
    assert ran["label"] == "games"
    assert "ran 3 times in 2 recordings" in search("airings").out
    assert answer(search("airings", "--label", "ads", "--json")) == []


def test_page_needs_nothing_from_elsewhere_and_escapes_names(indexed, search, spot, tmp_path):
    shutil.copy(spot, indexed / "games" / "<b>&one.mp4")
    assert search("index", indexed).code == 0
    for words in (("query", spot, "--same"), ("airings",)):
        page = tmp_path / "pages" / "found.html"
        done = search(*words, "--html", page)
        assert done.code == 0, done.err
        html = page.read_text()
        assert html.count("data:image/jpeg;base64,") >= 4
        assert "&lt;b&gt;&amp;one.mp4" in html
        assert "<b>&one" not in html
        assert not re.search(r"(src|href)=\"(?!data:)|https?://|<script", html)


def test_unchanged_recordings_are_not_embedded_again(indexed, search, cache):
    state = state_of(cache)
    done = search("index", indexed)
    assert "0 embedded, 0 relabelled" in done.out
    assert "model" in done.err
    assert state_of(cache) == state


def test_store_follows_the_recordings(indexed, search, cache, spot):
    before = answer(search("list", "--json"))["models"]
    (indexed / "games" / "none.mp4").unlink()
    shutil.copy(spot, indexed / "games" / "one.mp4")  # other content under the same name
    changes = answer(search("index", indexed, "--json"))
    assert changes["deleted"] > 0
    assert changes["embedded"] > 0
    after = answer(search("list", "--json"))["models"]
    (version,) = before
    assert set(before[version]) - set(after[version]) == {str(indexed / "games" / "none.mp4")}
    assert after[version][str(indexed / "games" / "one.mp4")]["seconds"] == 6.0


def test_new_label_file_costs_no_embedding(archive, search, cache):
    folder = archive / "recordings"
    folder.mkdir()
    shutil.move(archive / "games" / "two.mp4", folder / "two.mp4")
    assert answer(search("index", archive, "--json"))["relabelled"] == 0
    rows = "0,4,games\n4,10,ads\n10,36,games\n"
    (folder / "two.csv").write_text(f"start_seconds,end_seconds,label\n{rows}")
    changes = answer(search("index", archive, "--json"))
    assert (changes["embedded"], changes["deleted"]) == (0, 0)
    with open_clip_store(str(cache / "clips.sqlite")) as clips:
        found = clips.find(recording=str(folder / "two.mp4"), vectors=False)
        labels = [clip.label for clip in found]
    assert set(labels) == {"ads", "games"}
    assert changes["relabelled"] == len(labels)
    (store,) = (cache / "features").iterdir()
    changes = answer(search("index", store, "--json"))
    assert (changes["embedded"], changes["relabelled"], changes["deleted"]) == (0, 0, 0)


def test_folder_of_no_classes_is_searched_too(archive, search, spot, tmp_path):
    plain = tmp_path / "plain"
    for path in sorted(archive.rglob("*.mp4")):
        (plain / "2024" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, plain / "2024" / path.parent.name)
    (plain / "empty").mkdir()
    done = search("index", plain)
    assert done.code == 0, done.err
    assert "labels are not used" in done.err
    found = answer(search("query", spot, "--json", "-k", 3))["similar"]
    assert {place["label"] for place in found} == {None}


def test_feature_store_is_indexed_without_the_recordings(archive, search, cache, spot):
    assert search("index", archive).code == 0
    (version,) = answer(search("list", "--json"))["models"]
    names = set(answer(search("list", "--json"))["models"][version])
    search("forget", version)
    shutil.rmtree(archive)
    (store,) = (cache / "features").iterdir()
    changes = answer(search("index", store, "--json"))
    assert changes["embedded"] > 0
    assert set(answer(search("list", "--json"))["models"][version]) == names
    found = answer(search("query", spot, "--json", "-k", 3, "--label", "games"))["similar"]
    assert any(overlap(place, "one.mp4", 8, 14) for place in found)


def test_unreadable_recordings_are_listed_and_the_others_searched(archive, search, spot):
    (archive / "games" / "broken.mp4").write_bytes(b"no video at all")
    done = search("index", archive)
    assert done.code == 1
    assert f"error: {archive}/games/broken.mp4: " in done.err
    assert answer(search("query", spot, "--json", "-k", 1))["similar"]


def test_copies_are_found_in_every_place(indexed, search, spot):
    shutil.copy(indexed / "games" / "one.mp4", indexed / "ads" / "copy.mp4")
    assert search("index", indexed).code == 0
    found = answer(search("query", spot, "--same", "--json"))["same"]
    names = sorted(Path(place["recording"]).name for place in found)
    assert names == ["copy.mp4", "one.mp4", "two.mp4", "two.mp4"]


def test_stopped_indexing_goes_on(archive, search, monkeypatch):
    embed, left = ClipEmbedder.embed, [2]

    def embed_two(*arguments, **more) -> np.ndarray:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return embed(*arguments, **more)

    monkeypatch.setattr(ClipEmbedder, "embed", embed_two)
    done = search("index", archive)
    assert (done.code, done.last) == (130, STOPPED)
    monkeypatch.setattr(ClipEmbedder, "embed", embed)
    changes = answer(search("index", archive, "--json"))
    assert changes["kept"] > 0
    assert changes["embedded"] > 0
    assert changes["clips"] == changes["kept"] + changes["embedded"]


@pytest.mark.slow
def test_killed_indexing_ends_as_if_nothing_had_been(archive, search, cache, checkpoint, tmp_path):
    search("index", archive)
    expected = state_of(cache)
    other = tmp_path / "killed"
    words = ["search_clips.py", "index", archive, "--cache-dir", other, "--checkpoint", checkpoint]
    command = [sys.executable, *map(str, words)]
    started = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    seconds = time.monotonic() - started
    rng = np.random.default_rng(0)
    for _ in range(3):
        shutil.rmtree(other)
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.3, 1.0) * seconds)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        assert state_of(other) == expected
        version = model_version(checkpoint)
        VectorIndex.load(other / "search" / version, model_version=version, state=expected)


def test_without_a_checkpoint_the_trunk_answers_and_that_is_said(
    archive, cache, trunk_file, spot, tmp_path, monkeypatch
):
    monkeypatch.setattr(search_clips, "default_checkpoint", lambda: tmp_path / "none.safetensors")
    places = ("--cache-dir", cache, "--weights", trunk_file)
    small = {"FRAME_SIZE": (32, 32), "TRUNK_SIZE": (32, 32), "FPS": 2}
    read = search_clips.read_constants
    monkeypatch.setattr(search_clips, "read_constants", lambda path: {**read(path), **small})
    done = run_script(search_clips, "index", archive, *places)
    assert done.code == 0, done.err
    assert "the trunk alone, the file trunk.safetensors" in done.err
    found = answer(run_script(search_clips, "query", spot, "--json", "-k", 3, *places))
    assert any(overlap(place, "one.mp4", 8, 14) for place in found["similar"])


def test_store_of_another_model_is_not_asked(indexed, cache, checkpoint, spot, tmp_path):
    other = tmp_path / "other.safetensors"
    loaded = load_checkpoint(checkpoint)
    save_checkpoint(other, loaded.model, {**loaded.recipe, "temperature": 2.5})
    done = run_script(search_clips, "query", spot, "--cache-dir", cache, "--checkpoint", other)
    assert done.code == 1
    assert "has no clip of model" in done.last
    assert model_version(checkpoint) in done.last


def test_clips_of_a_model_or_recording_can_be_forgotten(indexed, search, checkpoint, spot):
    assert search("forget", indexed / "games" / "one.mp4").code == 0
    found = answer(search("query", spot, "--json"))["similar"]
    assert not any(Path(place["recording"]).name == "one.mp4" for place in found)
    assert "clips were removed" in search("forget", model_version(checkpoint)).out
    done = search("forget", "nobody")
    assert (done.code, "has no clip of a model or recording nobody" in done.last) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("query", "none.mp4"), "none.mp4"),
        (("index", "nowhere"), "nowhere is not a folder"),
        (("query", "x.mp4", "--start", "5", "--end", "2"), "--end lies behind --start"),
        (("query", "x.mp4", "-k", "0"), "1 or more"),
    ],
)
def test_mistakes_are_said_in_one_line(indexed, search, arguments, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = search(*arguments)
    assert done.code in (1, 2)
    assert words in done.last
    assert "Traceback" not in done.err


def test_question_of_hours_is_refused(indexed, search, monkeypatch):
    monkeypatch.setattr("search.stretch.MAX_SECONDS", 10.0)
    done = search("query", indexed / "games" / "two.mp4")
    assert (done.code, "say with --start and --end" in done.last) == (1, True)
    assert search("query", indexed / "games" / "two.mp4", "--start", 20, "--end", 29).code == 0


def test_names_of_any_bytes_are_found(indexed, search, spot):
    name = os.fsdecode(b"caf\xe9.mp4")
    shutil.copy(spot, indexed / "ads" / name)
    assert search("index", indexed).code == 0
    found = answer(search("query", spot, "--same", "--json"))["same"]
    assert any(place["recording"].endswith("ads/caf\\xe9.mp4") for place in found)


def test_archive_can_lie_in_mongodb(archive, search, cache, spot, monkeypatch):
    server = MongoServer({"ann": "secret-word"})
    try:
        monkeypatch.setenv("MONGODB_URL", server.url)
        monkeypatch.setenv("MONGODB_USERNAME", "ann")
        monkeypatch.setenv("MONGODB_PASSWORD", "secret-word")
        assert search("index", archive).code == 0
        found = answer(search("query", spot, "--same", "--json", "-k", 2))
        assert len(found["same"]) == 3
        assert not (cache / "clips.sqlite").exists()
        server.stop()
        monkeypatch.setenv("MONGODB_URL", server.hasty_url)
        done = search("query", spot)
        assert done.code == 1
        assert "does not answer within 1.5 s" in done.last
        assert "secret-word" not in done.err
    finally:
        server.stop()


def test_mongodb_gone_in_the_middle_is_said_and_taken_up_again(archive, search, monkeypatch):
    server = MongoServer()
    try:
        monkeypatch.setenv("MONGODB_URL", server.url)
        left = [2]

        def fault(command: str) -> str | None:
            left[0] -= command == "update"
            return "lose" if left[0] < 0 and command == "update" else None

        monkeypatch.setattr("search.mongo_store.FIRST_WAIT_SECONDS", 0.01)
        server.fault = fault
        done = search("index", archive)
        assert done.code == 1
        assert "what was stored is kept" in done.last
        server.fault = lambda command: None
        changes = answer(search("index", archive, "--json"))
        assert changes["kept"] > 0
        assert changes["clips"] == changes["kept"] + changes["embedded"]
    finally:
        server.stop()


# Places


def places_of(vectors: np.ndarray, spans: list, clips: list, k: int, tmp_path: Path) -> list:
    index = VectorIndex("m1")
    index.add(clips)
    index.build()
    with open_clip_store(str(tmp_path / "clips.sqlite")) as store:
        store.put(clips)
        return find_places(index, store, vectors, spans, k)


def test_spot_cut_to_half_is_still_first(tmp_path):
    rng = np.random.default_rng(0)
    asked = rng.normal(size=(4, 64)).astype(np.float32)
    spans = [(5.0 * n, 5.0 * n + 10) for n in range(4)]
    likewise = asked.mean(axis=0)  # a little like all of it
    clips = [make_clip(n, vector=asked[n] + 0.1 * rng.normal(size=64)) for n in (0, 1)]
    clips += [make_clip(10 + n, vector=likewise) for n in range(4)]
    clips += [make_clip(n, vector=rng.normal(size=64)) for n in range(20, 60)]
    first, second, *_ = places_of(asked, spans, clips, 5, tmp_path)
    assert (first.recording, first.start_seconds, first.end_seconds) == ("data/ads/0.mp4", 0, 15)
    assert second.recording == "data/ads/1.mp4"


def test_long_scene_that_is_all_alike_is_no_single_place_of_an_hour(tmp_path):
    rng = np.random.default_rng(0)
    scene = rng.normal(size=64)
    clips = [make_clip(n, vector=scene + 0.2 * rng.normal(size=64)) for n in range(10)]
    asked = scene[None].astype(np.float32)
    places = places_of(asked, [(0.0, 10.0)], clips, 10, tmp_path)
    assert all(place.end_seconds - place.start_seconds <= 20 for place in places)
    ordered = sorted(places, key=lambda place: place.start_seconds)
    for one, other in zip(ordered, ordered[1:], strict=False):
        assert one.end_seconds <= other.start_seconds
