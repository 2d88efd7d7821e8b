"""Stretches: every picture and the sound of short spans of a recording, found by seeking."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain, islice

import av
import numpy as np

from utils.audio import SampleLine, readable_sound_file
from utils.media import (
    MAX_STEP_BACK_SECONDS,
    Clock,
    MediaError,
    audio_stream,
    decoded,
    duration_seconds,
    max_gap_seconds,
    opened,
    packets,
    video_stream,
)
from utils.scaling import PyavScaler
from utils.video import MAX_KEY_DISTANCE, PacketClock, first_picture_seconds

# How far before a span the reading starts, until a key picture lies before the span: broadcasts
# have one every second or less, files of the web every five or ten.
RUN_UPS_SECONDS = (1.0, 4.0, 16.0)
# Consecutive pictures behind a span after which none of it comes: H.264 and HEVC reorder 16.
MAX_LATE_PACKETS = 16
SOUND_RUN_UP_SECONDS = 0.5  # a decoder that begins in the middle is right after a few blocks


@dataclass(frozen=True)
class Stretch:
    """What could be decoded of a span of a recording."""

    times: np.ndarray  # (n,) float64 seconds since the first picture of the recording, growing
    pictures: np.ndarray  # (n, height, width, 3) uint8 RGB
    sound: np.ndarray | None  # (samples,) float32, as long as the span; None without sound


_Timed = tuple[av.Packet, float | None]  # a packet and the time of its picture, None if unknown


def read_stretches(
    path: str | os.PathLike,
    spans: Sequence[tuple[float, float]],
    size: tuple[int, int],
    *,
    sample_rate: int,
    recording_seconds: float,
    has_jumps: bool = False,
) -> Iterator[Stretch]:
    """Yields every picture, scaled to `size`, and the sound of each of some spans [start, end).

    Spans come in the order of their starts. Little but them is read, which takes timestamps that
    say where in the file a time is. Behind a jump they don't, nor where the file is longer or
    shorter by them than the `recording_seconds` that were decoded: then all of the file up to the
    last span is read, though not decoded, and its own sound, whose jumps may be others, left out.
    Raises MediaError where there is no picture at all.
    """
    with ExitStack() as stack:
        container = stack.enter_context(opened(path))
        stream = video_stream(container)
        stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
        stream.codec_context.options = {"skip_loop_filter": "all"}
        clock = Clock(stream)
        clock.zero = first_picture_seconds(path)
        by_timestamps = duration_seconds(container, stream)
        is_straight = abs(by_timestamps - recording_seconds) < MAX_STEP_BACK_SECONDS
        is_straight = is_straight and not has_jumps
        sound = _open_sound(path, clock.zero, sample_rate, stack, own_track=is_straight)
        scaler = PyavScaler(size, None)
        read = _sought_packets if is_straight else _passed_packets
        for span, incoming in zip(spans, read(stream, clock, spans), strict=True):
            times, pictures = [], []
            for seconds, frame in _decoded_span(incoming, stream, clock, span):
                with suppress(MediaError):
                    pictures.append(scaler(frame))
                    times.append(seconds)
            yield Stretch(
                np.array(times, float),
                np.array(pictures, np.uint8).reshape(-1, *size, 3),
                sound.read(span) if sound else None,
            )


def _sought_packets(
    stream: av.VideoStream, clock: Clock, spans: Sequence[tuple[float, float]]
) -> Iterator[Iterator[_Timed]]:
    """Yields for each span the packets from a key picture before it on."""
    for start, _ in spans:
        yield _packets_before(stream, clock, start)


def _packets_before(stream: av.VideoStream, clock: Clock, start: float) -> Iterator[_Timed]:
    for run_up in RUN_UPS_SECONDS:
        if not seek_before(stream, round((start - run_up + clock.zero) / clock.time_base)):
            break
        incoming = _timed(packets(stream.container, stream), clock)
        for packet, seconds in islice(incoming, MAX_KEY_DISTANCE):
            if packet.is_keyframe and seconds is not None:
                if seconds <= start or start <= run_up:
                    return chain([(packet, seconds)], incoming)
                break
    return iter(())


def seek_before(stream: av.VideoStream, ticks: int) -> bool:
    """Goes to the last key packet before a timestamp, or anywhere before; tells whether it did."""
    first = stream.start_time or 0
    # A transport stream is entered behind its first timestamp; AVI refuses what is before.
    for target in (ticks, first) if ticks < first else (ticks,):
        with suppress(av.FFmpegError):
            stream.container.seek(target, stream=stream)
            return True
    return False


def _timed(incoming: Iterator[av.Packet | None], clock: Clock) -> Iterator[_Timed]:
    for packet in incoming:
        if packet is not None:
            ticks = _ticks(packet, clock)
            yield packet, None if ticks is None else ticks * clock.time_base - clock.zero


def _passed_packets(
    stream: av.VideoStream, clock: Clock, spans: Sequence[tuple[float, float]]
) -> Iterator[Iterator[_Timed]]:
    """Yields the same, from one pass over the file."""
    place = PacketClock(clock)
    incoming = packets(stream.container, stream)
    held: list[_Timed] = []
    for start, end in spans:
        held = _from_last_key(held, start)
        for packet in incoming:
            if packet is None:
                break
            seconds = place(packet)
            seconds = None if seconds is None else seconds - clock.zero
            held.append((packet, seconds))
            if seconds is not None and seconds <= start and packet.is_keyframe:
                held = held[-1:]
            elif len(held) > MAX_KEY_DISTANCE:
                held = held[MAX_KEY_DISTANCE // 2 :]
            if seconds is not None and seconds > end and packet.is_keyframe:
                break
        yield iter(held)


def _from_last_key(held: list[_Timed], start: float) -> list[_Timed]:
    keys = [
        index
        for index, (packet, seconds) in enumerate(held)
        if packet.is_keyframe and seconds is not None and seconds <= start
    ]
    return held[keys[-1] :] if keys else held


def _decoded_span(
    incoming: Iterator[_Timed],
    stream: av.VideoStream,
    clock: Clock,
    span: tuple[float, float],
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yields the whole pictures of a span with their times, which grow."""
    start, end = span
    context = stream.codec_context
    seconds_at: dict[int, float] = {}  # by timestamp
    last = -np.inf

    def shown(frames: list[av.VideoFrame]) -> Iterator[tuple[float, av.VideoFrame]]:
        nonlocal last
        for frame in frames:
            seconds = seconds_at.get(_ticks(frame, clock))
            if seconds is None or frame.is_corrupt or not start <= seconds < end or seconds <= last:
                continue
            last = seconds
            yield seconds, frame

    context.flush_buffers()
    skips = None
    num_late = 0
    for packet, seconds in incoming:
        if seconds is not None:
            seconds_at[_ticks(packet, clock)] = seconds
            num_late = num_late + 1 if seconds >= end else 0
        if num_late > MAX_LATE_PACKETS:
            break
        skip = seconds is not None and not start <= seconds < end
        if skip != skips:
            context.skip_frame, skips = "NONREF" if skip else "DEFAULT", skip
        yield from shown(decoded(context, packet))
    yield from shown(decoded(context, None))
    context.flush_buffers()


