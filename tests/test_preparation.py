"""Recordings are decoded once, and bad ones are set aside without ending the run."""

import dataclasses
import os
import shutil
import struct
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import media
import numpy as np
import pytest
from pools import InThisProcess, InThreads

from utils import preparation
from utils.audio import MfccSpec
from utils.clips import cut_spans
from utils.errors import describe_os_error
from utils.features import FeatureSpec
from utils.preparation import PreparedSet, prepare_recordings
from utils.recordings import DataError, find_recordings
from utils.sources import Folder

SPEC = FeatureSpec(4.0, (32, 48), "fast", False, MfccSpec())
SECONDS = 2.0
RealPool = preparation.ProcessPoolExecutor


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(preparation, "ProcessPoolExecutor", InThisProcess)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """Four good recordings of different content, a.mp4 to d.mp4, and bad ones."""
    folder = tmp_path_factory.mktemp("shelf")
    for k, name in enumerate("abcd"):
        media.write_video(
            folder / f"{name}.mp4",
            seconds=SECONDS,
            fps=12,
            size=(48, 64),
            tone_hz=400 + 100 * k,
            draw=lambda seconds, h, w, k=k: media.draw_time(seconds + 10 * k, h, w),
        )
    good = (folder / "a.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(good[: len(good) // 2])
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("This is not a video.\n")
    media.write_video(folder / "blink.mp4", seconds=0.25, fps=12, size=(48, 64))
    media.write_wav(folder / "sound.mp4", media.tone(440, 2, 16000), 16000)
    return folder


@pytest.fixture
def data(tmp_path, shelf) -> Path:
    """A data folder with two recordings of each class."""
    return fill(tmp_path / "data", shelf, {"ads": "ab", "games": "cd"})


def fill(folder: Path, shelf: Path, names: dict[str, str]) -> Path:
    for place, letters in names.items():
        for letter in letters:
            copy(shelf / f"{letter}.mp4", folder / place / f"{letter}.mp4")
    return folder


def copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(source, target))


def write_other(path: Path, shelf: Path, mark: str) -> Path:
    """A recording of the same picture and sound as a.mp4 whose bytes are its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atom = struct.pack(">I4s", 8 + len(mark), b"free") + mark.encode()
    path.write_bytes((shelf / "a.mp4").read_bytes() + atom)
    return path


def prepare(data: Path, *, spec=SPEC, workers=1, max_rejected=0.2) -> PreparedSet:
    return prepare_recordings(
        find_recordings(Folder(data)),
        Folder(data),
        spec,
        data / "../cache",
        workers=workers,
        max_rejected=max_rejected,
    )


def reasons(prepared: PreparedSet) -> dict[str, str]:
    return {item.recording.name: item.reason for item in prepared.rejected}


def names(prepared: PreparedSet) -> list[str]:
    return sorted(recording.name for recording in prepared.keys)


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the files that are decoded from here on."""
    seen = []
    decode = preparation._decode

    def counting(path, *arguments):
        seen.append(path.name)
        return decode(path, *arguments)

    monkeypatch.setattr(preparation, "_decode", counting)
    return seen


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_recording_is_in_the_store_with_its_own_features(data):
    prepared = prepare(data)
    assert names(prepared) == ["ads/a.mp4", "ads/b.mp4", "games/c.mp4", "games/d.mp4"]
    assert prepared.rejected == []
    for recording, key in prepared.keys.items():
        frames = prepared.store.get(key, "frames")
        assert frames.shape == (8, 32, 48, 3)
        assert prepared.store.num_rows(key, "mfcc") == 63  # 2 s at 31.25 rows a second
        assert prepared.seconds(recording) == SECONDS
        first = 10 * "abcd".index(Path(recording.name).stem)
        assert [media.read_time(frame) for frame in frames] == [first + k / 4 for k in range(8)]


def test_clips_are_the_spans_of_every_recording(data):
    prepared = prepare(data)
    clips = prepared.clips(1.0, 0.5)
    assert [(clip.start_seconds, clip.end_seconds) for clip in clips] == 4 * cut_spans(2, 1.0, 0.5)
    assert [clip.key for clip in clips] == [k for k in prepared.keys.values() for _ in range(3)]


def test_data_folder_is_left_as_it_was(data):
    before = files_below(data)
    prepare(data)
    assert files_below(data) == before


