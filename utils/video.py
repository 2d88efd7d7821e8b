"""Pictures of a recording: their times, and which of them a regular grid shows."""

import math
import os
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import av
import numpy as np

from utils.damage import MIN_GAP_SECONDS
from utils.media import (
    MAX_FAILURES,
    MAX_STEP_BACK_SECONDS,
    WHOLE,
    Clock,
    Crop,
    MediaError,
    Part,
    SplitError,
    decoded,
    decoded_alone,
    duration_seconds,
    frame_rate,
    opened,
    packets,
    video_stream,
)
from utils.scaling import OpencvScaler, PyavScaler, displayed_size, quarter_turns

FRAME_MODES = ("fast", "exact", "keyframes", "opencv")

# Matroska and Flash round timestamps to 1 ms: a picture due at 0.1667 s says 0.167 s.
TIMESTAMP_TOLERANCE_SECONDS = 0.002
# A picture's successor on screen comes at most this many packets later in the file: H.264 and
# HEVC reorder 16 pictures at most, each of which may come as two fields.
LOOKAHEAD_PACKETS = 32
# A picture is shown at most so long after it is decoded: 32 pictures at 4 a second, and more.
MAX_REORDER_SECONDS = 10.0
MAX_KEY_DISTANCE = 3000  # packets without a key, a minute or two: not one to be sought
# Recordings longer than this are sampled by seeking to key frames, shorter ones read through.
SEEK_SECONDS = 60.0

Picture = av.VideoFrame | np.ndarray


@dataclass(frozen=True)
class VideoInfo:
    """What a recording's video stream says of itself; sizes are pixels as displayed."""

    height: int
    width: int
    frame_rate: float  # average
    duration_seconds: float  # the container's estimate: only decoding knows
    rotation_degrees: int  # clockwise turn already counted in height and width: 0, 90, 180, 270
    has_audio: bool
    zero_seconds: float  # from where players start to count to the first picture


@dataclass(frozen=True)
class Moment:
    """A picture and the time from which it is shown; without a picture, the end of a part."""

    seconds: float  # since the first picture of the recording
    duration_seconds: float
    picture: Picture | None


def probe(path: str | os.PathLike) -> VideoInfo:
    """Returns what is known of a video after decoding one picture; raises MediaError."""
    with opened(path) as container:
        stream = video_stream(container)
        picture = _first_picture(container, stream)
        height, width = displayed_size(picture)
        first_seconds = Clock(stream).raw_seconds(picture) or 0.0
        return VideoInfo(
            height=height,
            width=width,
            frame_rate=frame_rate(stream),
            duration_seconds=duration_seconds(container, stream),
            rotation_degrees=-90 * quarter_turns(picture) % 360,
            has_audio=any(s.codec_context is not None for s in container.streams.audio),
            zero_seconds=max(0.0, first_seconds - (container.start_time or 0) / av.time_base),
        )


def first_picture_seconds(path: str | os.PathLike) -> float:
    """Returns the first picture's container time, which is zero of every other time here."""
    with opened(path) as container:
        stream = video_stream(container)
        return Clock(stream).raw_seconds(_first_picture(container, stream)) or 0.0


def read_frames(
    path: str | os.PathLike,
    fps: float,
    size: tuple[int, int],
    *,
    crop: Crop | None = None,
    mode: str = "fast",
) -> Iterator[np.ndarray]:
    """Yields (height, width, 3) uint8 RGB: item k is shown k / fps seconds after the first picture.

    There is one item for every k with k / fps below the video's duration, and at least one. Gaps
    repeat the picture before them; damaged parts are skipped. `size` is (height, width); colours
    follow what the file says of itself, HDR is mapped to BT.709. A repeated picture is the same
    array. Memory does not grow with the recording. The modes "exact" and "opencv" decode every
    picture; "fast" takes the same ones, but leaves out those that neither the grid nor another
    picture needs, and the deblocking filter; "keyframes" decodes those only, and shows the nearest.
    Raises ValueError at once, MediaError with the first item.
    """
    if mode not in FRAME_MODES:
        raise ValueError(f"unknown mode {mode!r}: the modes are {', '.join(FRAME_MODES)}")
    if not fps > 0 or min(size) < 1:
        raise ValueError(f"fps and size must be positive, found fps={fps} and size={size}")
    if mode == "opencv":
        return map(OpencvScaler(size, crop), pictures_on_grid(opencv_moments(path), fps))
    return map(PyavScaler(size, crop), _pyav_pictures(path, fps, mode))


