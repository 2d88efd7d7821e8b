"""Fingerprints: what is seen again has nearly the same hash, what is not has another."""

import time

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.fft import dctn

from utils.fingerprints import SOUND_STEP, hash_pictures, hash_sounds


def pictures(count: int, height: int = 96, width: int = 96) -> np.ndarray:
    """(count, height, width, 3) uint8: blurred blobs, another picture each."""
    made = []
    for seed in range(count):
        coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        made.append(np.asarray(Image.fromarray(coarse).resize((width, height), Image.BICUBIC)))
    return np.stack(made)


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.bitwise_count(hash_pictures(first) ^ hash_pictures(second))


def scaled(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((width, height)))


def test_hash_is_the_signs_of_the_lowest_waves_about_their_median():
    frames = pictures(20)
    for frame, found in zip(frames, hash_pictures(frames), strict=True):
        grey = frame.reshape(32, 3, 32, 3, 3).mean(axis=(1, 3)) @ [0.299, 0.587, 0.114]
        waves = dctn(grey, norm="ortho")[:8, :8].ravel()[1:]
        bits = waves > np.median(waves)
        expected = int("".join(map(str, bits.astype(int))) + "0", 2)
        assert (int(found) ^ expected).bit_count() <= 1  # a wave next to the median, in float32


def test_other_pictures_differ_in_about_half_the_bits():
    frames = pictures(60)
    distance = distances(frames[:30], frames[30:])
    assert distance.min() >= 12
    assert 26 <= distance.mean() <= 37


@pytest.mark.parametrize(
    "change",
    [
        lambda p: scaled(scaled(p, 40, 40), 96, 96),
        lambda p: (p * 0.8 + 40).astype(np.uint8),
        lambda p: np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(1.5))),
        lambda p: np.clip(p + np.random.default_rng(0).normal(0, 12, p.shape), 0, 255),
        lambda p: scaled(p[2:-2, 2:-2], 96, 96),
    ],
    ids=["scaled", "brighter", "blurred", "noise", "cropped"],
)
def test_changed_picture_keeps_nearly_all_bits(change):
    frames = pictures(30)
    changed = np.stack([change(frame) for frame in frames]).astype(np.uint8)
    assert distances(frames, changed).mean() <= 6


def test_picture_of_any_size_has_nearly_the_same_hash():
    frames = pictures(20, 160, 96)
    for size in ((64, 64), (112, 112), (90, 100), (32, 48)):
        small = np.stack([scaled(frame, *size) for frame in frames])
        assert distances(frames, small).mean() <= 2


@pytest.mark.parametrize("level", [0, 16, 128, 255])
def test_flat_picture_has_the_hash_zero(level):
    noise = np.random.default_rng(0).normal(0, 5, (3, 96, 96, 3))
    flat = np.clip(level + noise, 0, 255).astype(np.uint8)
    assert hash_pictures(flat).tolist() == [0, 0, 0]
    assert hash_pictures(pictures(50)).all()


def test_hashes_do_not_depend_on_the_block():
    frames = pictures(21)
    hashes = hash_pictures(frames)
    assert hashes.dtype == np.uint64
    assert np.array_equal(hashes, np.concatenate([hash_pictures(f[None]) for f in frames]))
    assert hash_pictures(frames[:0]).shape == (0,)


def test_hashing_is_a_small_part_of_decoding():
    frames = np.tile(pictures(8), (32, 1, 1, 1))
    hash_pictures(frames)
    seconds = []
    for _ in range(5):
        started = time.process_time()
        hash_pictures(frames)
        seconds.append(time.process_time() - started)
    assert min(seconds) / len(frames) < 200e-6  # 17 microseconds where nothing else runs


# Sounds


def sound(seed: int, seconds: float = 20.0) -> np.ndarray:
    """(rows, 20) MFCC of another melody each, at 31.25 rows a second."""
    rng = np.random.default_rng(seed)
    notes = rng.normal(0, 20, (int(seconds * 4) + 2, 20))
    rows = np.arange(int(seconds * 31.25)) / 31.25 * 4
    first, part = rows.astype(int), (rows % 1)[:, None]
    return notes[first] * (1 - part) + notes[first + 1] * part


def sound_distance(first: np.ndarray, second: np.ndarray) -> float:
    one, two = hash_sounds(first), hash_sounds(second)
    length = min(len(one), len(two))
    return float(np.bitwise_count(one[:length] ^ two[:length]).mean())


def test_other_sounds_differ_in_about_half_the_bits():
    distances = [sound_distance(sound(k), sound(k + 50)) for k in range(20)]
    assert min(distances) >= 24


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m + np.eye(20)[0] * 30,
        lambda m: m * 0.8,
        lambda m: m + np.random.default_rng(0).normal(0, 4, m.shape),
        lambda m: m[2:],
        lambda m: m.astype(np.float16),
    ],
    ids=["louder", "compressed", "noise", "half a step later", "as stored"],
)
def test_changed_sound_keeps_nearly_all_bits(change):
    distances = [sound_distance(sound(k), change(sound(k))) for k in range(10)]
    assert np.mean(distances) <= 10


def test_sound_a_step_later_has_the_hashes_of_a_step_later():
    mfcc = sound(0).astype(np.float16)
    assert np.array_equal(hash_sounds(mfcc[SOUND_STEP:]), hash_sounds(mfcc)[1:])


def test_silence_and_hum_have_the_hash_zero():
    hum = np.random.default_rng(0).normal(0, 1.5, (600, 20)) + 100 * np.arange(20)
    assert not hash_sounds(np.zeros((600, 20), np.float16)).any()
    assert not hash_sounds(hum).any()
    assert hash_sounds(sound(0)).all()


def test_sound_too_short_or_of_too_few_coefficients_has_no_hash():
    assert hash_sounds(sound(0)[:40]).shape == (0,)
    assert hash_sounds(sound(0)[:41]).shape == (1,)
    assert hash_sounds(sound(0)[:, :16]).shape == (0,)
    assert hash_sounds(np.zeros((0, 20), np.float16)).dtype == np.uint64
