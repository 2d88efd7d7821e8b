"""MFCC: rows of coefficients made of samples that come in blocks."""

import math
from dataclasses import dataclass

import numpy as np

BLOCK_SECONDS = 4.0  # windows of that much sound stay in the processor's cache


@dataclass(frozen=True)
class MfccSpec:
    """How sound becomes MFCC; the names are librosa's."""

    sample_rate: int = 16000
    n_mfcc: int = 20
    n_mels: int = 32
    n_fft: int = 1024
    hop_length: int = 512

    @property
    def frames_per_second(self) -> float:
        return self.sample_rate / self.hop_length

    def seconds(self, num_rows: int) -> float:
        """How long so many rows last."""
        return num_rows * self.hop_length / self.sample_rate


class MfccMaker:
    """Rows of MFCC from row `first_row` of a recording on; row m is centred on sample m * hop.

    They equal `librosa.feature.mfcc` on the log-mel spectrogram without `top_db`, which would clip
    at 80 dB under the recording's loudest moment: one bang would change all other rows, and a
    clip's features would depend on the recording around it.
    """

    def __init__(self, spec: MfccSpec, first_row: int = 0, block_seconds: float = BLOCK_SECONDS):
        self._spec = spec
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.n_fft) / spec.n_fft)  # periodic Hann
        self._window = window.astype(np.float32)
        self._bins, self._weights, self._starts = _nonzero(mel_filters(spec))
        self._block_rows = max(1, round(block_seconds * spec.frames_per_second))
        first_sample = first_row * spec.hop_length - spec.n_fft // 2
        self.first_sample = max(0, first_sample)  # from which on `take` wants samples
        # Before the recording lies silence: librosa's center=True.
        self._waiting = [np.zeros(self.first_sample - first_sample, np.float32)]
        self._num_waiting = len(self._waiting[0])
        self._ready: list[np.ndarray] = []
        self.num_rows = 0  # made so far

    def take(self, samples: np.ndarray) -> None:
        """Goes on with (samples,) float32."""
        self._waiting.append(samples)
        self._num_waiting += len(samples)
        while self._num_waiting >= self._num_samples(self._block_rows):
            self._make(self._block_rows)

    def rows(self, limit: int) -> np.ndarray:
        """Returns (m, n_mfcc) float16: rows not returned before, no more than `limit`."""
        rows = np.concatenate([np.zeros((0, self._spec.n_mfcc), np.float16), *self._ready])
        self._ready = [rows[limit:]]
        return rows[:limit]

    def finish(self, num_rows: int) -> None:
        """Makes so many rows in all, from silence where the samples end."""
        while self.num_rows < num_rows:
            rows = min(self._block_rows, num_rows - self.num_rows)
            missing = max(0, self._num_samples(rows) - self._num_waiting)
            self._waiting.append(np.zeros(missing, np.float32))
            self._num_waiting += missing
            self._make(rows)

    def _num_samples(self, rows: int) -> int:
        return (rows - 1) * self._spec.hop_length + self._spec.n_fft

    def _make(self, rows: int) -> None:
        from scipy.fft import dct, rfft  # here: who has no sound should not wait for it

        spec = self._spec
        samples = np.concatenate(self._waiting)
        windows = np.lib.stride_tricks.sliding_window_view(samples, spec.n_fft)
        spectrum = rfft(windows[:: spec.hop_length][:rows] * self._window, axis=1)
        power = spectrum.real**2 + spectrum.imag**2  # (rows, bins)
        # Not a product of matrices, whose threads then spin for a while, in case of another one:
        # with every block of sound that took half as long as decoding its pictures.
        mel = np.add.reduceat(power[:, self._bins] * self._weights, self._starts, axis=1)
        decibels = 10 * np.log10(np.maximum(mel, 1e-10))  # librosa's amin, ref 1
        cepstrum = dct(decibels, type=2, norm="ortho", axis=1)[:, : spec.n_mfcc]
        self._ready.append(cepstrum.astype(np.float16))
        self.num_rows += rows
        rest = samples[rows * spec.hop_length :]
        self._waiting, self._num_waiting = [rest.copy()], len(rest)


def mel_filters(spec: MfccSpec) -> np.ndarray:
    """Returns (n_mels, n_fft // 2 + 1) float32: triangles of equal area on Slaney's mel scale.

    The numbers of `librosa.filters.mel`, which a test holds them against. Importing librosa takes
    1.4 seconds of processor time, a quarter of what a label of a short video takes in all. The
    scale is linear up to 1 kHz and logarithmic above (Slaney, Auditory Toolbox, 1998).
    """
    hz_per_mel, knee_hz, log_step = 200 / 3, 1000.0, math.log(6.4) / 27
    knee_mel = knee_hz / hz_per_mel
    top_hz = spec.sample_rate / 2
    top_mel = top_hz / hz_per_mel
    if top_hz > knee_hz:
        top_mel = knee_mel + math.log(top_hz / knee_hz) / log_step
    mels = np.linspace(0.0, top_mel, spec.n_mels + 2)
    above = knee_hz * np.exp(log_step * (mels - knee_mel))
    edges = np.where(mels < knee_mel, mels * hz_per_mel, above)[:, None]  # Hz
    bins = np.linspace(0.0, top_hz, spec.n_fft // 2 + 1)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * 2.0 / (edges[2:] - edges[:-2])).astype(np.float32)


def _nonzero(filters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bins of each filter side by side, their weights, and where each filter starts.

    One that lies between two bins, and so is 0 everywhere, keeps a weight of 0: it stays a filter.
    """
    kept = filters > 0
    kept[:, 0] |= ~kept.any(axis=1)
    rows, bins = np.nonzero(kept)
    return bins, filters[rows, bins], np.searchsorted(rows, np.arange(len(filters)))
