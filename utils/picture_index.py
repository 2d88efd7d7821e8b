"""Index of a recording's pictures: the time of each packet and where decoding can begin."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from utils.media import (
    MAX_STEP_BACK_SECONDS,
    MediaError,
    frame_rate,
    max_gap_seconds,
    opened,
    packets,
    video_stream,
)
from utils.video import TIMESTAMP_TOLERANCE_SECONDS, first_picture_seconds

H264_IDR = {5}
HEVC_RANDOM_ACCESS = set(range(16, 22))  # BLA, IDR, CRA
HEVC_BROKEN_LINK, HEVC_CLEAN_ACCESS = 16, 21
MPEG2_SEQUENCE_HEADER = b"\x00\x00\x01\xb3"


@dataclass(frozen=True)
class Jump:
    """From video packet `number` on, `shift_seconds` are to be added to every timestamp."""

    number: int
    shift_seconds: Fraction


@dataclass(frozen=True)
class PictureIndex:
    """Packets of a recording's video track in file order.

    Times are ticks of `time_base` since the first picture, jumps closed. A boundary is a number of
    packets such that all of these are shown before all others: a cut there needs no new picture.
    """

    pts: np.ndarray  # (N,) int64
    is_key: np.ndarray  # (N,) bool, pictures that decode without others
    is_fresh: np.ndarray  # (N,) bool, of those the ones that make a decoder forget all before
    end: int  # when the last picture is over
    time_base: Fraction
    zero_seconds: Fraction  # container time of the first picture
    jumps: tuple[Jump, ...]
    has_order: bool  # False where neither the file nor we know when the pictures are shown

    def __post_init__(self):
        count = len(self.pts)
        before = np.full(count + 1, np.iinfo(np.int64).min)
        after = np.full(count + 1, self.end)
        before[1:] = np.maximum.accumulate(self.pts)
        after[:-1] = np.minimum.accumulate(self.pts[::-1])[::-1]
        object.__setattr__(self, "boundaries", np.flatnonzero(before < after))
        # What is shown first after each of them.
        object.__setattr__(self, "boundary_pts", after[self.boundaries])

    @property
    def start(self) -> int:
        """When the first picture is shown; there may be packets before it that are not."""
        return self.picture_at(self.ticks(0.0))

    def ticks(self, seconds: float) -> int:
        """Returns the time from which on a picture counts as shown at `seconds`."""
        return round((seconds - TIMESTAMP_TOLERANCE_SECONDS) / float(self.time_base))

    def seconds(self, ticks: int) -> float:
        return float(int(ticks) * self.time_base)

    def picture_at(self, ticks: int) -> int:
        """Returns when the first picture at or after that time is shown, else the end."""
        later = self.pts[self.pts >= ticks]
        return int(later.min()) if len(later) else self.end

    def key_before(self, ticks: int, *, spare: bool = False) -> int:
        """Returns the packet from which decoding gives every picture from `ticks` on.

        With `spare` a key further back where that one does not reset the decoder: some streams
        call key what needs a few pictures to be clean.
        """
        keys = np.flatnonzero(self.is_key & (self.pts <= ticks))
        if not len(keys):
            return 0
        return int(
            keys[-1] if self.is_fresh[keys[-1]] or not spare else keys[max(0, len(keys) - 2)]
        )

    def boundary_after(self, ticks: int) -> tuple[int, int]:
        """Returns the first boundary with every picture before `ticks`, and what time it is at."""
        place = int(np.searchsorted(self.boundary_pts, ticks))
        return int(self.boundaries[place]), int(self.boundary_pts[place])

    def boundary_before(self, ticks: int) -> tuple[int, int]:
        """Returns the last boundary with no picture from `ticks` on, and what time it is at."""
        place = int(np.searchsorted(self.boundary_pts, ticks, side="right")) - 1
        return int(self.boundaries[place]), int(self.boundary_pts[place])


def read_index(
    path: str | os.PathLike, on_packet: Callable[[av.Packet], None] = lambda _: None
) -> PictureIndex:
    """Returns the index of a recording: all of it is read, nothing is decoded but one picture.

    `on_packet` is told of every packet of the pictures. Raises MediaError.
    """
    zero = Fraction(first_picture_seconds(path)).limit_denominator(10**9)
    with opened(path) as container:
        stream = video_stream(container)
        scan = _Scan(stream, zero)
        for packet in packets(container, stream):
            if packet is not None:
                on_packet(packet)
                scan.add(packet)
        if not scan.pts:
            raise MediaError("no picture in it has a time")
        return PictureIndex(
            pts=np.array(scan.pts, np.int64),
            is_key=np.array(scan.is_key, bool),
            is_fresh=np.array(scan.is_fresh, bool),
            end=max(pts + length for pts, length in scan.last),
            time_base=stream.time_base,
            zero_seconds=zero,
            jumps=tuple(scan.jumps),
            # AVI has no times. Its pictures follow each other, if not those that are reordered.
            has_order=not (scan.is_avi and stream.codec_context.has_b_frames),
        )


class Retimer:
    """Moves the packets of a recording to times since its first picture, without jumps.

    Packets have to come in the order of the file, those of the video track all.
    """

    def __init__(self, index: PictureIndex, stream: av.VideoStream, zero_seconds: Fraction):
        self._video = stream.index
        self._is_avi = stream.container.format.name == "avi"
        self._max_gap_seconds = max_gap_seconds(stream.container)
        self._starts = [0, *(jump.number for jump in index.jumps)]
        self._shifts = [-zero_seconds + s for s in (0, *(j.shift_seconds for j in index.jumps))]
        self._number = 0  # of the video packet to come
        self._epoch = 0  # of the video
        self._epochs: dict[int, int] = {}
        self._now: dict[int, float] = {}  # seconds that each track has come to
        self._ticks: dict[tuple[int, int], int] = {}  # to be added, by track and epoch

    def __call__(self, packet: av.Packet) -> None:
        """Changes the packet's times."""
        track = packet.stream_index
        if self._is_avi or packet.pts is None:
            packet.pts = packet.dts
        if track == self._video:
            while self._starts[self._epoch + 1 :] and self._number >= self._starts[self._epoch + 1]:
                self._epoch += 1
            self._number += 1
        if packet.pts is None:
            return
        time_base = packet.time_base
        epoch = self._epoch
        if len(self._shifts) > 1:
            raw = (packet.pts if packet.dts is None else packet.dts) * float(time_base)
            if track != self._video:
                epoch = self._epochs[track] = self._epoch_of(track, raw, packet.stream.type)
            self._now[track] = raw + float(self._shifts[epoch])
        ticks = self._ticks.get((track, epoch))
        if ticks is None:
            ticks = self._ticks[track, epoch] = round(self._shifts[epoch] / time_base)
        packet.pts += ticks
        if packet.dts is not None:  # Matroska knows none, and the muxer finds its own
            packet.dts += ticks

    def _epoch_of(self, track: int, raw: float, kind: str) -> int:
        """Tracks are interleaved loosely: sound jumps some packets before or after the picture."""
        if kind == "audio" and track in self._now:
            step = raw + float(self._shifts[self._epochs[track]]) - self._now[track]
            if -MAX_STEP_BACK_SECONDS <= step <= self._max_gap_seconds:
                return self._epochs[track]
        near = range(max(0, self._epoch - 1), min(len(self._shifts), self._epoch + 2))
        due = self._now.get(track if kind == "audio" else self._video, 0.0)
        return min(near, key=lambda epoch: abs(raw + float(self._shifts[epoch]) - due))


