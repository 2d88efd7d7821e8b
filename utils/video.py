"""Pictures of a recording: their times, and small frames of them on a regular grid."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np

FRAME_MODES = ("fast", "exact", "keyframes", "opencv")

# Matroska and Flash round timestamps to 1 ms: a picture due at 0.1667 s says 0.167 s.
TIMESTAMP_TOLERANCE_SECONDS = 0.002
# A picture's successor on screen comes at most this many packets later in the file: H.264 and
# HEVC reorder 16 pictures at most, each of which may come as two fields.
LOOKAHEAD_PACKETS = 32
# A longer step of the timestamps of a broadcast stream is a new time base (a splice, a restarted
# encoder), not a pause; the ffmpeg command uses the same 10 s. A step back always is one.
MAX_STREAM_GAP_SECONDS = 10.0
MAX_STEP_BACK_SECONDS = 1.0
# Consecutive failures after which a file is taken to be over; damage is skipped before that.
MAX_FAILURES = 1000
FALLBACK_FRAME_RATE = 25.0
HDR_TRANSFERS = (
    av.video.reformatter.ColorTrc.SMPTE2084,
    av.video.reformatter.ColorTrc.ARIB_STD_B67,
)

# Recordings longer than this are sampled by seeking to key frames, shorter ones read through.
SEEK_SECONDS = 60.0
SAMPLE_SIZE = 640  # pixels of the longer side of a sampled picture, about


class MediaError(Exception):
    """A file that holds nothing to read; the message says in one line what is wrong with it."""


class SplitError(MediaError):
    """A part of a recording that can't be decoded on its own; the whole recording can."""


@dataclass(frozen=True)
class VideoInfo:
    """What a recording's video stream says of itself; sizes are pixels as displayed."""

    height: int
    width: int
    frame_rate: float  # average
    duration_seconds: float  # the container's estimate: only decoding knows
    rotation_degrees: int  # clockwise turn already counted in height and width: 0, 90, 180, 270
    has_audio: bool


@dataclass(frozen=True)
class Crop:
    """The rows [top, bottom) and columns [left, right) kept of the displayed picture, in pixels."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True)
class _Moment:
    """A picture and the time from which it is shown."""

    seconds: float  # since the first picture
    duration_seconds: float
    picture: av.VideoFrame | np.ndarray


def probe(path: str | os.PathLike) -> VideoInfo:
    """Returns what is known of a video after decoding one picture; raises MediaError."""
    with opened(path) as container:
        stream = _video_stream(container)
        picture = _first_picture(container, stream)
        turns = _quarter_turns(picture)
        height, width = _displayed_size(picture)
        if stream.duration:
            duration_seconds = float(stream.duration * stream.time_base)
        else:
            duration_seconds = (container.duration or 0) / av.time_base
            if "matroska" in container.format.name:  # counts from 0, not from its first picture
                duration_seconds -= max(0.0, _raw_seconds(picture, stream) or 0.0)
        return VideoInfo(
            height=height,
            width=width,
            frame_rate=_frame_rate(stream),
            duration_seconds=duration_seconds,
            rotation_degrees=-90 * turns % 360,
            has_audio=any(s.codec_context is not None for s in container.streams.audio),
        )


def first_picture_seconds(path: str | os.PathLike) -> float:
    """Returns the first picture's container time, which is zero of every other time here."""
    with opened(path) as container:
        stream = _video_stream(container)
        seconds = _raw_seconds(_first_picture(container, stream), stream)
        return 0.0 if seconds is None else seconds


