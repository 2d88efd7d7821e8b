"""Recordings get a label with a confidence, and the unreadable ones are listed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from trainings import CLIP_SECONDS, ROOT, Outcome, run_script, write_clip

import label_recording
from training.checkpoint import load_checkpoint, save_checkpoint
from training.thresholds import Aim, Threshold, Thresholds


@pytest.fixture(scope="module")
def checkpoint(trained_run) -> Path:
    return trained_run / "best.safetensors"


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """An unseen ad, an unseen game of two windows, both at different depths."""
    folder = tmp_path_factory.mktemp("videos")
    write_clip(folder / "ad.mp4", "ads", 8, 3.0)
    write_clip(folder / "deep" / "game.mp4", "games", 8, 7.5)
    (folder / "notes.txt").write_text("not a video")
    return folder


def label(checkpoint: Path, *arguments: object) -> Outcome:
    return run_script(label_recording, *arguments, "--checkpoint", checkpoint)


def label_json(checkpoint: Path, *arguments: object) -> dict:
    done = label(checkpoint, *arguments, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_unseen_recordings_get_their_label(checkpoint, videos):
    found = label_json(checkpoint, videos / "ad.mp4", videos / "deep" / "game.mp4")
    assert [item["label"] for item in found["recordings"]] == ["ads", "games"]
    assert found["rejected"] == []


def test_json_holds_windows_that_tile_the_recording(checkpoint, videos):
    item = label_json(checkpoint, videos / "deep" / "game.mp4")["recordings"][0]
    assert item["file"] == str(videos / "deep" / "game.mp4")
    assert item["seconds"] == 7.5
    assert item["has_sound"] is True
    spans = [(window["start_seconds"], window["end_seconds"]) for window in item["windows"]]
    assert spans == [(0, 3), (3, 6), (6, 7.5)]
    for part in (item, *item["windows"]):
        assert sum(part["probabilities"].values()) == pytest.approx(1, abs=1e-3)
        assert part["confidence"] == max(part["probabilities"].values())
        assert part["probabilities"][part["label"]] == part["confidence"]
    lengths = np.array([end - start for start, end in spans])
    each = np.array([window["probabilities"]["ads"] for window in item["windows"]])
    expected = float((lengths * each).sum() / 7.5)
    assert item["probabilities"]["ads"] == pytest.approx(expected, abs=1e-3)


def test_table_has_a_line_for_a_recording_and_one_for_each_window(checkpoint, videos):
    done = label(checkpoint, videos / "ad.mp4", videos / "deep" / "game.mp4")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert re.fullmatch(rf"ads +\d+\.\d%  {videos / 'ad.mp4'}  \(3\.0 s\)", lines[0])
    assert re.fullmatch(r"games +\d+\.\d%  .*game\.mp4  \(7\.5 s\)", lines[1])
    windows = [re.fullmatch(r" +(\S+) - (\S+)  games +\d+\.\d%", line) for line in lines[2:]]
    assert [window.groups() for window in windows] == [
        ("0:00:00.0", "0:00:03.0"),
        ("0:00:03.0", "0:00:06.0"),
        ("0:00:06.0", "0:00:07.5"),
    ]


def test_recording_without_sound_says_so(checkpoint, tmp_path):
    path = write_clip(tmp_path / "mute.mp4", "ads", 8, 3.0, tone_hz=None)
    done = label(checkpoint, path)
    assert done.code == 0, done.err
    assert done.out.strip().endswith("(3.0 s, no sound)")
    assert label_json(checkpoint, path)["recordings"][0]["has_sound"] is False


def test_folders_and_patterns_name_the_videos_below_them_once(checkpoint, videos, monkeypatch):
    both = [str(videos / "ad.mp4"), str(videos / "deep" / "game.mp4")]
    monkeypatch.chdir(videos)
    for arguments, expected in (
        ([videos], both),
        ([videos / "*.mp4"], both[:1]),
        ([f"{videos}/**/*.mp4"], both),
        ([videos / "d*"], both[1:]),
        ([videos, videos / "ad.mp4", videos / "*.mp4"], both),
        (["deep", "ad.mp4"], ["deep/game.mp4", "ad.mp4"]),
    ):
        found = label_json(checkpoint, *arguments)
        assert [item["file"] for item in found["recordings"]] == expected, arguments


def test_file_whose_name_looks_like_a_pattern_is_that_file(checkpoint, videos, tmp_path):
    shutil.copy(videos / "ad.mp4", tmp_path / "ad [1].mp4")
    found = label_json(checkpoint, tmp_path / "ad [1].mp4")
    assert len(found["recordings"]) == 1


def test_unreadable_files_are_listed_and_the_others_labelled(checkpoint, videos, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "b.mp4").write_text("not a video")
    write_clip(tmp_path / "c.mp4", "ads", 1, 0.3)
    shutil.copy(videos / "ad.mp4", tmp_path / "d.mp4")
    done = label(checkpoint, tmp_path)
    assert done.code == 1
    assert re.fullmatch(r"ads .*d\.mp4  \(3\.0 s\)\n", done.out)
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert [re.match(rf"error: {tmp_path}/(\w)\.mp4: \S", line)[1] for line in errors] == [*"abc"]
    done = label(checkpoint, tmp_path, "--json")
    assert done.code == 1
    found = json.loads(done.out)
    assert [Path(item["file"]).name for item in found["recordings"]] == ["d.mp4"]
    assert [Path(item["file"]).name for item in found["rejected"]] == ["a.mp4", "b.mp4", "c.mp4"]
    assert all(item["error"] for item in found["rejected"])


@pytest.mark.parametrize("name", ["none.mp4", "none/*.mp4", "empty"])
def test_name_of_nothing_is_a_mistake(checkpoint, videos, tmp_path, name):
    (tmp_path / "empty").mkdir()
    done = label(checkpoint, videos / "ad.mp4", tmp_path / name)
    assert done.code == 1
    assert done.out == ""
    assert done.err == (
        f"error: {tmp_path / name} is no file, no folder with videos "
        "(.mp4 .mkv .mov .ts .avi .webm .mpg) and matches none: check the path\n"
    )


def test_long_recordings_are_timed_with_hours():
    assert label_recording._clock(3723.46) == "1:02:03.5"
    assert label_recording._clock(59.96) == "0:01:00.0"
    assert label_recording._clock(36000) == "10:00:00.0"


def test_confidence_is_calibrated_as_the_checkpoint_says(checkpoint, videos, tmp_path):
    loaded = load_checkpoint(checkpoint)
    assert loaded.temperature != 1
    softer = tmp_path / "softer.safetensors"
    save_checkpoint(softer, loaded.model, {**loaded.recipe, "temperature": loaded.temperature * 5})
    first, second = (
        label_json(path, videos / "ad.mp4")["recordings"][0] for path in (checkpoint, softer)
    )
    odds = [np.log(item["confidence"] / (1 - item["confidence"])) for item in (first, second)]
    assert odds[0] == pytest.approx(5 * odds[1], rel=0.05)


def with_threshold(checkpoint: Path, path: Path, value: float) -> Path:
    """The same network, that says ads from this probability on."""
    loaded = load_checkpoint(checkpoint)
    row = Threshold("ads", value, 0.9, (0.8, 0.95), 1.5, (0.0, 4.0))
    chosen = Thresholds(Aim(max_game_loss=2.0), "games", (row,))
    save_checkpoint(path, loaded.model, {**loaded.recipe, "thresholds": chosen.to_dict()})
    return path


def test_thresholds_of_the_training_decide_and_their_cost_is_said(checkpoint, videos, tmp_path):
    sure = label_json(checkpoint, videos / "ad.mp4")["recordings"][0]["probabilities"]["ads"]
    for value, expected in ((sure - 0.01, "ads"), ((1 + sure) / 2, "games")):
        strict = with_threshold(checkpoint, tmp_path / "strict.safetensors", value)
        found = label_json(strict, videos / "ad.mp4")
        item = found["recordings"][0]
        assert item["label"] == expected
        assert item["probabilities"]["ads"] == sure
        assert item["confidence"] == item["probabilities"][expected]
        assert found["thresholds"]["thresholds"][0]["value"] == value
        done = label(strict, videos / "ad.mp4")
        aim, cost, line = done.out.splitlines()
        assert aim == (
            "labels are chosen for at most 2 s of games lost an hour; in doubt it is games"
        )
        assert cost.endswith("finds 90% of ads (80 to 95%), loses 1.5 s of games an hour (0 to 4)")
        assert line.startswith(expected)


def test_without_thresholds_the_most_probable_class_is_said(checkpoint, videos):
    assert label_json(checkpoint, videos / "ad.mp4")["thresholds"] is None


def test_started_from_anywhere_it_needs_a_checkpoint_and_says_how_to_get_one(videos, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "label_recording.py", videos / "ad.mp4"],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "error: runs/latest/best.safetensors is not a file: "
        "train first with ./run_training.sh local\n"
    )


def test_clips_of_the_tests_are_longer_than_a_window(checkpoint):
    assert load_checkpoint(checkpoint).clip_seconds < CLIP_SECONDS
