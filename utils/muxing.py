"""Written media: files that appear whole or not at all, streams cloned into them, chapters."""

import contextlib
import errno
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from utils.errors import UserError
from utils.media import opened, packets, video_stream
from utils.picture_index import PictureIndex, Retimer, read_index

# What is written under which suffix. Others are better off in Matroska, which takes nearly every
# codec: AVI has no times and guesses at those of sound, program streams want exact buffer models.
FORMATS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".ts": "mpegts",
    ".m2ts": "mpegts",
    ".mts": "mpegts",
}
CHAPTER_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm")  # the containers that have chapters
CHAPTER_TICKS = 1000  # a second
PROGRESS_SECONDS = 1.0  # of the recording, from one call of on_progress to the next

OnProgress = Callable[[float, float], None]  # seconds of the recording that are done, and all


class MuxError(UserError):
    """A file that can't be written as wanted; the message names the cure."""


@dataclass(frozen=True)
class Chapter:
    """[start_seconds, end_seconds) of a file, as its players count, and its title."""

    start_seconds: float
    end_seconds: float
    title: str


@dataclass(frozen=True)
class WrittenCopy:
    """A copy of a recording, and in one line each what it lacks or had replaced."""

    path: Path
    notes: tuple[str, ...]


def output_suffix(source: Path, suffixes: Sequence[str] = tuple(FORMATS)) -> str:
    """Returns the suffix of a copy: that of the source if it is one of those, else `.mkv`."""
    suffix = source.suffix.lower()
    return suffix if suffix in suffixes else ".mkv"


def check_output(path: Path, sources: Sequence[Path], *, overwrite: bool) -> None:
    """Raises MuxError where a file is not to be written; costs nothing, so call it first."""
    if path.suffix.lower() not in FORMATS:
        raise MuxError(f"{path} has no suffix of a video that we write ({' '.join(FORMATS)})")
    for source in sources:
        if path.exists() and source.exists() and path.samefile(source):
            raise MuxError(f"{path} is the recording itself, which stays as it is: name another")
    if path.is_dir():
        raise MuxError(f"{path} is a folder: name a file")
    if path.exists() and not overwrite:
        raise MuxError(f"{path} exists: pass --overwrite, or name another file")
    if not path.parent.is_dir():
        raise MuxError(f"{path.parent} is no folder: make it first, or name another")


