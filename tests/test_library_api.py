"""The list says of every recording where it stands, at once, however many there are."""

import json
import shutil
import threading
from pathlib import Path

import pytest

from tests.media import write_video
from tests.pages import make_settings, open_page
from tests.steady import Stopwatch, wait_until
from tests.timelines import labelled, timeline
from utils.files import write_whole
from web import listing


@pytest.fixture
def page(tmp_path, trained_run):
    """A page with a model and four recordings: `ad` is a clip, `broken` can't be read."""
    settings = make_settings(tmp_path)
    shutil.copytree(trained_run, settings.runs_dir / "latest")
    for name in ("ads/ad.mp4", "recordings/one.mp4", "recordings/two.mp4"):
        path = settings.data_dir / name
        path.parent.mkdir(exist_ok=True)
        write_video(path, seconds=1.0, size=(64, 96))
    (settings.data_dir / "recordings" / "broken.ts").write_bytes(b"no video")
    with open_page(settings) as client:
        yield client


def services_of(page):
    return page.app.state.services


def list_of(page) -> dict[str, dict]:
    answer = page.get("/api/recordings")
    assert answer.status_code == 200
    return {Path(line["name"]).stem: line for line in answer.json()["recordings"]}


def add_timeline(page, name: str, *stretches: str) -> None:
    """Lets the model in use have said that."""
    services = services_of(page)
    recording = next(r for r in services.library.all() if Path(r.name).stem == name)
    ledger = services.model.known().ledger(services.settings.labelled_dir, quick=False)
    said = labelled(timeline(*stretches, recording=recording.path.name))
    ledger.add(recording.path, said)


def correct(page, id: str, *parts: tuple[float, float, str]) -> None:
    names = ("start_seconds", "end_seconds", "label")
    segments = [dict(zip(names, part, strict=True)) for part in parts]
    body = {"segments": segments, "revision": None}
    assert page.put(f"/api/recordings/{id}/corrections", json=body).status_code == 200


def list_once(page, is_so) -> dict[str, dict]:
    """The lines as soon as they are so: what takes time is found out after the first answer."""
    lines: dict[str, dict] = {}

    def are_so() -> bool:
        lines.update(list_of(page))
        return is_so(lines)

    wait_until(are_so, what=lambda: lines)
    return lines


def test_each_line_says_where_a_recording_stands(page):
    before = list_of(page)
    assert {name: line["state"] for name, line in before.items()} == {
        "ad": "training_clip",
        "one": "not_labelled",
        "two": "not_labelled",
        "broken": "not_labelled",
    }
    assert {name: line["editable"] for name, line in before.items()}["ad"] is False
    add_timeline(page, "one", "games 60", "ads? 20", "games 20")
    add_timeline(page, "two", "games 100")
    correct(page, before["two"]["id"], (0.0, 25.0, "games"), (25.0, 100.0, "ads"))
    lines = list_once(page, lambda found: found["one"]["ads_share"] is not None)
    one = lines["one"]
    assert one["state"] == "labelled"
    assert (one["duration_seconds"], one["ads_share"], one["breaks"], one["unsure"]) == (
        100.0,
        0.2,
        1,
        1,
    )
    # Of the segments' own doubts: 80 s at 0.97 and 20 s at 0.6.
    assert one["expected_wrong_seconds"] == pytest.approx(80 * 0.03 + 20 * 0.4, abs=0.01)
    two = lines["two"]
    assert (two["state"], two["label"], two["ads_share"]) == ("corrected", "ads", 0.75)
    assert (two["unsure"], two["expected_wrong_seconds"]) == (0, 0.0)


def test_lengths_and_errors_come_a_little_later(page):
    lines = list_once(page, lambda found: found["one"]["duration_seconds"])
    assert lines["one"]["duration_seconds"] == pytest.approx(1.0, abs=0.05)
    lines = list_once(page, lambda found: found["broken"]["error"])
    assert "not a video file" in lines["broken"]["error"]
    assert lines["broken"]["duration_seconds"] is None


def test_one_recording_is_told_in_full(page):
    add_timeline(page, "one", "games 60", "ads 20")
    said = page.get(f"/api/recordings/{list_of(page)['one']['id']}").json()
    assert (said["height"], said["width"], said["frame_rate"]) == (64, 96, 25.0)
    assert (said["has_sound"], said["zero_seconds"], said["damage"]) == (True, 0.0, [])
    assert [segment["label"] for segment in said["timeline"]["segments"]] == ["games", "ads"]
    assert said["classes"][:2] == ["ads", "games"]
    assert (said["corrections"], said["found_labels"]) == (None, None)
    assert said["media"] == {
        "kind": "direct",
        "url": f"/api/recordings/{said['id']}/media",
        "zero_seconds": 0.0,
    }
    broken = page.get(f"/api/recordings/{list_of(page)['broken']['id']}").json()
    assert "not a video file" in broken["error"]
    assert broken["height"] is None
    assert page.get("/api/recordings/0123456789abcdef").status_code == 404