def test_recording_without_sound_has_no_mfcc(data):
    media.write_video(data / "ads" / "mute.mp4", fps=12, size=(48, 64), tone_hz=None)
    prepared = prepare(data)
    has_sound = {
        r.name: prepared.store.get(k, "mfcc") is not None for r, k in prepared.keys.items()
    }
    assert [name for name, has in has_sound.items() if not has] == ["ads/mute.mp4"]


@pytest.mark.parametrize("frames", ["fast", "opencv"])
def test_bad_files_are_set_aside_with_the_reason_and_the_good_ones_stay(data, shelf, frames):
    bad = {
        "truncated.mp4": "not a video file",
        "empty.mp4": "zero bytes",
        "text.mp4": "not a video file",
        "blink.mp4": "at least 1 s is needed",
        "sound.mp4": "no video stream",
    }
    for name in bad:
        copy(shelf / name, data / "ads" / "bad" / name)
    (data / "ads" / "gone.mp4").symlink_to(data / "nowhere.mp4")
    prepared = prepare(data, spec=dataclasses.replace(SPEC, frames=frames), max_rejected=0.6)
    assert names(prepared) == ["ads/a.mp4", "ads/b.mp4", "games/c.mp4", "games/d.mp4"]
    found = reasons(prepared)
    assert list(found) == sorted([*(f"ads/bad/{name}" for name in bad), "ads/gone.mp4"])
    for name, reason in bad.items():
        assert reason in found[f"ads/bad/{name}"]
    assert "No such file" in found["ads/gone.mp4"]
    assert not any("\n" in reason for reason in found.values())
    assert len(prepared.store) == 4
    assert not (prepared.store.folder / "incoming").exists()


def test_rejected_file_is_set_aside_in_every_run(data, shelf):
    copy(shelf / "blink.mp4", data / "ads" / "blink.mp4")
    first = prepare(data)
    assert reasons(first) == reasons(prepare(data))
    assert len(first.rejected) == 1


def test_more_rejected_than_allowed_stop_the_run(data, shelf):
    copy(shelf / "empty.mp4", data / "ads" / "empty.mp4")
    with pytest.raises(DataError) as error:
        prepare(data, max_rejected=0.19)
    assert "\n" not in str(error.value)
    assert "1 of 5 recordings can't be used" in str(error.value)
    assert "--max-rejected 0.19" in str(error.value)
    assert "ads/empty.mp4: not a video file (zero bytes)" in str(error.value)
    assert len(prepare(data, max_rejected=0.2).rejected) == 1


@pytest.mark.parametrize("lost", ["ads", "validation/ads"])
def test_class_that_lost_all_of_a_side_stops_the_run(tmp_path, shelf, lost):
    data = fill(tmp_path / "data", shelf, {"ads": "a", "games": "b"})
    fill(data, shelf, {"validation/ads": "c", "validation/games": "d"})
    good = next((data / lost).iterdir())
    good.write_bytes(b"")
    with pytest.raises(DataError) as error:
        prepare(data, max_rejected=1.0)
    assert f"no recording of {lost} can be used; {lost}/{good.name}:" in str(error.value)


def test_same_file_in_two_classes_is_set_aside_on_both_sides(data):
    copy(data / "ads" / "a.mp4", data / "games" / "other_name.mp4")
    prepared = prepare(data, max_rejected=0.5)
    assert reasons(prepared) == {
        "ads/a.mp4": "the same file is also games/other_name.mp4, labelled otherwise: keep one",
        "games/other_name.mp4": "the same file is also ads/a.mp4, labelled otherwise: keep one",
    }
    assert names(prepared) == ["ads/b.mp4", "games/c.mp4", "games/d.mp4"]


def test_copy_in_another_group_is_set_aside_as_it_could_land_on_the_other_side(data):
    copy(data / "ads" / "a.mp4", data / "ads" / "z.mp4")
    assert reasons(prepare(data)) == {
        "ads/z.mp4": "the same file is also ads/a.mp4, in another group: keep one"
    }


def test_copy_of_a_validation_recording_is_not_trained_on(data, shelf):
    fill(data, shelf, {"validation/ads": "a", "validation/games": "c"})
    write_other(data / "validation/games/e.mp4", shelf, "e")
    prepared = prepare(data, max_rejected=0.5)
    assert list(reasons(prepared)) == ["ads/a.mp4", "games/c.mp4"]
    assert "validation/ads/a.mp4" in names(prepared)


