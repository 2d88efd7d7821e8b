"""One label over many places is one correction of each recording, and what can't be is refused."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.media import write_video
from tests.pages import make_settings, open_page
from tests.timelines import labelled, timeline
from tests.trainings import write_clip
from web.library import Recording
from web.settings import Settings


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in ("one", "two", "three"):
        write_video(folder / f"{name}.mp4", seconds=20, fps=5, size=(32, 48))
    return folder


@pytest.fixture
def settings(tmp_path, videos) -> Settings:
    archive = tmp_path / "archive"
    archive.mkdir()
    for path in videos.iterdir():
        (archive / path.name).write_bytes(path.read_bytes())
    write_clip(tmp_path / "data" / "ads" / "clip.mp4", "ads", 1)
    return make_settings(tmp_path, tmp_path / "data", archive)


@pytest.fixture
def page(settings, monkeypatch):
    """Of which the model said that there are ads from 5 to 10 s, but nothing of `three`."""
    said = {
        name: labelled(timeline("games 5", "ads 5", "games 10", recording=f"{name}.mp4"))
        for name in ("one", "two")
    }
    with open_page(settings) as client:
        timelines = client.app.state.services.timelines
        monkeypatch.setattr(timelines, "find", lambda recording: said.get(recording.path.stem))
        yield client


def recordings_of(page: TestClient) -> dict[str, Recording]:
    return {r.path.stem: r for r in page.app.state.services.library.all()}


def put(page: TestClient, label: str, *places: tuple[str, float, float]) -> dict:
    rows = [
        {"recording": r, "start_seconds": start, "end_seconds": end} for r, start, end in places
    ]
    answer = page.post("/api/search/label", json={"label": label, "places": rows})
    assert answer.status_code == 200, answer.text
    return answer.json()


def parts(page: TestClient, recording: Recording) -> list[tuple]:
    correction = page.app.state.services.corrections.read(recording)
    return [(p.start_seconds, p.end_seconds, p.label) for p in correction.parts]


def test_all_places_of_a_recording_are_one_revision(page):
    one = recordings_of(page)["one"]
    found = put(page, "ads", (one.id, 13, 15), (one.id, 17, 19))
    assert found["refused"] == []
    assert parts(page, one) == [
        (0, 5, "games"),
        (5, 10, "ads"),
        (10, 13, "games"),
        (13, 15, "ads"),
        (15, 17, "games"),
        (17, 19, "ads"),
        (19, 20, "games"),
    ]
    revision = page.app.state.services.corrections.read(one).revision
    assert found["changed"] == [{"recording": one.id, "revision": revision, "seconds": 4.0}]


def test_it_starts_from_what_a_person_said(page):
    one = recordings_of(page)["one"]
    first = put(page, "ads", (one.id, 13, 15))["changed"][0]["revision"]
    second = put(page, "games", (one.id, 5, 10))["changed"][0]["revision"]
    assert first != second
    assert parts(page, one) == [(0, 13, "games"), (13, 15, "ads"), (15, 20, "games")]


def test_it_starts_from_labels_that_were_found(page, settings):
    three = recordings_of(page)["three"]
    three.path.with_suffix(".edl").write_text("2 4 0\n")
    put(page, "ads", (three.id, 10, 12))
    assert parts(page, three) == [
        (0, 2, "games"),
        (2, 4, "ads"),
        (4, 10, "games"),
        (10, 12, "ads"),
        (12, 20, "games"),
    ]


def test_edge_that_is_nearly_one_that_is_there_is_that_one(page):
    one = recordings_of(page)["one"]
    put(page, "games", (one.id, 5.4, 9.3))
    assert parts(page, one) == [(0, 20, "games")]


def test_place_that_goes_on_behind_the_end_ends_there(page):
    one = recordings_of(page)["one"]
    put(page, "ads", (one.id, 17, 23))
    assert parts(page, one)[-1] == (17, 20, "ads")


def test_what_is_so_already_is_no_new_revision(page):
    one = recordings_of(page)["one"]
    first = put(page, "ads", (one.id, 13, 15))["changed"][0]
    again = put(page, "ads", (one.id, 13, 15))["changed"][0]
    assert again == {**first, "seconds": 0.0}


def test_recordings_that_cannot_be_are_refused_and_the_others_done(page, settings):
    known = recordings_of(page)
    one, three, clip, two = (known[name].id for name in ("one", "three", "clip", "two"))
    known["two"].path.with_suffix(".json").write_text('{"mine": true}')
    found = put(
        page, "ads", (clip, 0, 2), (three, 1, 3), ("0" * 16, 1, 2), (two, 1, 3), (one, 13, 15)
    )
    assert [item["recording"] for item in found["changed"]] == [one]
    reasons = {item["recording"]: item["reason"] for item in found["refused"]}
    assert list(reasons) == [clip, three, "0" * 16, two]
    assert reasons[clip].startswith("it is a training clip")
    assert reasons[three].endswith("label it first")
    assert reasons["0" * 16].startswith("there is no such recording")
    assert "was not written here" in reasons[two]
    assert known["two"].path.with_suffix(".json").read_text() == '{"mine": true}'


@pytest.mark.parametrize("place", [(15, 13), (25, 30), (5, 5)])
def test_place_that_is_none_is_refused(page, place):
    one = recordings_of(page)["one"]
    (refused,) = put(page, "ads", (one.id, *place))["refused"]
    assert refused["reason"].endswith("is no part of its 20 s")
    assert page.app.state.services.corrections.read(one) is None


def test_label_that_no_class_has_is_refused(page):
    one = recordings_of(page)["one"]
    (refused,) = put(page, "adds", (one.id, 13, 15))["refused"]
    assert "choose from ads, games" in refused["reason"]