@contextmanager
def writing(
    path: Path, *, options: dict[str, str] | None = None
) -> Iterator[av.container.OutputContainer]:
    """Opens a file for writing beside `path`, whose place it takes at the end, or leaves nothing.

    `options` are those of the container. Raises MuxError in one line for a full disk and for what
    the container does not take.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    output = None
    try:
        output = open_output(temporary, path.suffix, options)
        yield output
        output.close()
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException as error:
        if output is not None:
            with contextlib.suppress(av.FFmpegError, OSError):
                output.close()
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, (av.FFmpegError, OSError)):
            raise MuxError(_describe(error, path)) from error
        raise


def open_output(
    file: Path | io.BytesIO, suffix: str, options: dict[str, str] | None = None
) -> av.container.OutputContainer:
    """Returns an open container of the kind that a suffix stands for."""
    options = dict(options or {})
    if suffix.lower() in (".m2ts", ".mts"):
        options["mpegts_m2ts_mode"] = "1"
    name = file if isinstance(file, io.BytesIO) else os.path.abspath(file)
    return av.open(name, "w", format=FORMATS[suffix.lower()], container_options=options)


def clone_stream(
    output: av.container.OutputContainer, stream: av.stream.Stream, *, keep_tag: bool
) -> av.stream.Stream:
    """Returns a new stream of `output` that takes another file's packets as they are.

    It has its codec's parameters, side data (HDR, rotation), rate, shape of pixels, metadata and
    flags. `keep_tag` keeps the code by which a container of the same kind names the codec, as
    players tell hvc1 from hev1.
    What the container does not take fails when the file's header is written.
    """
    try:
        clone = output.add_stream_from_template(stream, opaque=True)
    except ValueError:
        # PyAV wants to decode what it copies, and goes by a list of what a format is meant for; the
        # muxer itself takes more. A stream is of any type once it has the parameters.
        clone = output.add_data_stream()
        av.bitstream.BitStreamFilterContext("null", stream, clone)
    context = clone.codec_context
    if stream.type == "video" and context is not None:
        context.framerate = stream.average_rate or 0
        if stream.sample_aspect_ratio:
            context.sample_aspect_ratio = stream.sample_aspect_ratio
    if keep_tag and context is not None:
        # Of all but letters (a number, in AVI and TS) the container makes up its own.
        with contextlib.suppress(UnicodeDecodeError, ValueError):
            tag = stream.codec_context.codec_tag
            if tag.isprintable():
                context.codec_tag = tag
    clone.time_base = stream.time_base
    clone.metadata.update(_lasting(stream.metadata))
    clone.disposition = stream.disposition
    return clone


def clone_streams(
    output: av.container.OutputContainer,
    source: av.container.InputContainer,
    suffix: str,
    *,
    without: Sequence[av.stream.Stream] = (),
) -> tuple[dict[int, av.stream.Stream], tuple[str, ...]]:
    """Returns the clone of each stream by its index in `source`, and in words what was left out.

    Left out are only streams that the container of that suffix does not take. Raises MuxError if
    that is a picture or sound.
    """
    keep_tag = output.format.name in source.format.name.split(",")
    clones, notes = {}, []
    for stream in source.streams:
        if stream in without or _is_chapter_track(stream):
            continue
        tagged = keep_tag and takes(stream, suffix, keep_tag=True)
        if tagged or takes(stream, suffix, keep_tag=False):
            clones[stream.index] = clone_stream(output, stream, keep_tag=tagged)
        elif stream.type in ("video", "audio"):
            raise MuxError(
                f"a file ending in {suffix} can't hold {describe_stream(stream)}: "
                "name one that ends in .mkv"
            )
        else:
            notes.append(f"left out {describe_stream(stream)}: {suffix} files can't hold it")
    return clones, tuple(notes)


def takes(stream: av.stream.Stream, suffix: str, *, keep_tag: bool = False) -> bool:
    """Returns whether a container of that suffix can hold a stream, by trying in memory."""
    scratch = open_output(io.BytesIO(), suffix)
    try:
        clone_stream(scratch, stream, keep_tag=keep_tag)
        scratch.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    finally:
        with contextlib.suppress(av.FFmpegError):
            scratch.close()
    return True


def set_chapters(output: av.container.OutputContainer, chapters: Sequence[Chapter]) -> None:
    """Sets the chapters that are written with the file's first packet (MP4: with its last)."""
    output.set_chapters(
        [
            {
                "id": number,
                "start": round(chapter.start_seconds * CHAPTER_TICKS),
                "end": round(chapter.end_seconds * CHAPTER_TICKS),
                "time_base": Fraction(1, CHAPTER_TICKS),
                "metadata": {"title": chapter.title},
            }
            for number, chapter in enumerate(chapters, start=1)
        ]
    )


def chapters_of(container: av.container.InputContainer) -> tuple[Chapter, ...]:
    """Returns the chapters that a file has."""
    return tuple(
        Chapter(
            float(chapter["start"] * chapter["time_base"]),
            float(chapter["end"] * chapter["time_base"]),
            chapter["metadata"].get("title", ""),
        )
        for chapter in container.chapters()
    )


def copy_metadata(
    source: av.container.InputContainer, output: av.container.OutputContainer
) -> None:
    """Gives a file the title, date and so on of another."""
    output.metadata.update(_lasting(source.metadata))


