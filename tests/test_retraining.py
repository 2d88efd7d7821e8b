"""Retraining learns from corrections wherever they are, as a job that saves when it is stopped."""

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

import label_recording
from tests.media import write_video
from tests.pages import make_settings, open_page, wait_for
from tests.pipelines import RUN_VARIABLE
from tests.steady import Stopwatch, wait_until
from tests.trainings import KINDS, SMALL, link_clips, run_script
from utils.config import config_of_run
from utils.file_list import FileList
from utils.files import stamp_file
from utils.preparation import content_hashes
from utils.recordings import find_recordings
from utils.sources import Folder
from web import retraining
from web.library import Recording
from web.material import LIST, gather
from web.settings import Settings

PART_SECONDS = 6.0
WHOLE_SECONDS = 2 * PART_SECONDS


def write_match(path: Path, kinds: Sequence[str], number: int) -> Path:
    """A recording that shows each of these kinds for PART_SECONDS."""

    def draw(seconds: float, height: int, width: int) -> np.ndarray:
        kind = kinds[min(int(seconds / PART_SECONDS), len(kinds) - 1)]
        return KINDS[kind][0](number / 7)(seconds, height, width)

    seconds = PART_SECONDS * len(kinds)
    pitches = [KINDS[kind][1] * (1 + number / 50) for kind in kinds for _ in range(6)]
    path.parent.mkdir(parents=True, exist_ok=True)
    how = {"fps": 8, "size": (64, 96), "tone_hz": pitches, "sample_rate": 16000}
    return write_video(path, seconds=seconds, draw=draw, **how)


@pytest.fixture(scope="module")
def archive_source(tmp_path_factory) -> Path:
    """Three recordings of other days that begin as a game and go on with something new."""
    folder = tmp_path_factory.mktemp("archive_source")
    for number in (11, 12, 13):
        write_match(folder / f"day{number}.mp4", ("games", "news"), number)
    return folder


@pytest.fixture
def archive(tmp_path, archive_source) -> Path:
    return Path(shutil.copytree(archive_source, tmp_path / "archive"))


@pytest.fixture
def settings(tmp_path, archive, monkeypatch) -> Settings:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "data").mkdir()
    return make_settings(tmp_path, tmp_path / "data", archive)


def use_run(settings: Settings, run: Path) -> None:
    shutil.copytree(run, settings.runs_dir / run.name)
    (settings.runs_dir / "latest").symlink_to(run.name)


def recordings_of(page: TestClient) -> dict[str, Recording]:
    return {r.path.stem: r for r in page.app.state.services.library.all()}


def label(page: TestClient, settings: Settings, recording: Recording) -> None:
    """As the model in use says."""
    checkpoint = page.app.state.services.model.known().path
    places = ("--checkpoint", checkpoint, "--cache-dir", settings.cache_dir)
    done = run_script(label_recording, recording.path, *places)
    assert done.code == 0, done.err


def said(page: TestClient, recording: Recording, seconds: float) -> str:
    """What the model in use says of a moment."""
    segments = page.app.state.services.timelines.find(recording).timeline.segments
    return next(s.label for s in segments if s.start_seconds <= seconds < s.end_seconds)


def outdated(page: TestClient) -> list[str]:
    """The ids of recordings that are shown as labelled by an older model, when all is read."""

    def read() -> list[dict] | None:
        listed = page.get("/api/recordings").json()["recordings"]
        return listed if all(r["state"] != "labelled" or r["label"] for r in listed) else None

    return [r["id"] for r in wait_until(read) if r["outdated"]]


def correct(page: TestClient, recording: Recording, *labels: str, revision=None) -> None:
    rows = [
        {"start_seconds": n * PART_SECONDS, "end_seconds": (n + 1) * PART_SECONDS, "label": name}
        for n, name in enumerate(labels)
    ]
    page.app.state.services.corrections.write(recording, rows, revision=revision)


def retrain(page: TestClient, seconds: float = 240, **constants: object) -> dict:
    answer = page.post("/api/retrain", json={"constants": constants})
    assert answer.status_code == 202, answer.text
    return wait_for(page, answer.json(), seconds)


