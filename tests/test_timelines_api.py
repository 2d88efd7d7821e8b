"""Recordings are labelled in the background as the script labels them, and downloaded as files."""

import json
import shutil
import socket
from pathlib import Path

import pytest

import label_recording
from tests.crashing import crash, never_end
from tests.pages import make_settings, open_page, wait_for
from tests.steady import Stopwatch, wait_until
from tests.test_uploads_api import Served, upload_head
from tests.trainings import run_script, write_clip
from timeline.formats import FORMATS, read_spans
from web import label_jobs


@pytest.fixture(scope="module")
def folder(tmp_path_factory, trained_run) -> Path:
    """A data folder with two recordings, one unreadable file and a clip; and a model in runs/."""
    folder = tmp_path_factory.mktemp("page")
    write_clip(folder / "data" / "recordings" / "ad.mp4", "ads", 8, 3.0)
    write_clip(folder / "data" / "recordings" / "Größe, 'so' #1.mp4", "games", 8, 7.5)
    (folder / "data" / "recordings" / "broken.mp4").write_bytes(b"no video" * 1000)
    write_clip(folder / "data" / "ads" / "clip.mp4", "ads", 7, 3.0)
    shutil.copytree(trained_run, folder / "runs" / "latest")
    return folder


@pytest.fixture(scope="module")
def page(folder):
    with open_page(make_settings(folder)) as client:
        yield client


@pytest.fixture(scope="module")
def ids(page) -> dict[str, str]:
    return {r.path.name: r.id for r in page.app.state.services.library.all()}


@pytest.fixture(scope="module")
def labelled(page, ids) -> dict:
    """The job that labelled the game."""
    job = page.post(f"/api/recordings/{ids[GAME]}/label").json()
    return wait_for(page, job)


GAME = "Größe, 'so' #1.mp4"


def test_recording_is_labelled_as_the_script_labels_it(page, ids, labelled, folder, tmp_path):
    assert (labelled["state"], labelled["error"]) == ("done", None)
    assert labelled["result"]["label"] == "games"
    recording = page.app.state.services.library.find(ids[GAME])
    found = page.app.state.services.timelines.find(recording)
    checkpoint = folder / "runs" / "latest" / "best.safetensors"
    how = ["--checkpoint", checkpoint, "--cache-dir", tmp_path / "cache", "--json"]
    done = run_script(label_recording, recording.path, *how)
    (said,) = json.loads(done.out)["recordings"]
    of_page = json.loads(page.get(f"/api/recordings/{ids[GAME]}/download?format=json").content)
    assert of_page["segments"] == said["segments"]
    assert of_page["model"] == said["model"]
    assert dict(zip(found.timeline.classes, found.overall, strict=True)) == pytest.approx(
        said["probabilities"], abs=1e-4
    )


def test_script_and_page_know_what_the_other_labelled(page, ids, labelled, folder):
    """The same command on the same cache decodes nothing: the file may be gone by then."""
    recording = page.app.state.services.library.find(ids[GAME])
    checkpoint = (folder / "runs" / "latest" / "best.safetensors").resolve()
    cache = folder / "cache"
    how = ["--checkpoint", checkpoint, "--cache-dir", cache, "--json"]
    entry = next((cache / "labelled").glob("*.json"))
    before = entry.stat().st_mtime_ns
    with Stopwatch() as watch:
        done = run_script(label_recording, recording.path, *how)
    assert done.code == 0, done.err
    assert entry.stat().st_mtime_ns == before
    assert watch.seconds < 5


def test_labelling_again_is_done_at_once_unless_it_is_asked_for(page, ids, labelled):
    path = f"/api/recordings/{ids[GAME]}/label"
    again = wait_for(page, page.post(path).json())
    assert again["id"] != labelled["id"]
    assert again["result"] == labelled["result"]
    anew = wait_for(page, page.post(path, json={"again": True}).json())
    assert anew["result"] == labelled["result"]


def test_quick_labelling_is_known_too(page, ids):
    job = page.post(f"/api/recordings/{ids['ad.mp4']}/label", json={"quick": True}).json()
    assert wait_for(page, job)["state"] == "done"
    assert page.get(f"/api/recordings/{ids['ad.mp4']}/curve").status_code == 200


