"""Media files: opened containers, their streams, packets and frames, and a clock over them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av

from utils.damage import MIN_GAP_SECONDS, STILL_SECONDS, DamageLog

# A longer step of the timestamps of a broadcast stream is a new time base (a splice, a restarted
# encoder), not a pause; the ffmpeg command uses the same 10 s. A step back always is one.
MAX_STREAM_GAP_SECONDS = 10.0
MAX_STEP_BACK_SECONDS = 1.0
# In other files a picture may stand for long (slides), but no longer than the file says that it
# lasts itself; damaged bits can say "in 26 hours".
MAX_FILE_GAP_SECONDS = 3600.0
# Consecutive failures after which a file is taken to be over; damage is skipped before that.
MAX_FAILURES = 1000
FALLBACK_FRAME_RATE = 25.0


class MediaError(Exception):
    """A file that holds nothing to read; the message says in one line what is wrong with it."""


class SplitError(MediaError):
    """A part of a recording that can't be decoded on its own; the whole recording can."""


@dataclass(frozen=True)
class Crop:
    """The rows [top, bottom) and columns [left, right) kept of the displayed picture, in pixels."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True)
class Cut:
    """The key packet at which a recording is cut: its timestamp and its place in the file."""

    pts: int
    position: int  # byte

    def is_at(self, packet: av.Packet) -> bool:
        return packet.pts == self.pts and packet.pos == self.position


@dataclass(frozen=True)
class Part:
    """What of a recording is decoded at a time, from one cut to the next; by default all of it."""

    index: int = 0
    count: int = 1
    start: Cut | None = None
    end: Cut | None = None
    zero_seconds: float | None = None  # the first picture's container time, of a cut recording
    crop: Crop | None = None  # of a recording that is cut; else it is found on the way


WHOLE = Part()


@contextmanager
def opened(
    path: str | os.PathLike, hwaccel: av.codec.hwaccel.HWAccel | None = None
) -> Iterator[av.container.InputContainer]:
    """Opens a file for reading; what libav says against it becomes a MediaError."""
    path = Path(os.path.abspath(path))  # a leading slash keeps libav from seeing a "scheme:"
    if not path.is_file():
        raise MediaError("not a video file (no such file)")
    if path.stat().st_size == 0:
        raise MediaError("not a video file (zero bytes)")
    try:
        # Titles in Latin-1 are common, and no reason to refuse a recording.
        container = av.open(str(path), metadata_errors="replace", hwaccel=hwaccel)
    except av.FFmpegError as error:
        raise MediaError(f"not a video file ({error.strerror})") from error
    except RuntimeError as error:  # of PyAV, and only where the card knows none of the streams
        raise MediaError(f"not for the graphics card ({error})") from error
    with container:
        yield container


def video_streams(container: av.container.InputContainer) -> list[av.VideoStream]:
    """Returns the streams that can be decoded to moving pictures; a cover is none."""
    still = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    return [s for s in container.streams.video if s.codec_context and not s.disposition & still]


def video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """Returns the default video stream, else the first; raises MediaError without one."""
    streams = video_streams(container)
    if not streams:
        raise MediaError("no video stream")
    return max(streams, key=lambda s: bool(s.disposition & av.stream.Disposition.default))


def audio_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """Returns the default sound track, else the first, of those that can be decoded."""
    streams = [s for s in container.streams.audio if s.codec_context is not None]
    default = av.stream.Disposition.default
    return max(streams, key=lambda s: bool(s.disposition & default), default=None)


def packets(
    container: av.container.InputContainer, *streams: av.stream.Stream
) -> Iterator[av.Packet | None]:
    """Yields the streams' packets, over damage in the file, then None, which empties a decoder."""
    failures = 0
    while failures < MAX_FAILURES:
        try:
            for packet in container.demux(*streams):
                if packet.size:
                    failures = 0
                    yield packet
            break
        except IndexError:  # of PyAV, at the end of a file in which a stream appeared midway
            break
        except av.FFmpegError:
            failures += 1
    yield None


def decoded(
    context: av.CodecContext, packet: av.Packet | None, on_damage: Callable[[], None] = lambda: None
) -> list:
    """Returns the frames that a packet completes; none if it is damaged, which `on_damage` is told.

    Raises MediaError where a graphics card was to decode it: software knows what can be saved.
    """
    try:
        return context.decode(packet)
    except av.FFmpegError as error:
        if context.is_hwaccel:
            raise MediaError(f"the graphics card can't decode it ({error})") from error
        on_damage()
        return []


def decoded_alone(context: av.CodecContext, packet: av.Packet) -> list:
    """Returns the frame of a key packet without waiting for what follows.

    The decoder forgets all before and after it: to one that was left in the dark about what lies
    between, the next key packet of an open group of pictures would be none.
    """
    context.flush_buffers()
    frames = [*decoded(context, packet), *decoded(context, None)]
    context.flush_buffers()
    return frames


def frame_rate(stream: av.VideoStream) -> float:
    """Returns the average number of pictures a second."""
    return float(stream.average_rate or stream.guessed_rate or FALLBACK_FRAME_RATE)


