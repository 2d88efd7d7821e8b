"""Previews: the key picture at or before a time of a recording, as a small JPEG."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av

from utils.files import stamp_file
from utils.media import Clock, MediaError, decoded, decoded_alone, opened, packets, video_stream
from utils.scaling import PyavScaler, displayed_size, quarter_turns
from utils.video import MAX_KEY_DISTANCE, TIMESTAMP_TOLERANCE_SECONDS

MAX_ASPECT_RATIO = 4.0  # of a preview, width to height: a damaged header says anything
MAX_DAMAGED_KEYS = 5  # that are passed over, one after the other
JPEG_QUANTIZER = 4  # from 2, the best, to 31
RUN_UPS_SECONDS = (0.0, 2.0, 10.0)  # before the time: a transport stream is entered anywhere
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
        for run_up in RUN_UPS_SECONDS:
            frame = self._first_key_picture(raw_seconds - run_up, until_seconds=raw_seconds)
            if frame is not None:
                return self._jpeg(frame, height)
        # Before the first key, or in a stream without any: what comes first.
        return self._jpeg(self._first_picture(self._packets_from(raw_seconds)), height)

    def _first_picture(self, incoming: Iterator[av.Packet | None]) -> av.VideoFrame:
        for packet in incoming:
            for frame in decoded(self._context, packet):
                return frame
        raise MediaError("no picture can be decoded there")

    def _first_key_picture(
        self, raw_seconds: float, *, until_seconds: float
    ) -> av.VideoFrame | None:
        damaged = 0
        for packet in self._packets_from(raw_seconds):
            if not packet.is_keyframe:
                continue
            ticks = packet.dts if packet.pts is None else packet.pts
            shown_seconds = (
                until_seconds if ticks is None else float(ticks * self._stream.time_base)
            )
            if shown_seconds > until_seconds + TIMESTAMP_TOLERANCE_SECONDS:
                return None
            for frame in decoded_alone(self._context, packet):
                return frame
            damaged += 1
            if damaged == MAX_DAMAGED_KEYS:
                return None
        return None

    def _packets_from(self, raw_seconds: float) -> Iterator[av.Packet]:
        """Yields the packets of a minute or two, from the last key before a time on if there is
        one."""
        self._context.flush_buffers()
        first = self._stream.start_time or 0
        ticks = max(first, round(raw_seconds / self._stream.time_base))
        for target in (ticks, first):  # a transport stream may refuse the one, AVI the other
            with suppress(av.FFmpegError):
                self._container.seek(target, stream=self._stream)
                break
        near = islice(packets(self._container, self._stream), MAX_KEY_DISTANCE)
        return (packet for packet in near if packet is not None)

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
