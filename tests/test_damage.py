"""Damaged files, hundreds of them, are read or refused in one line, and soon."""

import random
import time
from pathlib import Path

import media
import pytest

from utils.features import FeatureSpec, read_features
from utils.media import MediaError
from utils.mfcc import MfccSpec

FILES_PER_KIND = 25
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
        started = time.monotonic()
        try:
            blocks = list(read_features(path, spec))
        except MediaError as error:
            reasons.append(str(error))
        else:
            num_frames = sum(len(block.frames) for block in blocks)
            rows = [len(block.mfcc) for block in blocks if block.mfcc is not None]
            assert num_frames > 0
            assert not rows or sum(rows) == spec.num_rows(num_frames)
            num_read += 1
        assert time.monotonic() - started < MAX_SECONDS
    assert num_read > 0
    assert not any("\n" in reason for reason in reasons)
