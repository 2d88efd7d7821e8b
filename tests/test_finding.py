"""A marked range finds its airings again, in the index that search_clips.py has."""

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import search_clips
from search.clip_store import open_clip_store
from tests.pages import make_settings, open_page, wait_for
from tests.steady import Stopwatch
from tests.test_search_clips import write_recording
from tests.trainings import run_script, write_clip
from web import finding
from web.library import Recording
from web.settings import Settings

SPOT = {"one": (8, 14), "two-a": (4, 10), "two-b": (22, 28)}


@pytest.fixture(scope="module")
def settings(tmp_path_factory, trained_run) -> Settings:
    """Two recordings with the spot, three times in all, one without, and a training clip."""
    folder = tmp_path_factory.mktemp("finding")
    archive = folder / "archive"
    write_recording(archive / "one.mp4", 24, (8,), 1)
    write_recording(archive / "more" / "two.mp4", 36, (4, 22), 2)
    write_recording(archive / "none.mp4", 15, (), 3)
    write_clip(folder / "data" / "ads" / "other.mp4", "ads", 5, 9.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MONGODB_URL", raising=False)
        checkpoint = trained_run / "best.safetensors"
        yield make_settings(folder, folder / "data", archive, checkpoint=checkpoint)


@pytest.fixture(scope="module")
def page(settings):
    with open_page(settings) as client:
        yield client


@pytest.fixture(scope="module")
def indexed(page) -> TestClient:
    """The page with all recordings indexed; not to be changed."""
    job = wait_for(page, page.post("/api/search/index").json(), 120)
    assert job["state"] == "done", job
    assert job["result"]["clips"] == job["result"]["embedded"] > 0
    return page


def recordings_of(page: TestClient) -> dict[str, Recording]:
    return {r.path.stem: r for r in page.app.state.services.library.all()}


def search(page: TestClient, name: str, start: float, end: float, **more: object) -> dict:
    asked = {"recording": recordings_of(page)[name].id, "start_seconds": start, "end_seconds": end}
    answer = page.post("/api/search", json={**asked, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_before_anything_is_indexed_it_says_so(settings, page):
    assert page.get("/api/search").json()["to_index"] == 4
    asked = {"recording": recordings_of(page)["one"].id, "start_seconds": 8, "end_seconds": 14}
    answer = page.post("/api/search", json=asked)
    assert (answer.status_code, answer.json()["kind"]) == (409, "no_index")


def test_index_keeps_what_the_first_question_needs(indexed, settings):
    assert len(list((settings.cache_dir / "search").glob("sounds-*/*.u64"))) == 4


def test_same_spot_is_found_everywhere_else_and_nothing_else_is_the_same(indexed):
    found = search(indexed, "one", *SPOT["one"], k=3)
    two = recordings_of(indexed)["two"]
    assert {place["recording"] for place in found["same"]} == {two.id}
    for place, wanted in zip(found["same"], (SPOT["two-a"], SPOT["two-b"]), strict=True):
        assert place["start_seconds"] == pytest.approx(wanted[0], abs=1)
        assert place["end_seconds"] == pytest.approx(wanted[1], abs=1.5)
        assert place["likeness"] > 0.9
        assert place["by"] in ("picture", "sound")
        assert place["name"] == two.name
    assert len(found["similar"]) == 3
    for place in found["similar"]:
        assert place["by"] == "similar"
        assert not any(
            place["recording"] == same["recording"]
            and place["start_seconds"] < same["end_seconds"]
            and same["start_seconds"] < place["end_seconds"]
            for same in found["same"]
        )


def test_answers_come_within_a_second_once_warm(indexed):
    search(indexed, "one", 8, 14)
    with Stopwatch() as watch:
        search(indexed, "two", 22, 28)
    assert watch.seconds < 1


def test_answer_needs_no_decoding_where_the_recording_is_as_it_was_indexed(indexed, monkeypatch):
    monkeypatch.setattr("search.stretch._read", None)
    assert len(search(indexed, "one", 8, 14)["same"]) == 2


def test_answer_is_the_same_as_the_scripts(indexed, settings):
    asked = recordings_of(indexed)["two"].path
    places = ("--cache-dir", settings.cache_dir, "--checkpoint", settings.checkpoint)
    done = run_script(
        search_clips, "query", asked, "--start", 22, "--end", 28, "--same", "--json", *places
    )
    assert done.code == 0, done.err
    expected = json.loads(done.out)
    found = search(indexed, "two", 22, 28, k=10)
    for kind in ("same", "similar"):
        assert [(p["start_seconds"], p["likeness"]) for p in found[kind]] == [
            (pytest.approx(p["start_seconds"], abs=1e-3), pytest.approx(p["score"], abs=2e-3))
            for p in expected[kind]
        ]


def test_label_of_a_place_is_what_the_page_shows_there(indexed):
    found = search(indexed, "one", 8, 14, k=50, same=False)
    clip = recordings_of(indexed)["other"]
    assert {p["label"] for p in found["similar"] if p["recording"] == clip.id} == {"ads"}
    assert found["same"] == []
    only = search(indexed, "one", 8, 14, k=50, label="ads")
    assert {place["recording"] for place in only["similar"]} == {clip.id}
    assert only["same"] == []  # nobody has said that the spot is one


@pytest.mark.parametrize(
    ("start", "end"), [(8, 8), (14, 8), (8, 8.2), (0, 601), (23.9, 24), (500, 510)]
)
def test_range_that_nothing_can_be_like_is_refused(indexed, start, end):
    asked = {"recording": recordings_of(indexed)["one"].id}
    answer = indexed.post("/api/search", json={**asked, "start_seconds": start, "end_seconds": end})
    assert answer.status_code == 422, answer.text
    assert "range" in answer.json()["error"]


def test_unknown_recording_is_not_found(indexed):
    asked = {"recording": "0" * 16, "start_seconds": 0, "end_seconds": 5}
    assert indexed.post("/api/search", json=asked).status_code == 404


def test_state_knows_new_changed_and_removed_recordings(indexed, settings):
    """Last of those that share the page: it changes what is indexed."""
    fresh = indexed.get("/api/search").json()
    assert (fresh["recordings"], fresh["stale"], fresh["to_index"]) == (4, False, 0)
    archive = settings.folders[1].path
    shutil.copy(archive / "one.mp4", archive / "copy.mp4")
    now = indexed.get("/api/search").json()
    assert (now["recordings"], now["stale"], now["to_index"]) == (4, True, 1)
    job = wait_for(indexed, indexed.post("/api/search/index").json(), 120)
    assert job["result"]["embedded"] < fresh["clips"] / 2  # what is there is not embedded again
    indexed.app.state.services.library.refresh()
    # The finder in memory is exchanged: the copy runs the spot, too.
    copy = recordings_of(indexed)["copy"]
    assert copy.id in {p["recording"] for p in search(indexed, "one", 8, 14)["same"]}
    (archive / "copy.mp4").unlink()
    assert indexed.get("/api/search").json()["stale"]
    wait_for(indexed, indexed.post("/api/search/index").json(), 120)
    assert not indexed.get("/api/search").json()["stale"]
    assert copy.id not in {p["recording"] for p in search(indexed, "one", 8, 14)["same"]}


def test_what_another_program_changes_in_the_store_is_noticed(indexed, settings, monkeypatch):
    assert len(search(indexed, "one", 8, 14)["same"]) == 2
    with open_clip_store(cache_dir=settings.cache_dir) as store:
        (name,) = (name for name in store.recordings() if name.endswith("two.mp4"))
        store.delete(recording=name)
    monkeypatch.setattr(finding, "LOOK_SECONDS", 0)
    assert search(indexed, "one", 8, 14)["same"] == []


def test_cancelled_index_goes_on_where_it_was(settings, tmp_path, page):
    more = make_settings(tmp_path, *(f.path for f in settings.folders[:-1]))
    assert more.checkpoint is None
    with open_page(_with(more, settings)) as client:
        services = client.app.state.services
        done = []

        def cancel_after_one(job) -> None:
            if job.kind == finding.KIND and "embedding" in job.note and not done:
                done.append(job.id)

        with services.jobs.listening(cancel_after_one):
            job = client.post("/api/search/index").json()
            while not done and client.get(f"/api/jobs/{job['id']}").json()["state"] != "done":
                time.sleep(0.01)
            client.delete(f"/api/jobs/{job['id']}")
            ended = wait_for(client, job, 120)
        assert ended["state"] in ("cancelled", "done")
        job = wait_for(client, client.post("/api/search/index").json(), 120)
        assert job["state"] == "done", job
        assert not client.get("/api/search").json()["stale"]


def _with(settings: Settings, other: Settings) -> Settings:
    return replace(settings, checkpoint=other.checkpoint)


def test_links_lead_to_the_recordings_that_they_are(indexed, settings, tmp_path):
    """As where search_clips.py was given a link to the folder."""
    link = tmp_path / "link"
    os.symlink(settings.folders[1].path, link)
    places = ("--cache-dir", settings.cache_dir, "--checkpoint", settings.checkpoint)
    assert run_script(search_clips, "index", link, *places).code == 0
    job = wait_for(indexed, indexed.post("/api/search/index").json(), 120)
    assert job["state"] == "done"
    places = search(indexed, "one", 8, 14)["same"]
    assert {place["recording"] for place in places} == {recordings_of(indexed)["two"].id}


def test_without_a_model_the_trunk_answers(settings, tmp_path, trunk_file, monkeypatch):
    small = {"FRAME_SIZE": (32, 32), "TRUNK_SIZE": (32, 32), "FPS": 2}
    read = finding.read_constants
    monkeypatch.setattr(finding, "read_constants", lambda path: {**read(path), **small})
    folders = [folder.path for folder in settings.folders[1:-1]]
    with open_page(make_settings(tmp_path, *folders, weights=str(trunk_file))) as client:
        assert client.get("/api/search").json()["model"] is None
        job = wait_for(client, client.post("/api/search/index").json(), 120)
        assert job["state"] == "done", job
        assert len(search(client, "one", 8, 14)["same"]) == 2
        assert not client.get("/api/search").json()["stale"]


def test_path_of_the_index_is_search_clips_own(indexed, settings):
    with open_clip_store(cache_dir=settings.cache_dir) as store:
        (model,) = store.models()
    assert Path(settings.cache_dir, "search", model, "index.json").exists()