def test_copy_in_the_same_group_is_used(data):
    copy(data / "ads" / "a.mp4", data / "ads" / "group" / "a.mp4")
    copy(data / "ads" / "a.mp4", data / "ads" / "group" / "again.mp4")
    (data / "ads" / "a.mp4").unlink()
    prepared = prepare(data)
    assert prepared.rejected == []
    assert len(prepared.keys) == 5
    assert len(prepared.store) == 4


def test_second_run_decodes_nothing(data, decoded):
    first = prepare(data)
    assert sorted(decoded) == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    before = files_below(first.store.folder)
    second = prepare(data)
    assert len(decoded) == 4
    assert second.keys == first.keys
    assert files_below(second.store.folder) == before


def test_recording_is_known_by_content_not_by_name_or_date(data, decoded):
    prepare(data)
    os.utime(data / "ads" / "a.mp4", (0, 0))
    (data / "ads" / "b.mp4").rename(data / "ads" / "renamed.mp4")
    prepared = prepare(data)
    assert len(decoded) == 4
    assert "ads/renamed.mp4" in names(prepared)


def test_recording_of_other_content_under_the_same_name_is_decoded(data, shelf, decoded):
    old = prepare(data)
    write_other(data / "ads" / "a.mp4", shelf, "changed")
    new = prepare(data)
    assert decoded[4:] == ["a.mp4"]
    changed = {r.name for r in old.keys if old.keys[r] != new.keys[r]}
    assert changed == {"ads/a.mp4"}


def test_changed_sound_file_beside_a_recording_is_decoded(data, decoded):
    wav = data / "ads" / "a.wav"
    prepare(data)
    media.write_wav(wav, media.tone(1000, 2, 16000), 16000)
    prepare(data)
    assert decoded[4:] == ["a.mp4"]
    media.write_wav(wav, media.tone(2000, 2, 16000), 16000)
    os.utime(wav, (0, 0))  # of the same size, and written within the same tick of the clock
    prepare(data)
    assert decoded[5:] == ["a.mp4"]
    wav.unlink()
    prepare(data)
    assert len(decoded) == 6  # its own track was heard before


def test_sound_file_of_another_length_is_cut_or_followed_by_silence(data):
    media.write_wav(data / "ads" / "a.wav", media.tone(1000, 1, 16000), 16000)
    media.write_wav(data / "ads" / "b.wav", media.tone(1000, 5, 16000), 16000)
    prepared = prepare(data)
    for recording, key in prepared.keys.items():
        mfcc = prepared.store.get(key, "mfcc")
        assert len(mfcc) == 63
        if recording.name == "ads/a.mp4":
            assert mfcc[10, 0] > mfcc[50, 0] + 40  # the first coefficient is loudness
        if recording.name == "ads/b.mp4":
            assert abs(mfcc[10, 0] - mfcc[50, 0]) < 20


def test_unchanged_files_are_not_even_read_again(data, monkeypatch):
    prepare(data)

    def no_reading(*_, **__):
        raise AssertionError("read again")

    monkeypatch.setattr(preparation.hashlib, "blake2b", no_reading)
    assert len(prepare(data).keys) == 4


def test_other_recipe_is_another_store(data, decoded):
    first = prepare(data)
    second = prepare(data, spec=dataclasses.replace(SPEC, fps=6.0))
    assert len(decoded) == 8
    assert first.keys == second.keys
    key = next(iter(first.keys.values()))
    assert first.store.num_rows(key, "frames") == 8
    assert second.store.num_rows(key, "frames") == 12


def test_store_is_the_same_for_any_number_of_workers(data, monkeypatch):
    alone = prepare(data)
    decode = preparation._decode

    def first_comes_last(path, *arguments):
        time.sleep(0.4 if path.stem == "a" else 0)
        return decode(path, *arguments)

    monkeypatch.setattr(preparation, "_decode", first_comes_last)
    monkeypatch.setattr(preparation, "ProcessPoolExecutor", InThreads)
    shutil.move(alone.store.folder, data / "../alone")
    together = prepare(data, workers=4)
    assert files_below(together.store.folder) == files_below(data / "../alone")


