"""Recordings are decoded once, and bad ones are set aside without ending the run."""

import contextlib
import csv
import dataclasses
import itertools
import os
import shutil
import struct
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from tests import media
from tests.pools import InThisProcess
from utils import content_hashes, decoding, incoming, preparation, processes
from utils.audio import MfccSpec
from utils.clips import cut_spans
from utils.errors import describe_os_error
from utils.feature_store import HEADER_BYTES, StoreError
from utils.features import FeatureBlock, FeatureSpec
from utils.media import Part, SplitError
from utils.preparation import prepare_recordings
from utils.prepared_set import PreparedSet, open_feature_store
from utils.progress import Progress
from utils.recordings import DataError, find_recordings
from utils.sources import Folder

SPEC = FeatureSpec(4.0, (32, 48), "fast", False, MfccSpec())
SECONDS = 2.0


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(preparation, "WorkerPool", InThisProcess)


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


def raises(error: BaseException | type[BaseException]):
    """A function that does nothing else."""

    def function(*_, **__):
        raise error

    return function


def failed(error: Exception) -> Future:
    future = Future()
    future.set_exception(error)
    return future


def prepare(
    data: Path, *, spec=SPEC, workers=1, max_rejected=0.2, retry_rejected=False, watch=None
) -> PreparedSet:
    return prepare_recordings(
        find_recordings(Folder(data)),
        Folder(data),
        spec,
        data / "../cache",
        workers=workers,
        max_rejected=max_rejected,
        retry_rejected=retry_rejected,
        watch=watch,
    )


def reasons(prepared: PreparedSet) -> dict[str, str]:
    return {item.recording.name: item.reason for item in prepared.rejected}


