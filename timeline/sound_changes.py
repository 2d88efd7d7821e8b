"""Sound changes: pauses, and how far the sound before a moment differs from that after it."""

import numpy as np

SAMPLE_RATE = 16_000
STEP_SAMPLES = 320  # 20 ms
# Hertz: hum and bass, voices, consonants, hiss; a commentator over a crowd differs from a jingle
# in how they share the sound even where both are as loud.
BANDS = ((50, 500), (500, 2000), (2000, 4000), (4000, 8000))
FLOOR_DECIBELS = -70.0  # of full scale, each band; below lies noise that no one hears
NEAR_SECONDS = 0.12  # sound and picture are cut apart by up to three pictures
SIDE_SECONDS = 1.2
MAX_PAUSE_DECIBELS = 30.0


class SoundChanges:
    """Looks at the sound (samples,) of a span that starts at `start_seconds`."""

    def __init__(self, sound: np.ndarray, start_seconds: float):
        self._start = start_seconds
        count = len(sound) // STEP_SAMPLES
        steps = sound[: count * STEP_SAMPLES].reshape(count, STEP_SAMPLES)
        power = np.abs(np.fft.rfft(steps * np.hanning(STEP_SAMPLES).astype(np.float32))) ** 2
        hertz = np.fft.rfftfreq(STEP_SAMPLES, 1 / SAMPLE_RATE)
        # A sine of full scale has the power 1/2 in its band.
        scale = 8 / 3 * 2 / STEP_SAMPLES**2
        in_bands = [power[:, (hertz >= low) & (hertz < high)].sum(axis=1) for low, high in BANDS]
        self._bands = _decibels(np.stack(in_bands, axis=1) * scale)  # (n, bands)
        self._levels = _decibels((steps**2).mean(axis=1))  # (n,)

    def around(self, start_seconds: float, end_seconds: float) -> tuple[float, float]:
        """How many decibels a pause in [start, end), or next to it, is below the sound on both of
        its sides, and by how many the bands on one side differ from those on the other."""
        first = max(0, self._step(start_seconds - NEAR_SECONDS))
        last = max(first + 1, self._step(end_seconds + NEAR_SECONDS))
        side = round(SIDE_SECONDS * SAMPLE_RATE / STEP_SAMPLES)
        before, after = slice(max(0, first - side), first), slice(last, last + side)
        near = self._levels[first:last]
        if not len(near) or not len(self._levels[before]) or not len(self._levels[after]):
            return 0.0, 0.0
        quietest = np.convolve(near, np.ones(3) / 3, "valid" if len(near) > 2 else "same").min()
        sides = min(np.median(self._levels[before]), np.median(self._levels[after]))
        change = self._bands[after].mean(axis=0) - self._bands[before].mean(axis=0)
        return float(np.clip(sides - quietest, 0, MAX_PAUSE_DECIBELS)), float(np.abs(change).mean())

    def _step(self, seconds: float) -> int:
        return round((seconds - self._start) * SAMPLE_RATE / STEP_SAMPLES)


def _decibels(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(power + 10 ** (FLOOR_DECIBELS / 10))
