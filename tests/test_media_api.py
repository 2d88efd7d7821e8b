"""Media over HTTP: what the page sees and hears of recordings, and nothing worse than a refusal."""

import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from tests.media import read_time, write_video
from tests.pages import make_settings, open_page, wait_for
from tests.steady import wait_until
from utils.media import MediaError
from web import thumbnails
from web.thumbnails import _Memory

SECONDS = 30.0


def draw_shots(seconds: float, height: int, width: int) -> np.ndarray:
    """A picture that changes at 7 and at 23 seconds."""
    shot = int(seconds >= 7) + int(seconds >= 23)
    blocks = np.random.default_rng(shot).integers(40, 216, (6, 8, 3), dtype=np.uint8)
    return blocks.repeat(height // 6, axis=0).repeat(width // 8, axis=1)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    settings = make_settings(tmp_path_factory.mktemp("page"))
    folder = settings.data_dir / "recordings"
    folder.mkdir()
    how = {"size": (72, 128), "options": {"g": "25", "sc_threshold": "0"}}
    write_video(folder / "times.mp4", seconds=SECONDS, **how)
    write_video(folder / "shots.mp4", seconds=SECONDS, draw=draw_shots, tone_hz=None, **how)
    write_video(folder / "late.ts", seconds=4, start_seconds=5, **how)
    (folder / "broken.mkv").write_bytes(b"no video")
    with open_page(settings) as client:
        library = client.app.state.services.library
        # A test that takes the readers away must not meet a look in the background.
        wait_until(lambda: all(recording.look for recording in library.all()), what=library.all)
        yield client


@pytest.fixture(scope="module")
def ids(page) -> dict[str, str]:
    found = page.get("/api/recordings").json()["recordings"]
    return {Path(recording["name"]).stem: recording["id"] for recording in found}


@pytest.fixture
def get(page, ids):
    """Asks for a part of a recording."""
    return lambda name, what, **how: page.get(f"/api/recordings/{ids[name]}/{what}", **how)


def path_of(page, id: str) -> Path:
    return page.app.state.services.library.find(id).path


def picture_of(jpeg: bytes) -> np.ndarray:
    with av.open(io.BytesIO(jpeg)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def test_the_file_is_served_in_ranges(page, ids, get):
    data = path_of(page, ids["times"]).read_bytes()
    whole = get("times", "media")
    assert (whole.status_code, whole.content) == (200, data)
    assert whole.headers["content-type"] == "video/mp4"
    part = get("times", "media", headers={"Range": "bytes=-500"})
    assert (part.status_code, part.content) == (206, data[-500:])
    assert page.head(f"/api/recordings/{ids['times']}/media").headers["content-length"] == str(
        len(data)
    )
    assert get("late", "media").headers["content-type"] == "video/mp2t"


def test_thumbnails_are_of_their_time(get):
    for seconds in (12.3, 0.0, 29.9, 12.3):
        answer = get("times", f"thumbnail?seconds={seconds}")
        assert answer.headers["content-type"] == "image/jpeg"
        assert "max-age" in answer.headers["cache-control"]
        picture = picture_of(answer.content)
        assert picture.shape == (72, 128, 3)
        assert -0.01 <= seconds - read_time(picture) < 1.6
    assert picture_of(get("late", "thumbnail?height=36").content).shape == (36, 64, 3)
    assert get("times", "thumbnail?seconds=900000").status_code == 200


def test_a_thumbnail_is_made_once(page, get, monkeypatch):
    first = get("times", "thumbnail?seconds=17&height=48").content

    def refuse(*arguments):
        raise AssertionError("made again")

    services = page.app.state.services
    monkeypatch.setattr(services.library.readers, "submit", refuse)
    assert get("times", "thumbnail?seconds=17.2&height=48").content == first
    monkeypatch.setattr(thumbnails._Memory, "find", lambda self, name: None)
    assert get("times", "thumbnail?seconds=17.4&height=48").content == first  # from the disk


def test_many_thumbnails_at_once_are_all_made(get):
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(get, "times", f"thumbnail?seconds={k / 2}") for k in range(40)]
        shown = [read_time(picture_of(future.result().content)) for future in asked]
    assert shown == sorted(shown)
    assert len(set(shown)) == pytest.approx(20, abs=1)


def test_memory_keeps_what_was_used_last():
    memory = _Memory(100)
    for name in "abcd":
        memory.add(name, name.encode() * 30)
        memory.find("a")
    assert [memory.find(name) is not None for name in "abcd"] == [True, False, True, True]


def test_levels_come_from_a_job_and_then_at_once(page, get):
    asked = get("times", "levels")
    assert asked.status_code == 202
    assert wait_for(page, asked.json()["job"])["state"] == "done"
    found = get("times", "levels")
    assert found.status_code == 200
    said = found.json()
    assert said["hop_seconds"] == 0.25
    assert len(said["decibels"]) == pytest.approx(4 * SECONDS, abs=1)
    assert set(said["decibels"][1:-2]) == {-9}
    asked = get("shots", "levels")
    wait_for(page, asked.json()["job"])
    assert get("shots", "levels").json()["decibels"] == []


def test_cuts_are_found_to_the_frame_and_kept(page, get, monkeypatch):
    said = get("shots", "cuts?start=0&end=30").json()["cuts"]
    assert [(cut["seconds"], cut["kind"]) for cut in said] == [(7.0, "cut"), (23.0, "cut")]
    assert all(cut["strength"] > 1 for cut in said)
    monkeypatch.setattr(page.app.state.services.library.readers, "submit", None)
    assert get("shots", "cuts?start=6.9&end=20").json()["cuts"] == said[:1]
    assert get("shots", "cuts?start=7.1&end=22").json()["cuts"] == []


@pytest.mark.parametrize(
    "what",
    ["cuts?start=0&end=121", "cuts?start=5&end=5", "cuts?start=5&end=4", "cuts", "cuts?start=0"]
    + ["cuts?start=nan&end=5", "cuts?start=-1&end=5", "cuts?start=1e300&end=2e300"]
    + ["thumbnail?seconds=-1", "thumbnail?seconds=inf", "thumbnail?height=5000"]
    + ["thumbnail?height=0", "thumbnail?seconds=abc"],
)
def test_what_makes_no_sense_is_refused_in_a_line(get, what):
    answer = get("times", what)
    assert answer.status_code == 422
    assert set(answer.json()) == {"error", "kind"}


PARTS = ("media", "levels", "cuts?start=0&end=5", "thumbnail", "proxy")


@pytest.mark.parametrize("what", PARTS)
def test_a_broken_recording_is_refused_and_an_unknown_one_not_found(page, get, what):
    assert get("broken", what).status_code == (404 if what == "proxy" else 415)
    for id in ("0123456789abcdef", "..%2f..%2fetc%2fpasswd", "x" * 3000):
        assert page.get(f"/api/recordings/{id}/{what}").status_code == 404


def test_what_vanishes_breaks_or_changes_is_refused_and_not_a_fault(tmp_path):
    settings = make_settings(tmp_path)
    path = settings.data_dir / "a.mp4"
    with open_page(settings) as page:

        def ask() -> set[int]:
            return {page.get(f"/api/recordings/{id}/{what}").status_code for what in PARTS}

        write_video(path, seconds=1)
        page.app.state.services.library.refresh()
        [recording] = page.get("/api/recordings").json()["recordings"]
        id = recording["id"]
        assert ask() == {200, 202, 404}
        path.write_bytes(path.read_bytes()[:2000])  # cut off before its index
        assert ask() == {415, 404}
        path.write_bytes(b"")
        assert ask() == {415, 404}
        path.unlink()
        assert ask() == {404}
        path.mkdir()
        assert ask() == {404}
        path.rmdir()
        write_video(path, seconds=2)
        assert ask() == {200, 202, 404}


def test_a_recording_that_breaks_between_the_look_and_the_reading_is_refused(page, ids, get):
    library = page.app.state.services.library
    recording = library.looked(library.find(ids["late"]))
    kept = recording.path.read_bytes()
    for what in ("thumbnail?seconds=2", "cuts?start=0&end=3"):
        recording.path.write_bytes(b"no video")
        library._looks._known[recording.id] = (
            list(library.find(recording.id).stamp),
            recording.look,
        )
        assert get("late", what).status_code == 415
        recording.path.write_bytes(kept)
        assert get("late", what).status_code == 200


def test_a_thumbnail_that_nobody_waits_for_is_not_made(page, ids, tmp_path):
    import asyncio

    services = page.app.state.services
    made = thumbnails.Thumbnails(services, services.proxies)
    recording = services.library.looked(services.library.find(ids["times"]))
    held = tmp_path / "held"
    held.touch()
    busy = [services.library.readers.submit(time_away, held) for _ in range(3)]

    async def gone() -> bool:
        return False

    with pytest.raises(MediaError, match="nobody"):
        asyncio.run(made.jpeg(recording, 3.0, 60, gone))
    held.unlink()
    for future in busy:
        future.result()


def time_away(held: Path, report) -> None:
    while held.exists():
        time.sleep(0.02)


def test_levels_that_can_not_be_kept_fail_with_the_reason(tmp_path):
    settings = make_settings(tmp_path)
    write_video(settings.data_dir / "a.mp4", seconds=1)
    settings.review_dir.mkdir(parents=True)
    (settings.review_dir / "levels").touch()  # in the way of the folder
    with open_page(settings) as page:
        [recording] = page.get("/api/recordings").json()["recordings"]
        asked = page.get(f"/api/recordings/{recording['id']}/levels")
        job = wait_for(page, asked.json()["job"])
        assert (job["state"], "in the way" in job["error"]) == ("failed", True)
        assert json.dumps(job)