def test_a_job_at_a_recording_is_in_its_line(page):
    id, jobs, go = list_of(page)["one"]["id"], services_of(page).jobs, threading.Event()
    jobs.kind("waiting", lambda handle, arguments: go.wait(60), lane="media")
    job = jobs.submit("waiting", {}, title="x", recording=id)
    assert list_of(page)["one"]["job"]["id"] == job.id
    go.set()


def test_a_timeline_is_read_once_even_over_a_restart(page, monkeypatch):
    add_timeline(page, "one", "games 60", "ads 20")
    first = list_once(page, lambda found: found["one"]["ads_share"])["one"]
    services = services_of(page)
    wait_until(lambda: services.listing._summaries._thread is None)

    def refuse(recording):
        raise AssertionError(f"{recording.name} is read again")

    monkeypatch.setattr(services.timelines, "find", refuse)
    assert list_of(page)["one"]["ads_share"] == first["ads_share"] == 0.25
    kept = listing.Listing(services)  # as after a restart
    [line] = kept.lines([services.library.find(first["id"])])
    assert line["ads_share"] == 0.25


def test_what_was_summed_up_last_is_kept_before_a_server_ends(page, monkeypatch):
    add_timeline(page, "one", "games 60", "ads 20")
    begun, go = threading.Event(), threading.Event()

    def write_slowly(path, content):
        begun.set()
        assert go.wait(60)
        write_whole(path, content)

    monkeypatch.setattr(listing, "write_whole", write_slowly)
    list_of(page)
    assert begun.wait(60)
    ending = threading.Thread(target=services_of(page).listing.close)
    ending.start()
    ending.join(0.3)
    waits = ending.is_alive()
    go.set()
    ending.join(60)
    assert waits
    kept = json.loads((services_of(page).settings.review_dir / "summaries.json").read_bytes())
    assert [summary["ads_share"] for _, summary in kept["summaries"].values()] == [0.25]


def test_a_timeline_of_what_a_recording_was_counts_no_more(page):
    add_timeline(page, "one", "games 60", "ads 20")
    assert list_of(page)["one"]["state"] == "labelled"
    services = services_of(page)
    write_video(services.settings.data_dir / "recordings" / "one.mp4", seconds=2)
    services.library.refresh()
    lines = list_once(page, lambda found: found["one"]["duration_seconds"])
    assert (lines["one"]["state"], lines["one"]["ads_share"]) == ("not_labelled", None)


def test_what_was_kept_may_be_damaged(page):
    add_timeline(page, "one", "games 60", "ads 20")
    services = services_of(page)
    for content in (b"", b"[]", b'{"version": 1, "summaries": {"a": 5}}'):
        (services.settings.review_dir / "summaries.json").write_bytes(content)
        fresh = listing.Listing(services)
        [line] = fresh.lines([services.library.find(list_of(page)["one"]["id"])])
        fresh.close()
        assert line["state"] == "labelled"


def test_a_timeline_that_can_not_be_summed_up_stops_no_other(page, monkeypatch):
    add_timeline(page, "one", "games 60", "ads 20")
    add_timeline(page, "two", "games 60", "ads 20")
    services = services_of(page)
    real = services.timelines.find

    def fail_once(recording):
        if recording.name.endswith("one.mp4"):
            raise ValueError("a bug")
        return real(recording)

    monkeypatch.setattr(services.timelines, "find", fail_once)
    lines = list_once(page, lambda found: found["two"]["breaks"] == 1)
    assert lines["one"]["breaks"] is None


def test_a_thousand_recordings_are_listed_at_once(tmp_path, trained_run):
    settings = make_settings(tmp_path)
    shutil.copytree(trained_run, settings.runs_dir / "latest")
    folder = settings.data_dir / "recordings"
    folder.mkdir()
    for number in range(1000):
        (folder / f"{number:04d}.ts").write_bytes(b"no video")
    with open_page(settings) as page:
        said = labelled(timeline("games 60", "ads 20"))
        ledger = services_of(page).model.known().ledger(settings.labelled_dir, quick=False)
        for number in range(0, 1000, 5):
            ledger.add(folder / f"{number:04d}.ts", said)
        with Stopwatch() as watch:
            first = list_of(page)
        assert watch.seconds < 5  # 0.2 seconds is what benchmarks/review_page.py holds
        assert len(first) == 1000
        assert sum(line["state"] == "labelled" for line in first.values()) == 200
        list_once(page, lambda found: sum(line["breaks"] == 1 for line in found.values()) == 200)
