"""Recordings get a label with a confidence, and the unreadable ones are listed."""

import contextlib
import csv
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

import label_recording
from tests.media import write_video
from tests.trainings import (
    CLIP_SECONDS,
    ROOT,
    Outcome,
    draw_ads,
    draw_games,
    run_script,
    write_clip,
)
from timeline import copies
from timeline.tables import from_json
from training.checkpoint import load_checkpoint, save_checkpoint
from training.thresholds import Aim, Threshold, Thresholds
from utils.errors import STOPPED
from utils.media import MediaError
from utils.video import probe


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


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder of its own for each test's cache."""
    monkeypatch.setattr(label_recording, "CACHE_DIR", tmp_path / "cache")


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


def test_json_holds_an_answer_for_the_whole_and_segments_that_cover_it(checkpoint, videos):
    item = label_json(checkpoint, videos / "deep" / "game.mp4")["recordings"][0]
    assert item["file"] == str(videos / "deep" / "game.mp4")
    assert item["duration_seconds"] == 7.5
    assert item["has_sound"] is True
    assert sum(item["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert item["probabilities"][item["label"]] == item["confidence"]
    (segment,) = item["segments"]
    assert (segment["start_seconds"], segment["end_seconds"]) == (0, 7.5)
    assert segment["label"] == "games"
    assert item["model"]["run"] == checkpoint.parent.name


def test_recording_that_shows_one_thing_gets_one_line(checkpoint, videos):
    done = label(checkpoint, videos / "ad.mp4", videos / "deep" / "game.mp4")
    assert done.code == 0, done.err
    first, second = done.out.splitlines()
    assert re.fullmatch(rf"ads +\d+\.\d%  {videos / 'ad.mp4'}  \(3\.0 s\)", first)
    assert re.fullmatch(r"games +\d+\.\d%  .*game\.mp4  \(7\.5 s\)", second)


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """A game of 75 s with a break in [30, 50), and its truth beside it."""
    folder = tmp_path_factory.mktemp("recording")
    ads, games = draw_ads(8 / 7), draw_games(8 / 7)

    def draw(seconds: float, height: int, width: int) -> np.ndarray:
        return (ads if 30 <= seconds < 50 else games)(seconds, height, width)

    pitches = [2900.0 if 30 <= second < 50 else 350.0 for second in range(75)]
    (folder / "game.edl").write_text("30 50 3\n")
    return write_video(
        folder / "game.mp4",
        seconds=75,
        fps=8,
        size=(64, 96),
        draw=draw,
        tone_hz=pitches,
        sample_rate=16000,
    )


def test_break_in_a_recording_is_found_written_and_compared(checkpoint, recording, tmp_path):
    files = ["--write", "json,edl,picture", "--out", tmp_path / "out"]
    summary = tmp_path / "breaks.csv"
    done = label(checkpoint, recording, *files, "--truth", recording.parent, "--summary", summary)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert re.search(r"\(0:01:15\.0, 1 break, 0:00:\d\d\.\d in all\)", lines[0])
    assert re.match(r" +0:00:\d\d\.\d - 0:00:\d\d\.\d  ads +\d+\.\d%", lines[2])
    assert "breaks, IoU 0.7            1.000" in done.out
    start, end, action = (tmp_path / "out" / "game.edl").read_text().split()
    assert (float(start), float(end), action) == (
        pytest.approx(30, abs=0.4),
        pytest.approx(50, abs=0.4),
        "3",
    )
    timeline = from_json("game.json", (tmp_path / "out" / "game.timeline.json").read_bytes())
    assert [segment.label for segment in timeline.segments] == ["games", "ads", "games"]
    assert (tmp_path / "out" / "game.timeline.svg").read_text().startswith("<svg")
    (row,) = csv.DictReader(summary.read_text().splitlines())
    assert (row["breaks"], row["recording"]) == ("1", str(recording))


def test_what_was_labelled_before_is_known_and_its_files_are_kept(checkpoint, recording, tmp_path):
    arguments = [recording, "--write", "edl", "--out", tmp_path, "--cache-dir", tmp_path / "cache"]
    first = label(checkpoint, *arguments)
    unreadable = tmp_path / "game.edl"
    with patch.object(label_recording, "label_recordings", None):  # nothing is decoded again
        assert label(checkpoint, *arguments).out == first.out
    unreadable.write_text("1 2 3\n")
    done = label(checkpoint, *arguments)
    assert done.code == 1
    assert re.match(r"error: .*game\.edl is there and was not written here, or was", done.err)
    assert unreadable.read_text() == "1 2 3\n"
    assert label(checkpoint, *arguments, "--overwrite").code == 0


def test_breaks_are_cut_out_and_chapters_written(checkpoint, recording, tmp_path):
    done = label(checkpoint, recording, "--cut", "ads", "--cut-mode", "exact", "--out", tmp_path)
    assert done.code == 0, done.err
    assert probe(tmp_path / "game.without-ads.mp4").duration_seconds == pytest.approx(55, abs=0.3)
    done = label(checkpoint, recording, "--chapters", "--out", tmp_path)
    assert done.code == 0, done.err
    assert (tmp_path / "game.mp4").is_file()


def test_policies_decide_what_is_a_break(checkpoint, recording, tmp_path):
    padded = label_json(checkpoint, recording, "--pad", "2")["recordings"][0]["segments"]
    assert [round(s["start_seconds"]) for s in padded] == [0, 32, 48]
    without = label_json(checkpoint, recording, "--min-break", "25")["recordings"][0]["segments"]
    assert [s["label"] for s in without] == ["games"]
    done = label(checkpoint, recording, "--max-game-loss", "2", "--tune-on", recording.parent)
    assert done.code == 0, done.err
    assert "at most 2 s of game lost a recording: breaks from a confidence of" in done.err


def test_durations_are_fitted_and_used(checkpoint, recording, tmp_path):
    durations = tmp_path / "durations.json"
    done = label(checkpoint, "--fit-durations", recording.parent, "--durations", durations)
    assert done.code == 0, done.err
    assert re.match(r"ads: typically \d+ s, two of three \d+ to \d+ s", done.out)
    assert label(checkpoint, recording, "--durations", durations).code == 0


def test_nothing_is_written_where_training_would_take_it_for_labels(checkpoint, tmp_path):
    data = Path(load_checkpoint(checkpoint).recipe["constants"]["DATA_DIR"])
    video = next(data.rglob("*.mp4"))
    done = label(checkpoint, video, "--write", "edl")
    assert done.code == 1
    assert re.match(r"error: .*\.edl would be read as a person's labels .*--out FOLDER", done.err)
    assert not video.with_suffix(".edl").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fit-durations", "x"], "add it"),
        ([], "name recordings, or --live"),
        (["a.mp4", "--max-game-loss", "2"], "go together"),
        (["a.mp4", "b.mp4", "--annotate", "c.mp4"], "for one recording"),
    ],
)
def test_options_that_do_not_go_together_are_said(checkpoint, words, said):
    done = label(checkpoint, *words)
    assert done.code == 2
    assert said in done.err.splitlines()[-1]


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


