"""Damaged files, hundreds of them, are read or refused in one line; what is wrong is said."""

import random
from pathlib import Path

import av
import numpy as np
import pytest

from tests import media
from tests.steady import Stopwatch
from utils.damage import MAX_RECORDS, DamageLog
from utils.features import FeatureSpec, read_features
from utils.media import MediaError
from utils.mfcc import MfccSpec

FILES_PER_KIND = 25
SILENT = -100 * MfccSpec().n_mels ** 0.5  # coefficient 0 of digital silence
MAX_SECONDS = 30


@pytest.fixture(scope="module")
def good_files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("good")
    kinds = {
        "a.mp4": {"options": {"g": "25"}},
        "b.ts": {"options": {"g": "25"}, "start_seconds": 5.0},
        "c.mkv": {"options": {"g": "25"}},
        "d.avi": {"codec": "mpeg4"},
        "e.ts": {"codec": "mpeg2video"},
        "f.webm": {"codec": "libvpx", "tone_hz": None},
        "g.mov": {"rotation_degrees": 90},
    }
    return [media.write_video(folder / name, seconds=4, **kind) for name, kind in kinds.items()]


def truncated(whole: bytes, other: bytes, chance: random.Random) -> bytes:
    return whole[: chance.randrange(len(whole))]


def flipped(whole: bytes, other: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(whole)
    for _ in range(chance.choice([1, 5, 50, 500])):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def overwritten(whole: bytes, other: bytes, chance: random.Random) -> bytes:
    start, size = chance.randrange(len(whole)), chance.randrange(1, 5000)
    return whole[:start] + chance.randbytes(size) + whole[start + size :]


def spliced(whole: bytes, other: bytes, chance: random.Random) -> bytes:
    return whole[: chance.randrange(len(whole))] + other[chance.randrange(len(other)) :]


def beheaded(whole: bytes, other: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(whole)
    for _ in range(chance.choice([1, 3, 10])):
        damaged[chance.randrange(min(2000, len(damaged)))] = chance.randrange(256)
    return bytes(damaged)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fast", "keyframes"])
@pytest.mark.parametrize("damage", [truncated, flipped, overwritten, spliced, beheaded])
def test_damaged_file_gives_features_or_a_reason(tmp_path, good_files, damage, mode):
    chance = random.Random(f"{damage.__name__}")
    spec = FeatureSpec(4.0, (32, 48), mode, True, MfccSpec())
    num_read, reasons = 0, []
    for _ in range(FILES_PER_KIND):
        good, other = chance.sample(good_files, 2)
        path = tmp_path / good.name
        path.write_bytes(damage(good.read_bytes(), other.read_bytes(), chance))
        watch = Stopwatch()
        try:
            with watch:
                blocks = list(read_features(path, spec))
        except MediaError as error:
            reasons.append(str(error))
        else:
            num_frames = sum(len(block.frames) for block in blocks)
            rows = [len(block.mfcc) for block in blocks if block.mfcc is not None]
            assert num_frames > 0
            assert not rows or sum(rows) == spec.num_rows(num_frames)
            num_read += 1
        assert watch.seconds < MAX_SECONDS
    assert num_read > 0
    assert not any("\n" in reason for reason in reasons)


# What is wrong is said, and the times on both sides stay right.


def read(path: Path, mode: str = "fast", threads: int = 2) -> tuple[list[float], list, DamageLog]:
    """The times that frames show, which rows of MFCC are loud, and what was noted."""
    log = DamageLog()
    spec = FeatureSpec(4.0, (72, 128), mode, False, MfccSpec())
    blocks = list(read_features(path, spec, threads=threads, damage=log))
    times = [media.read_time(frame) for block in blocks for frame in block.frames]
    rows = np.concatenate([block.mfcc[:, 0] for block in blocks])
    return times, rows > SILENT + 30, log


def noted(log: DamageLog) -> list[tuple[str, int]]:
    return [(damage.kind, round(damage.seconds)) for damage in log.records]


def write_stream(path: Path, seconds: float = 6.0, **options) -> Path:
    encoder = {"g": "25", "preset": "ultrafast"}
    return media.write_video(path, seconds=seconds, options=encoder, **options)


def without(source: Path, target: Path, kind: str, start: float, end: float) -> Path:
    """A copy that lacks the packets of these seconds since the first picture."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = {s.index: new.add_stream_from_template(s) for s in old.streams}
        for packet in old.demux():
            seconds = None if packet.pts is None else float(packet.pts * packet.time_base)
            gone = seconds is not None and start <= seconds < end
            if packet.dts is None or (gone and kind in ("all", packet.stream.type)):
                continue
            packet.stream = streams[packet.stream.index]
            new.mux(packet)
    return target


def loud_seconds(loud: np.ndarray, start: float, end: float) -> float:
    rate = MfccSpec().frames_per_second
    return float(loud[round(start * rate) : round(end * rate)].sum() / rate)


@pytest.fixture(scope="module")
def minute(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("minute") / "minute.mp4"
    return write_stream(path, 40.0, fps=10)


@pytest.mark.parametrize("mode", ["fast", "keyframes"])
@pytest.mark.parametrize(("first", "then"), [(10.0, 3.0), (10.0, 5000.0), (2**33 / 90000 - 3, 0.0)])
def test_jump_of_timestamps_is_closed_and_said(tmp_path, mode, first, then):
    parts = [
        write_stream(tmp_path / f"{k}.ts", start_seconds=start)
        for k, start in enumerate((first, then))
    ]
    path = tmp_path / "spliced.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    times, loud, log = read(path, mode)
    assert len(times) == 48
    assert log.end_seconds == pytest.approx(12.0, abs=0.05)
    assert times[24 + 8 : 24 + 9] == pytest.approx([2.0], abs=0.5)
    assert ("jump", 6) in noted(log)
    assert loud_seconds(loud, 0, 12) > 11.5
    assert log.picture_gaps == log.sound_gaps == []


def test_wrapped_timestamps_are_no_damage(tmp_path):
    times, loud, log = read(write_stream(tmp_path / "a.ts", start_seconds=2**33 / 90000 - 3))
    assert times == pytest.approx([k / 4 for k in range(24)], abs=0.06)
    assert noted(log) == []
    assert loud_seconds(loud, 0, 6) > 5.8


def test_change_of_size_and_of_channels_is_said(tmp_path):
    a = write_stream(tmp_path / "a.ts", start_seconds=10)
    b = write_stream(tmp_path / "b.ts", start_seconds=16.0, size=(144, 256), channels=2)
    path = tmp_path / "both.ts"
    path.write_bytes(a.read_bytes() + b.read_bytes())
    times, loud, log = read(path)
    assert times[24:] == pytest.approx([k / 4 for k in range(len(times) - 24)], abs=0.06)
    assert {("picture size", 6), ("sound layout", 6)} <= set(noted(log))
    texts = {damage.kind: damage.description for damage in log.records}
    assert texts["picture size"] == "the picture changes from 128x72 to 256x144"
    assert texts["sound layout"] == "the sound changes from 1 x 48000 Hz to 2 x 48000 Hz"
    assert loud_seconds(loud, 0, 12) > 11.5


@pytest.mark.parametrize("suffix", [".ts", ".mp4"])
def test_sound_that_is_away_comes_back_at_its_time(tmp_path, minute, suffix):
    path = without(minute, tmp_path / f"a{suffix}", "audio", 10, 30)
    times, loud, log = read(path)
    assert times == pytest.approx([k / 4 for k in range(160)], abs=0.06)
    assert loud_seconds(loud, 0, 10) > 9.8
    assert loud_seconds(loud, 10.1, 29.9) == 0
    assert loud_seconds(loud, 30, 40) > 9.8
    assert noted(log) == [("no sound", 10)]
    assert log.sound_gaps[0] == pytest.approx((10, 30), abs=0.1)


@pytest.mark.parametrize(("start", "end"), [(0, 20), (20, 100)])
def test_sound_that_comes_late_or_ends_early_is_missing_there(tmp_path, minute, start, end):
    path = without(minute, tmp_path / "a.ts", "audio", start, end)
    _, loud, log = read(path)
    assert noted(log) == [("no sound", start)]
    assert log.sound_gaps[0][0] == pytest.approx(start, abs=0.1)
    assert min(40, log.sound_gaps[0][1]) == pytest.approx(min(40, end), abs=0.1)
    assert loud_seconds(loud, 0, 40) == pytest.approx(20, abs=0.3)


@pytest.mark.parametrize(("suffix", "kind"), [(".ts", "video"), (".mkv", "all"), (".mp4", "all")])
def test_stretch_without_pictures_is_a_gap(tmp_path, minute, suffix, kind):
    times, _, log = read(without(minute, tmp_path / f"a{suffix}", kind, 5, 35))
    assert len(times) == 160
    assert times[:20] == pytest.approx([k / 4 for k in range(20)], abs=0.06)
    assert times[-16:] == pytest.approx([36 + k / 4 for k in range(16)], abs=0.06)
    ((start, end),) = log.picture_gaps
    # MP4 says of the last picture that it stays, and it is believed for some time.
    assert start == pytest.approx(15 if suffix == ".mp4" else 5, abs=0.2)
    assert end == pytest.approx(35, abs=0.2)


def test_bytes_lost_from_a_stream_are_a_gap_of_both(tmp_path):
    whole = write_stream(tmp_path / "a.ts", 9.0).read_bytes()
    third = len(whole) // 188 // 3 * 188
    path = tmp_path / "b.ts"
    path.write_bytes(whole[:third] + whole[2 * third :])
    times, _, log = read(path)
    assert times[-8:] == pytest.approx([7 + k / 4 for k in range(8)], abs=0.06)
    assert {kind for kind, _ in noted(log)} >= {"gap", "no sound"}


def test_damaged_packets_are_counted_as_a_stretch(tmp_path):
    data = bytearray(write_stream(tmp_path / "a.mkv").read_bytes())
    chance = random.Random(1)
    for index in range(len(data) // 3, len(data) // 2):
        if chance.random() < 0.02:
            data[index] = chance.randrange(256)
    (tmp_path / "b.mkv").write_bytes(data)
    times, _, log = read(tmp_path / "b.mkv")
    stretches = [damage for damage in log.records if damage.kind == "unreadable"]
    assert 1 <= len(stretches) <= 4
    assert all(1 <= damage.seconds <= 4 for damage in stretches)
    assert times[-4:] == pytest.approx([5, 5.25, 5.5, 5.75], abs=0.06)


def test_records_of_a_wreck_are_bounded():
    log = DamageLog()
    for k in range(5000):
        log.picture_gap(10.0 * k, 10.0 * k + 5)
    assert len(log.records) == MAX_RECORDS
