"""Features: what is kept of a recording, frames and MFCC, and how they are made."""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np

from utils.audio import Sound, SoundFile, readable_sound_file
from utils.bars import HELD_BYTES, MIN_PICTURES, EdgeWatch, bars_of, crop_by_stretch, find_bars
from utils.clips import MIN_CLIP_SECONDS
from utils.damage import DamageLog
from utils.hardware import Card, find_card
from utils.interleaved import Interleaved
from utils.media import (
    WHOLE,
    Clock,
    Crop,
    MediaError,
    Part,
    audio_stream,
    duration_seconds,
    opened,
    video_stream,
)
from utils.mfcc import MfccSpec
from utils.scaling import OpencvScaler, PyavScaler, StretchScaler, size_bytes
from utils.video import (
    SEEK_SECONDS,
    Picture,
    first_grid_index,
    first_picture_seconds,
    moments_of,
    opencv_moments,
    pictures_on_grid,
)

VERSION = 2  # raise it when the same FeatureSpec gives other features: stored ones are then remade
BLOCK_BYTES = 8 << 20  # frames in memory while a recording is read
BLOCK_SECONDS = 8.0  # a block is a sign of life, and some decode slower than they play


@dataclass(frozen=True)
class FeatureSpec:
    """How features are made; it travels in the checkpoint, so a model is fed as it was trained."""

    fps: float
    frame_size: tuple[int, int]  # (height, width)
    frames: str  # utils.video.FRAME_MODES
    crop_bars: bool
    mfcc: MfccSpec

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        return (*self.frame_size, 3)

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "FeatureSpec":
        """Raises TypeError or KeyError for the fields of another version."""
        return cls(
            fps=float(values["fps"]),
            frame_size=tuple(values["frame_size"]),
            frames=values["frames"],
            crop_bars=values["crop_bars"],
            mfcc=MfccSpec(**values["mfcc"]),
        )

    @property
    def id(self) -> str:
        """12 hex digits that change with any field or VERSION: two ways are never mixed."""
        text = json.dumps([VERSION, self.to_dict()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def frame_span(self, start_seconds: float, end_seconds: float) -> slice:
        """Rows of `frames` whose grid time k / fps lies in [start, end)."""
        return slice(_grid_index(start_seconds, self.fps), _grid_index(end_seconds, self.fps))

    def num_rows(self, num_frames: int) -> int:
        """Rows of `mfcc` that last as long as so many frames."""
        return math.ceil(num_frames / self.fps * self.mfcc.frames_per_second)

    def mfcc_span(self, start_seconds: float, end_seconds: float) -> slice:
        """Rows of `mfcc` whose centre lies in [start, end)."""
        rate = self.mfcc.frames_per_second
        return slice(_grid_index(start_seconds, rate), _grid_index(end_seconds, rate))


@dataclass(frozen=True)
class FeatureBlock:
    """Some features of a recording, as they are read: first frames and first rows come first."""

    frames: np.ndarray  # (n, H, W, 3) uint8 RGB
    mfcc: np.ndarray | None  # (m, n_mfcc) float16, not of the same time; None without sound track
    heard: bool  # some sound was decoded; where no block of any part says so, there is no sound
    aspect_ratio: float  # width / height of the picture that frames were made of
    decoder: str  # "software" or "cuda"

    def without_first(self, num_frames: int, num_rows: int) -> "FeatureBlock":
        """The same without so many frames and rows, as far as it has them."""
        rows = None if self.mfcc is None else self.mfcc[num_rows:]
        return replace(self, frames=self.frames[num_frames:], mfcc=rows)


def read_features(
    path: Path,
    spec: FeatureSpec,
    part: Part = WHOLE,
    *,
    threads: int = 1,
    damage: DamageLog | None = None,
    sound: bool = True,
    bars_by_stretch: bool = False,
) -> Iterator[FeatureBlock]:
    """Yields the features of a part of a recording, read in one pass over the file.

    One thread decodes, which suits those who read several files at a time; in the modes "fast" and
    "exact" pictures can have more. `damage` takes down what is found wrong, and where frames and
    rows are filled in. With `sound=False` there are no rows. With `bars_by_stretch` black bars are
    looked for every few seconds, not once for the file; not so in the mode "opencv".

    The rows of MFCC last as long as the frames: `spec.num_rows(num_frames)` over all parts, whose
    rows follow each other. Memory does not grow with the recording. Raises MediaError where the
    file holds no readable picture, SplitError where it turns out that the part can't be decoded on
    its own: the recording is then to be read whole.
    """
    num_frames = num_rows = 0
    how = {"damage": damage, "has_sound": sound, "bars_by_stretch": bars_by_stretch}
    card = find_card(path, spec.frames)
    if card is not None:
        try:
            for block in _read_pass(path, spec, part, card, **how):
                yield block
                num_frames += len(block.frames)
                num_rows += 0 if block.mfcc is None else len(block.mfcc)
            return
        except MediaError:
            pass  # software may decode it, or say what is wrong with it
    for block in _read_pass(path, spec, part, None, threads=threads, **how):
        yield block.without_first(num_frames, num_rows)
        num_frames = max(0, num_frames - len(block.frames))
        num_rows = max(0, num_rows - (0 if block.mfcc is None else len(block.mfcc)))


def check_length(num_frames: int, spec: FeatureSpec) -> None:
    """Raises MediaError for a recording too short to be judged over time."""
    if num_frames < max(2, MIN_CLIP_SECONDS * spec.fps):
        raise MediaError(
            f"{num_frames / spec.fps:.2g} s long ({num_frames} frames at {spec.fps:g} fps): "
            f"at least {MIN_CLIP_SECONDS:g} s is needed"
        )


def open_sound(
    path: Path,
    spec: FeatureSpec,
    first_row: int,
    stack: contextlib.ExitStack,
    *,
    own_track: bool,
    damage: DamageLog | None,
    beside_parts: bool = False,
) -> SoundFile | None:
    """Returns the sound of a file that is read apart: the sound file, else, if wanted, its own.

    With `beside_parts` that raises SplitError, as pictures in parts do, where timestamps jump.
    """
    sound_path = readable_sound_file(path)
    if sound_path is not None:
        container = stack.enter_context(opened(sound_path))
        return SoundFile(container, spec.mfcc, None, first_row=first_row, damage=damage)
    container = stack.enter_context(opened(path)) if own_track else None
    if container is None or audio_stream(container) is None:
        return None
    zero = first_picture_seconds(path)
    return SoundFile(
        container, spec.mfcc, zero, first_row=first_row, is_part=beside_parts, damage=damage
    )


def _read_pass(
    path: Path,
    spec: FeatureSpec,
    part: Part,
    card: Card | None,
    *,
    threads: int = 1,
    damage: DamageLog | None = None,
    has_sound: bool = True,
    bars_by_stretch: bool = False,
) -> Iterator[FeatureBlock]:
    """Yields what `read_features` does, by the decoder of a card or in software."""
    with contextlib.ExitStack() as stack:
        if spec.frames == "opencv":
            sound = None
            if has_sound:
                sound = open_sound(path, spec, 0, stack, own_track=True, damage=damage)
            crop = find_bars(path) if spec.crop_bars else None
            pictures = pictures_on_grid(opencv_moments(path), spec.fps)
            yield from _blocks(pictures, OpencvScaler(spec.frame_size, crop), sound, spec)
            return
        container = stack.enter_context(opened(path, card))
        stream = video_stream(container)
        clock = Clock(stream, part, damage)
        first_frame = 0
        if part.start is not None:
            start_seconds = part.start.pts * clock.time_base - part.zero_seconds
            first_frame = first_grid_index(start_seconds, spec.fps)
        first_row = spec.num_rows(first_frame)
        sound = track = None
        if has_sound:
            sound = open_sound(path, spec, first_row, stack, own_track=False, damage=damage)
            track = audio_stream(container) if sound is None else None
        if track is not None:
            track = Sound(
                track,
                spec.mfcc,
                first_row=first_row,
                is_part=part.count > 1,
                clock=clock,
                damage=damage,
            )
        both = Interleaved(path, stream, track, clock, part)
        moments = moments_of(
            both.video_packets(),
            stream,
            clock,
            spec.fps,
            mode=spec.frames,
            part=part,
            threads=threads,
        )
        pictures, crop = pictures_on_grid(moments, spec.fps, part), part.crop
        if spec.crop_bars and bars_by_stretch:
            pictures, scaler = crop_by_stretch(pictures), StretchScaler(spec.frame_size)
        else:
            if spec.crop_bars and part.count == 1:
                crop, pictures = _find_crop(path, pictures, duration_seconds(container, stream))
            scaler = PyavScaler(spec.frame_size, crop)
        sound = both if track is not None else sound
        yield from _blocks(pictures, scaler, sound, spec, first_frame, card)


def _find_crop(
    path: Path, pictures: Iterator[Picture], seconds: float
) -> tuple[Crop | None, Iterator[Picture]]:
    """Returns the crop of a recording and its pictures, of which none is decoded twice unless it
    takes long to see that there are bars."""
    if seconds > SEEK_SECONDS:
        return find_bars(path), pictures
    watch = EdgeWatch()
    held: list[Picture] = []
    different = held_bytes = 0
    for picture in pictures:
        is_new = not held or picture is not held[-1]
        held.append(picture)
        if not is_new:
            continue
        if watch.excludes_bars(picture):
            return None, chain(held, pictures)
        different += 1
        held_bytes += size_bytes(picture)
        if held_bytes > HELD_BYTES:
            return find_bars(path), chain(held, pictures)
    crop = find_bars(path) if different < MIN_PICTURES else bars_of(held)
    return crop, iter(held)


def _blocks(
    pictures: Iterator[Picture],
    scaler: PyavScaler | StretchScaler | OpencvScaler,
    sound: Interleaved | SoundFile | None,
    spec: FeatureSpec,
    first_frame: int = 0,
    card: Card | None = None,
) -> Iterator[FeatureBlock]:
    first_row, num_frames = spec.num_rows(first_frame), first_frame
    block_frames = max(1, BLOCK_BYTES // math.prod(spec.frame_shape))
    block_frames = min(block_frames, math.ceil(BLOCK_SECONDS * spec.fps))
    decoder = "software" if card is None else "cuda"
    frames = map(scaler, pictures)
    block: list[np.ndarray] = []
    while True:
        block = list(islice(frames, block_frames))
        num_frames += len(block)
        rows = None
        if sound is not None:
            read = sound.rows if block else sound.finish
            rows = read(spec.num_rows(num_frames) - first_row)
        array = np.stack(block) if block else np.zeros((0, *spec.frame_shape), np.uint8)
        heard = sound is not None and sound.heard
        yield FeatureBlock(array, rows, heard, scaler.aspect_ratio, decoder)
        if not block:
            break


def _grid_index(seconds: float, rate: float) -> int:
    """First grid point at or after `seconds`; the tolerance absorbs float noise."""
    return math.ceil(seconds * rate - 1e-6)
