"""Sound of a recording: where it is, its samples from the first picture on, and its MFCC."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from utils.video import (
    MAX_STEP_BACK_SECONDS,
    MediaError,
    decoded,
    first_picture_seconds,
    max_gap_seconds,
    opened,
    packets,
    video_streams,
)

# Timestamps of sound are rounded (Matroska: 1 ms) and wander with the encoder's blocks; a longer
# hole than this is a real one and is filled with silence.
MAX_GAP_SECONDS = 0.05
BLOCK_SECONDS = 30.0


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


def find_audio(video_path: str | os.PathLike) -> Path | None:
    """Returns the file that holds a video's sound, None if there is none.

    `x.mp4` is heard in `x.wav` beside it, else `audio/x.wav` in its folder, else `audio/x.wav` in
    the folder above, else in its own sound track. Raises MediaError for a file that is no media.
    """
    video_path = Path(video_path)
    name = video_path.stem + ".wav"
    folder = video_path.parent
    beside = folder.absolute().parent
    for candidate in (folder / name, folder / "audio" / name, beside / "audio" / name):
        if candidate.is_file():
            return candidate
    with opened(video_path) as container:
        return video_path if _audio_stream(container) is not None else None


def read_audio(
    path: str | os.PathLike, sample_rate: int, *, video_path: str | os.PathLike | None = None
) -> Iterator[np.ndarray]:
    """Yields (samples,) float32 in [-1, 1]: the plain mean of all channels at `sample_rate`.

    Time zero is the first picture, of `path` itself or of `video_path` if that is given (for sound
    kept apart with the video's timestamps); a file of sound alone starts at its first sample. Late
    sound and holes in it are silence, damaged packets are holes. Memory does not grow with the
    recording. Raises MediaError if there is nothing to decode.
    """
    with opened(path) as container:
        stream = _audio_stream(container)
        if stream is None:
            raise MediaError("no sound track")
        zero = None
        if video_path is not None or video_streams(container):
            zero = first_picture_seconds(video_path or path)
        max_jump_seconds = max_gap_seconds(container)
        runs = _runs(_frames(container, stream), sample_rate, zero, max_jump_seconds)
        yield from _joined(runs, sample_rate)


def compute_mfcc(
    path: str | os.PathLike, spec: MfccSpec, duration_seconds: float
) -> np.ndarray | None:
    """Returns (M, n_mfcc) float16, the MFCC of a whole recording, None if it holds no sound.

    M is ceil(duration_seconds * frames_per_second) whatever the sound's own length: it is cut, or
    followed by silence. Row m is centred on sample m * hop_length. A track of digital silence is
    sound. Equals `librosa.feature.mfcc` on the log-mel spectrogram without `top_db`, which would
    clip at 80 dB under the recording's loudest moment: one bang would change all other rows, and a
    clip's features would depend on the recording around it.
    """
    from scipy.fft import dct, rfft  # here: who has no sound should not wait for it

    count = math.ceil(duration_seconds * spec.frames_per_second)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.n_fft) / spec.n_fft)  # periodic Hann
    window, filters = window.astype(np.float32), mel_filters(spec).T  # (bins, mels)
    rows = [np.zeros((0, spec.n_mfcc), np.float16)]
    try:
        for frames in _windows(read_audio(path, spec.sample_rate), spec, count):
            power = np.abs(rfft(frames * window, axis=1)) ** 2  # (frames, bins)
            decibels = 10 * np.log10(np.maximum(power @ filters, 1e-10))  # librosa's amin, ref 1
            cepstrum = dct(decibels, type=2, norm="ortho", axis=1)[:, : spec.n_mfcc]
            rows.append(cepstrum.astype(np.float16))
    except MediaError:
        return None
    return np.concatenate(rows)


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


def _windows(blocks: Iterator[np.ndarray], spec: MfccSpec, count: int) -> Iterator[np.ndarray]:
    """Yields (frames, n_fft) float32, `count` frames in all, some BLOCK_SECONDS at a time."""
    per_block = max(1, round(BLOCK_SECONDS * spec.frames_per_second))
    total = count * spec.hop_length
    # Half a window of silence first: librosa's center=True.
    waiting = [np.zeros(spec.n_fft // 2, np.float32)]
    waiting_samples = spec.n_fft // 2
    heard = done = 0

    def full(frames: int) -> int:
        return (frames - 1) * spec.hop_length + spec.n_fft

    for block in blocks:
        block = block[: total - heard]
        heard += len(block)
        waiting.append(block)
        waiting_samples += len(block)
        if waiting_samples >= full(per_block) and done + per_block <= count:
            samples = np.concatenate(waiting)
            while len(samples) >= full(per_block) and done + per_block <= count:
                yield _overlapping(samples, per_block, spec)
                samples = samples[per_block * spec.hop_length :]
                done += per_block
            waiting, waiting_samples = [samples.copy()], len(samples)
        if heard >= total:
            break
    if heard == 0:
        raise MediaError("no sound could be decoded")
    samples = np.concatenate(waiting)
    while done < count:
        frames = min(per_block, count - done)
        samples = np.pad(samples, (0, max(0, full(frames) - len(samples))))
        yield _overlapping(samples, frames, spec)
        samples = samples[frames * spec.hop_length :]
        done += frames


def _overlapping(samples: np.ndarray, frames: int, spec: MfccSpec) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(samples, spec.n_fft)
    return windows[:: spec.hop_length][:frames]


def _runs(
    frames: Iterator[av.AudioFrame], sample_rate: int, zero: float | None, max_jump_seconds: float
) -> Iterator[tuple[int | None, np.ndarray]]:
    """Yields resampled mono blocks, each with the sample it starts at, None if it just goes on."""
    mixer = _Mixer(sample_rate)
    due = None  # seconds after zero at which the next frame starts if nothing is missing
    for frame in frames:
        if zero is None:
            zero = frame.time or 0.0
        start = (due or 0.0) if frame.time is None else frame.time - zero
        if due is not None and not -MAX_STEP_BACK_SECONDS < start - due < max_jump_seconds:
            zero += start - due
            start = due
        if due is None or abs(start - due) > MAX_GAP_SECONDS:
            for block in mixer.flush():
                yield None, block
            yield round(start * sample_rate), np.zeros(0, np.float32)
            due = start
        due += frame.samples / frame.sample_rate
        for block in mixer.mix(frame):
            yield None, block
    for block in mixer.flush():
        yield None, block


def _joined(
    runs: Iterator[tuple[int | None, np.ndarray]], sample_rate: int
) -> Iterator[np.ndarray]:
    """Yields the blocks of runs from sample 0 on: holes become silence, overlaps are cut."""
    position = end = 0
    for start, block in runs:
        position = position if start is None else start
        while end < position and len(block):
            silence = np.zeros(min(position - end, sample_rate), np.float32)
            yield silence
            end += len(silence)
        new = block[max(0, end - position) :]
        position += len(block)
        if len(new):
            yield new
            end += len(new)


class _Mixer:
    """Resamples frames and averages their channels; a broadcast may change both midway."""

    def __init__(self, sample_rate: int):
        self._sample_rate = sample_rate
        self._resampler: av.AudioResampler | None = None
        self._kind: tuple | None = None

    def mix(self, frame: av.AudioFrame) -> Iterator[np.ndarray]:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind:
            yield from self.flush()
            self._kind = kind
            self._resampler = av.AudioResampler("flt", frame.layout, self._sample_rate)
        frame.pts = None  # the samples are placed here, by `_runs`
        yield from map(_mean_of_channels, self._resampler.resample(frame))

    def flush(self) -> Iterator[np.ndarray]:
        if self._resampler is not None:
            yield from map(_mean_of_channels, self._resampler.resample(None))
        self._resampler = self._kind = None


def _mean_of_channels(frame: av.AudioFrame) -> np.ndarray:
    # Interleaved, because PyAV miscounts the planes of eight and more channels and crashes.
    samples = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)
    return np.clip(samples.mean(axis=1, dtype=np.float32), -1.0, 1.0)


def _frames(
    container: av.container.InputContainer, stream: av.AudioStream
) -> Iterator[av.AudioFrame]:
    for packet in packets(container, stream):
        yield from decoded(stream.codec_context, packet)


def _audio_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """Returns the default sound track, else the first, of those that can be decoded."""
    streams = [s for s in container.streams.audio if s.codec_context is not None]
    default = av.stream.Disposition.default
    return max(streams, key=lambda s: bool(s.disposition & default), default=None)