def sample_lumas(path: str | os.PathLike, count: int) -> list[np.ndarray]:
    """Returns about `count` pictures spread over the recording, (height, width) uint8 luma.

    They are a whole number of times smaller than displayed. Raises MediaError.
    """

    def luma(frame: av.VideoFrame) -> np.ndarray:
        parts = max(1, round(max(frame.height, frame.width) / SAMPLE_SIZE))
        height, width = frame.height // parts, frame.width // parts
        try:
            small = frame.reformat(width, height, "gray", interpolation="AREA", threads=1)
        except av.FFmpegError as error:
            raise MediaError(f"its pictures can't be scaled ({error})") from error
        return np.rot90(small.to_ndarray(), _quarter_turns(frame))

    duration_seconds = probe(path).duration_seconds
    if duration_seconds > SEEK_SECONDS:
        lumas = [luma(frame) for frame in _key_pictures(path, count, duration_seconds)]
        if 4 * len(lumas) >= count:
            return lumas
    fps = count / max(duration_seconds, 1.0)
    # The duration may be wrong, then the list would have no end.
    return list(islice(_on_grid(_pyav_moments(path, fps), fps, luma), 2 * count))


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
    array. Memory does not grow with the recording. Both readers take the same pictures: "opencv"
    decodes every one, "pyav" leaves out those that neither the grid nor another picture needs,
    and the deblocking filter. Raises ValueError at once, MediaError with the first item.
    """
    if mode not in FRAME_MODES:
        raise ValueError(f"unknown mode {mode!r}: the modes are {', '.join(FRAME_MODES)}")
    if not fps > 0 or min(size) < 1:
        raise ValueError(f"fps and size must be positive, found fps={fps} and size={size}")
    if mode != "opencv":
        return _on_grid(_pyav_moments(path, fps), fps, _PyavScaler(size, crop))
    return _on_grid(_opencv_moments(path), fps, _OpencvScaler(size, crop))


def _on_grid(
    moments: Iterator[_Moment], fps: float, render: Callable[[av.VideoFrame | np.ndarray], object]
) -> Iterator:
    """Yields the rendered picture shown at each k / fps; renders none twice and none in vain."""
    #   moments   A-----B--C-----------D--|
    #   grid      0     1     2     3     4      yields A B C C, and D's time is over at 4
    index = 0
    shown: _Moment | None = None
    rendered = None
    for moment in moments:
        until = moment.seconds - TIMESTAMP_TOLERANCE_SECONDS
        while shown is not None and index / fps < until:
            rendered = render(shown.picture) if rendered is None else rendered
            yield rendered
            index += 1
        shown, rendered = moment, None
    if shown is None:
        raise MediaError("no frame could be decoded")
    until = shown.seconds + shown.duration_seconds - TIMESTAMP_TOLERANCE_SECONDS
    while index == 0 or index / fps < until:
        rendered = render(shown.picture) if rendered is None else rendered
        yield rendered
        index += 1


def _pyav_moments(path: str | os.PathLike, fps: float) -> Iterator[_Moment]:
    """Yields the pictures that a grid of `fps` shows, and those they are decoded from."""
    with opened(path) as container:
        stream = _video_stream(container)
        context = stream.codec_context
        context.thread_type, context.thread_count = "NONE", 1
        context.options = {"skip_loop_filter": "all"}
        clock = _clock(container, stream)
        # AVI names no presentation times, so that nothing can be left out by them.
        can_skip = container.format.name != "avi"
        for packet, next_pts in _with_next_pts(packets(container, stream)):
            needed = True
            if can_skip and packet is not None and None not in (packet.pts, next_pts, clock.zero):
                start, end = (float(pts * stream.time_base) for pts in (packet.pts, next_pts))
                needed = clock.holds_grid_time(start, end, fps)
            context.skip_frame = "DEFAULT" if needed else "NONREF"
            for frame in decoded(context, packet):
                duration = float((frame.duration or 0) * stream.time_base)
                seconds = clock(_raw_seconds(frame, stream))
                yield _Moment(seconds, duration or clock.frame_seconds, frame)


def _opencv_moments(path: str | os.PathLike) -> Iterator[_Moment]:
    """Yields every picture, decoded in sequence by OpenCV, as (height, width, 3) uint8 BGR."""
    import cv2  # here, as 0.2 s is too long for those who only want sound or the other reader

    with opened(path) as container:
        stream = _video_stream(container)
        if stream.index != min(s.index for s in container.streams.video):
            raise MediaError("OpenCV reads a file's first video stream only: use reader 'pyav'")
        clock = _clock(container, stream)
        last_frame_seconds = _last_frame_seconds(container, stream) or clock.frame_seconds
    # One thread, like the other reader: recordings are what runs in parallel.
    capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    try:
        buffers: deque[np.ndarray | None] = deque([None, None])
        failures = 0
        while failures < MAX_FAILURES:
            # OpenCV answers False for a damaged packet as for the end of the file.
            if not capture.grab():
                failures += 1
                continue
            failures = 0
            ok, picture = capture.retrieve(buffers[0])
            if ok:
                buffers[0] = picture
                buffers.rotate()
                # 0 stands for an unknown time too; for the first picture it is all the same.
                seconds = clock(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 or None)
                yield _Moment(seconds, last_frame_seconds, picture)
    finally:
        capture.release()


class _Clock:
    """Turns a stream's timestamps into seconds since the first picture that always grow."""

    def __init__(self, frame_seconds: float, max_gap_seconds: float):
        self.frame_seconds = frame_seconds
        self.zero: float | None = None
        self._max_gap_seconds = max_gap_seconds
        self._last = 0.0

    def __call__(self, raw_seconds: float | None) -> float:
        if self.zero is None:
            self.zero = raw_seconds or 0.0
            return 0.0
        due = self._last + self.frame_seconds
        seconds = due if raw_seconds is None else raw_seconds - self.zero
        step = seconds - self._last
        if step < -MAX_STEP_BACK_SECONDS or step > self._max_gap_seconds:
            self.zero = raw_seconds - due
            seconds = due
        self._last = max(seconds, self._last + 1e-3)
        return self._last

    def holds_grid_time(self, start: float, end: float, fps: float) -> bool:
        """Tells whether some k / fps lies in the raw seconds [start, end)."""
        index = math.ceil((start - self.zero - TIMESTAMP_TOLERANCE_SECONDS) * fps)
        return index / fps < end - self.zero - TIMESTAMP_TOLERANCE_SECONDS