def pictures_on_grid(
    moments: Iterator[Moment], fps: float, part: Part = WHOLE
) -> Iterator[Picture]:
    """Yields the picture shown at each k / fps: all of a recording's, or those of a part.

    Raises MediaError where there is none.
    """
    #   moments   A-----B--C-----------D--|
    #   grid      0     1     2     3     4      yields A B C C, and D's time is over at 4
    index = 0
    shown: Moment | None = None
    for moment in moments:
        until = moment.seconds - TIMESTAMP_TOLERANCE_SECONDS
        if shown is None and part.index:
            index = first_grid_index(moment.seconds, fps)
        while shown is not None and index / fps < until:
            yield shown.picture
            index += 1
        if moment.picture is None:
            return
        shown = moment
    if shown is None:
        raise MediaError("no frame could be decoded")
    until = shown.seconds + shown.duration_seconds - TIMESTAMP_TOLERANCE_SECONDS
    while index == 0 or index / fps < until:
        yield shown.picture
        index += 1


def first_grid_index(seconds: float, fps: float) -> int:
    """Returns the first k whose k / fps shows a picture of that time."""
    until = seconds - TIMESTAMP_TOLERANCE_SECONDS
    index = max(0, math.floor(until * fps) - 1)
    while index / fps < until:
        index += 1
    return index


def moments_of(
    incoming: Iterator[av.Packet | None],
    stream: av.VideoStream,
    clock: Clock,
    fps: float,
    *,
    mode: str,
    part: Part = WHOLE,
    threads: int = 1,
) -> Iterator[Moment]:
    """Yields, of a stream's packets, the pictures that a grid of `fps` shows, and those they are
    decoded from, by so many threads. Raises SplitError where the part turns out not to be one."""
    if mode == "keyframes":
        yield from _key_moments(incoming, stream, clock)
        return
    if part.count == 1:
        for frame in _decoded_frames(incoming, stream, clock, fps, mode=mode, threads=threads):
            yield _moment(frame, clock)
    else:
        yield from _part_moments(
            incoming, stream, clock, fps, mode=mode, part=part, threads=threads
        )


def _part_moments(
    incoming: Iterator[av.Packet | None],
    stream: av.VideoStream,
    clock: Clock,
    fps: float,
    *,
    mode: str,
    part: Part,
    threads: int,
) -> Iterator[Moment]:
    """Yields the moments from a part's first key picture on, and that of the next part's."""
    is_over = part.end is None
    started = part.start is None

    def watched() -> Iterator[av.Packet | None]:
        nonlocal is_over
        for packet in incoming:
            is_over = is_over or (packet is not None and part.end.is_at(packet))
            yield packet

    for frame in _decoded_frames(watched(), stream, clock, fps, mode=mode, threads=threads):
        if not started:
            # What is shown before the key picture can lack pictures that it is made of.
            if frame.pts is None or frame.pts < part.start.pts:
                continue
            if frame.pts != part.start.pts or frame.is_corrupt:
                raise SplitError("its key picture can't be decoded on its own")
            started = True
        if part.end is not None and frame.pts is not None and frame.pts >= part.end.pts:
            if not is_over:
                raise SplitError("its timestamps come twice")
            yield Moment(clock(part.end.pts * clock.time_base), 0.0, None)
            return
        yield _moment(frame, clock)
    if not started or part.end is not None:
        raise SplitError("its end was not found")


