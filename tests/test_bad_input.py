"""Bad input gets one line with what, where and the cure, and leaves nothing half-written."""

import csv
import errno
import os
import re
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import cost_optimized_train
import label_recording
import train
from tests import media
from tests.trainings import Outcome, flags, link_clips, run_script, write_clip


@pytest.fixture
def data(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def start(tmp_path, small_flags, data):
    """Starts a training on `data`, by default with cost_optimized_train.py."""

    def start(*arguments: object, script=cost_optimized_train, **constants: object) -> Outcome:
        quick = {"epochs": 2, "folds": 0}
        constants = {"data_dir": data, "runs_dir": tmp_path / "runs", **quick, **constants}
        return run_script(script, *small_flags, *flags(**constants), *arguments)

    return start


def runs(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "runs").iterdir()) if (tmp_path / "runs").is_dir() else []


def assert_one_line(done: Outcome, *words: str) -> None:
    """Code 1, and one line on stderr, besides bars, with all the words."""
    assert done.code == 1, done.err
    assert "Traceback" not in done.err
    assert done.err.count("error: ") == 1
    assert done.last.startswith("error: ")
    for word in words:
        assert word in done.last


# The data folder


def test_folder_that_is_not_there(start, tmp_path):
    done = start(data_dir=tmp_path / "none")
    assert_one_line(done, f"{tmp_path / 'none'} is not a folder", "/ads", "/games", "--data-dir")
    assert runs(tmp_path) == []


def test_folder_without_a_class(start, data, tmp_path):
    write_clip(data / "loose.mp4", "ads", 1, 1.0)
    assert_one_line(start(), str(data), "no video", f"{data}/ads", "--data-dir")
    assert runs(tmp_path) == []


def test_class_without_a_video(start, data, clips_folder, tmp_path):
    link_clips(clips_folder, data)
    (data / "news").mkdir()
    (data / "news" / "readme.txt").write_text("soon")
    assert_one_line(start(), f"{data / 'news'} has no video", ".mp4", "remove the folder")
    assert runs(tmp_path) == []


def test_one_class_only(start, data, clips_folder, tmp_path):
    link_clips(clips_folder / "ads", data / "ads")
    assert_one_line(start(), "one class only (ads)", "data/games")
    assert runs(tmp_path) == []


def test_fewer_groups_than_a_split_needs(start, data, clips_folder, tmp_path):
    link_clips(clips_folder / "ads", data / "ads")
    link_clips(clips_folder / "games", data / "games" / "final")
    done = start()
    assert_one_line(done, "games has a single group (games/final)", "sub-folder")
    assert runs(tmp_path) == []


def test_class_that_training_does_not_have(start, data, clips_folder, tmp_path):
    link_clips(clips_folder, data)
    write_clip(data / "validation" / "news" / "a.mp4", "news", 1, 1.0)
    assert_one_line(start(), "validation", "news")
    assert runs(tmp_path) == []


# Broken videos


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    """A folder with a video for each way to be unusable."""
    folder = tmp_path_factory.mktemp("broken")
    whole = write_clip(folder / "whole.mp4", "ads", 9).read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 3])
    (folder / "whole.mp4").unlink()
    (folder / "zero_bytes.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video\n" * 99)
    media.write_wav(folder / "sound.wav", media.tone(440, 3, 16000), 16000).rename(
        folder / "no_picture.mkv"
    )
    write_clip(folder / "three_frames.mp4", "ads", 9, 3 / 8)
    return folder


def test_bad_files_among_good_ones_are_set_aside_and_the_run_goes_on(
    start, data, clips_folder, broken, tmp_path
):
    link_clips(clips_folder, data)
    bad = sorted(path.name for path in broken.iterdir())
    for name in bad:
        shutil.copy(broken / name, data / "ads")
    done = start(max_rejected=0.5)
    assert done.code == 0, done.err
    with open(tmp_path / "runs" / "latest" / "rejected.csv", newline="") as file:
        rejected = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert sorted(rejected) == [f"ads/{name}" for name in bad]
    assert all(rejected.values())
    assert len(set(rejected.values())) >= 4  # each says what is wrong with it
    for name, reason in rejected.items():
        assert f"set aside   {name}: {reason}" in done.out
    assert "three_frames" in (tmp_path / "runs" / "latest" / "report.html").read_text()


def test_more_bad_files_than_allowed(start, data, clips_folder, broken, tmp_path):
    link_clips(clips_folder, data)
    for path in broken.iterdir():
        shutil.copy(path, data / "ads")
    done = start(max_rejected=0.1)
    assert_one_line(done, "5 of 15 recordings", "--max-rejected 0.1", "ads/no_picture.mkv: ")
    assert runs(tmp_path) == []


def test_class_of_which_nothing_is_left(start, data, clips_folder, broken, tmp_path):
    link_clips(clips_folder / "ads", data / "ads")
    (data / "games").mkdir()
    for name in ("text.mp4", "zero_bytes.mp4"):
        shutil.copy(broken / name, data / "games")
    done = start(max_rejected=0.9)
    assert_one_line(done, "no recording of games can be used", "games/text.mp4")
    assert runs(tmp_path) == []


@pytest.mark.parametrize("name", ["truncated", "zero_bytes", "text", "three_frames", "no_picture"])
def test_bad_file_is_no_label(trained_run, broken, name):
    path = next(broken.glob(f"{name}.*"))
    done = run_script(label_recording, path, "--checkpoint", trained_run / "best.safetensors")
    assert_one_line(done, f"error: {path}: ")
    assert done.out == ""