class _PyavScaler:
    """Crops, scales and turns pictures of PyAV, whose size or format may change midway."""

    def __init__(self, size: tuple[int, int], crop: Crop | None):
        self._size = size
        self._crop = crop
        self._reference_size: tuple[int, int] | None = None
        self._graph: av.filter.Graph | None = None
        self._graph_input: tuple | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        turns = _quarter_turns(frame)
        self._reference_size = self._reference_size or _displayed_size(frame)
        graph_input = (frame.width, frame.height, frame.format.name, frame.color_trc, turns)
        try:
            if graph_input != self._graph_input:
                self._graph, self._graph_input = self._build(frame, turns), graph_input
            self._graph.vpush(frame)
            picture = self._graph.vpull().to_ndarray()
        except av.FFmpegError as error:
            raise MediaError(f"its pictures can't be scaled ({error})") from error
        return np.ascontiguousarray(np.rot90(picture, turns))

    def _build(self, frame: av.VideoFrame, turns: int) -> av.filter.Graph:
        graph = av.filter.Graph()
        graph.threads = 1
        nodes = [
            graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format,
                time_base=frame.time_base or Fraction(1, 1000),
            )
        ]
        if self._crop is not None:
            height, width = _displayed_size(frame)
            crop = _crop_for(self._crop, self._reference_size, (height, width))
            for _ in range(turns):
                crop = Crop(crop.left, crop.right, height - crop.bottom, height - crop.top)
                height, width = width, height
            cut = f"{crop.right - crop.left}:{crop.bottom - crop.top}:{crop.left}:{crop.top}"
            nodes.append(graph.add("crop", cut))
        height, width = self._size if turns % 2 == 0 else self._size[::-1]
        # Without full_chroma_int the small picture has colour for every second column only.
        scale = f"{width}:{height}:flags=area+full_chroma_int"
        if frame.color_trc in HDR_TRANSFERS:  # what OpenCV does, in its other scaler
            scale = f"{width}:{height}:flags=area:out_primaries=bt709:out_transfer=bt709"
        nodes += [graph.add("scale", scale), graph.add("format", "rgb24"), graph.add("buffersink")]
        graph.link_nodes(*nodes).configure()
        return graph


class _OpencvScaler:
    """Crops and scales pictures of OpenCV, which turned them already."""

    def __init__(self, size: tuple[int, int], crop: Crop | None):
        self._size = size
        self._crop = crop
        self._reference_size: tuple[int, int] | None = None

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        import cv2

        if self._crop is not None:
            self._reference_size = self._reference_size or picture.shape[:2]
            crop = _crop_for(self._crop, self._reference_size, picture.shape[:2])
            picture = picture[crop.top : crop.bottom, crop.left : crop.right]
        try:
            small = cv2.resize(picture, self._size[::-1], interpolation=cv2.INTER_AREA)
        except cv2.error as error:
            raise MediaError(f"its pictures can't be scaled ({error.err})") from error
        return np.ascontiguousarray(small[:, :, ::-1])


def _crop_for(crop: Crop, reference_size: tuple[int, int], size: tuple[int, int]) -> Crop:
    """Returns the crop on a picture of another size: a broadcast may change it midway."""
    down, across = (new / old for new, old in zip(size, reference_size, strict=True))
    # Even, because pictures keep one colour sample for two pixels.
    top, left = (2 * round(v / 2) for v in (crop.top * down, crop.left * across))
    bottom = max(2 * round(crop.bottom * down / 2), top + 2)
    right = max(2 * round(crop.right * across / 2), left + 2)
    return Crop(top, min(bottom, size[0]), left, min(right, size[1]))


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[av.container.InputContainer]:
    """Opens a file for reading; what libav says against it becomes a MediaError."""
    path = Path(os.path.abspath(path))  # a leading slash keeps libav from seeing a "scheme:"
    if not path.is_file():
        raise MediaError("not a video file (no such file)")
    if path.stat().st_size == 0:
        raise MediaError("not a video file (zero bytes)")
    try:
        # Titles in Latin-1 are common, and no reason to refuse a recording.
        container = av.open(str(path), metadata_errors="replace")
    except av.FFmpegError as error:
        raise MediaError(f"not a video file ({error.strerror})") from error
    with container:
        yield container


