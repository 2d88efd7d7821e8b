"""Sound of a recording: where it is, its samples from the first picture on, and their MFCC."""

import contextlib
import math
import os
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from utils.damage import MIN_GAP_SECONDS, DamageLog
from utils.media import (
    MAX_FILE_GAP_SECONDS,
    MAX_STEP_BACK_SECONDS,
    Clock,
    MediaError,
    SplitError,
    audio_stream,
    decoded,
    max_gap_seconds,
    opened,
    packets,
    video_streams,
)
from utils.mfcc import BLOCK_SECONDS, MfccMaker, MfccSpec
from utils.video import first_picture_seconds

# Timestamps of sound are rounded (Matroska: 1 ms) and wander with the encoder's blocks; a longer
# hole than this is a real one and is filled with silence.
MAX_GAP_SECONDS = 0.05
# A decoder that begins in the middle is right after a few of its blocks.
RUN_UP_SECONDS = 2.0
# Sound and picture that belong together lie so far apart in a file, at most.
MAX_SKEW_SECONDS = 5.0


def find_sound_file(video_path: str | os.PathLike) -> Path | None:
    """Returns the sound file of a video, None without one.

    That of `x.mp4` is `x.wav` beside it, else `audio/x.wav` in its folder, else `audio/x.wav` in
    the folder above.
    """
    video_path = Path(video_path)
    name = video_path.stem + ".wav"
    folder = video_path.parent
    beside = folder.absolute().parent
    places = (folder / name, folder / "audio" / name, beside / "audio" / name)
    return next((place for place in places if place.is_file()), None)


def readable_sound_file(video_path: str | os.PathLike) -> Path | None:
    """Returns the same, None too where nothing in it can be decoded: the video's own track is
    better than that."""
    path = find_sound_file(video_path)
    if path is not None:
        with contextlib.suppress(MediaError):
            next(read_audio(path, MfccSpec.sample_rate))
            return path
    return None


def find_audio(video_path: str | os.PathLike) -> Path | None:
    """Returns the file that holds a video's sound, a sound file's or the video's own track, None if
    there is none. Raises MediaError for a file that is no media."""
    sound_file = find_sound_file(video_path)
    if sound_file is not None:
        return sound_file
    with opened(video_path) as container:
        return Path(video_path) if audio_stream(container) is not None else None


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
        zero = None
        if video_path is not None or video_streams(container):
            zero = first_picture_seconds(video_path or path)
        line = SampleLine(sample_rate, zero, max_gap_seconds(container))
        for packet in packets(container, stream):
            for frame in decoded(stream.codec_context, packet):
                yield from line.place(frame)
        yield from line.finish()
        if not line.heard:
            raise MediaError("no sound could be decoded")


def compute_mfcc(
    path: str | os.PathLike, spec: MfccSpec, duration_seconds: float
) -> np.ndarray | None:
    """Returns (M, n_mfcc) float16, the MFCC of a whole recording, None if it holds no sound.

    M is ceil(duration_seconds * frames_per_second) whatever the sound's own length: it is cut, or
    followed by silence. A track of digital silence is sound.
    """
    count = math.ceil(duration_seconds * spec.frames_per_second)
    try:
        with opened(path) as container:
            zero = first_picture_seconds(path) if video_streams(container) else None
            sound = SoundFile(container, spec, zero)
            rows = sound.finish(count)
    except MediaError:
        return None
    return rows if sound.heard else None


