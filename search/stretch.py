"""Stretch: the features of the part of a file that is asked about."""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from search.embeddings import CLIP_SECONDS, HOP_SECONDS
from utils.clips import cut_spans
from utils.errors import UserError
from utils.feature_store import FeatureStore
from utils.features import FeatureSpec, check_length, read_features
from utils.media import WHOLE, MediaError, Part, SplitError
from utils.parts import parts_around
from utils.video import first_grid_index, probe

MAX_SECONDS = 600.0  # a question of hours has no answer
_FOREVER = 1e6  # seconds


@dataclass(frozen=True)
class Stretch:
    """Frames and sound of [start_seconds, end_seconds) of a file, without what lies before."""

    start_seconds: float
    end_seconds: float
    frames: np.ndarray  # (T, H, W, 3) uint8
    mfcc: np.ndarray | None  # (M, n_mfcc) float16, None without sound
    aspect_ratio: float  # width / height of the picture

    def spans(
        self, clip_seconds: float = CLIP_SECONDS, hop_seconds: float = HOP_SECONDS
    ) -> list[tuple[float, float]]:
        """What it is cut into, in seconds from its own beginning."""
        return cut_spans(self.end_seconds - self.start_seconds, clip_seconds, hop_seconds)


def read_stretch(
    path: Path,
    spec: FeatureSpec,
    start_seconds: float = 0.0,
    end_seconds: float | None = None,
) -> Stretch:
    """A stretch of a file, by default all of it; only it is decoded where the file allows that.

    Raises MediaError where there is nothing to read, UserError for a stretch that is too long.
    """
    end = math.inf if end_seconds is None else end_seconds
    length = probe(path).duration_seconds
    if min(end, length) - start_seconds > MAX_SECONDS:
        raise UserError(
            f"{path} from {start_seconds:g} s on is {min(end, length) - start_seconds:.0f} s long, "
            f"more than {MAX_SECONDS:.0f} s: say with --start and --end what to look for"
        )
    part, first_seconds = WHOLE, 0.0
    if start_seconds > 0 or end < length:
        with contextlib.suppress(MediaError):
            found = parts_around(path, spec, [(start_seconds, min(end, max(length, 0.0)))])
            part, first_seconds = found[0] if found else (WHOLE, 0.0)
    try:
        return _read(path, spec, part, first_seconds, (start_seconds, end))
    except SplitError:  # it can't be entered in the middle after all
        return _read(path, spec, WHOLE, 0.0, (start_seconds, end))


def stored_stretch(
    features: FeatureStore,
    key: str,
    spec: FeatureSpec,
    start_seconds: float,
    end_seconds: float,
) -> Stretch:
    """The same of a recording whose features are stored. Raises MediaError for too short a one."""
    frames = features.get(key, "frames")[spec.frame_span(start_seconds, end_seconds)]
    check_length(len(frames), spec)
    heard = features.get(key, "mfcc")
    mfcc = None if heard is None else heard[spec.mfcc_span(start_seconds, end_seconds)]
    end = min(end_seconds, start_seconds + len(frames) / spec.fps)
    return Stretch(start_seconds, end, frames, mfcc, features.info(key)["aspect_ratio"])


def _read(
    path: Path,
    spec: FeatureSpec,
    part: Part,
    first_seconds: float,
    span: tuple[float, float],
) -> Stretch:
    first_frame = first_grid_index(first_seconds, spec.fps)
    first_row = spec.num_rows(first_frame)
    start_frame, stop_frame = _rows(span, spec.fps, first_frame)
    start_row, stop_row = _rows(span, spec.mfcc.frames_per_second, first_row)
    frames, rows, heard, aspect_ratio = [], [], False, 1.0
    num_frames = num_rows = 0
    with contextlib.closing(read_features(path, spec, part)) as blocks:
        for block in blocks:
            frames.append(block.frames)
            num_frames += len(block.frames)
            if block.mfcc is not None:
                rows.append(block.mfcc)
                num_rows += len(block.mfcc)
            heard, aspect_ratio = heard or block.heard, block.aspect_ratio
            if num_frames >= stop_frame and (not rows or num_rows >= stop_row):
                break
    picked = np.concatenate(frames)[start_frame:stop_frame]
    check_length(len(picked), spec)
    mfcc = np.concatenate(rows)[start_row:stop_row] if heard else None
    end_seconds = min(span[1], span[0] + len(picked) / spec.fps)
    return Stretch(span[0], end_seconds, picked, mfcc, aspect_ratio)


def _rows(span: tuple[float, float], rate: float, first: int) -> tuple[int, int]:
    """Where a span begins and ends, counted from row `first`."""
    start, stop = (math.ceil(min(seconds, _FOREVER) * rate - 1e-6) - first for seconds in span)
    return max(0, start), stop
