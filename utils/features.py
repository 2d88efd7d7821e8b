"""Features: what is kept of a recording, frames and MFCC, and how they are made."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from utils.audio import MfccSpec, compute_mfcc, find_audio
from utils.bars import find_bars
from utils.clips import MIN_CLIP_SECONDS
from utils.parts import WHOLE, Part
from utils.video import Crop, MediaError, probe, read_frames

VERSION = 2  # raise it when the same FeatureSpec gives other features: stored ones are then remade
BLOCK_FRAMES = 256  # frames held in memory while a recording is read: 7 MB at 96x96


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


def read_features(path: Path, spec: FeatureSpec, part: Part = WHOLE) -> Iterator[FeatureBlock]:
    """Yields the features of a part of a recording, read in one pass over the file.

    Raises MediaError where the file holds no readable picture, SplitError where it turns out that
    the part can't be decoded on its own: the recording is then to be read whole.
    """
    crop = find_crop(path, spec)
    info = probe(path)
    picture = crop or Crop(0, info.height, 0, info.width)
    ratio = (picture.right - picture.left) / (picture.bottom - picture.top)
    num_frames = 0
    for frames in read_cropped(path, spec, crop):
        num_frames += len(frames)
        yield FeatureBlock(frames, None, False, ratio, "software")
    mfcc = read_sound(path, spec, num_frames)
    frames = np.zeros((0, *spec.frame_shape), np.uint8)
    yield FeatureBlock(frames, mfcc, mfcc is not None, ratio, "software")


def read_picture(path: Path, spec: FeatureSpec) -> Iterator[np.ndarray]:
    """Blocks (n, H, W, 3) uint8 RGB of a recording's frames on the grid k / fps, n <= BLOCK_FRAMES.

    Raises MediaError where the file holds no readable picture.
    """
    yield from read_cropped(path, spec, find_crop(path, spec))


def find_crop(path: Path, spec: FeatureSpec) -> Crop | None:
    """The part of the picture that frames are made of, None for all of it. Raises MediaError."""
    return find_bars(path) if spec.crop_bars else None


def read_cropped(path: Path, spec: FeatureSpec, crop: Crop | None) -> Iterator[np.ndarray]:
    """What `read_picture` yields, for a crop that is known."""
    frames = read_frames(path, spec.fps, spec.frame_size, crop=crop, mode=spec.frames)
    while block := list(islice(frames, BLOCK_FRAMES)):
        yield np.stack(block)


def read_sound(path: Path, spec: FeatureSpec, num_frames: int) -> np.ndarray | None:
    """MFCC (M, n_mfcc) float16 as long as `num_frames` frames, or None without sound."""
    source = find_audio(path)
    if source is None:
        return None
    seconds = num_frames / spec.fps
    mfcc = compute_mfcc(source, spec.mfcc, seconds)
    if mfcc is None and source != path:  # an unreadable .wav: the file's own track is better
        mfcc = compute_mfcc(path, spec.mfcc, seconds)
    return mfcc


def check_length(num_frames: int, spec: FeatureSpec) -> None:
    """Raises MediaError for a recording too short to be judged over time."""
    if num_frames < max(2, MIN_CLIP_SECONDS * spec.fps):
        raise MediaError(
            f"{num_frames / spec.fps:.2g} s long ({num_frames} frames at {spec.fps:g} fps): "
            f"at least {MIN_CLIP_SECONDS:g} s is needed"
        )


def _grid_index(seconds: float, rate: float) -> int:
    """First grid point at or after `seconds`; the tolerance absorbs float noise."""
    return math.ceil(seconds * rate - 1e-6)