class Sound:
    """MFCC rows of a track, from one row on, whose packets are handed over as they are read.

    What comes before time zero is known is kept. Where timestamps jump, the clock of the pictures
    says whether the sound was away or time began anew, if one is given. Raises SplitError where the
    rows begin in the middle of a recording and its timestamps jump: whoever reads what follows
    can't know of it.
    """

    def __init__(
        self,
        stream: av.AudioStream,
        spec: MfccSpec,
        *,
        first_row: int,
        is_part: bool,
        clock: Clock | None = None,
        damage: DamageLog | None = None,
        block_seconds: float | None = None,
    ):
        self.stream = stream
        self._clock = clock
        self._damage = DamageLog() if damage is None else damage
        self._spec = spec
        self._block_seconds = block_seconds  # at a time: less is sooner and slower
        self._mfcc = MfccMaker(spec, first_row, block_seconds or BLOCK_SECONDS)
        self._is_part = is_part
        self._skip_until = -math.inf  # container seconds
        self._line: SampleLine | None = None
        self._early: deque[av.Packet] = deque()
        self.early_bytes = 0
        self._num_returned = 0

    @property
    def heard(self) -> bool:
        return self._line is not None and self._line.heard

    @property
    def has_started(self) -> bool:
        return self._line is not None

    def start(self, zero_seconds: float | None) -> None:
        """Sets the container time of time zero; None makes it that of the first sample."""
        first_sample, rate = self._mfcc.first_sample, self._spec.sample_rate
        if first_sample and zero_seconds is not None:
            self._skip_until = zero_seconds + first_sample / rate - RUN_UP_SECONDS
        max_gap = max_gap_seconds(self.stream.container)
        self._line = SampleLine(
            rate,
            zero_seconds,
            max_gap,
            first_sample=first_sample,
            is_part=self._is_part,
            clock=self._clock,
            damage=self._damage,
            block_seconds=self._block_seconds or 1.0,
        )
        while self._early:
            self.take(self._early.popleft())
        self.early_bytes = 0

    def take(self, packet: av.Packet | None) -> None:
        """Goes on with the next packet; None is the end of the track."""
        if self._line is None:
            if packet is not None:
                self._early.append(packet)
                self.early_bytes += packet.size
            return
        if packet is not None and _starts_before(packet, self._skip_until):
            return
        note = self._line.note_unreadable
        for frame in decoded(self.stream.codec_context, packet, note):
            for samples in self._line.place(frame):
                self._mfcc.take(samples)
        if packet is None:
            for samples in self._line.finish():
                self._mfcc.take(samples)

    def has_rows(self, num_rows: int) -> bool:
        """Tells whether so many rows are made, counted from the first."""
        return self._mfcc.num_rows >= num_rows

    def rows(self, num_rows: int) -> np.ndarray:
        """Returns (m, n_mfcc) float16: the new ones of the first `num_rows` rows."""
        rows = self._mfcc.rows(num_rows - self._num_returned)
        self._num_returned += len(rows)
        return rows

    def finish(self, num_rows: int) -> np.ndarray:
        """Returns all of the first `num_rows` rows that were not returned: the rest is silence."""
        if self._line is not None:
            for samples in self._line.finish():
                self._mfcc.take(samples)
            if self._spec.seconds(num_rows) - self._line.seconds > MIN_GAP_SECONDS:
                self._damage.sound_gap(self._line.seconds, math.inf)
        self._mfcc.finish(num_rows)
        return self.rows(num_rows)


class SoundFile:
    """MFCC rows, from one row on, of a file that is read for its sound alone; else as Sound."""

    def __init__(
        self,
        container: av.container.InputContainer,
        spec: MfccSpec,
        zero_seconds: float | None,
        *,
        first_row: int = 0,
        is_part: bool = False,
        damage: DamageLog | None = None,
    ):
        stream = _audio_stream(container)
        self._sound = Sound(stream, spec, first_row=first_row, is_part=is_part, damage=damage)
        if first_row:
            if zero_seconds is None:
                zero_seconds = float((stream.start_time or 0) * stream.time_base)
            start = zero_seconds + first_row / spec.frames_per_second - 2 * RUN_UP_SECONDS
            container.seek(round(max(zero_seconds, start) * av.time_base))
        self._sound.start(zero_seconds)
        self._packets = packets(container, stream)
        self._is_over = False

    @property
    def heard(self) -> bool:
        return self._sound.heard

    def rows(self, num_rows: int) -> np.ndarray:
        """Returns (m, n_mfcc) float16: the first `num_rows` rows but those returned before."""
        self._read(num_rows)
        return self._sound.rows(num_rows)

    def finish(self, num_rows: int) -> np.ndarray:
        """Returns the same, with silence where the sound ends."""
        self._read(num_rows)
        return self._sound.finish(num_rows)

    def _read(self, num_rows: int) -> None:
        while not (self._is_over or self._sound.has_rows(num_rows)):
            packet = next(self._packets, None)
            self._sound.take(packet)
            self._is_over = packet is None