def _decoded_frames(
    incoming: Iterator[av.Packet | None],
    stream: av.VideoStream,
    clock: Clock,
    fps: float,
    *,
    mode: str,
    threads: int,
) -> Iterator[av.VideoFrame]:
    context = stream.codec_context
    # A frame's thread does as it was told with its packet, so skipping stays what it is.
    context.thread_type = "NONE" if threads == 1 else "FRAME"
    context.thread_count = threads
    if mode == "exact":
        for packet in incoming:
            clock.pass_packet(packet)
            yield from decoded(context, packet, clock.note_unreadable)
        return
    context.options = {"skip_loop_filter": "all"}
    skips = False
    for packet, next_pts in _with_next_pts(incoming):
        skip = False
        if next_pts is not None and clock.zero is not None and clock.has_pts:
            start = packet.pts * clock.time_base - clock.zero
            end = next_pts * clock.time_base - clock.zero
            index = math.ceil((start - TIMESTAMP_TOLERANCE_SECONDS) * fps)
            skip = index / fps >= end - TIMESTAMP_TOLERANCE_SECONDS  # no grid time in [start, end)
        if skip != skips:
            context.skip_frame, skips = "NONREF" if skip else "DEFAULT", skip
        clock.pass_packet(packet)
        yield from decoded(context, packet, clock.note_unreadable)


def _key_moments(
    incoming: Iterator[av.Packet | None], stream: av.VideoStream, clock: Clock
) -> Iterator[Moment]:
    """Yields the key pictures, each from the middle between the one before and itself on, and
    before them the first picture, whatever it is: time zero is the same in every mode."""
    context = stream.codec_context
    context.thread_type, context.thread_count = "NONE", 1
    context.options = {"skip_loop_filter": "all"}
    place = PacketClock(clock)
    shown: float | None = None
    end = 0.0
    for packet in incoming:
        seconds = None if packet is None else place(packet)
        if seconds is not None:
            stays = min((packet.duration or 0) * clock.time_base, clock.max_gap_seconds)
            end = max(end, seconds + stays)
        if shown is None:
            for frame in decoded(context, packet)[:1]:
                clock.zero = shown = clock.raw_seconds(frame) or 0.0
                clock.damage.picture(end - shown, frame.height, frame.width)
                yield Moment(0.0, 0.0, frame)
        elif seconds is not None and seconds > shown and packet.is_keyframe:
            for frame in decoded_alone(context, packet)[:1]:
                clock.damage.picture(end - clock.zero, frame.height, frame.width)
                yield Moment((shown + seconds) / 2 - clock.zero, 0.0, frame)
                shown = seconds
    if shown is not None:
        clock.damage.end_seconds = max(end, shown + clock.frame_seconds) - clock.zero
        yield Moment(clock.damage.end_seconds, 0.0, None)


