"""Encoders of pictures that are to stand among, or instead of, those of a recording."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av

from utils.media import frame_rate

INTERLACED = range(2, 6)  # AVFieldOrder: TT, BB, TB, BT
PARAMETER_SETS = {"h264": {7, 8}, "hevc": {32, 33, 34}}  # unit types
MAX_SPS_ID = 31  # the highest, which few use; ours must not be one of the recording's


@dataclass(frozen=True)
class Encoder:
    """Which encoder writes a codec, and how: nearly lossless, as pictures are encoded twice."""

    name: str
    options: dict[str, str]
    counts_pictures: bool = False  # it knows a rate only, no times, so it must not reorder
    quantizer: int | None = None


ENCODERS = {
    "h264": Encoder("libx264", {"preset": "veryfast", "crf": "17", "forced-idr": "1"}),
    "hevc": Encoder(
        "libx265",
        {"preset": "veryfast", "crf": "19", "forced-idr": "1", "x265-params": "log-level=none"},
    ),
    "mpeg2video": Encoder("mpeg2video", {}, counts_pictures=True, quantizer=2),
    "mpeg1video": Encoder("mpeg1video", {}, counts_pictures=True, quantizer=2),
    "mpeg4": Encoder("mpeg4", {}, counts_pictures=True, quantizer=2),
    "mjpeg": Encoder("mjpeg", {}, quantizer=2),
    "vp8": Encoder("libvpx", {"deadline": "realtime", "cpu-used": "8", "crf": "8", "b": "8M"}),
    "vp9": Encoder(
        "libvpx-vp9",
        {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0", "row-mt": "1"},
    ),
    "av1": Encoder("libsvtav1", {"preset": "10", "crf": "22"}),
}
SPLICING_OPTIONS = {"h264": {"bf": "0"}, "hevc": {"x265-params": "log-level=none:bframes=0"}}


class PictureEncoder:
    """Encodes pictures like those of a stream; what comes out has the times that went in."""

    def __init__(self, context: av.VideoCodecContext, encoder: Encoder):
        self._context = context
        self._encoder = encoder
        self._times: deque[int] = deque()
        self._count = 0

    def __call__(self, frame: av.VideoFrame | None, *, ticks: int = 0, key: bool = False) -> list:
        """Returns the packets that a picture, shown from `ticks` on, completes; None ends them."""
        if frame is None:
            return [self._timed(packet) for packet in self._context.encode(None)]
        context = self._context
        shape = (frame.width, frame.height, frame.format.name)
        if shape != (context.width, context.height, context.pix_fmt):
            frame = frame.reformat(context.width, context.height, context.pix_fmt)
        # Of the recording's own kinds of picture the encoder is to know nothing.
        frame.pict_type = av.video.frame.PictureType.I if key else av.video.frame.PictureType.NONE
        frame.time_base = context.time_base
        frame.pts = self._count if self._encoder.counts_pictures else ticks
        self._times.append(ticks)
        self._count += 1
        return [self._timed(packet) for packet in context.encode(frame)]

    def _timed(self, packet: av.Packet) -> av.Packet:
        if self._encoder.counts_pictures:
            packet.pts = packet.dts = self._times.popleft()
            packet.duration = None
        return packet


def prepare_context(
    context: av.VideoCodecContext,
    stream: av.VideoStream,
    encoder: Encoder,
    picture: av.VideoFrame | None = None,
) -> None:
    """Makes an encoder's context like the stream whose pictures it is to encode.

    A broadcast may change size and colours midway: those of `picture` go before the stream's.
    """
    source = stream.codec_context
    like = source if picture is None else picture
    context.width, context.height = like.width, like.height
    context.pix_fmt = _pix_fmt(like.format.name, encoder.name)
    context.color_range, context.colorspace = like.color_range, like.colorspace
    context.color_primaries, context.color_trc = like.color_primaries, like.color_trc
    rate = Fraction(frame_rate(stream)).limit_denominator(1001)
    context.framerate = rate
    context.time_base = 1 / rate if encoder.counts_pictures else stream.time_base
    if stream.sample_aspect_ratio:
        context.sample_aspect_ratio = stream.sample_aspect_ratio
    if source.field_order in INTERLACED and encoder.name in ("libx264", "mpeg2video"):
        context.flags |= av.codec.context.Flags.interlaced_dct
    if encoder.counts_pictures:
        context.max_b_frames = 0
    if encoder.quantizer is not None:
        context.qscale = True
        context.global_quality = encoder.quantizer
        # Without a bound on the rate, the encoders' buffer models complain.
        context.options = {"qmin": "1", **encoder.options}
    else:
        context.options = dict(encoder.options)


def splicing_encoder(
    stream: av.VideoStream, sps_id: int | None, picture: av.VideoFrame
) -> PictureEncoder:
    """Returns an encoder of pictures like this one, to stand between copied ones: complete in its
    own packets, nothing reordered. `sps_id` numbers its parameter sets (H.264)."""
    encoder = _splicing(stream, sps_id)
    context = av.CodecContext.create(encoder.name, "w")
    prepare_context(context, stream, encoder, picture)
    return PictureEncoder(context, encoder)


def splicing_header(stream: av.VideoStream, sps_id: int | None) -> bytes:
    """Returns the parameter sets of the stream and of what stands between, with start codes."""
    codec = stream.codec_context.name
    source = _with_start_codes(codec, stream.codec_context.extradata or b"")
    if codec != "h264":
        return source
    encoder = _splicing(stream, sps_id)
    context = av.CodecContext.create(encoder.name, "w")
    prepare_context(context, stream, encoder)
    context.flags |= av.codec.context.Flags.global_header
    context.open()
    sets = [unit for unit in _units(context.extradata) if unit[0] & 31 in PARAMETER_SETS["h264"]]
    return source + b"".join(b"\x00\x00\x00\x01" + unit for unit in sets)


def free_sps_id(stream: av.VideoStream) -> int | None:
    """Returns a number that no parameter set of an H.264 stream has, None for other codecs."""
    if stream.codec_context.name != "h264":
        return None
    units = list(_units(_with_start_codes("h264", stream.codec_context.extradata or b"")))
    used = {_exp_golomb(unit[4:]) for unit in units if unit[0] & 31 == 7}
    used |= {_exp_golomb(unit[1:]) for unit in units if unit[0] & 31 == 8}
    return max(set(range(MAX_SPS_ID + 1)) - used)


def _splicing(stream: av.VideoStream, sps_id: int | None) -> Encoder:
    codec = stream.codec_context.name
    encoder = ENCODERS[codec]
    options = {**encoder.options, **SPLICING_OPTIONS.get(codec, {})}
    if sps_id is not None:
        options["x264-params"] = f"sps-id={sps_id}"
    return Encoder(encoder.name, options, encoder.counts_pictures, encoder.quantizer)


def _pix_fmt(pix_fmt: str, encoder: str) -> str:
    formats = [f.name for f in av.codec.Codec(encoder, "w").video_formats or ()]
    return pix_fmt if not formats or pix_fmt in formats else "yuv420p"


def _with_start_codes(codec: str, extradata: bytes) -> bytes:
    """Returns an avcC or hvcC record's parameter sets as a byte stream has them."""
    if extradata[:1] != b"\x01" or codec not in PARAMETER_SETS:
        return extradata
    sets, place = [], 6 if codec == "h264" else 23
    counts = [extradata[5] & 31, None] if codec == "h264" else [None] * extradata[22]
    for count in counts:
        if codec == "hevc":
            count, place = int.from_bytes(extradata[place + 1 : place + 3]), place + 3
        elif count is None:
            count, place = extradata[place] if place < len(extradata) else 0, place + 1
        for _ in range(count):
            length = int.from_bytes(extradata[place : place + 2])
            sets.append(extradata[place + 2 : place + 2 + length])
            place += 2 + length
    return b"".join(b"\x00\x00\x00\x01" + unit for unit in sets)


def _units(data: bytes) -> Iterator[bytes]:
    """Yields the units of a byte stream, without start codes."""
    for unit in data.split(b"\x00\x00\x01")[1:]:
        stripped = unit.rstrip(b"\x00")
        if stripped:
            yield stripped


def _exp_golomb(data: Sequence[int]) -> int:
    """Returns the first number of a bit string in H.264's ue(v)."""
    bits = "".join(f"{byte:08b}" for byte in data[:8])
    zeros = len(bits) - len(bits.lstrip("0"))
    return int(bits[zeros : 2 * zeros + 1] or "1", 2) - 1
