"""Fingerprints: pictures and sounds as 64-bit hashes that a new encoding hardly changes."""

from functools import cache

import numpy as np

SIDE = 8  # of the block of DCT coefficients whose signs are the hash
COARSE = 32  # pixels a side that a picture is brought down to first
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
BLOCK_FRAMES = 8  # that fit a processor's cache as float32: three times as fast as all at once
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
