"""The data folder becomes two datasets, and the demo set steps in for the default folder only."""

import ast
import dataclasses
import shutil
from pathlib import Path

import pytest

from tests import media
from tests.pools import InThisProcess
from utils import preparation, training_data
from utils.config import Config, read_options
from utils.errors import UserError
from utils.recordings import DataError
from utils.training_data import load_training_data

SCRIPT = Path(__file__).resolve().parent.parent / "cost_optimized_train.py"


@pytest.fixture(scope="module")
def defaults() -> Config:
    constants = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(SCRIPT.read_text()).body
        if isinstance(node, ast.Assign)
    }
    return read_options(constants | {"__file__": str(SCRIPT), "__doc__": ""}, []).config


@pytest.fixture
def config(defaults, tmp_path, monkeypatch) -> Config:
    """The constants of the script, small, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preparation, "WorkerPool", InThisProcess)
    return dataclasses.replace(
        defaults, frame_size=(32, 32), clip_seconds=2.0, clip_hop_seconds=1.0, workers=1
    )


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> Path:
    """Four recordings in two groups of each class, one of them mute."""
    folder = tmp_path_factory.mktemp("four")
    names = ("ads/x/a.mp4", "ads/b.mp4", "games/x/c.mp4", "games/d.mp4")
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tone_hz = None if name == "games/d.mp4" else 400 + 100 * k
        media.write_video(
            folder / name,
            seconds=2 + k,
            fps=8,
            size=(32, 48),
            draw=lambda seconds, *size, k=k: media.draw_time(7 * k + seconds, *size),
            tone_hz=tone_hz,
        )
    return folder


def tiny_demo(four: Path, made: list[Path]):
    """Stands in for `make_demo_set`, which takes a minute."""

    def make_demo_set(folder, **_):
        shutil.copytree(four, folder)
        (folder / "demo_set.json").write_text("{}")
        made.append(Path(folder))

    return make_demo_set


def test_own_recordings_become_two_datasets(config, four, tmp_path, capsys):
    shutil.copytree(four, tmp_path / "data")
    (tmp_path / "data" / "ads" / "x" / "bad.mp4").touch()
    data = load_training_data(dataclasses.replace(config, max_rejected=0.2))
    said = capsys.readouterr().out

    assert not data.is_demo
    assert data.classes == ["ads", "games"]
    sides = [{c.recording.group for c in s.clips} for s in (data.train_set, data.val_set)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == {"ads/x", "ads/b.mp4", "games/x", "games/d.mp4"}
    assert sorted(data.keys) == sorted(
        {c.key for s in (data.train_set, data.val_set) for c in s.clips}
    )
    assert "ads: 3 recordings in 2 groups · games: 2 recordings in 2 groups" in said
    assert "DEMO" not in said

    description = data.describe("imagenet", False)
    assert description["classes"] == ["ads", "games"]
    assert description["demo"] is False
    assert description["weights"] == "imagenet"
    assert description["from_scratch"] is False
    assert description["split"] == "held-out groups"
    assert description["no_sound"] == 1
    assert description["rejected"] == [
        {"path": "ads/x/bad.mp4", "reason": "not a video file (zero bytes)"}
    ]
    # Recordings of 2, 3, 4 and 5 s, cut into clips of 2 s every second: 1, 2, 3 and 4.
    ads = [description[side]["ads"] for side in ("train", "validation")]
    games = [description[side]["games"] for side in ("train", "validation")]
    assert [(s["recordings"], s["groups"]) for s in ads + games] == [(1, 1)] * 4
    assert {(s["clips"], round(s["hours"] * 3600)) for s in ads} == {(1, 2), (2, 3)}
    assert {(s["clips"], round(s["hours"] * 3600)) for s in games} == {(3, 4), (4, 5)}


def test_own_validation_folder_is_said_in_the_description(config, four, tmp_path):
    shutil.copytree(four, tmp_path / "data")
    held_out = tmp_path / "data" / "validation"
    for label, name in (("ads", "b.mp4"), ("games", "d.mp4")):
        (held_out / label).mkdir(parents=True)
        (tmp_path / "data" / label / name).rename(held_out / label / name)
    data = load_training_data(config)
    assert data.describe("none", True)["split"] == "data/validation"
    assert {clip.recording.name for clip in data.val_set.clips} == {
        "validation/ads/b.mp4",
        "validation/games/d.mp4",
    }


@pytest.mark.parametrize("state", ["missing", "empty", "empty class folders"])
def test_demo_set_steps_in_for_the_default_folder_once(
    config, four, tmp_path, monkeypatch, capsys, state
):
    made = []
    monkeypatch.setattr(training_data, "make_demo_set", tiny_demo(four, made))
    if state != "missing":
        (tmp_path / "data").mkdir()
    if state == "empty class folders":
        (tmp_path / "data" / "ads").mkdir()
        (tmp_path / "data" / "games").mkdir()
    before = sorted((tmp_path / "data").rglob("*"))
    data = load_training_data(config)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("DEMO"))
    assert "data/ads/" in line
    assert "data/games/" in line
    assert data.is_demo
    assert data.describe("auto", False)["demo"] is True
    assert len(data.keys) == 4
    assert sorted((tmp_path / "data").rglob("*")) == before  # the user's folder is not ours
    assert load_training_data(config).is_demo
    assert made == [Path("cache/demo")]


@pytest.mark.parametrize("state", ["missing", "empty"])
def test_demo_set_never_steps_in_for_a_folder_that_was_named(config, tmp_path, monkeypatch, state):
    made = []
    monkeypatch.setattr(training_data, "make_demo_set", lambda *_, **__: made.append(1))
    if state == "empty":
        (tmp_path / "mine").mkdir()
    with pytest.raises(UserError) as error:
        load_training_data(dataclasses.replace(config, data_dir="mine"))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("mine ")
    assert "mine/ads and mine/games" in str(error.value)
    assert "--data-dir" in str(error.value)
    assert not made
    assert not (tmp_path / "cache").exists()


def test_one_class_is_refused_before_anything_is_decoded(config, four, tmp_path):
    shutil.copytree(four / "ads", tmp_path / "data" / "ads")
    with pytest.raises(DataError, match=r"one class only \(ads\)"):
        load_training_data(config)
    assert not (tmp_path / "cache").exists()


def write_recording(path: Path, number: int, seconds: float = 8.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    media.write_video(
        path,
        seconds=seconds,
        fps=8,
        size=(32, 48),
        draw=lambda s, *size: media.draw_time(11 * number + s, *size),
        tone_hz=None,
    )


def test_labelled_recordings_alone_become_two_datasets(config, tmp_path, capsys):
    folder = tmp_path / "data" / "recordings"
    for number in range(3):
        write_recording(folder / f"game{number}.mp4", number)
        (folder / f"game{number}.edl").write_text("2 5 3\n")
    (folder / "game2.edl").write_text("2 5 3\n70 90 3\n")
    data = load_training_data(dataclasses.replace(config, label_margin_seconds=0.25))
    said = capsys.readouterr().out
    assert "ads: 3 recordings in 3 groups · games: 3 recordings in 3 groups" in said
    assert "labels go on after the end of recordings/game2.mp4 (90 s of 8): " in said
    assert data.classes == ["ads", "games"]
    train, validation = data.train_set, data.val_set
    for dataset, recordings in ((train, 2), (validation, 1)):
        assert len({clip.recording.group for clip in dataset.clips}) == recordings
        for clip, label in zip(dataset.clips, dataset.labels, strict=True):
            inside = clip.start_seconds >= 2.25 and clip.end_seconds <= 4.75
            outside = clip.end_seconds <= 1.75 or clip.start_seconds >= 5.25
            assert inside if data.classes[label] == "ads" else outside
    sides = data.describe("none", True)
    hours = {name: sides["train"][name]["hours"] * 3600 for name in data.classes}
    assert hours == pytest.approx({"ads": 2 * 3.0, "games": 2 * 5.0})


def test_what_validation_shows_too_is_left_out_of_training_and_said(config, tmp_path):
    folder = tmp_path / "data"
    for number in range(2):
        write_recording(folder / f"ads/{number}.mp4", number)
        write_recording(folder / f"games/{number}.mp4", 10 + number)
        write_recording(folder / f"validation/ads/{number}.mp4", 20 + number)
        write_recording(folder / f"validation/games/{number}.mp4", 30 + number)
    write_recording(folder / "validation/ads/same.mp4", 1, seconds=7.0)
    data = load_training_data(config)
    assert {clip.recording.name for clip in data.left_out} == {"ads/1.mp4"}
    learned = {clip.recording.name for clip in data.train_set.clips}
    assert {"ads/0.mp4", "games/0.mp4", "games/1.mp4"} <= learned
    shared = data.describe("none", True)["duplicates"]
    assert shared["left_out_clips"] == len(data.left_out) >= 5
    assert shared["merged_groups"] == 0
    assert shared["examples"] == [
        "ads/1.mp4 at 0 s is validation/ads/same.mp4 at 0 s (picture, 7 s)"
    ] or (
        shared["examples"] == ["validation/ads/same.mp4 at 0 s is ads/1.mp4 at 0 s (picture, 7 s)"]
    )