def test_run_stopped_in_the_middle_goes_on_where_it_was(data, decoded, monkeypatch):
    move = preparation._move_into_store

    def stop_at_the_third(store, *arguments):
        if len(store) == 2:
            raise KeyboardInterrupt
        move(store, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_move_into_store", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            prepare(data)
    store = preparation.open_feature_store(data / "../cache", SPEC)
    assert len(store) == 2
    assert not (store.folder / "incoming").exists()
    (store.folder / "incoming").mkdir()  # a killed run leaves it
    (store.folder / "incoming" / "left.frames").touch()
    decoded.clear()
    prepared = prepare(data)
    assert decoded == ["c.mp4", "d.mp4"]
    assert len(prepared.store) == 4
    assert not (store.folder / "incoming").exists()


class Crashing(InThisProcess):
    """A pool that breaks like the real one: a file called bad kills its worker.

    With it go the two recordings behind it, before the pool takes no more.
    """

    def __init__(self, *_, **__):
        self.lost = 0

    def submit(self, work, source, files, *arguments) -> Future:
        if not self.lost and "/bad" not in files[0]:
            return super().submit(work, source, files, *arguments)
        self.lost += 1
        if self.lost > 3:
            raise BrokenProcessPool
        future = Future()
        future.set_exception(BrokenProcessPool())
        return future


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("bad", [["bad1"], ["bad1", "bad2"], ["bad2", "zzz", "bad1"]])
def test_files_that_crash_the_decoder_are_set_aside_and_no_others(
    data, shelf, monkeypatch, workers, bad
):
    for name in bad:
        write_other(data / "ads" / f"{name}.mp4", shelf, name)
    monkeypatch.setattr(preparation, "ProcessPoolExecutor", Crashing)
    prepared = prepare(data, workers=workers, max_rejected=0.9)
    crashed = sorted(f"ads/{name}.mp4" for name in bad if name != "zzz")
    assert reasons(prepared) == dict.fromkeys(crashed, "the decoder crashed on it")
    assert len(prepared.store) == 4 + ("zzz" in bad)


def test_worker_process_that_dies_costs_its_file_only(shelf, tmp_path, monkeypatch):
    """With real processes, in which libav aborts on one file."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, av\n"
        "really_open = av.open\n"
        "def open(path, *arguments, **options):\n"
        "    if path.endswith('killer.mp4'):\n"
        "        os.abort()\n"
        "    return really_open(path, *arguments, **options)\n"
        "av.open = open\n"
    )
    data = fill(tmp_path / "data", shelf, {"ads": "a", "games": "c"})
    write_other(data / "ads" / "killer.mp4", shelf, "killer")
    monkeypatch.setattr(preparation, "ProcessPoolExecutor", RealPool)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    prepared = prepare(data, workers=2, max_rejected=0.5)
    assert reasons(prepared) == {"ads/killer.mp4": "the decoder crashed on it"}
    assert names(prepared) == ["ads/a.mp4", "games/c.mp4"]


@pytest.mark.parametrize("suffix", [".frames", ".mfcc"])
def test_disk_that_fills_while_decoding_is_one_line_and_rejects_nothing(shelf, tmp_path, suffix):
    (tmp_path / "key").with_suffix(suffix).symlink_to("/dev/full")
    with pytest.raises(OSError, match="space") as error:
        preparation._decode(shelf / "a.mp4", SPEC, tmp_path / "key")
    assert describe_os_error(error.value).startswith("the disk is full")


def test_error_in_a_worker_that_is_not_the_files_fault_ends_the_run(data, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(preparation, "_decode", full_disk)
    with pytest.raises(OSError, match="No space left"):
        prepare(data)


def test_file_in_place_of_the_cache_folder_is_one_line(data):
    (data / "../cache").touch()
    with pytest.raises(OSError, match="cache") as error:
        prepare(data)
    assert "is in the way of a folder" in describe_os_error(error.value)


def test_thumbnails_have_the_proportions_of_the_picture_without_its_bars(data):
    prepared = prepare(data)
    pictures = prepared.thumbnails("ads/a.mp4", 0.0, 2.0)
    beyond = prepared.thumbnails("ads/a.mp4", 0.0, 2.3)  # a rounded time, a frame too late
    np.testing.assert_array_equal(beyond, pictures)
    assert pictures.shape == (6, 112, round(112 * 64 / 48), 3)
    assert pictures.dtype == np.uint8
    upright = media.with_bars(media.draw_texture, left=60, right=60)
    media.write_video(data / "ads" / "bars.mp4", fps=12, size=(120, 180), draw=upright)
    cropped = prepare(data, spec=dataclasses.replace(SPEC, crop_bars=True))
    height, width = cropped.thumbnails("ads/bars.mp4", 0.0, 2.0).shape[1:3]
    assert (height, width) == (112, pytest.approx(112 * 60 / 120, abs=8))