class _Scan:
    """What is noted of the packets of a video track as they come."""

    def __init__(self, stream: av.VideoStream, zero_seconds: Fraction):
        self._time_base = stream.time_base
        self._zero = round(zero_seconds / stream.time_base)
        self._frame = max(1, round(1 / frame_rate(stream) / stream.time_base))
        self.is_avi = stream.container.format.name == "avi"
        self._max_gap_seconds = max_gap_seconds(stream.container)
        self._is_fresh = _fresh_test(stream)
        self._shift = 0
        self._order: int | None = None  # decoding time before
        self._latest = 0
        self.pts: list[int] = []
        self.is_key: list[bool] = []
        self.is_fresh: list[bool] = []
        self.last: deque[tuple[int, int]] = deque(maxlen=32)  # times and lengths, as last read
        self.jumps: list[Jump] = []

    def add(self, packet: av.Packet) -> None:
        raw = packet.dts if self.is_avi or packet.pts is None else packet.pts
        if raw is None:  # the second field of a picture, or damage
            raw = self._latest - self._shift + self._zero + 1
        order = raw if packet.dts is None else packet.dts
        step = 0 if self._order is None else float((order - self._order) * self._time_base)
        if step < -MAX_STEP_BACK_SECONDS or step > self._max_gap_seconds:
            self._shift = self._latest + self._frame - (raw - self._zero)
            self.jumps.append(Jump(len(self.pts), self._shift * self._time_base))
        self._order = order
        pts = raw - self._zero + self._shift
        self._latest = max(self._latest, pts)
        self.pts.append(pts)
        self.is_key.append(packet.is_keyframe)
        self.is_fresh.append(packet.is_keyframe and self._is_fresh(packet))
        length = packet.duration or self._frame
        is_sane = length * self._time_base <= self._max_gap_seconds
        self.last.append((pts, length if is_sane else self._frame))