def test_broken_recording_ends_its_job_with_a_line_and_nothing_else(page, ids):
    jobs = page.post("/api/label", json={"recordings": [ids["broken.mp4"], ids[GAME]]}).json()
    broken, fine = (wait_for(page, job) for job in jobs["jobs"])
    assert broken["state"] == "failed"
    assert broken["error"]
    assert "\n" not in broken["error"]
    assert fine["state"] == "done"


def test_recording_that_crashes_the_decoder_ends_its_job_and_not_the_page(page, ids, monkeypatch):
    monkeypatch.setattr(label_jobs, "label_file", crash)
    job = page.post(f"/api/recordings/{ids['ad.mp4']}/label", json={"again": True}).json()
    found = wait_for(page, job)
    assert found["state"] == "failed"
    assert "crashed" in found["error"]
    monkeypatch.undo()
    job = page.post(f"/api/recordings/{ids['ad.mp4']}/label", json={"again": True}).json()
    assert wait_for(page, job)["state"] == "done"


def test_labelling_is_cancelled_within_two_seconds(page, ids, monkeypatch):
    monkeypatch.setattr(label_jobs, "label_file", never_end)
    job = page.post(f"/api/recordings/{ids['ad.mp4']}/label", json={"again": True}).json()
    path = f"/api/jobs/{job['id']}"
    wait_until(lambda: (page.get(path).json()["progress"] or 0) > 0.001)
    with Stopwatch() as watch:
        page.delete(path)
        assert wait_for(page, job)["state"] == "cancelled"
    assert watch.seconds < 2


def test_all_that_is_not_labelled_is_what_is_editable(page, ids, labelled):
    jobs = page.post("/api/label", json={"recordings": "all_unlabelled"}).json()["jobs"]
    asked = {job["recording"] for job in jobs}
    assert ids["broken.mp4"] in asked
    assert not asked & {ids["clip.mp4"], ids[GAME]}
    for job in jobs:
        wait_for(page, job)


def test_file_is_classified_as_a_recording_is_and_nothing_of_it_is_kept(
    page, ids, labelled, folder
):
    recording = page.app.state.services.library.find(ids[GAME])
    before = answers_in(folder)
    found = page.post("/api/classify?name=x.mp4", content=recording.path.read_bytes())
    assert found.status_code == 200, found.text
    said = found.json()
    assert (said["label"], said["timeline"]["recording"]) == ("games", "x.mp4")
    assert sum(said["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    kept = page.get(f"/api/recordings/{ids[GAME]}/download?format=json").json()
    assert said["timeline"]["segments"] == kept["segments"]
    assert answers_in(folder) == before
    assert list((folder / "cache" / "uploads").iterdir()) == []


def answers_in(folder: Path) -> list[Path]:
    """All but the page's list of recordings, which it writes when it has time."""
    own = folder / "cache" / "review" / "recordings.json"
    return sorted(path for path in folder.rglob("*.json") if path != own)


def test_file_that_can_not_be_classified_says_why(page, folder, monkeypatch):
    found = page.post("/api/classify?name=x.mp4", content=b"no video" * 1000)
    assert (found.status_code, found.json()["kind"]) == (415, "no_video")
    monkeypatch.setattr(label_jobs, "label_file", crash)
    found = page.post("/api/classify?name=x.mp4", content=b"no video" * 1000)
    assert found.status_code == 415
    assert "crashed" in found.json()["error"]
    assert list((folder / "cache" / "uploads").iterdir()) == []


def test_nobody_reads_on_for_whoever_left(page, folder, monkeypatch):
    monkeypatch.setattr(label_jobs, "label_file", never_end)
    worker = page.app.state.services.guests
    with Served(page.app) as address:
        connection = socket.create_connection(address)
        head = upload_head(8).replace(b"/api/uploads", b"/api/classify")
        connection.sendall(head + b"no video")
        wait_until(lambda: worker._turn.locked())
        connection.close()
        wait_until(lambda: not worker._turn.locked())
    wait_until(lambda: list((folder / "cache" / "uploads").iterdir()) == [])


def test_curve_is_per_mille_in_steps(page, ids, labelled):
    curve = page.get(f"/api/recordings/{ids[GAME]}/curve").json()
    assert len(curve["values"]) == pytest.approx(7.5 / curve["hop_seconds"], abs=1)
    assert all(0 <= value <= 1000 for value in curve["values"])
    assert max(curve["values"]) < 500  # a game


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_downloaded_under_its_name(page, ids, labelled, name):
    found = page.get(f"/api/recordings/{ids[GAME]}/download", params={"format": name})
    assert found.status_code == 200
    disposition = found.headers["content-disposition"]
    assert disposition.startswith('attachment; filename="Gr__e_ _so_ _1')
    assert "filename*=UTF-8''Gr%C3%B6%C3%9Fe%2C%20%27so%27%20%231" in disposition
    assert disposition.isascii()
    if name in ("json", "csv"):
        suffix = FORMATS[name].suffix
        (span,) = read_spans(f"x{suffix}", found.content)
        assert (span.start_seconds, span.end_seconds, span.label) == (0, 7.5, "games")


def test_formats_are_listed_with_what_reads_them(page):
    listed = page.get("/api/formats").json()["formats"]
    assert [row["name"] for row in listed] == list(FORMATS)
    assert all(row["about"] and row["suffix"] for row in listed)


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/api/recordings/{game}/download?format=exe", 409, "refused"),
        ("/api/recordings/{game}/download?of=mine", 422, "bad_request"),
        ("/api/recordings/{broken}/curve", 404, "not_labelled"),
        ("/api/recordings/{broken}/download", 404, "not_labelled"),
        ("/api/recordings/0123456789abcdef/curve", 404, None),
    ],
)
def test_what_is_not_there_is_said(page, ids, labelled, path, status, kind):
    found = page.get(path.format(game=ids[GAME], broken=ids["broken.mp4"]))
    assert found.status_code == status
    assert kind in (None, found.json()["kind"])