class SampleLine:
    """One line of mono samples, from a first one on, on which the frames of a track are placed."""

    def __init__(
        self,
        sample_rate: int,
        zero_seconds: float | None,
        max_gap_seconds: float,
        *,
        first_sample: int = 0,
        is_part: bool = False,
        clock: Clock | None = None,
        damage: DamageLog | None = None,
        block_seconds: float = 1.0,
    ):
        self.heard = False  # something but filled holes
        self._clock = clock
        self._clock_zero = None if clock is None else clock.zero
        self._damage = DamageLog() if damage is None else damage
        self._sample_rate = sample_rate
        self._zero = zero_seconds
        self._max_gap_seconds = max_gap_seconds
        self._is_part = is_part
        self._mixer = _Mixer(sample_rate, block_seconds)
        self._time_base: float | None = None
        self._due: float | None = None  # seconds at which the next frame starts if none is missing
        self._position = 0  # of the next sample out of the mixer
        self._end = first_sample  # of what was yielded

    def place(self, frame: av.AudioFrame) -> Iterator[np.ndarray]:
        """Yields (samples,) float32 from the end of the line on, whenever about a second is full.

        Holes are silence, overlaps are cut. Raises SplitError as Sound says.
        """
        start = self._start_seconds(frame)
        self._damage.sound_layout(start, frame.layout.nb_channels, frame.sample_rate)
        if self._due is None or abs(start - self._due) > MAX_GAP_SECONDS:
            yield from self._append(self._mixer.flush())
            self._position = round(start * self._sample_rate)
            self._due = start
        self._due += frame.samples / frame.sample_rate
        yield from self._append(self._mixer.mix(frame))

    def finish(self) -> Iterator[np.ndarray]:
        """Yields the samples still under way."""
        yield from self._append(self._mixer.flush())

    @property
    def seconds(self) -> float:
        """Until when there are samples."""
        return self._end / self._sample_rate

    def note_unreadable(self) -> None:
        self._damage.unreadable(self._due or 0.0, "sound")

    def _start_seconds(self, frame: av.AudioFrame) -> float:
        if frame.pts is None:
            return self._due or 0.0
        if self._time_base is None:  # once, as a fraction takes as long as the rest of this
            self._time_base = float(frame.time_base)
        seconds = frame.pts * self._time_base
        if self._zero is None:
            self._zero = seconds
        self._follow_jump(seconds)
        start = seconds - self._zero
        if self._due is None:
            jumps = start > MAX_FILE_GAP_SECONDS and not self._is_part
        else:
            jumps = not -MAX_STEP_BACK_SECONDS < start - self._due < self._max_gap_seconds
        if jumps and self._was_away(seconds):
            self._zero = self._clock_zero = self._clock.zero
            return seconds - self._zero
        if jumps:
            if self._is_part:
                raise SplitError("the timestamps of its sound jump inside a part")
            self._zero += start - (self._due or 0.0)
            start = self._due or 0.0
        return start

    def _follow_jump(self, seconds: float) -> None:
        """Takes over the pictures' time zero once both have jumped: splices must not add up."""
        clock = self._clock
        if clock is None or clock.zero in (None, self._clock_zero) or self._due is None:
            return
        if abs(seconds - clock.zero - self._due) < MAX_STEP_BACK_SECONDS:
            self._zero = self._clock_zero = clock.zero

    def _was_away(self, seconds: float) -> bool:
        """Tells whether sound far ahead of its due time is where the pictures are."""
        clock = self._clock
        if clock is None or clock.last is None or self._due is None:
            return False
        by_pictures = seconds - clock.zero
        return by_pictures > self._due and abs(by_pictures - clock.last) < MAX_SKEW_SECONDS

    def _append(self, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for block in blocks:
            missing = (self._position - self._end) / self._sample_rate
            if missing > MIN_GAP_SECONDS:
                self._damage.sound_gap(self.seconds, self.seconds + missing)
            while self._end < self._position:
                silence = min(self._position - self._end, self._sample_rate)
                yield np.zeros(silence, np.float32)
                self._end += silence
            new = block[max(0, self._end - self._position) :]
            self._position += len(block)
            if len(new):
                self.heard = True
                yield new
                self._end += len(new)


class _Mixer:
    """Resamples frames and averages their channels, a block at a time: the work of a frame of
    sound, 21 ms, is less than that of calling Python for it. A broadcast may change its format."""

    def __init__(self, sample_rate: int, block_seconds: float):
        self._sample_rate = sample_rate
        self._block_seconds = block_seconds
        self._kind: tuple | None = None
        self._graph: av.filter.Graph | None = None  # which PyAV frees, with nodes in use
        self._source: av.filter.context.FilterContext | None = None
        self._sink: av.filter.context.FilterContext | None = None
        self._waiting_seconds = 0.0

    def mix(self, frame: av.AudioFrame) -> Iterator[np.ndarray]:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind:
            yield from self.flush()
            self._open(frame)
            self._kind = kind
        frame.pts = None  # the samples are placed by SampleLine
        self._source.push(frame)
        self._waiting_seconds += frame.samples / frame.sample_rate
        if self._waiting_seconds > 1.1 * self._block_seconds:  # the resampler keeps some
            yield from self._pull()
            self._waiting_seconds %= self._block_seconds

    def flush(self) -> Iterator[np.ndarray]:
        if self._kind is not None:
            self._source.push(None)
            yield from self._pull()
        self._kind = self._source = self._sink = None
        self._waiting_seconds = 0.0

    def _open(self, frame: av.AudioFrame) -> None:
        graph = av.filter.Graph()
        graph.threads = 1
        channels = frame.layout.nb_channels
        mean = "+".join(f"{1 / channels:.9g}*c{channel}" for channel in range(channels))
        nodes = [
            graph.add_abuffer(
                sample_rate=frame.sample_rate,
                format=frame.format,
                layout=frame.layout,
                time_base=frame.time_base or Fraction(1, frame.sample_rate),
            ),
            graph.add("aformat", "sample_fmts=fltp"),
            graph.add("pan", f"mono|c0={mean}"),
            graph.add("aresample", f"{self._sample_rate}"),
            graph.add("aformat", "sample_fmts=flt"),
            graph.add("asetnsamples", f"n={round(self._block_seconds * self._sample_rate)}:p=0"),
            graph.add("abuffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        self._graph, self._source, self._sink = graph, nodes[0], nodes[-1]

    def _pull(self) -> Iterator[np.ndarray]:
        with contextlib.suppress(av.BlockingIOError, av.EOFError):
            while True:
                samples = self._sink.pull().to_ndarray().reshape(-1)
                yield np.clip(samples, -1.0, 1.0)


def _starts_before(packet: av.Packet, seconds: float) -> bool:
    if seconds == -math.inf or packet.pts is None:
        return False
    return packet.pts * packet.time_base < seconds


def _audio_stream(container: av.container.InputContainer) -> av.AudioStream:
    stream = audio_stream(container)
    if stream is None:
        raise MediaError("no sound track")
    return stream