def test_sound_files_of_another_length_are_used_as_far_as_they_go(start, data, clips_folder):
    link_clips(clips_folder, data)
    for number, seconds in ((6, 0.7), (7, 9.0)):
        write_clip(data / "ads" / f"{number}.mp4", "ads", number, tone_hz=None)
        sound = media.tone(2500, seconds, 16000)
        media.write_wav(data / "ads" / f"{number}.wav", sound, 16000)
    done = start()
    assert done.code == 0, done.err
    assert "ads: 7 recordings" in done.out
    assert "set aside" not in done.out


# Disk


@pytest.mark.parametrize("script", [cost_optimized_train, train])
def test_runs_folder_that_can_not_be_written(start, data, clips_folder, tmp_path, script):
    link_clips(clips_folder, data)
    (tmp_path / "runs").write_text("in the way")
    assert_one_line(start(script=script), f"can't write into {tmp_path / 'runs'}", "--runs-dir")
    assert (tmp_path / "runs").read_text() == "in the way"


def fill_disk(patch: pytest.MonkeyPatch, number: int) -> None:
    """From its call of this number on, everything that is synced to the disk fails."""
    sync, count = os.fsync, [0]

    def full(descriptor: int) -> None:
        count[0] += 1
        if count[0] >= number:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    patch.setattr(os, "fsync", full)


def test_disk_that_is_full_at_the_start(start, clips_folder, trained_run, tmp_path, monkeypatch):
    fill_disk(monkeypatch, 1)
    assert_one_line(start(data_dir=clips_folder), "the disk is full", "free some space")
    assert runs(tmp_path) == []


@pytest.mark.parametrize("number", [4, 5, 6])
def test_disk_that_fills_up_leaves_whole_files_to_go_on_from(
    start, clips_folder, trained_run, tmp_path, number
):
    with pytest.MonkeyPatch.context() as patch:
        fill_disk(patch, number)
        done = start(data_dir=clips_folder)
    assert_one_line(done, "the disk is full", "--resume")
    run = (tmp_path / "runs" / "latest").resolve()
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
    for name in ("best.safetensors", "last.ckpt"):
        if (run / name).exists():
            load_file(run / name)
    done = run_script(cost_optimized_train, "--resume", run)
    assert done.code == 0, done.err
    assert (run / "report.html").exists()


def test_cache_folder_that_can_not_be_written(start, clips_folder, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    assert_one_line(
        start(data_dir=clips_folder, cache_dir=tmp_path / "cache"), str(tmp_path / "cache")
    )
    assert runs(tmp_path) == []


# Checkpoints and weights


def test_checkpoint_of_another_version(trained_run, clips_folder, tmp_path):
    path = tmp_path / "old.safetensors"
    with safe_open(trained_run / "best.safetensors", "pt") as file:
        metadata = {**file.metadata(), "format": "ad-game-classifier/0"}
    save_file(load_file(trained_run / "best.safetensors"), path, metadata)
    done = run_script(label_recording, clips_folder / "ads" / "0.mp4", "--checkpoint", path)
    assert_one_line(done, str(path), "another version", "'ad-game-classifier/0'", "train again")


def test_run_whose_state_is_damaged(start, clips_folder, trained_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    (run / "last.ckpt").write_bytes((run / "last.ckpt").read_bytes()[:5000])
    assert_one_line(run_script(train, "--resume", run), "last.ckpt is damaged")


def test_weights_that_are_no_weights(start, clips_folder, tmp_path):
    (tmp_path / "w.pth").write_text("no weights")
    assert_one_line(start(data_dir=clips_folder, weights=tmp_path / "w.pth"), "--weights", "w.pth")
    assert runs(tmp_path) == []


def test_resuming_what_is_no_run(tmp_path):
    done = run_script(train, "--resume", tmp_path)
    assert_one_line(done, f"{tmp_path} is not the folder of a run", "start a new one")


# Constants


@pytest.mark.parametrize("script", [cost_optimized_train, train])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--epoch", "3"], "unknown option --epoch: did you mean --epochs"),
        (["--bach-size=3"], "unknown option --bach-size: did you mean --batch-size"),
        (["--xyzzy", "3"], "unknown option --xyzzy: --help lists all"),
        (["--epochs", "0"], r"--epochs lies between 1 and .*, not 0"),
        (["--epochs", "many"], "--epochs takes a whole number, not 'many'"),
        (["--epochs", "2.5"], "--epochs takes a whole number, not '2.5'"),
        (["--epochs"], "--epochs.*--help"),
        (["--fps", "-4"], "--fps.*-4|expected one argument"),
        (["--fps", "nan"], "--fps lies between 1 and 60, not nan"),
        (["--frame-size", "96"], None),
        (["--frame-size", "8,8"], r"--frame-size takes sides of 32"),
        (["--frames", "vlc"], "--frames is one of .*, not 'vlc'"),
        (["--dropout", "1.5"], "--dropout lies between"),
        (["--crop-bars", "perhaps"], "--crop-bars takes true or false, not 'perhaps'"),
        (["--learning-rate", "1e9"], "--learning-rate lies between"),
        (["stray"], "stray"),
    ],
)
def test_constants_that_make_no_sense(tmp_path, script, words, expected):
    done = run_script(
        script, *words, *flags(data_dir=tmp_path / "none", runs_dir=tmp_path / "runs")
    )
    if expected is None:  # accepted: it is the folder that is wrong
        expected = "none is not a folder"
        assert runs(tmp_path) == []
    else:
        assert not (tmp_path / "runs").exists()
    assert_one_line(done)
    assert re.search(expected, done.last), done.last
