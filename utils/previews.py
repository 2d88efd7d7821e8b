"""Previews: the key picture at or before a time of a recording, as a small JPEG."""

import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from itertools import islice, takewhile
from pathlib import Path

import av

from utils.files import stamp_file
from utils.media import Clock, MediaError, decoded, decoded_alone, opened, packets, video_stream
from utils.scaling import PyavScaler, displayed_size, quarter_turns
from utils.stretches import seek_before
from utils.video import MAX_KEY_DISTANCE, TIMESTAMP_TOLERANCE_SECONDS

MAX_ASPECT_RATIO = 4.0  # of a preview, width to height: a damaged header says anything
MAX_DAMAGED_KEYS = 5  # that are passed over, one after the other
JPEG_QUANTIZER = 4  # from 2, the best, to 31
RUN_UPS_SECONDS = (0.0, 4.0, 16.0)  # before the time: a transport stream is entered anywhere
MAX_READERS = 2  # that a process keeps open: the index of an MP4 of three hours takes 0.2 s to read

_readers: OrderedDict[str, tuple[list[int], "PreviewReader"]] = OrderedDict()


def read_preview(
    path: str | os.PathLike,
    seconds: float,
    height: int,
    report: Callable[[object], None] = lambda _: None,
) -> bytes:
    """Returns the same as PreviewReader.read; keeps the last files open. For one thread only."""
    name, stamp = os.path.abspath(path), stamp_file(Path(path))
    known_stamp, reader = _readers.pop(name, (None, None))
    if reader is not None and known_stamp != stamp:
        reader.close()
        reader = None
    reader = reader or PreviewReader(path)
    try:
        jpeg = reader.read(seconds, height)
    except BaseException:
        reader.close()
        raise
    _readers[name] = stamp, reader
    while len(_readers) > MAX_READERS:
        _readers.popitem(last=False)[1][1].close()
    return jpeg


class PreviewReader:
    """An open recording whose key pictures are read here and there. Raises MediaError."""

    def __init__(self, path: str | os.PathLike):
        self._stack = ExitStack()
        self._container = self._stack.enter_context(opened(path))
        self._stream = video_stream(self._container)
        self._context = self._stream.codec_context
        self._context.thread_type, self._context.thread_count = "NONE", 1
        self._context.options = {"skip_loop_filter": "all"}
        for other in self._container.streams:
            if other is not self._stream:
                other.discard = av.stream.Discard.all
        first = self._first_picture(packets(self._container, self._stream))
        self._zero_seconds = Clock(self._stream).raw_seconds(first) or 0.0

    def close(self) -> None:
        self._stack.close()

    def read(self, seconds: float, height: int) -> bytes:
        """Returns a JPEG of the last key picture at or before `seconds`, `height` pixels high.

        As a player shows it: upright, with the shape of its pixels and with its black bars. Behind
        a jump of the timestamps it may be a picture of another time. Raises MediaError.
        """
        raw_seconds = seconds + self._zero_seconds
        until = raw_seconds + TIMESTAMP_TOLERANCE_SECONDS
        for run_up in RUN_UPS_SECONDS:
            keys = takewhile(
                lambda key: self._seconds(key) <= until, self._keys(raw_seconds - run_up)
            )
            frame = self._first_of(reversed(list(keys)[-MAX_DAMAGED_KEYS:]))
            if frame is not None:
                return self._jpeg(frame, height)
        # Before the first key, or behind damage: the next one, or whatever can be decoded.
        frame = self._first_of(islice(self._keys(raw_seconds), MAX_DAMAGED_KEYS))
        return self._jpeg(frame or self._first_picture(self._packets(raw_seconds)), height)

    def _packets(self, raw_seconds: float) -> Iterator[av.Packet | None]:
        """Yields the packets of a minute or two, from the last key before a time on, or so."""
        self._context.flush_buffers()
        seek_before(self._stream, round(raw_seconds / self._stream.time_base))
        return islice(packets(self._container, self._stream), MAX_KEY_DISTANCE)

    def _keys(self, raw_seconds: float) -> Iterator[av.Packet]:
        return (p for p in self._packets(raw_seconds) if p is not None and p.is_keyframe)

    def _seconds(self, packet: av.Packet) -> float:
        ticks = packet.dts if packet.pts is None else packet.pts
        return -math.inf if ticks is None else float(ticks * self._stream.time_base)

    def _first_of(self, keys: Iterable[av.Packet]) -> av.VideoFrame | None:
        """The first that can be decoded."""
        return next((f for key in keys for f in decoded_alone(self._context, key)), None)

    def _first_picture(self, incoming: Iterator[av.Packet | None]) -> av.VideoFrame:
        frames = (frame for packet in incoming for frame in decoded(self._context, packet))
        frame = next(frames, None)
        if frame is None:
            raise MediaError("no picture can be decoded there")
        return frame

    def _jpeg(self, frame: av.VideoFrame, height: int) -> bytes:
        shape = float(self._stream.sample_aspect_ratio or 1)
        shape = shape if quarter_turns(frame) % 2 == 0 else 1 / shape
        stored_height, stored_width = displayed_size(frame)
        ratio = stored_width / stored_height * shape
        ratio = min(max(ratio, 1 / MAX_ASPECT_RATIO), MAX_ASPECT_RATIO)
        size = height, max(2, round(height * ratio / 2) * 2)
        picture = av.VideoFrame.from_ndarray(PyavScaler(size, None)(frame), format="rgb24")
        encoder = av.CodecContext.create("mjpeg", "w")
        encoder.height, encoder.width = size
        encoder.pix_fmt = "yuvj420p"
        encoder.time_base = Fraction(1, 25)  # it wants one
        encoder.qscale, encoder.global_quality = True, JPEG_QUANTIZER
        made = [*encoder.encode(picture), *encoder.encode(None)]
        return b"".join(bytes(packet) for packet in made)