def test_retraining_from_corrections_changes_the_next_timeline(settings, clips_folder, trained_run):
    link_clips(clips_folder, settings.data_dir)
    use_run(settings, trained_run)
    with open_page(settings) as page:
        recordings = recordings_of(page)
        label(page, settings, recordings["day13"])
        before = said(page, recordings["day13"], 9)
        wanted = {"ads": "games", "games": "ads"}[before]
        for day in ("day11", "day12"):
            correct(page, recordings[day], "games", wanted)

        found = page.get("/api/retrain").json()
        assert found["can"], found
        assert set(found["corrected_recordings"]) == {recordings[d].id for d in ("day11", "day12")}
        assert found["data"]["classes"]["games"] == {"recordings": 7, "groups": 7}
        job = retrain(page)
        assert job["state"] == "done", job
        result = job["result"]
        assert result["in_use"]
        assert result["metrics"]["clips"] > 0
        assert page.get("/api/retrain").json()["last"]["id"] == job["id"]

        run = settings.runs_dir / result["run"]
        # The recipe is that of the model that was in use; only the data are others.
        old, new = config_of_run(trained_run), config_of_run(run)
        assert (new.fps, new.frame_size, new.weights) == (old.fps, old.frame_size, old.weights)
        assert Path(new.data_dir).name == LIST

        # What the older model labelled is known as such, and labelled again.
        assert page.app.state.services.timelines.find(recordings["day13"]) is None
        assert outdated(page) == [recordings["day13"].id]
        (job,) = page.post("/api/label", json={"recordings": "all_outdated"}).json()["jobs"]
        assert wait_for(page, job, 120)["state"] == "done"
        assert outdated(page) == []
        assert said(page, recordings["day13"], 9) == wanted
        assert said(page, recordings["day13"], 3) == "games"


@pytest.mark.slow
def test_first_model_is_learned_from_nothing_but_two_corrected_recordings(settings, trunk_file):
    settings = replace(settings, weights=str(trunk_file))
    with open_page(settings) as page:
        days = recordings_of(page)
        for day in ("day11", "day12"):
            correct(page, days[day], "games", "ads")
        constants = {name.upper(): value for name, value in SMALL.items()}
        constants |= {"EPOCHS": 8, "HEAD_LEARNING_RATE": 0.01, "FINE_TUNE_BLOCKS": "0"}
        job = retrain(page, **constants)
        assert job["state"] == "done", job
        assert job["result"]["in_use"]
        job = page.post(f"/api/recordings/{days['day13'].id}/label").json()
        assert wait_for(page, job, 120)["state"] == "done"
        # So few clips teach little; but all of the way is gone, on both of them.
        model = page.app.state.services.timelines.find(days["day13"]).timeline.model
        assert model["run"] == (settings.runs_dir / "latest").resolve().name
        data = json.loads((settings.runs_dir / "latest" / "data.json").read_text())
        for side in ("train", "validation"):
            assert {label: d["groups"] for label, d in data[side].items()} == {"ads": 1, "games": 1}


def material(page: TestClient):
    services = page.app.state.services
    return gather(services.settings, services.corrections)


def names_learned(settings: Settings, found) -> list[str]:
    """Of the recordings that a training would find on the list."""
    path = settings.review_dir / "list.txt"
    found.write_list(path, settings)
    return [recording.name for recording in find_recordings(FileList(path))]


@pytest.fixture
def page(settings):
    with open_page(settings) as client:
        yield client


def test_with_nothing_to_learn_from_it_says_what_is_missing(page):
    found = page.get("/api/retrain").json()
    assert not found["can"]
    assert found["why"].startswith("there is nothing to learn from: put videos into data/ads")
    job = retrain(page)
    assert (job["state"], job["error"]) == ("failed", found["why"])


def test_one_corrected_recording_is_not_enough_and_two_are(page, settings):
    days = recordings_of(page)
    correct(page, days["day11"], "games", "ads")
    found = material(page)
    assert found.why == (
        "ads is in one source only, and what is learned from one must be judged on another: "
        "correct one more recording with ads, or put videos of it into data/ads"
    )
    correct(page, days["day12"], "games", "ads")
    found = material(page)
    assert found.why is None
    assert found.data_dir is None
    assert names_learned(settings, found) == sorted(
        f"recordings/{days[day].id}/{day}.mp4" for day in ("day11", "day12")
    )


def test_made_demo_set_steps_in_where_corrections_do_not_suffice(page, settings, clips_folder):
    from utils.demo_data import MARKER

    link_clips(clips_folder, settings.cache_dir / "demo")
    (settings.cache_dir / "demo" / MARKER).write_text("{}")
    assert material(page).has_demo
    days = recordings_of(page)
    correct(page, days["day11"], "games", "ads")
    found = material(page)
    assert (found.why, found.has_demo, found.data_dir) == (None, True, None)
    assert len(names_learned(settings, found)) == 11
    correct(page, days["day12"], "games", "ads")
    assert not material(page).has_demo