def names(prepared: PreparedSet) -> list[str]:
    return sorted(recording.name for recording in prepared.keys)


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the files that are decoded from here on."""
    seen = []
    decode = decoding.decode_part

    def counting(path, *arguments):
        seen.append(path.name)
        return decode(path, *arguments)

    monkeypatch.setattr(decoding, "decode_part", counting)
    return seen


@pytest.fixture
def in_parts(monkeypatch):
    """Makes recordings be decoded in so many parts, of which one may prove not to be separable."""
    read = incoming.read_features

    def read_part(path, spec, part):
        if part.start == "not separable":
            raise SplitError("it has no key frame there")
        frames = np.concatenate([block.frames for block in read(path, spec)])
        mfcc = [block.mfcc for block in read(path, spec) if block.mfcc is not None]
        mine = np.array_split(frames, part.count)[part.index]
        sound = np.array_split(np.concatenate(mfcc), part.count)[part.index] if mfcc else None
        yield FeatureBlock(mine, sound, bool(mfcc), next(read(path, spec)).aspect_ratio, "software")

    def split(count: int, *, not_separable: int | None = None) -> None:
        def parts(path, spec):
            starts = ["not separable" if k == not_separable else None for k in range(count)]
            return [Part(k, count, start=starts[k]) for k in range(count)]

        monkeypatch.setattr(decoding, "split_recording", parts)
        monkeypatch.setattr(incoming, "read_features", read_part)

    return split


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

    monkeypatch.setattr(content_hashes.hashlib, "blake2b", no_reading)
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
    decode = decoding.decode_part

    def first_comes_last(path, *arguments):
        time.sleep(0.4 if path.stem == "a" else 0)
        return decode(path, *arguments)

    monkeypatch.setattr(decoding, "decode_part", first_comes_last)
    shutil.move(alone.store.folder, data / "../alone")
    together = prepare(data, workers=4)
    assert files_below(together.store.folder) == files_below(data / "../alone")


def test_recording_in_parts_is_stored_as_if_it_were_read_whole(data, in_parts):
    whole = files_below(prepare(data).store.folder)
    shutil.rmtree(data / "../cache")
    in_parts(3)
    assert files_below(prepare(data).store.folder) == whole


def test_recording_that_turns_out_not_to_be_separable_is_decoded_whole(data, in_parts, decoded):
    whole = files_below(prepare(data).store.folder)
    shutil.rmtree(data / "../cache")
    decoded.clear()
    in_parts(3, not_separable=1)
    assert files_below(prepare(data).store.folder) == whole
    assert len(decoded) > 4 * 3


def test_finished_parts_of_a_stopped_run_are_not_decoded_again(
    data, in_parts, decoded, monkeypatch
):
    undisturbed = files_below(prepare(data).store.folder)
    shutil.rmtree(data / "../cache")
    in_parts(3)
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "add_to_store", raises(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(data)
    incoming_folder = open_feature_store(data / "../cache", SPEC).folder / "incoming"
    left = sorted(incoming_folder.glob("*/*/part.json"))
    assert left
    damaged = left[0].with_name("frames")
    damaged.write_bytes(b"\0" * damaged.stat().st_size)  # what a power cut may leave
    (incoming_folder / "key" / ".00000-growing.1").mkdir(parents=True)  # what kill -9 leaves
    decoded.clear()
    prepared = prepare(data)
    assert len(decoded) == 4 * 3 - (len(left) - 1)
    assert files_below(prepared.store.folder) == undisturbed  # so nothing else is left


def test_run_stopped_in_the_middle_goes_on_where_it_was(data, decoded, monkeypatch):
    undisturbed = files_below(prepare(data).store.folder)
    shutil.rmtree(data / "../cache")
    add = preparation.add_to_store

    def stop_at_the_third(store, *arguments):
        if len(store) == 2:
            raise KeyboardInterrupt
        add(store, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "add_to_store", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            prepare(data)
    assert len(open_feature_store(data / "../cache", SPEC)) == 2
    decoded.clear()
    prepared = prepare(data)
    assert set(decoded) <= {"c.mp4", "d.mp4"}
    assert files_below(prepared.store.folder) == undisturbed


def test_watcher_is_told_instead_of_the_terminal_and_may_end_it(data, monkeypatch, capsys):
    class Enough(Exception):
        pass

    class HeldUp(InThisProcess):
        """Is not done with the last recording before the end."""

        def __init__(self, *_):
            self._closed = threading.Event()

        def submit(self, work, path, *arguments, **options):
            if path.name == "d.mp4":
                self._closed.wait(60)
            return super().submit(work, path, *arguments, **options)

        def close(self) -> None:
            self._closed.set()

    told = []

    def watch(progress: Progress) -> None:
        told.append(progress.fraction)
        if (progress.fraction or 0) > 0.3:
            raise Enough

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "WorkerPool", HeldUp)
        with pytest.raises(Enough):
            prepare(data, watch=watch)
    kept = len(open_feature_store(data / "../cache", SPEC))
    assert told[-1] > 0.3
    prepared = prepare(data, watch=lambda progress: told.append(progress.fraction))
    assert len(prepared.keys) == 4 > kept
    assert told[-1] == pytest.approx(1)
    assert capsys.readouterr() == ("", "")


def test_second_preparer_is_refused_in_one_line(data):
    prepare(data)
    media.write_video(data / "ads" / "new.mp4", fps=12, size=(48, 64))
    store = open_feature_store(data / "../cache", SPEC)
    with store.writing(), pytest.raises(StoreError, match="being written by another run: wait"):
        prepare(data)
    assert len(prepare(data).keys) == 5


def test_file_that_kills_its_process_is_set_aside_and_remembered(data, shelf, monkeypatch, decoded):
    write_other(data / "ads" / "bad.mp4", shelf, "bad")

    class Crashing(InThisProcess):
        def submit(self, work, path, *arguments, **options):
            if path.name == "bad.mp4" and work is not content_hashes.hash_file:
                return failed(processes.WorkerLost("the decoder crashed on it (SIGSEGV)"))
            return super().submit(work, path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(preparation, "WorkerPool", Crashing)
        first = prepare(data, workers=2)
    assert reasons(first) == {"ads/bad.mp4": "the decoder crashed on it (SIGSEGV)"}
    decoded.clear()
    assert reasons(prepare(data)) == reasons(first)
    assert decoded == []
    assert reasons(prepare(data, retry_rejected=True)) == {}
    assert decoded == ["bad.mp4"]
    assert reasons(prepare(data)) == {}


def test_rejected_file_is_not_decoded_again_while_its_bytes_are_the_same(data, shelf, decoded):
    bad = copy(shelf / "blink.mp4", data / "ads" / "blink.mp4")
    first = prepare(data)
    decoded.clear()
    os.utime(bad)
    assert reasons(prepare(data)) == reasons(first)
    assert decoded == []
    copy(shelf / "text.mp4", bad)
    assert "not a video file" in reasons(prepare(data))["ads/blink.mp4"]
    bad.write_bytes((shelf / "a.mp4").read_bytes() + b"\0\0\0\x08free")
    assert reasons(prepare(data)) == {}


def test_rejected_files_are_listed_beside_the_store(data, shelf):
    copy(shelf / "blink.mp4", data / "ads" / "blink.mp4")
    copy(data / "ads" / "a.mp4", data / "ads" / "z.mp4")
    prepared = prepare(data, max_rejected=0.5)
    with open(prepared.store.folder / "rejected.csv", newline="") as file:
        listed = list(csv.DictReader(file))
    assert {row["path"]: row["reason"] for row in listed} == reasons(prepared)
    (data / "ads" / "blink.mp4").unlink()
    (data / "ads" / "z.mp4").unlink()
    prepare(data)
    text = (prepared.store.folder / "rejected.csv").read_text()
    assert text.splitlines() == ["path,reason"]


def test_file_that_changes_while_it_is_read_is_tried_again_by_the_next_run(data, monkeypatch):
    decode = decoding.decode_part

    def touched(path, *arguments):
        part = decode(path, *arguments)
        if path.stem == "a":
            path.write_bytes(path.read_bytes() + b"\0")
        return part

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode_part", touched)
        found = reasons(prepare(data, max_rejected=0.5))
    assert found == {"ads/a.mp4": "changed while it was read: the next run tries again"}
    prepared = prepare(data)
    assert prepared.rejected == []
    assert len(prepared.store) == 4


def test_bytes_changed_under_the_old_date_are_noticed(data, shelf, decoded):
    path = data / "ads" / "a.mp4"
    status = path.stat()
    old = prepare(data)
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    decoded.clear()
    new = prepare(data)
    assert decoded == ["a.mp4"]
    assert {r.name for r in old.keys if old.keys[r] != new.keys[r]} == {"ads/a.mp4"}


def test_damaged_recordings_are_remade_and_no_others(data, decoded):
    prepared = prepare(data)
    store = prepared.store
    key = next(key for recording, key in prepared.keys.items() if recording.name == "ads/b.mp4")
    before = store.get(key, "frames").copy()
    shard = store.folder / "frames-main-00000.npy"
    with open(shard, "r+b") as file:
        file.seek(HEADER_BYTES + len(before) * before[0].size + 1000)  # within the second
        file.write(b"damage")
    bad = [found for found, reason in store.damaged(store) if reason]
    assert bad == [key]
    store.forget(bad)
    decoded.clear()
    again = prepare(data)
    assert decoded == ["b.mp4"]
    np.testing.assert_array_equal(again.store.get(key, "frames"), before)
    assert [reason for _, reason in again.store.damaged(again.store)] == [None] * 4


def test_thousand_prepared_recordings_are_found_without_starting_a_process(
    data, shelf, monkeypatch
):
    for k in range(1000):
        copy(shelf / "a.mp4", data / "ads" / "group" / f"{k}.mp4")
    (data / "ads" / "a.mp4").unlink()
    prepared = prepare(data)
    assert len(prepared.keys) == 1003
    monkeypatch.setattr(preparation, "WorkerPool", raises(AssertionError("started")))
    recordings = find_recordings(Folder(data))
    started = time.process_time()
    again = prepare_recordings(
        recordings, Folder(data), SPEC, data / "../cache", workers=2, max_rejected=0.2
    )
    assert again.keys == prepared.keys
    assert time.process_time() - started < 1.0


class Cloud:
    """A remote source that counts what lies on the disk."""

    name = "s3://made"
    is_remote = True

    def __init__(self, folder: Path, room: Path):
        self._folder = folder
        self._room = room
        self._places = itertools.count()
        self.fetched: list[str] = []
        self.most = 0

    def list_files(self) -> list[str]:
        return Folder(self._folder).list_files()

    def read_bytes(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def stamp(self, name: str) -> list[int | str]:
        return [(self._folder / name).stat().st_size, f"etag of {name}"]

    @contextlib.contextmanager
    def fetch(self, names):
        place = self._room / str(next(self._places))
        self.fetched += names
        for name in names:
            copy(self._folder / name, place / name)
        self.most = max(self.most, len(os.listdir(self._room)))
        yield place
        shutil.rmtree(place)

    def stop(self) -> None:
        pass


def test_remote_recordings_are_fetched_once_a_few_at_a_time_and_deleted(tmp_path, data, shelf):
    for k in range(20):
        write_other(data / "ads" / f"{k}.mp4", shelf, str(k))
    copy(shelf / "text.mp4", data / "ads" / "text.mp4")
    room = tmp_path / "room"
    cloud = Cloud(data, room)

    def prepare_cloud() -> PreparedSet:
        return prepare_recordings(
            find_recordings(cloud), cloud, SPEC, tmp_path / "cloud", workers=2, max_rejected=0.2
        )

    prepared = prepare_cloud()
    assert len(prepared.keys) == 24
    assert sorted(cloud.fetched) == sorted(set(cloud.fetched))
    assert len(cloud.fetched) == 25
    assert 1 < cloud.most <= 2 + preparation.AHEAD
    assert list(room.iterdir()) == []
    local = prepare(data)
    assert list(prepared.keys.values()) == list(local.keys.values())
    assert files_below(prepared.store.folder) == files_below(
        local.store.folder
    )  # wherever recordings come from
    assert prepare_cloud().keys == prepared.keys
    assert len(cloud.fetched) == 25  # what was rejected is known without fetching it, too


def test_disk_that_fills_while_decoding_is_one_line_and_rejects_nothing(data, monkeypatch):
    def on_full_disk(path, mode):
        return open("/dev/full", mode)

    with monkeypatch.context() as patch:
        patch.setattr(incoming, "open", on_full_disk, raising=False)
        with pytest.raises(StoreError) as error:
            prepare(data)
    assert "is full: free some space" in str(error.value)
    assert "\n" not in str(error.value)
    assert prepare(data).rejected == []


def test_error_in_a_worker_that_is_not_the_files_fault_ends_the_run(data, monkeypatch):
    monkeypatch.setattr(decoding, "decode_part", raises(PermissionError(13, "not allowed", "x")))
    with pytest.raises(OSError, match="not allowed"):
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