def copy_with_chapters(
    source: Path,
    target: Path,
    chapters: Sequence[Chapter],
    *,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> WrittenCopy:
    """Writes a copy of a recording with these chapters, nothing encoded anew; returns it.

    Every packet is the same, bit by bit. Chapters count from the recording's first picture. Those
    that the file had are replaced. Raises MuxError, MediaError.
    """
    check_output(target, [source], overwrite=overwrite)
    if target.suffix.lower() not in CHAPTER_SUFFIXES:
        raise MuxError(f"{target.suffix} files have no chapters: name one ending in .mkv or .mp4")
    with opened(source) as container:
        notes = []
        index = read_index(source)
        if not index.has_order:
            raise MuxError(
                f"{source.name} is an AVI whose pictures are stored in another order than shown, "
                "and without times: write the chapters into a file of their own"
            )
        # Broadcasts count from any hour of the day; players of other files count from zero.
        is_stream = container.format.name in ("mpegts", "mpeg")
        start = Fraction(container.start_time or 0, av.time_base) if is_stream else Fraction(0)
        retime = Retimer(index, video_stream(container), start)
        if container.chapters():
            notes.append(f"its {len(container.chapters())} chapters were replaced")
        if index.jumps:
            notes.append(f"{len(index.jumps)} jumps of its timestamps were closed")
        with writing(target) as output:
            clones, left_out = clone_streams(output, container, target.suffix)
            copy_metadata(container, output)
            zero = float(index.zero_seconds - start)  # where players see the first picture
            moved = (
                Chapter(c.start_seconds + zero, c.end_seconds + zero, c.title) for c in chapters
            )
            set_chapters(output, list(moved))
            report = Reporter(index, on_progress)
            mend = GrowingTimes()
            for packet in packets(container, *(container.streams[i] for i in clones)):
                if packet is not None:
                    retime(packet)
                    report(packet)
                    packet.stream = clones[packet.stream_index]
                    output.mux(mend(packet))
    return WrittenCopy(target, (*notes, *left_out))


class GrowingTimes:
    """Mends packets whose decoding time is not later than the last one's, which muxers refuse.

    Off-air recordings have such at every splice, mostly of a few milliseconds.
    """

    def __init__(self):
        self._last: dict[int, int] = {}

    def __call__(self, packet: av.Packet) -> av.Packet:
        """Returns the packet, of an output's stream."""
        if packet.dts is not None:
            last = self._last.get(packet.stream_index)
            if last is not None and packet.dts <= last:
                packet.dts = last + 1
                packet.pts = max(packet.pts, packet.dts)
            self._last[packet.stream_index] = packet.dts
        return packet


class Reporter:
    """Calls on_progress(seconds that are done, all) about once a second of the recording."""

    def __init__(self, index: PictureIndex, on_progress: OnProgress | None):
        self._total_seconds = index.seconds(index.end)
        self._on_progress = on_progress
        self._next_seconds = 0.0

    def __call__(self, packet: av.Packet) -> None:
        if self._on_progress is None or packet.pts is None:
            return
        seconds = float(packet.pts * packet.time_base)
        if seconds >= self._next_seconds:
            self._next_seconds = seconds + PROGRESS_SECONDS
            self._on_progress(min(seconds, self._total_seconds), self._total_seconds)


def describe_stream(stream: av.stream.Stream) -> str:
    """Such as `subtitle track 3 (dvb_teletext)`."""
    name = stream.codec_context.name if stream.codec_context is not None else stream.name
    return f"{stream.type} track {stream.index} ({name or 'unknown codec'})"


def _is_chapter_track(stream: av.stream.Stream) -> bool:
    """MP4 keeps chapters as a track of texts, which the muxer makes anew."""
    chapters = stream.container.chapters()
    is_text = stream.type == "data" and stream.name == "bin_data"
    return bool(is_text and chapters and stream.frames == len(chapters))


def _lasting(metadata: dict[str, str]) -> dict[str, str]:
    """What a file says of itself, but for what its muxer says anew."""
    made = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration"}
    made |= {"number_of_frames", "number_of_bytes", "bps", "vendor_id"}
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in made and not key.upper().startswith(("_STATISTICS", "DURATION-"))
    }


def _describe(error: Exception, path: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full while writing {path}: free some space and run again"
    if error.errno == errno.EFBIG:
        return f"{path} is larger than its file system takes (FAT: 4 GB): write to another disk"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to write {path}: change the folder's owner or mode, or name another"
    cure = "" if path.suffix.lower() == ".mkv" else ": name one that ends in .mkv"
    return f"{path} can't be written ({error.strerror}){cure}"