def duration_seconds(container: av.container.InputContainer, stream: av.stream.Stream) -> float:
    """Returns what the file says of its length, which may be wrong; 0 if it says nothing."""
    if stream.duration:
        return max(0.0, float(stream.duration * stream.time_base))
    ticks = container.duration or 0
    if "matroska" in container.format.name:  # which counts from 0, not from its first packet
        ticks -= max(0, container.start_time or 0)
    return max(0.0, ticks / av.time_base)


def max_gap_seconds(container: av.container.InputContainer) -> float:
    """Returns the longest step between timestamps that is a pause, not a new time base."""
    is_broadcast = container.format.name in ("mpegts", "mpeg")
    if is_broadcast or not container.duration:
        return MAX_STREAM_GAP_SECONDS if is_broadcast else MAX_FILE_GAP_SECONDS
    seconds = container.duration / av.time_base
    return min(MAX_FILE_GAP_SECONDS, max(MAX_STREAM_GAP_SECONDS, seconds))


class Clock:
    """Turns a stream's timestamps into seconds since the first picture that always grow."""

    def __init__(self, stream: av.VideoStream, part: Part = WHOLE, damage: DamageLog | None = None):
        self.damage = DamageLog() if damage is None else damage
        self.frame_seconds = 1 / frame_rate(stream)
        self.time_base = float(stream.time_base)
        self.zero = part.zero_seconds
        self.max_gap_seconds = max_gap_seconds(stream.container)
        # AVI has decoding times only. They come out of the decoder in order; its guesses at
        # presentation times do not (B-frames packed in pairs: 1, 2, 4, 3).
        self.has_pts = stream.container.format.name != "avi"
        self.last: float | None = None  # what it said last
        self._is_part = part.count > 1
        self._is_later_part = part.start is not None
        self._stays = 0.0  # seconds for which the last picture is to be shown
        self._last_order: float | None = None  # of the packets, in container seconds
        self._passed = 0.0  # by the packets, since the last picture, without jumps
        self._heard: float | None = None  # container seconds of the last packet of sound
        self._heard_seconds = 0.0  # by sound, since the last packet of a picture, without jumps
        self._paused_seconds = 0.0  # in which there was sound, and packets of pictures lacked

    def raw_seconds(self, frame: av.VideoFrame) -> float | None:
        """Returns the container time of a picture, None if unknown."""
        ticks = frame.pts if self.has_pts else frame.dts
        return None if ticks is None else ticks * self.time_base

    def __call__(self, raw_seconds: float | None) -> float:
        """Raises SplitError where a part's time base changes: the next part can't know of it."""
        if self.zero is None:
            self.zero = raw_seconds or 0.0
        if self.last is None:
            self.last = 0.0 if raw_seconds is None else raw_seconds - self.zero
            return self.last
        due = self.last + self.frame_seconds
        seconds = due if raw_seconds is None else raw_seconds - self.zero
        step = seconds - self.last
        # Where packets went on all the time, pictures could not be decoded, and time did not jump.
        known = (self._passed, self._paused_seconds)
        is_pause = step <= self.max_gap_seconds or any(
            abs(step - t) < 1 + 0.1 * step for t in known
        )
        if step < -MAX_STEP_BACK_SECONDS or not is_pause:
            if self._is_part:
                raise SplitError(f"its timestamps jump by {step:.0f} s inside a part")
            self.zero = raw_seconds - due
            self.damage.jump(due, step)
            seconds = due
        shown_until = self.last + min(max(self._stays, self.frame_seconds), STILL_SECONDS)
        if seconds - shown_until > MIN_GAP_SECONDS:
            self.damage.picture_gap(shown_until, seconds)
        self.last = max(seconds, self.last + 1e-3)
        if self._paused_seconds and step > self.max_gap_seconds:
            self._paused_seconds = 0.0
        self._passed = 0.0
        return self.last

    def pass_packet(self, packet: av.Packet | None) -> None:
        """Is told of every packet before it is decoded."""
        if packet is not None and packet.dts is not None:
            order = packet.dts * self.time_base
            step = 0.0 if self._last_order is None else order - self._last_order
            if 0 < step <= self.max_gap_seconds:
                self._passed += step
            self._last_order = order

    def meet_picture(self) -> None:
        """Is told when a packet of pictures is met in the file, long before it is decoded."""
        if self._heard_seconds > self.max_gap_seconds:
            self._paused_seconds = self._heard_seconds
        self._heard_seconds = 0.0

    def meet_sound(self, seconds: float) -> None:
        """Is told the container time of a packet of sound when it is met in the file."""
        step = 0.0 if self._heard is None else seconds - self._heard
        self._heard = seconds
        if 0 < step <= self.max_gap_seconds:
            self._heard_seconds += step

    def moment(self, frame: av.VideoFrame) -> tuple[float, float]:
        """Returns when a decoded picture is shown and for how long."""
        seconds = self(self.raw_seconds(frame))
        # Damaged bits can say of the last picture that it stays for a day.
        self._stays = min((frame.duration or 0) * self.time_base, self.max_gap_seconds)
        stays = self._stays or self.frame_seconds
        self.damage.picture(seconds + stays, frame.height, frame.width)
        if frame.is_corrupt:
            self.note_unreadable()
        return seconds, stays

    def note_unreadable(self) -> None:
        """Notes a damaged packet; what comes before a part's first picture is the part before's."""
        if self.last is not None or not self._is_later_part:
            self.damage.unreadable(self.last or 0.0, "pictures")