def test_data_folder_is_taken_as_it_is_where_nothing_else_was_corrected(
    page, settings, clips_folder, archive_source, monkeypatch
):
    link_clips(clips_folder, settings.data_dir)
    inside = settings.data_dir / "recordings" / "channel" / "day14.mp4"
    inside.parent.mkdir(parents=True)
    shutil.copy(archive_source / "day11.mp4", inside)
    page.app.state.services.library.refresh()
    correct(page, recordings_of(page)["day14"], "games", "ads")
    monkeypatch.chdir(settings.data_dir.parent)
    found = material(page)
    assert (found.why, found.data_dir) == (None, "data")
    assert found.classes["ads"] == {"recordings": 6, "groups": 6}


def test_corrections_that_are_kept_in_the_cache_train_instead_of_what_lies_beside(
    page, settings, clips_folder, archive_source, monkeypatch
):
    link_clips(clips_folder, settings.data_dir)
    inside = settings.data_dir / "recordings" / "day14.mp4"
    inside.parent.mkdir(parents=True)
    shutil.copy(archive_source / "day11.mp4", inside)
    inside.with_suffix(".edl").write_text("0 3 0\n")
    page.app.state.services.library.refresh()
    day = recordings_of(page)["day14"]
    # As in a folder that can't be written, which a test that runs as root can't make.
    monkeypatch.setattr("web.corrections.os.access", lambda *_: False)
    correct(page, day, "games", "ads")
    assert page.app.state.services.corrections.read(day).place == "cache"
    found = material(page)
    path = settings.review_dir / "list.txt"
    found.write_list(path, settings)
    (learned,) = (r for r in find_recordings(FileList(path)) if r.name == "recordings/day14.mp4")
    assert [(s.start_seconds, s.label) for s in learned.spans] == [(0, "games"), (6, "ads")]


def test_digest_changes_with_what_is_learned_and_with_nothing_else(page, settings):
    days = recordings_of(page)
    correct(page, days["day11"], "games", "ads")
    first = material(page).digest
    (settings.data_dir / "notes.txt").write_text("of no matter")
    assert material(page).digest == first
    revision = page.app.state.services.corrections.read(days["day11"]).revision
    correct(page, days["day11"], "ads", "games", revision=revision)
    assert material(page).digest != first


def test_what_is_known_of_a_file_where_it_lies_is_known_on_the_list(page, settings):
    days = recordings_of(page)
    for day in ("day11", "day12"):
        correct(page, days[day], "games", "ads")
    folder = Folder(days["day11"].path.parent)
    hashes = content_hashes(settings.cache_dir, folder)
    hashes.learn("day11.mp4", stamp_file(days["day11"].path), "a" * 32)
    hashes.learn("day12.mp4", [1, 2, 3, 4], "b" * 32)  # it was another file then
    hashes.save()
    found = material(page)
    path = settings.review_dir / "list.txt"
    found.write_list(path, settings)
    known = content_hashes(settings.cache_dir, FileList(path)).known()
    assert {name: digest for name, (_, digest) in known.items()} == {
        f"recordings/{days['day11'].id}/day11.mp4": "a" * 32
    }


@pytest.mark.parametrize("name", ["tab\tin.mp4", "line\nbreak.mp4", "~home.mp4"])
def test_file_that_no_list_can_name_is_left_out(page, settings, archive, name):
    days = recordings_of(page)
    correct(page, days["day11"], "games", "ads")
    shutil.copy(archive / "day12.mp4", archive / name)
    page.app.state.services.library.refresh()
    odd = next(r for r in page.app.state.services.library.all() if r.path.name == name)
    correct(page, odd, "games", "ads")
    found = material(page)
    assert names_learned(settings, found) == [f"recordings/{days['day11'].id}/day11.mp4"]


# The job, with a script that copies a run


@pytest.fixture
def copying(page, settings, copying_script, trained_run, monkeypatch) -> Path:
    """Two corrected recordings, and a training that only takes its time."""
    monkeypatch.setattr(retraining, "SCRIPT", copying_script)
    monkeypatch.setenv(RUN_VARIABLE, str(trained_run))
    for day in ("day11", "day12"):
        correct(page, recordings_of(page)[day], "games", "ads")
    return settings.review_dir / retraining.KIND


def begin(page: TestClient, settings: Settings) -> tuple[dict, Path]:
    """A job whose training has begun its run."""
    job = page.post("/api/retrain").json()

    def files() -> list[Path]:
        now = page.get(f"/api/jobs/{job['id']}").json()
        assert now["state"] in ("queued", "running"), now
        return list(settings.runs_dir.glob("run-*/data.json"))

    (found,) = wait_until(files)
    wait_until((settings.review_dir / retraining.KIND / retraining.STARTED).exists)
    return job, found.parent


