"""Loudness: how loud a recording is from one moment to the next, from its sound alone."""

import os
from collections.abc import Callable

import numpy as np

from utils.audio import read_audio, readable_sound_file
from utils.media import MediaError, audio_stream, opened

HOP_SECONDS = 0.25
FLOOR_DECIBELS = -90  # of full scale: 16 bits hold no less
SAMPLE_RATE = 16_000  # a second: what is above 8 kHz is little of the loudness
REPORT_SECONDS = 20.0  # of the recording, from one report to the next


def read_loudness(
    path: str | os.PathLike, report: Callable[[float], None] = lambda _: None
) -> list[int]:
    """Returns whole decibels of full scale, from FLOOR_DECIBELS to 0, of each HOP_SECONDS.

    The first hop starts with the first picture; the root of the mean square of all channels'
    mean counts. Empty where a recording has no sound, or none that can be decoded. `report` is
    told the seconds that are done. Raises MediaError for a file that is no media.
    """
    sound_path = readable_sound_file(path)
    if sound_path is None:
        with opened(path) as container:
            if audio_stream(container) is None:
                return []
    found: list[np.ndarray] = []
    rest = np.zeros(0, np.float32)
    hop = round(HOP_SECONDS * SAMPLE_RATE)
    seconds = told = 0.0
    try:
        for block in read_audio(sound_path or path, SAMPLE_RATE):
            samples = np.concatenate([rest, block])
            whole = len(samples) // hop * hop
            found.append(_decibels(samples[:whole].reshape(-1, hop)))
            rest = samples[whole:]
            seconds += len(found[-1]) * HOP_SECONDS
            if seconds - told > REPORT_SECONDS:
                told = seconds
                report(seconds)
    except MediaError:
        return []
    if len(rest):
        found.append(_decibels(rest[None]))
    return np.concatenate(found).tolist() if found else []


def _decibels(samples: np.ndarray) -> np.ndarray:
    """(n,) int8 of (n, samples) float32."""
    power = np.square(samples, dtype=np.float64).mean(axis=1)
    floor = 10 ** (FLOOR_DECIBELS / 10)
    decibels = 10 * np.log10(np.maximum(power, floor))
    return decibels.round().clip(FLOOR_DECIBELS, 0).astype(np.int8)