def _ticks(timed: av.Packet | av.VideoFrame, clock: Clock) -> int | None:
    """The timestamp by which a packet and its picture know each other."""
    return timed.pts if clock.has_pts and timed.pts is not None else timed.dts


class _Sound:
    """Samples of a track at spans of a recording."""

    def __init__(self, container: av.container.InputContainer, zero: float, sample_rate: int):
        self._container = container
        self._stream = audio_stream(container)
        self._zero = zero
        self._rate = sample_rate

    def read(self, span: tuple[float, float]) -> np.ndarray | None:
        """Returns (samples,) float32 in [-1, 1], None where there is none or its times jump."""
        start, end = (round(seconds * self._rate) for seconds in span)
        max_gap = max_gap_seconds(self._container)
        line = SampleLine(self._rate, self._zero, max_gap, first_sample=start, is_part=True)
        parts = []
        try:
            for block in self._blocks(line, span):
                parts.append(block)
                if sum(map(len, parts)) >= end - start:
                    break
        except (MediaError, av.FFmpegError):
            return None
        if not line.heard:
            return None
        samples = np.concatenate(parts)[: end - start]
        return np.pad(samples, (0, end - start - len(samples)))  # silent where the track ends

    def _blocks(self, line: SampleLine, span: tuple[float, float]) -> Iterator[np.ndarray]:
        stream, context = self._stream, self._stream.codec_context
        start = max(0.0, span[0] - SOUND_RUN_UP_SECONDS) + self._zero
        self._container.seek(round(start / stream.time_base), stream=stream)
        context.flush_buffers()
        first, last = start / stream.time_base, (self._zero + span[1]) / stream.time_base
        for packet in packets(self._container, stream):
            for frame in decoded(context, packet):
                if frame.pts is None or frame.pts >= first:
                    yield from line.place(frame)
            if packet is not None and packet.pts is not None and packet.pts > last:
                break
        yield from line.finish()


def _open_sound(
    path: str | os.PathLike,
    zero_seconds: float,
    sample_rate: int,
    stack: ExitStack,
    *,
    own_track: bool,
) -> _Sound | None:
    sound_path = readable_sound_file(path)
    if sound_path is None and not own_track:
        return None
    container = stack.enter_context(opened(sound_path or path))
    stream = audio_stream(container)
    if stream is None:
        return None
    if sound_path is not None:
        zero_seconds = float((stream.start_time or 0) * stream.time_base)
    return _Sound(container, zero_seconds, sample_rate)