class PacketClock:
    """Turns packets' timestamps into seconds that don't jump, by their order in the file."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._jumped = 0.0
        self._last: float | None = None

    def __call__(self, packet: av.Packet) -> float | None:
        """Returns None where the time is unknown."""
        clock = self._clock
        ticks = packet.pts if clock.has_pts and packet.pts is not None else packet.dts
        if ticks is None:
            return None
        order = (ticks if packet.dts is None else packet.dts) * clock.time_base
        step = 0.0 if self._last is None else order - self._last
        if step < -MAX_STEP_BACK_SECONDS or step > clock.max_gap_seconds:
            clock.damage.jump(self._last - self._jumped - (clock.zero or 0.0), step)
            self._jumped += step - clock.frame_seconds
        elif step - clock.frame_seconds > MIN_GAP_SECONDS:
            end = order - self._jumped - (clock.zero or 0.0)
            clock.damage.picture_gap(end - step + clock.frame_seconds, end)
        self._last = order
        seconds = ticks * clock.time_base
        is_far_off = abs(seconds - order) > MAX_REORDER_SECONDS  # damaged bits
        return None if is_far_off else seconds - self._jumped


def _moment(frame: av.VideoFrame, clock: Clock) -> Moment:
    return Moment(*clock.moment(frame), frame)


def opencv_moments(path: str | os.PathLike) -> Iterator[Moment]:
    """Yields every picture, decoded in sequence by OpenCV, as (height, width, 3) uint8 BGR."""
    import cv2  # here, as 0.2 s is too long for those who only want sound or another mode

    with opened(path) as container:
        stream = video_stream(container)
        if stream.index != min(s.index for s in container.streams.video):
            raise MediaError("OpenCV reads a file's first video stream only: use another mode")
        clock = Clock(stream)
        last_frame_seconds = _last_frame_seconds(container, stream) or clock.frame_seconds
        last_frame_seconds = min(last_frame_seconds, clock.max_gap_seconds)
    # One thread, like the other modes: recordings are what runs in parallel.
    capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    try:
        failures = 0
        while failures < MAX_FAILURES:
            # OpenCV answers False for a damaged packet as for the end of the file.
            if not capture.grab():
                failures += 1
                continue
            failures = 0
            ok, picture = capture.retrieve()
            if ok:
                # 0 stands for an unknown time too; for the first picture it is all the same.
                seconds = clock(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 or None)
                yield Moment(seconds, last_frame_seconds, picture)
    finally:
        capture.release()


def sample_pictures(path: str | os.PathLike, count: int) -> Iterator[av.VideoFrame]:
    """Yields about `count` pictures of all of the recording, in no order. Raises MediaError."""
    seconds = probe(path).duration_seconds
    found = 0
    if seconds > SEEK_SECONDS:
        for picture in _key_pictures(path, count, seconds):
            found += 1
            yield picture
    if 4 * found < count:
        fps = count / max(seconds, 1.0)
        # The duration may be wrong, then the list would have no end.
        yield from islice(_pyav_pictures(path, fps, "fast"), 2 * count)


def _pyav_pictures(path: str | os.PathLike, fps: float, mode: str) -> Iterator[av.VideoFrame]:
    with opened(path) as container:
        stream = video_stream(container)
        incoming = packets(container, stream)
        moments = moments_of(incoming, stream, Clock(stream), fps, mode=mode)
        yield from pictures_on_grid(moments, fps)


def _first_picture(container: av.container.InputContainer, stream: av.VideoStream) -> av.VideoFrame:
    for packet in packets(container, stream):
        for frame in decoded(stream.codec_context, packet):
            return frame
    raise MediaError("no frame could be decoded")


def _with_next_pts(
    incoming: Iterator[av.Packet | None],
) -> Iterator[tuple[av.Packet | None, int | None]]:
    """Yields each packet with the timestamp of the picture after it on screen, None if unknown."""
    waiting: deque[av.Packet | None] = deque()
    near: deque[int] = deque()
    ordered: list[int] = []  # the same, by time

    def head() -> tuple:
        packet = waiting.popleft()
        if packet is None or packet.pts is None:
            return packet, None
        after = bisect_right(ordered, packet.pts)
        return packet, ordered[after] if after < len(ordered) else None

    for packet in incoming:
        waiting.append(packet)
        if packet is not None and packet.pts is not None:
            near.append(packet.pts)
            insort(ordered, packet.pts)
            if len(near) > 3 * LOOKAHEAD_PACKETS:
                del ordered[bisect_left(ordered, near.popleft())]
        if len(waiting) > LOOKAHEAD_PACKETS:
            yield head()
    while waiting:
        yield head()


def _last_frame_seconds(
    container: av.container.InputContainer, stream: av.VideoStream
) -> float | None:
    """Returns how long the last picture is shown as its packet says, None if it does not."""
    try:
        container.seek((container.start_time or 0) + (container.duration or 0))
    except av.FFmpegError:
        return None
    tail = [p for p in packets(container, stream) if p is not None and p.pts is not None]
    last = max(tail, key=lambda packet: packet.pts, default=None)
    return float(last.duration * stream.time_base) if last and last.duration else None


def _key_pictures(path: str | os.PathLike, count: int, seconds: float) -> Iterator[av.VideoFrame]:
    """Yields the different pictures found by seeking to `count` positions, far ones first."""
    with opened(path) as container:
        stream = video_stream(container)
        context = stream.codec_context
        seen = set()
        start = (container.start_time or 0) / av.time_base
        for index in range(count):
            # Steps of the golden ratio: any number of them is spread over the whole.
            position = start + (0.5 + index * 0.6180339887) % 1 * seconds
            try:
                container.seek(int(position * av.time_base))
            except av.FFmpegError:
                continue
            near = islice(packets(container, stream), MAX_KEY_DISTANCE)
            key = next((p for p in near if p is not None and p.is_keyframe), None)
            if key is None or key.pts in seen:
                continue
            seen.add(key.pts)
            yield from decoded_alone(context, key)[:1]