def test_recordings_are_told_in_the_order_named_whichever_is_ready_first(
    checkpoint, videos, tmp_path, monkeypatch
):
    found_jobs, in_order = [], label_recording.label_recordings

    def last_first(paths, *arguments, jobs, **options):
        found_jobs.append(jobs)
        return reversed(list(in_order(paths, *arguments, jobs=1, **options)))

    monkeypatch.setattr(label_recording, "label_recordings", last_first)
    shutil.copy(videos / "ad.mp4", tmp_path / "other.mp4")
    (tmp_path / "bad.mp4").write_text("not a video")
    named = [videos / "deep" / "game.mp4", tmp_path / "bad.mp4", tmp_path / "other.mp4"]
    summary = tmp_path / "new" / "all.csv"
    done = label(checkpoint, *named, "--jobs", "5", "--json", "--summary", summary)
    assert done.code == 1
    found = json.loads(done.out)
    assert [item["file"] for item in found["recordings"]] == [str(named[0]), str(named[2])]
    assert [item["label"] for item in found["recordings"]] == ["games", "ads"]
    assert [item["file"] for item in found["rejected"]] == [str(named[1])]
    rows = list(csv.DictReader(summary.read_text().splitlines()))
    assert [row["recording"] for row in rows] == [str(path) for path in named]
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert found_jobs == [3]


def test_truth_of_several_is_pooled(checkpoint, videos, tmp_path):
    (tmp_path / "ad.edl").write_text("0 3 3\n")
    (tmp_path / "game.csv").write_text("start_seconds,end_seconds,label\n0,7.5,games\n")
    named = [videos / "deep" / "game.mp4", videos / "ad.mp4"]
    comparison = label_json(checkpoint, *named, "--truth", tmp_path)["comparison"]
    assert (comparison["breaks"], comparison["breaks_found"]) == (1, 1)
    assert (comparison["seconds"], comparison["game_seconds_lost"]) == (10.5, 0)
    done = label(checkpoint, *named, "--truth", tmp_path)
    assert "compared with the truth, recordings: 2" in done.out


@pytest.mark.parametrize(
    ("name", "said"),
    [("none.edl", "none.edl, the truth, is not there"), (".", "has no file for ad.mp4")],
)
def test_truth_that_is_missing_is_said_before_anything_is_decoded(
    checkpoint, videos, tmp_path, monkeypatch, name, said
):
    monkeypatch.setattr(label_recording, "label_recordings", None)
    done = label(checkpoint, videos / "ad.mp4", "--truth", tmp_path / name)
    assert_one_line(done, said)


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.edl", b"\xff\xfe\0"), ("a.csv", b"1,2\n"), ("a.edl", b"x y 3\n"), ("a.doc", b"a")],
)
def test_truth_that_can_not_be_read_is_one_line(checkpoint, videos, tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert_one_line(label(checkpoint, videos / "ad.mp4", "--truth", tmp_path / name), name)


def assert_one_line(done: Outcome, said: str) -> None:
    assert done.code == 1
    assert said in done.last
    assert done.last.startswith("error: ")
    assert "Traceback" not in done.err


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if "partial" in path.name]


