"""Fingerprints: pictures and sounds as 64-bit hashes that a new encoding hardly changes."""

from functools import cache

import numpy as np

SIDE = 8  # of the block of DCT coefficients whose signs are the hash
COARSE = 32  # pixels a side that a picture is brought down to first
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
BLOCK_FRAMES = 8  # that fit a processor's cache as float32: three times as fast as all at once
SOUND_STEP = 4  # rows of MFCC from a hash to the next: 0.13 s
SOUND_COEFFICIENTS = 16
SMOOTH_ROWS = 8  # 0.26 s, so that steps a little apart still hear the same
SOUND_LAGS = (4, 8, 16, 32)  # rows, up to a second
QUIET_CHANGE = 3.0  # decibels, root mean square: below it is silence, hum or hiss
FLAT_LEVELS = 3.0  # standard deviation in grey levels below which a picture shows nothing


def hash_pictures(frames: np.ndarray) -> np.ndarray:
    """(n,) uint64 perceptual hashes of (n, H, W, 3) uint8 RGB; 0 where the picture is flat.

    The DCT hash of Zauner (Implementation and Benchmarking of Perceptual Image Hash Functions,
    2010), with the block that the library imagehash takes: a bit for each of the 8x8 lowest
    frequencies of the 32x32 grey picture, set above their median. The mean is left out, so a
    brighter picture has the same hash. Unrelated pictures differ in 32 bits, more or less.
    """
    count, height, width, _ = frames.shape
    if count == 0:
        return np.zeros(0, np.uint64)
    across = np.kron(_low_frequencies(width), LUMA).astype(np.float32)  # (8, W * 3)
    down = _low_frequencies(height)  # (8, H)
    waves = np.empty((count, SIDE, SIDE), np.float32)
    for start in range(0, count, BLOCK_FRAMES):
        block = frames[start : start + BLOCK_FRAMES].reshape(-1, height, width * 3)
        waves[start : start + BLOCK_FRAMES] = down @ (block.astype(np.float32) @ across.T)
    waves = waves.reshape(count, -1)[:, 1:]
    bits = waves > np.median(waves, axis=1, keepdims=True)
    bits &= (np.linalg.norm(waves, axis=1) >= FLAT_LEVELS * COARSE)[:, None]
    return _packed(bits)


def hash_sounds(mfcc: np.ndarray) -> np.ndarray:
    """(n,) uint64 hashes of (m, n_mfcc) MFCC, one for each SOUND_STEP rows; 0 where little sounds.

    A bit says whether one of the coefficients 1 to 16, each smoothed over SMOOTH_ROWS, is higher
    some rows later: differences over time and frequency, as in Haitsma and Kalker (A Highly Robust
    Audio Fingerprinting System, 2002), survive another loudness and codec. The last hashes lack
    what comes later, so there are none for them; nor for fewer than 17 coefficients.
    """
    steps = np.asarray(mfcc[:, 1 : 1 + SOUND_COEFFICIENTS], np.float32)
    count = len(steps) - SMOOTH_ROWS - SOUND_LAGS[-1]
    if count < 1 or steps.shape[1] < SOUND_COEFFICIENTS:
        return np.zeros(0, np.uint64)
    sums = np.concatenate([np.zeros_like(steps[:1]), np.cumsum(steps, axis=0, dtype=np.float64)])
    smooth = (sums[SMOOTH_ROWS:] - sums[:-SMOOTH_ROWS]) / SMOOTH_ROWS
    changes = np.concatenate(
        [(smooth[lag:][:count] - smooth[:count])[::SOUND_STEP] for lag in SOUND_LAGS], axis=1
    )
    bits = changes > 0
    bits[:, -1] = False  # 63 bits, as of pictures
    bits &= (np.sqrt(np.square(changes).mean(axis=1)) >= QUIET_CHANGE)[:, None]
    return _packed(bits)


def _packed(bits: np.ndarray) -> np.ndarray:
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


@cache
def _low_frequencies(size: int) -> np.ndarray:
    """(8, size) float32: averages `size` pixels into 32, then the lowest waves of their DCT-II."""
    edges = np.linspace(0, size, COARSE + 1)
    pixel = np.arange(size)
    inside = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    average = inside.clip(0) * COARSE / size  # (32, size), rows sum to 1
    wave, place = np.arange(SIDE)[:, None], np.arange(COARSE) + 0.5
    dct = np.cos(np.pi * wave * place / COARSE) * np.sqrt(2 / COARSE)
    dct[0] /= np.sqrt(2)  # orthonormal
    return (dct @ average).astype(np.float32)