def test_corrected_timeline_is_what_is_downloaded(page, ids, labelled):
    rows = [
        {"start_seconds": 0, "end_seconds": 4, "label": "ads"},
        {"start_seconds": 4, "end_seconds": 7.5, "label": "games"},
    ]
    path = f"/api/recordings/{ids[GAME]}"
    saved = page.put(f"{path}/corrections", json={"segments": rows, "revision": None})
    assert saved.status_code == 200, saved.text
    try:
        corrected = read_spans("x.json", page.get(f"{path}/download?format=json").content)
        assert [span.label for span in corrected] == ["ads", "games"]
        of_model = page.get(f"{path}/download?format=json&of=model").content
        assert [span.label for span in read_spans("x.json", of_model)] == ["games"]
    finally:
        revision = saved.json()["revision"]
        page.delete(f"{path}/corrections", params={"revision": revision}).raise_for_status()


def test_without_a_model_it_says_to_train_first(tmp_path):
    write_clip(tmp_path / "data" / "recordings" / "game.mp4", "games", 1, 1.0)
    with open_page(make_settings(tmp_path)) as page:
        (recording,) = page.app.state.services.library.all()
        found = page.post(f"/api/recordings/{recording.id}/label")
        assert (found.status_code, found.json()["kind"]) == (409, "no_model")
        assert "train" in found.json()["error"]
        assert page.get("/api/health").json()["model"] is None
        assert page.get("/api/jobs").json() == {"jobs": []}


def test_model_that_takes_over_labels_from_then_on(tmp_path, trained_run):
    write_clip(tmp_path / "data" / "recordings" / "game.mp4", "games", 1, 1.0)
    shutil.copytree(trained_run, tmp_path / "runs" / "latest")
    with open_page(make_settings(tmp_path)) as page:
        services = page.app.state.services
        (recording,) = services.library.all()
        wait_for(page, page.post(f"/api/recordings/{recording.id}/label").json())
        first = services.timelines.find(recording)
        assert services.timelines.find(recording) is first
        shutil.copytree(trained_run, tmp_path / "runs" / "models" / "0001-abc")
        (tmp_path / "runs" / "champion").symlink_to(Path("models", "0001-abc"))
        assert page.get("/api/health").json()["model"]["run"] == "0001-abc"
        assert services.timelines.find(recording) is None  # of the model before
        job = wait_for(page, page.post(f"/api/recordings/{recording.id}/label").json())
        assert job["state"] == "done"
        assert services.timelines.find(recording).timeline.model["run"] == "0001-abc"


def test_damaged_checkpoint_is_said_where_people_look(tmp_path):
    (tmp_path / "runs" / "latest").mkdir(parents=True)
    (tmp_path / "runs" / "latest" / "best.safetensors").write_bytes(b"nothing")
    with open_page(make_settings(tmp_path)) as page:
        health = page.get("/api/health").json()
        assert health["model"] is None
        assert any("damaged" in note for note in health["notes"])
        assert page.get("/api/recordings").status_code == 200