def test_cancelled_training_is_gone_on_with(page, settings, copying, monkeypatch):
    monkeypatch.setenv("TEST_PART_SECONDS", "3")
    job, run = begin(page, settings)
    assert page.post("/api/retrain").json()["id"] == job["id"]  # the same one is not begun twice
    page.delete(f"/api/jobs/{job['id']}")
    assert wait_for(page, job)["state"] == "cancelled"
    assert not (run / "report.html").exists()
    monkeypatch.setenv("TEST_PART_SECONDS", "0")
    job = retrain(page)
    assert job["state"] == "done", job
    assert job["result"]["resumed"]
    assert job["result"]["run"] == run.name
    assert [path.name for path in settings.runs_dir.glob("run-*")] == [run.name]


def test_after_another_correction_a_broken_off_training_begins_anew(
    page, settings, copying, monkeypatch
):
    monkeypatch.setenv("TEST_PART_SECONDS", "3")
    job, run = begin(page, settings)
    page.delete(f"/api/jobs/{job['id']}")
    wait_for(page, job)
    correct(page, recordings_of(page)["day13"], "games", "ads")
    monkeypatch.setenv("TEST_PART_SECONDS", "0")
    job = retrain(page)
    assert job["state"] == "done", job
    assert not job["result"]["resumed"]
    assert job["result"]["run"] != run.name


def test_training_ends_with_the_page_and_goes_on_with_the_next_one(
    settings, copying_script, trained_run, monkeypatch
):
    monkeypatch.setattr(retraining, "SCRIPT", copying_script)
    monkeypatch.setenv(RUN_VARIABLE, str(trained_run))
    monkeypatch.setenv("TEST_PART_SECONDS", "5")
    with contextlib.ExitStack() as stack:
        page = stack.enter_context(open_page(settings))
        for day in ("day11", "day12"):
            correct(page, recordings_of(page)[day], "games", "ads")
        job, run = begin(page, settings)
        with Stopwatch() as watch:
            stack.close()
    assert watch.seconds < 5
    monkeypatch.setenv("TEST_PART_SECONDS", "0")
    with open_page(settings) as page:
        job = wait_for(page, job)
        assert job["state"] == "done", job
        assert (job["result"]["resumed"], job["result"]["run"]) == (True, run.name)


def test_failed_training_says_the_scripts_own_line(page, settings, copying, monkeypatch):
    monkeypatch.setenv(RUN_VARIABLE, str(settings.cache_dir / "none"))
    job = retrain(page)
    assert job["state"] == "failed"
    assert job["error"].endswith("none/data.json: No such file or directory")
    assert not (copying / retraining.STARTED).exists()


def test_champion_stays_in_use_until_the_new_one_is_promoted(page, settings, copying, trained_run):
    use_run(settings, trained_run)
    champion = page.post(f"/api/runs/{trained_run.name}/promote").json()["champion"]
    job = retrain(page)
    assert job["state"] == "done", job
    assert not job["result"]["in_use"]
    found = page.get("/api/runs").json()
    assert found["champion"] == champion
    assert {run["name"]: run["in_use"] for run in found["runs"]} == {
        trained_run.name: True,
        job["result"]["run"]: False,
    }


def test_constants_become_flags_of_the_script(page, settings, copying):
    job = retrain(page, EPOCHS=3, FRAME_SIZE=[64, 64], FOLDS="0", FUSE_SOUND=False)
    assert job["state"] == "done", job
    config = config_of_run(settings.runs_dir / job["result"]["run"])
    assert (config.epochs, config.frame_size, config.folds) == (3, (64, 64), "0")
    assert config.fuse_sound is False
    assert config.runs_dir == str(settings.runs_dir)


@pytest.mark.parametrize(
    ("constants", "words"),
    [
        ({"EPOCS": 3}, "'EPOCS' is no constant that can be set here: did you mean EPOCHS"),
        ({"epochs": 3}, "'epochs' is no constant"),
        ({"DATA_DIR": "/etc"}, "'DATA_DIR' is no constant that can be set here"),
        ({"WEIGHTS": "/etc/passwd"}, "'WEIGHTS' is no constant that can be set here"),
        ({"RUNS_DIR": "x"}, "'RUNS_DIR' is no constant"),
        ({"--data-dir": "x"}, "'--data-dir' is no constant"),
        ({"EPOCHS": "--resume"}, "--epochs takes a whole number, not '--resume'"),
        ({"EPOCHS": 0}, "--epochs lies between 1 and 10000, not 0"),
        ({"EPOCHS": 1e400}, ""),
        ({"FRAME_SIZE": [1, 2, 3]}, ""),
        ({"EPOCHS": {"a": 1}}, ""),
    ],
)
def test_constants_that_no_training_has_are_refused(page, constants, words):
    body = json.dumps({"constants": constants}).replace("Infinity", "1e999")
    answer = page.post("/api/retrain", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["error"]
    assert page.get("/api/jobs").json()["jobs"] == []
