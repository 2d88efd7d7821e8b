"""Proxies: copies of recordings that a browser plays, which count from the first picture."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from utils.audio import SampleLine
from utils.media import (
    Clock,
    MediaError,
    audio_stream,
    decoded,
    duration_seconds,
    frame_rate,
    max_gap_seconds,
    opened,
    packets,
    video_stream,
)
from utils.muxing import GrowingTimes, MuxError, clone_stream, writing
from utils.picture_index import PictureIndex, Retimer, read_index
from utils.playback import read_tracks
from utils.scaling import HDR_TRANSFERS, displayed_size, quarter_turns
from utils.splicing import CopiedPictures, CopiedSound, Place, Run, Span
from utils.video import first_picture, first_picture_seconds

SUFFIX = ".mp4"
MAX_LINES, MAX_COLUMNS = 360, 1280  # of a picture that is encoded anew
ENCODER = "libx264"
ENCODER_OPTIONS = {"preset": "superfast", "crf": "28"}
KEY_SECONDS = 1.0  # from one key picture to the next: what a jump in the player decodes at most
TICKS = 90_000  # a second
SOUND_RATE, SOUND_BITS = 48_000, 64_000  # a second, of one channel
REPORT_SECONDS = 5.0  # of the recording, from one report to the next
INDEX_PART = 0.3  # of the work of copying: to read all of it before
BT709, LIMITED = 1, 1  # as codecs number matrices and ranges

Report = Callable[[float], None]  # told the part that is done, 0 to 1


def write_proxy(
    source: Path, target: Path, max_copied_bytes: int, report: Report = lambda _: None
) -> str:
    """Writes what a browser plays of a recording, whole or not at all; returns in words how.

    Time zero is the first picture, and jumps of the timestamps are closed, as in all readers here.
    Pictures that a browser plays are copied as they are, where they are whole, their timestamps
    don't jump, and the recording has no more than `max_copied_bytes`; all others become H.264 of
    MAX_LINES at most. Sound is copied with them or becomes AAC of one channel. Raises MuxError,
    MediaError.
    """
    tracks = read_tracks(source)
    if tracks.plays_picture("mp4") and source.stat().st_size <= max_copied_bytes:
        index = _index_to_copy(source, report)
        if index is not None:
            try:
                return _copy(source, target, index, report, with_sound=tracks.plays_sound("mp4"))
            except MuxError:  # it does not go into an MP4; on a full disk, nor does what follows
                report(0.0)
    return _encode(source, target, report)


def _index_to_copy(source: Path, report: Report) -> PictureIndex | None:
    """The index of a recording whose pictures can be copied, else None."""
    size_bytes = source.stat().st_size
    told = _Told(lambda part: report(INDEX_PART * part))
    is_whole = True

    def watch(packet: av.Packet) -> None:
        nonlocal is_whole
        is_whole = is_whole and not packet.is_corrupt
        told((packet.pos or 0) / size_bytes, seconds=float((packet.dts or 0) * packet.time_base))

    try:
        index = read_index(source, watch)
    except MediaError:
        return None
    return index if is_whole and index.has_order and not index.jumps else None


def _copy(
    source: Path, target: Path, index: PictureIndex, report: Report, *, with_sound: bool
) -> str:
    with opened(source) as container, writing(target, options={"movflags": "faststart"}) as output:
        stream, sound_stream = _streams(container)
        total_seconds = index.seconds(index.end)
        run = Run(index.start, index.end, 0, len(index.pts), is_copied=True)
        clone = clone_stream(output, stream, keep_tag=False)
        pictures = CopiedPictures(clone, stream, index, [Span(index.start, index.end, (run,))])
        sound = None
        if sound_stream is not None and with_sound:
            sound_clone = clone_stream(output, sound_stream, keep_tag=False)
            sound = CopiedSound(sound_stream, sound_clone, [Place(0.0, total_seconds, 0.0)])
        elif sound_stream is not None:
            line = SampleLine(SOUND_RATE, 0.0, max_gap_seconds(container))
            sound = _EncodedSound(output, sound_stream, line)
        retime = Retimer(index, stream, index.zero_seconds)
        mend = GrowingTimes()
        told = _Told(lambda part: report(INDEX_PART + (1 - INDEX_PART) * part))
        for packet in packets(container, *filter(None, (stream, sound_stream))):
            if packet is None:
                break
            retime(packet)
            if packet.stream_index == stream.index:
                seconds = float((packet.pts or 0) * packet.time_base)
                output.mux(pictures.take(packet))
                told(seconds / max(total_seconds, 1.0), seconds=seconds)
            else:
                output.mux([mend(part) for part in sound.take(packet)])
        output.mux(pictures.finish())
        if isinstance(sound, _EncodedSound):
            output.mux(list(sound.finish()))
        if not pictures.count:
            raise MediaError("no picture could be copied")
    return "copied" if with_sound else "pictures copied, sound encoded anew"


def _encode(source: Path, target: Path, report: Report) -> str:
    with opened(source) as container, writing(target, options={"movflags": "faststart"}) as output:
        stream, sound_stream = _streams(container)
        total_seconds = max(1.0, duration_seconds(container, stream))
        clock = Clock(stream)
        clock.zero = first_picture_seconds(source)  # sound may come long before it in the file
        pictures = _EncodedPictures(output, stream, clock, first_picture(source))
        sound = None
        if sound_stream is not None:
            gap = max_gap_seconds(container)
            line = SampleLine(SOUND_RATE, clock.zero, gap, clock=clock)
            sound = _EncodedSound(output, sound_stream, line)
        told = _Told(report)
        for packet in packets(container, *filter(None, (stream, sound_stream))):
            if packet is None:
                break
            if packet.stream_index == stream.index:
                clock.meet_picture()
                output.mux(list(pictures.take(packet)))
                told((clock.last or 0.0) / total_seconds, seconds=clock.last or 0.0)
            else:
                if packet.dts is not None:
                    clock.meet_sound(float(packet.dts * packet.time_base))
                output.mux(list(sound.take(packet)))
        output.mux(list(pictures.finish()))
        if sound is not None:
            output.mux(list(sound.finish()))
        if not pictures.count:
            raise MediaError("no frame could be decoded")
    return f"encoded anew, with {pictures.lines} lines"


def _streams(container) -> tuple[av.VideoStream, av.AudioStream | None]:
    """The tracks that are shown and heard; the others are not even read."""
    chosen = video_stream(container), audio_stream(container)
    for stream in container.streams:
        if stream not in chosen:
            stream.discard = av.stream.Discard.all
    return chosen


class _Told:
    """Reports a part that is done, every now and then."""

    def __init__(self, report: Report):
        self._report = report
        self._next_seconds = 0.0

    def __call__(self, part: float, *, seconds: float) -> None:
        if not self._next_seconds - 2 * REPORT_SECONDS < seconds < self._next_seconds:
            self._next_seconds = seconds + REPORT_SECONDS
            self._report(min(max(part, 0.0), 1.0))


class _EncodedPictures:
    """Pictures made small and encoded, each at its time."""

    def __init__(
        self,
        output: av.container.OutputContainer,
        stream: av.VideoStream,
        clock: Clock,
        picture: av.VideoFrame,
    ):
        self._stream = stream
        self._clock = clock
        self._shrink = _Shrinker(stream, picture)
        self.lines, columns = self._shrink.size
        rate = Fraction(frame_rate(stream)).limit_denominator(1001)
        self._encoder = output.add_stream(ENCODER, rate=rate, options=dict(ENCODER_OPTIONS))
        context = self._encoder.codec_context
        context.height, context.width = self._shrink.size
        context.pix_fmt = "yuv420p"
        context.time_base = self._encoder.time_base = Fraction(1, TICKS)
        context.gop_size = max(1, round(rate * KEY_SECONDS))
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.options = {"skip_loop_filter": "all"}
        self.count = 0

    def take(self, packet: av.Packet | None) -> Iterator[av.Packet]:
        clock = self._clock
        clock.pass_packet(packet)
        for frame in decoded(self._stream.codec_context, packet, clock.note_unreadable):
            seconds, _ = clock.moment(frame)
            try:
                small = self._shrink(frame)
            except av.FFmpegError:  # damaged bits that say it has another format
                continue
            small.pts, small.time_base = round(seconds * TICKS), Fraction(1, TICKS)
            small.pict_type = av.video.frame.PictureType.NONE  # which the source's was is no matter
            self.count += 1
            yield from self._encoder.encode(small)

    def finish(self) -> Iterator[av.Packet]:
        yield from self.take(None)
        yield from self._encoder.encode(None)


class _Shrinker:
    """Brings pictures, whose size or format may change midway, to one size: upright, with square
    pixels, as large as a proxy may be."""

    def __init__(self, stream: av.VideoStream, picture: av.VideoFrame):
        shape = float(stream.sample_aspect_ratio or 1)
        shape = shape if quarter_turns(picture) % 2 == 0 else 1 / shape
        height, width = displayed_size(picture)
        scale = min(1.0, MAX_LINES / height, MAX_COLUMNS / (width * shape))
        sizes = (height * scale, width * shape * scale)
        self.size = tuple(max(2, round(size / 2) * 2) for size in sizes)
        self._graph: av.filter.Graph | None = None
        self._graph_input: tuple | None = None

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        turns = quarter_turns(frame)
        graph_input = (frame.width, frame.height, frame.format.name, frame.color_trc, turns)
        if graph_input != self._graph_input:
            self._graph, self._graph_input = self._build(frame, turns), graph_input
        self._graph.vpush(frame)
        return self._graph.vpull()

    def _build(self, frame: av.VideoFrame, turns: int) -> av.filter.Graph:
        graph = av.filter.Graph()
        graph.threads = 1
        height, width = self.size if turns % 2 == 0 else self.size[::-1]
        how = f"{width}:{height}:flags=area:out_color_matrix=bt709:out_range=tv"
        if frame.color_trc in HDR_TRANSFERS:
            how += ":out_primaries=bt709:out_transfer=bt709"
        nodes = [
            graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format,
                time_base=frame.time_base or Fraction(1, 1000),
            ),
            graph.add("scale", how),
            graph.add("format", "yuv420p"),
            *(graph.add("transpose", "cclock") for _ in range(turns)),
            graph.add("setsar", "1"),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        return graph


class _EncodedSound:
    """Sound put on the line of the recording's time, mixed to one channel and encoded."""

    def __init__(
        self, output: av.container.OutputContainer, stream: av.AudioStream, line: SampleLine
    ):
        self._context = stream.codec_context
        self._line = line
        self._encoder = output.add_stream("aac", rate=SOUND_RATE, layout="mono")
        self._encoder.bit_rate = SOUND_BITS
        self._position = 0  # samples that were encoded

    def take(self, packet: av.Packet) -> Iterator[av.Packet]:
        for frame in decoded(self._context, packet, self._line.note_unreadable):
            for samples in self._line.place(frame):
                yield from self._encode(samples)

    def finish(self) -> Iterator[av.Packet]:
        for frame in decoded(self._context, None):
            for samples in self._line.place(frame):
                yield from self._encode(samples)
        for samples in self._line.finish():
            yield from self._encode(samples)
        yield from self._encoder.encode(None)

    def _encode(self, samples: np.ndarray) -> list[av.Packet]:
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = SOUND_RATE, Fraction(1, SOUND_RATE)
        frame.pts = self._position
        self._position += len(samples)
        return self._encoder.encode(frame)