def test_ctrl_c_leaves_whole_files_and_what_was_labelled(checkpoint, videos, tmp_path, monkeypatch):
    in_order = label_recording.label_recordings
    labelled: list[Path] = []

    def stopped(paths, *arguments, **options):
        for path, outcome in in_order(paths, *arguments, **options):
            labelled.append(path)
            yield path, outcome
            raise KeyboardInterrupt

    monkeypatch.setattr(label_recording, "label_recordings", stopped)
    arguments = [videos, "--write", "edl,json", "--out", tmp_path / "out"]
    arguments += ["--cache-dir", tmp_path / "cache"]
    done = label(checkpoint, *arguments)
    assert done.code == 130
    assert done.last == STOPPED
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "ad.edl",
        "ad.timeline.json",
    ]
    monkeypatch.setattr(label_recording, "label_recordings", in_order)
    seen = len(labelled)
    assert label(checkpoint, *arguments).code == 0
    assert (seen, labelled) == (1, [videos / "ad.mp4"])
    assert (tmp_path / "out" / "deep" / "game.edl").is_file()
    assert leftovers(tmp_path) == []


def test_ctrl_c_in_a_copy_leaves_no_part_of_it(checkpoint, recording, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def bar(what):
        def stop(seconds, total_seconds):
            if leftovers(tmp_path):  # some of it is written
                raise KeyboardInterrupt

        yield stop

    monkeypatch.setattr(copies, "_bar", bar)
    exactly = ["--cut", "ads", "--cut-mode", "exact"]
    for wish in (exactly, ["--chapters"], ["--annotate", tmp_path / "a.mp4"]):
        assert label(checkpoint, recording, *wish, "--out", tmp_path).code == 130
        assert not list(tmp_path.glob("*.mp4"))
        assert leftovers(tmp_path) == []


def test_file_in_the_way_of_a_folder_is_one_line(checkpoint, videos, tmp_path):
    (tmp_path / "out").write_text("no folder")
    for arguments in (
        ["--write", "edl", "--out", tmp_path / "out"],
        ["--chapters", "--out", tmp_path / "out"],
        ["--summary", tmp_path / "out" / "all.csv"],
        ["--cache-dir", tmp_path / "out"],
    ):
        done = label(checkpoint, videos / "ad.mp4", *arguments)
        assert_one_line(done, f"{tmp_path / 'out'}")
        assert "is in the way of a folder" in done.last


@pytest.mark.parametrize("number", [1, 2, 3])
def test_disk_that_is_full_is_one_line_and_leaves_whole_files(
    checkpoint, videos, tmp_path, monkeypatch, number
):
    """What was labelled, then the file, then what is noted of it; the network was kept before."""
    label_recording.load_classifier(checkpoint, tmp_path / "cache")
    count, sync = [0], os.fsync

    def full(descriptor):
        count[0] += 1
        if count[0] == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    arguments = [videos / "ad.mp4", "--write", "edl", "--out", tmp_path / "out"]
    arguments += ["--cache-dir", tmp_path / "cache"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert_one_line(label(checkpoint, *arguments), "the disk is full")
    assert leftovers(tmp_path) == []
    assert label(checkpoint, *arguments).code == 0
    assert (tmp_path / "out" / "ad.edl").read_text() == "0.000\t3.000\t3\n"


def test_recording_that_can_not_be_copied_is_listed_and_the_others_are(
    checkpoint, videos, tmp_path, monkeypatch
):
    (tmp_path / "ad.mp4").write_text("somebody's")
    named = [videos / "ad.mp4", videos / "deep" / "game.mp4"]
    done = label(checkpoint, *named, "--chapters", "--out", tmp_path)
    assert_one_line(done, f"error: {named[0]}: {tmp_path / 'ad.mp4'} exists")
    assert (tmp_path / "ad.mp4").read_text() == "somebody's"
    assert probe(tmp_path / "game.mp4").duration_seconds == 7.5

    def unreadable(path, *_, **__):
        raise MediaError("it ends in the middle")

    monkeypatch.setattr(label_recording, "write_copies", unreadable)
    found = label(checkpoint, named[0], "--cut", "ads", "--json")
    assert_one_line(found, f"error: {named[0]}: it ends in the middle")


def test_two_recordings_are_not_written_to_one_file(checkpoint, videos, tmp_path):
    other = shutil.copy(videos / "ad.mp4", tmp_path / "ad.mp4")
    done = label(checkpoint, videos / "ad.mp4", other, "--write", "edl", "--out", tmp_path)
    assert_one_line(done, f"would be written for {videos / 'ad.mp4'} and for {other}")
    assert not (tmp_path / "ad.edl").exists()


def test_durations_are_not_fitted_on_what_can_not_be_read(checkpoint, tmp_path):
    (tmp_path / "a.mp4").write_text("not a video")
    arguments = ["--fit-durations", tmp_path, "--durations", tmp_path / "d.json"]
    assert_one_line(label(checkpoint, *arguments), f"{tmp_path / 'a.mp4'} can't be read")


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