def _fresh_test(stream: av.VideoStream) -> Callable[[av.Packet], bool]:
    """Returns what tells of a key packet whether other parameter sets may apply from it on."""
    codec = stream.codec_context.name
    extradata = stream.codec_context.extradata or b""
    if codec in ("h264", "hevc"):
        length_bytes = nal_length_bytes(codec, extradata)
        types = H264_IDR if codec == "h264" else HEVC_RANDOM_ACCESS
        return lambda packet: bool(types & nal_types(codec, bytes(packet), length_bytes))
    if codec == "mpeg2video":
        return lambda packet: MPEG2_SEQUENCE_HEADER in bytes(packet)
    return lambda packet: True


def nal_length_bytes(codec: str, extradata: bytes) -> int:
    """Returns how many bytes tell each unit's length; 0 where start codes part them."""
    if extradata[:1] != b"\x01":
        return 0
    return (extradata[4 if codec == "h264" else 21] & 3) + 1


def with_broken_link(data: bytes, length_bytes: int) -> bytes:
    """Returns an HEVC key packet marked as one that does not follow what stands before it.

    The standard has a type for this, a "broken link", besides that of clean random access.
    """
    changed = bytearray(data)
    for place in _heads(data, length_bytes):
        if data[place] >> 1 & 63 == HEVC_CLEAN_ACCESS:
            changed[place] = data[place] & 0x81 | HEVC_BROKEN_LINK << 1
    return bytes(changed)


def nal_types(codec: str, data: bytes, length_bytes: int) -> set[int]:
    """Returns the types of the units of an H.264 or HEVC packet."""
    heads = {data[place] for place in _heads(data, length_bytes)}
    return {head & 31 if codec == "h264" else head >> 1 & 63 for head in heads}


def _heads(data: bytes, length_bytes: int) -> Iterator[int]:
    """Yields where each unit's first byte is."""
    place = 0
    while length_bytes and place + length_bytes < len(data):
        yield place + length_bytes
        place += length_bytes + int.from_bytes(data[place : place + length_bytes])
    if not length_bytes:
        place = data.find(b"\x00\x00\x01")
        while 0 <= place < len(data) - 3:
            yield place + 3
            place = data.find(b"\x00\x00\x01", place + 3)
