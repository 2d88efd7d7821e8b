"""Splicing: a file made of spans of a recording, its packets copied, or pictures encoded anew."""

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import av
import numpy as np

from utils.encoding import (
    ENCODERS,
    Encoder,
    PictureEncoder,
    free_sps_id,
    prepare_context,
    splicing_encoder,
    splicing_header,
)
from utils.media import decoded, opened, packets, video_stream
from utils.muxing import (
    Chapter,
    GrowingTimes,
    MuxError,
    OnProgress,
    Reporter,
    chapters_of,
    clone_streams,
    copy_metadata,
    set_chapters,
    writing,
)
from utils.picture_index import PictureIndex, Retimer, nal_length_bytes, with_broken_link
from utils.video import first_picture

TO_BYTE_STREAM = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
PCM = r"pcm_(?:[suf](8|16|24|32|64)(?:le|be)?|alaw|mulaw)"
ROUNDING_SECONDS = 0.002  # of timestamps: Matroska's are whole milliseconds


class Painter(Protocol):
    """Draws on pictures before they are encoded."""

    encoder: Encoder

    def prepare(self, context: av.VideoCodecContext, picture: av.VideoFrame) -> None:
        """Makes the encoder's context fit what comes of pictures like this one."""

    def __call__(self, frame: av.VideoFrame, seconds: float) -> av.VideoFrame:
        """Returns the picture shown at that time."""


@dataclass(frozen=True)
class Run:
    """The pictures of [start, end) ticks, copied as packets or encoded anew.

    [first, last) are the packets that are copied, or those that the pictures are decoded from.
    """

    start: int
    end: int
    first: int
    last: int
    is_copied: bool


@dataclass(frozen=True)
class Span:
    """[start, end) ticks of a recording that stay, in runs one after the other."""

    start: int
    end: int
    runs: tuple[Run, ...]