def video_streams(container: av.container.InputContainer) -> list[av.VideoStream]:
    """Returns the streams that can be decoded to moving pictures; a cover is none."""
    still = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    return [s for s in container.streams.video if s.codec_context and not s.disposition & still]


def max_gap_seconds(container: av.container.InputContainer) -> float:
    """Returns the longest step between timestamps that is a pause, not a new time base."""
    is_broadcast = container.format.name in ("mpegts", "mpeg")
    return MAX_STREAM_GAP_SECONDS if is_broadcast else math.inf


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """Returns the default video stream, else the first."""
    streams = video_streams(container)
    if not streams:
        raise MediaError("no video stream")
    return max(streams, key=lambda s: bool(s.disposition & av.stream.Disposition.default))


def _frame_rate(stream: av.VideoStream) -> float:
    return float(stream.average_rate or stream.guessed_rate or FALLBACK_FRAME_RATE)


def _clock(container: av.container.InputContainer, stream: av.VideoStream) -> _Clock:
    return _Clock(1 / _frame_rate(stream), max_gap_seconds(container))


def _first_picture(container: av.container.InputContainer, stream: av.VideoStream) -> av.VideoFrame:
    for packet in packets(container, stream):
        for frame in decoded(stream.codec_context, packet):
            return frame
    raise MediaError("no frame could be decoded")


def packets(container: av.container.InputContainer, stream: av.stream.Stream) -> Iterator:
    """Yields the stream's packets, over damage in the file, then None, which empties a decoder."""
    failures = 0
    while failures < MAX_FAILURES:
        try:
            for packet in container.demux(stream):
                if packet.size:
                    failures = 0
                    yield packet
            break
        except av.FFmpegError:
            failures += 1
    yield None


def decoded(context: av.CodecContext, packet: av.Packet | None) -> list:
    """Returns the frames that a packet completes; none if it is damaged."""
    try:
        return context.decode(packet)
    except av.FFmpegError:
        return []


def _with_next_pts(
    incoming: Iterator[av.Packet | None],
) -> Iterator[tuple[av.Packet | None, int | None]]:
    """Yields each packet with the timestamp of the picture after it on screen, None if unknown."""
    waiting: deque[av.Packet | None] = deque()
    near: deque[int] = deque(maxlen=3 * LOOKAHEAD_PACKETS)

    def head() -> tuple:
        packet = waiting.popleft()
        if packet is None or packet.pts is None:
            return packet, None
        return packet, min((pts for pts in near if pts > packet.pts), default=None)

    for packet in incoming:
        waiting.append(packet)
        if packet is not None and packet.pts is not None:
            near.append(packet.pts)
        if len(waiting) > LOOKAHEAD_PACKETS:
            yield head()
    while waiting:
        yield head()


def _raw_seconds(frame: av.VideoFrame, stream: av.VideoStream) -> float | None:
    """Returns the container time of a picture, None if unknown."""
    # AVI has decoding times only. They come out of the decoder in order; its guesses at
    # presentation times do not (B-frames packed in pairs: 1, 2, 4, 3).
    ticks = frame.dts if stream.container.format.name == "avi" else frame.pts
    return None if ticks is None else float(ticks * stream.time_base)


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


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Returns how many times a picture is to be turned left by 90 degrees to be upright."""
    return round(frame.rotation / 90) % 4


def _displayed_size(frame: av.VideoFrame) -> tuple[int, int]:
    size = (frame.height, frame.width)
    return size if _quarter_turns(frame) % 2 == 0 else size[::-1]


def _key_pictures(
    path: str | os.PathLike, count: int, duration_seconds: float
) -> Iterator[av.VideoFrame]:
    """Yields the different pictures found by seeking to `count` spread positions."""
    with opened(path) as container:
        stream = _video_stream(container)
        stream.codec_context.skip_frame = "NONKEY"
        seen = set()
        start = (container.start_time or 0) / av.time_base
        for index in range(count):
            seconds = start + (index + 0.5) / count * duration_seconds
            try:
                container.seek(int(seconds * av.time_base))
                frame = _first_picture(container, stream)
            except (av.FFmpegError, MediaError):
                continue
            if frame.pts not in seen:
                seen.add(frame.pts)
                yield frame