def splice(
    source: Path,
    target: Path,
    index: PictureIndex,
    spans: Sequence[Span],
    *,
    encode_all: bool = False,
    painter: Painter | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[str, ...]:
    """Writes the spans of a recording one after the other; returns in words what was left out.

    With `encode_all` the runs count for nothing: every picture is encoded anew, by one encoder;
    with a painter too, after it drew on them. Chapters within the spans stay, moved. Raises
    MuxError, MediaError.
    """
    with opened(source) as container, writing(target) as output:
        video = video_stream(container)
        others = [s for s in container.streams.video if s is not video]
        moving = [s for s in others if not s.disposition & av.stream.Disposition.attached_pic]
        encode_all = encode_all or painter is not None
        without = [*moving, *([video] if encode_all else [])]
        # The encoded picture comes first, as in every file.
        pictures = _Reencoded(output, video, index, spans, painter) if encode_all else None
        clones, notes = clone_streams(output, container, target.suffix, without=without)
        if pictures is None:
            pictures = CopiedPictures(clones.pop(video.index), video, index, spans)
        copy_metadata(container, output)
        places = _places(index, spans)
        set_chapters(output, _moved_chapters(container, index, places))
        tracks = {
            number: _track(container.streams[number], clone, places)
            for number, clone in clones.items()
        }
        retime = Retimer(index, video, index.zero_seconds)
        report = Reporter(index, on_progress)
        mend = GrowingTimes()
        wanted = [video, *(container.streams[number] for number in tracks)]
        for packet in packets(container, *wanted):
            if packet is None:
                break
            retime(packet)
            report(packet)
            if packet.stream_index == video.index:
                output.mux(pictures.take(packet))
            else:
                for part in tracks[packet.stream_index].take(packet):
                    output.mux(mend(part))
        output.mux(pictures.finish())
        if pictures.count == 0:
            raise MuxError(f"none of {source.name}'s pictures that are to stay can be decoded")
    left_out = tuple(f"left out video track {s.index}: only one track can be cut" for s in moving)
    return (*notes, *left_out)


@dataclass(frozen=True)
class Place:
    """[start, end) seconds of the recording, which begin at `at` in the file."""

    start: float
    end: float
    at: float


def _places(index: PictureIndex, spans: Sequence[Span]) -> list[Place]:
    lengths = [span.end - span.start for span in spans]
    return [
        Place(index.seconds(span.start), index.seconds(span.end), index.seconds(at))
        for span, at in zip(spans, accumulate(lengths, initial=0), strict=False)
    ]


def _moved_chapters(container, index: PictureIndex, places: Sequence[Place]) -> list[Chapter]:
    zero = float(index.zero_seconds)
    return [
        Chapter(start - place.start + place.at, end - place.start + place.at, chapter.title)
        for chapter in chapters_of(container)
        for place in places
        if (start := max(chapter.start_seconds - zero, place.start))
        < (end := min(chapter.end_seconds - zero, place.end))
    ]


class CopiedPictures:
    """Pictures of a recording, most of them copied, the others encoded in between."""

    def __init__(self, clone, stream: av.VideoStream, index: PictureIndex, spans: Sequence[Span]):
        self._clone = clone
        self._stream = stream
        self._index = index
        self._codec = stream.codec_context.name
        starts = accumulate((span.end - span.start for span in spans), initial=0)
        self._runs = [
            (run, at - span.start)
            for span, at in zip(spans, starts, strict=False)
            for run in span.runs
        ]
        self._recoders = {}
        self._sps_id = None
        self._filter = None
        self._length_bytes = nal_length_bytes(self._codec, stream.codec_context.extradata or b"")
        self._is_mixed = not all(run.is_copied for run, _ in self._runs)
        if self._is_mixed:
            self._sps_id = free_sps_id(stream)
            clone.codec_context.extradata = splicing_header(stream, self._sps_id)
            if self._codec in TO_BYTE_STREAM:
                name = TO_BYTE_STREAM[self._codec]
                self._filter = av.bitstream.BitStreamFilterContext(name, stream)
        firsts = [run.first for run, _ in self._runs]
        self._earliest = list(accumulate(reversed(firsts), min))[::-1]  # of this run and later ones
        self._done: list[deque[av.Packet]] = [deque() for _ in self._runs]
        self._is_over = [False] * len(self._runs)
        self._current = 0
        self._number = 0
        self._order = _DecodingOrder(_delay(index, self._runs), self._frame_ticks())
        self.count = 0

    def take(self, packet: av.Packet) -> list[av.Packet]:
        """Returns what is to be written next, now that this packet came."""
        number, self._number = self._number, self._number + 1
        for place in range(self._current, len(self._runs)):
            run, _ = self._runs[place]
            if number < self._earliest[place]:
                break
            if run.first <= number < run.last:
                self._copy(packet, place) if run.is_copied else self._recode(packet, place)
            if number >= run.last - 1 and not self._is_over[place]:
                self._end(place)
        return self._ready()

    def finish(self) -> list[av.Packet]:
        for place in range(self._current, len(self._runs)):
            if not self._is_over[place]:
                self._end(place)
        return self._ready()

    def _copy(self, packet: av.Packet, place: int) -> None:
        run, shift = self._runs[place]
        if packet.pts is None:
            packet.pts = int(self._index.pts[self._number - 1])
        if packet.pts < run.start:  # shown before the key, made of pictures that are gone
            return
        ticks = packet.pts + shift
        if self._codec == "hevc" and self._number - 1 == run.first and place:
            data = with_broken_link(bytes(packet), self._length_bytes)
            packet = _clone_packet(packet, data)
        own = _clone_packet(packet) if self._is_mixed else packet
        for new in self._filter.filter(own) if self._filter else [own]:
            new.pts = ticks
            self._done[place].append(new)

    def _recode(self, packet: av.Packet, place: int) -> None:
        if place not in self._recoders:
            self._recoders[place] = _Recoder(self._stream, self._runs[place][0], self._sps_id)
        self._keep(place, self._recoders[place](packet))

    def _keep(self, place: int, made: list[av.Packet]) -> None:
        for packet in made:
            packet.pts += self._runs[place][1]
            self._done[place].append(packet)

    def _end(self, place: int) -> None:
        if place in self._recoders:
            self._keep(place, self._recoders.pop(place)(None))
        self._is_over[place] = True

    def _ready(self) -> list[av.Packet]:
        ready = []
        while self._current < len(self._runs):
            queue = self._done[self._current]
            while queue:
                packet = queue.popleft()
                packet.dts = self._order(packet.pts)
                packet.time_base = self._stream.time_base
                packet.stream = self._clone
                ready.append(packet)
                self.count += 1
            if not self._is_over[self._current]:
                break
            self._current += 1
        return ready

    def _frame_ticks(self) -> int:
        steps = np.diff(np.sort(self._index.pts))
        return max(1, int(np.median(steps))) if len(steps) else 1


class _Recoder:
    """Decodes a run's packets and encodes the pictures of its time anew."""

    def __init__(self, stream: av.VideoStream, run: Run, sps_id: int | None):
        self._stream = stream
        self._run = run
        self._sps_id = sps_id
        self._encode: PictureEncoder | None = None
        self._decoder = av.CodecContext.create(stream.codec_context.name, "r")
        self._decoder.extradata = stream.codec_context.extradata

    def __call__(self, packet: av.Packet | None) -> list[av.Packet]:
        made = []
        for frame in decoded(self._decoder, packet):
            if frame.pts is not None and self._run.start <= frame.pts < self._run.end:
                if self._encode is None:
                    self._encode = splicing_encoder(self._stream, self._sps_id, frame)
                made += self._encode(frame, ticks=frame.pts)
        return made + (self._encode(None) if packet is None and self._encode else [])


class _Reencoded:
    """Pictures of a recording, all of them encoded anew."""

    def __init__(
        self,
        output: av.container.OutputContainer,
        stream: av.VideoStream,
        index: PictureIndex,
        spans: Sequence[Span],
        painter: Painter | None,
    ):
        picture = first_picture(stream.container.name)
        encoder = painter.encoder if painter else ENCODERS[stream.codec_context.name]
        try:
            clone = output.add_stream(encoder.name, rate=stream.average_rate)
        except ValueError as error:
            raise MuxError(
                f"a {output.format.name} file can't hold pictures of {encoder.name}: name one that "
                "ends in .mkv"
            ) from error
        prepare_context(clone.codec_context, stream, encoder, picture)
        if painter:
            painter.prepare(clone.codec_context, picture)
        elif picture.rotation:
            clone.set_display_rotation(picture.rotation)
        clone.time_base = stream.time_base
        clone.metadata.update(stream.metadata)
        clone.disposition = stream.disposition
        self._clone = clone
        self._stream = stream
        self._index = index
        self._painter = painter
        self._encode = PictureEncoder(clone.codec_context, encoder)
        self._is_avi = stream.container.format.name == "avi"
        self._spans = spans
        self._starts = [span.start for span in spans]
        self._places = list(accumulate((s.end - s.start for s in spans), initial=0))
        self._span = -1  # of the picture before
        self._last: int | None = None
        stream.codec_context.thread_type = "AUTO"
        self.count = 0

    def take(self, packet: av.Packet | None) -> list[av.Packet]:
        made = []
        for frame in decoded(self._stream.codec_context, packet):
            ticks = frame.dts if self._is_avi else frame.pts
            if ticks is None or (self._last is not None and ticks <= self._last):
                continue
            self._last = ticks
            number = bisect_right(self._starts, ticks) - 1
            if number < 0 or ticks >= self._spans[number].end:
                continue
            if self._painter:
                frame.pts, frame.time_base = ticks, self._stream.time_base
                frame = self._painter(frame, self._index.seconds(ticks))
            place = self._places[number] + ticks - self._starts[number]
            made += self._encode(frame, ticks=place, key=number != self._span)
            self._span = number
        return self._named(made)

    def finish(self) -> list[av.Packet]:
        return [*self.take(None), *self._named(self._encode(None))]

    def _named(self, made: list[av.Packet]) -> list[av.Packet]:
        for packet in made:
            packet.stream = self._clone
            packet.time_base = self._stream.time_base
        self.count += len(made)
        return made


class _DecodingOrder:
    """Gives each packet a decoding time: those of showing, in order, by so many pictures earlier.

    Across cuts the recording's own go back now and then; these grow always, and none is later than
    its picture is shown.
    """

    def __init__(self, delay: int, frame_ticks: int):
        self._delay = delay
        self._frame_ticks = frame_ticks
        self._shown: list[int] = []
        self._count = 0
        self._first = 0
        self._last: int | None = None

    def __call__(self, pts: int) -> int:
        heappush(self._shown, pts)
        self._first = pts if self._count == 0 else self._first
        if self._count < self._delay:
            dts = self._first - (self._delay - self._count) * self._frame_ticks
        else:
            dts = heappop(self._shown)
        self._count += 1
        self._last = dts if self._last is None else max(dts, self._last + 1)
        return self._last


def _delay(index: PictureIndex, runs: Sequence[tuple[Run, int]]) -> int:
    """Returns by how many pictures decoding has to be ahead of showing."""
    shown = []
    for run, shift in runs:
        pts = index.pts[run.first : run.last]
        pts = pts[(pts >= run.start) & (pts < run.end)] + shift
        shown.append(pts if run.is_copied else np.sort(pts))
    shown = np.concatenate(shown)
    rank = np.empty(len(shown), int)
    rank[np.argsort(shown, kind="stable")] = np.arange(len(shown))
    return int(max(0, (np.arange(len(shown)) - rank).max(initial=0)))


def _track(stream: av.stream.Stream, clone: av.stream.Stream, places: Sequence[Place]):
    if stream.disposition & av.stream.Disposition.attached_pic:
        return _Cover(clone)
    return (CopiedSound if stream.type == "audio" else _Texts)(stream, clone, places)


class _Cover:
    """A still picture that stands for the file."""

    def __init__(self, clone: av.stream.Stream):
        self._clone = clone
        self._is_written = False

    def take(self, packet: av.Packet) -> Iterator[av.Packet]:
        if not self._is_written:
            self._is_written = True
            packet.pts = packet.dts = 0
            packet.stream = self._clone
            yield packet


class CopiedSound:
    """Sound packets of the places, without gaps where they meet.

    A packet begins at most half its length from its time, at every place anew: nothing adds up.
    PCM is cut to the sample.
    """

    def __init__(self, stream: av.AudioStream, clone, places: Sequence[Place]):
        self._clone = clone
        self._places = deque(places)
        self._end = 0.0  # of what is written, in the file
        self._shift: float | None = None  # of the packets of the place that is on
        self._ticks = 0  # of the packet before
        self._time_base = float(stream.time_base)
        codec = stream.codec_context
        pcm = re.fullmatch(PCM, codec.name) if codec is not None else None
        self._sample_bytes = int(pcm[1] or 8) // 8 * codec.layout.nb_channels if pcm else 0
        self._sample_rate = codec.sample_rate if pcm else 0

    def take(self, packet: av.Packet) -> Iterator[av.Packet]:
        if packet.pts is None:
            return
        if self._sample_bytes:
            yield from self._cut_samples(packet)
            return
        start = packet.pts * self._time_base
        self._ticks, before = packet.pts, self._ticks
        ticks = packet.duration or max(0, packet.pts - before)  # AVI does not always say
        length = ticks * self._time_base
        while self._places:
            place = self._places[0]
            at = start - place.start + place.at
            if self._shift is None:
                meets = abs(self._end - place.at) <= length / 2 + ROUNDING_SECONDS
                if at < (self._end if meets else place.at) - length / 2:
                    return
                gap = self._end - at
                self._shift = gap if abs(gap) <= length / 2 + ROUNDING_SECONDS else 0.0
            if at + self._shift + length / 2 < place.at + place.end - place.start:
                self._end = at + self._shift + length
                yield self._written(packet, at + self._shift)
                return
            self._shift = None
            self._places.popleft()

    def _cut_samples(self, packet: av.Packet) -> Iterator[av.Packet]:
        start = packet.pts * self._time_base
        count = packet.size // self._sample_bytes
        length = count / self._sample_rate
        data = bytes(packet)
        for place in self._places:
            first = max(0, round((place.start - start) * self._sample_rate))
            last = min(count, round((place.end - start) * self._sample_rate))
            if first < last:
                cut = data[first * self._sample_bytes : last * self._sample_bytes]
                at = start + first / self._sample_rate - place.start + place.at
                yield self._written(_clone_packet(packet, cut), at)
        while self._places and self._places[0].end <= start + length:
            self._places.popleft()

    def _written(self, packet: av.Packet, seconds: float) -> av.Packet:
        packet.pts = packet.dts = max(0, round(seconds / self._time_base))
        packet.stream = self._clone
        return packet


class _Texts:
    """Subtitles and data of the places, those that last cut to them."""

    def __init__(self, stream: av.stream.Stream, clone, places: Sequence[Place]):
        self._clone = clone
        self._places = places
        self._time_base = float(stream.time_base)

    def take(self, packet: av.Packet) -> Iterator[av.Packet]:
        if packet.pts is None:
            return
        start = packet.pts * self._time_base
        end = start + (packet.duration or 0) * self._time_base
        for place in self._places:
            first, last = max(start, place.start), min(end, place.end)
            if first < last or place.start <= start == end < place.end:
                new = _clone_packet(packet)
                at = round((first - place.start + place.at) / self._time_base)
                new.pts = new.dts = at
                if packet.duration:
                    new.duration = max(1, round((last - first) / self._time_base))
                new.stream = self._clone
                yield new


def _clone_packet(packet: av.Packet, data: bytes | None = None) -> av.Packet:
    new = av.Packet(bytes(packet) if data is None else data)
    new.pts, new.dts, new.duration = packet.pts, packet.dts, packet.duration
    new.time_base = packet.time_base
    new.is_keyframe = packet.is_keyframe
    if data is None:
        for side_data in packet.iter_sidedata():
            new.set_sidedata(side_data)
    return new
