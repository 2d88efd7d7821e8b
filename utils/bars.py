"""Bars: the black letterbox or pillarbox around the picture of a recording."""

import math
import os

import numpy as np

from utils.video import Crop, probe, sample_lumas

SAMPLES = 28
MIN_PICTURES = 6
# Luma 0..255: black is 0, or 16 where the range is mislabelled, plus compression noise.
MAX_LUMA = 26
MAX_SPREAD = 14
# The picture must begin at the bar's edge: that much brighter, along most of the edge, in a
# fair part of the pictures. A night sky ends in a ragged line, a vignette in a slow ramp.
EDGE_STEP_LUMA = 20
EDGE_LIT_FRACTION = 0.6
EDGE_PICTURES_FRACTION = 0.1
# Bars come in pairs; margins that differ by more than this fraction of the side are no pair.
MAX_ASYMMETRY = 0.04
MIN_FRACTION = 0.015
# A phone held upright (9:20) in a 16:9 picture keeps 0.253 of its width.
CROP_MIN_FRACTION = 0.24


def find_bars(path: str | os.PathLike) -> Crop | None:
    """Returns the part of the picture inside black bars, None without bars or on weak evidence.

    A bar is near-black and even in every sampled picture, one of a pair, and ends in a straight
    edge that the picture reaches. Dark scenes, or a logo on the bar, therefore give None.
    Raises MediaError.
    """
    info = probe(path)
    lumas = sample_lumas(path, SAMPLES)
    if len(lumas) < MIN_PICTURES:
        return None
    height, width = lumas[0].shape
    lumas = [luma for luma in lumas if luma.shape == (height, width)]
    rows, columns = (0, height), (0, width)
    for _ in range(2):  # twice, as a box's upper edge is measured along the width found after it
        rows = _bar_pair([luma[:, slice(*columns)] for luma in lumas])
        columns = _bar_pair([luma[slice(*rows)].T for luma in lumas])
    if rows == (0, height) and columns == (0, width):
        return None
    top, bottom = _even_inwards(rows, info.height / height)
    left, right = _even_inwards(columns, info.width / width)
    kept = min((bottom - top) / info.height, (right - left) / info.width)
    return Crop(top, bottom, left, right) if kept >= CROP_MIN_FRACTION else None


def _bar_pair(lumas: list[np.ndarray]) -> tuple[int, int]:
    """Returns the rows [first, last) between a pair of bars; all rows without such a pair."""
    height = lumas[0].shape[0]
    everything = (0, height)
    # A hundredth of a row may be noise; a logo is wider.
    bright = np.array([np.percentile(luma, 99, axis=1) for luma in lumas])
    dark = np.array([np.percentile(luma, 1, axis=1) for luma in lumas])
    black = ((bright <= MAX_LUMA) & (bright - dark <= MAX_SPREAD)).all(axis=0)
    if black.all():
        return everything
    first, after = int(np.argmin(black)), int(np.argmin(black[::-1]))
    if min(first, after) < MIN_FRACTION * height:
        return everything
    if abs(first - after) > MAX_ASYMMETRY * height:
        return everything
    level = float(bright[:, :first].max())
    inside = [luma[first : height - after] for luma in lumas]
    depth = max(3, height // 40)
    for edges in ([luma[:depth] for luma in inside], [luma[-depth:] for luma in inside]):
        if not _are_lit(edges, level):
            return everything
    return first, height - after


def _even_inwards(span: tuple[int, int], scale: float) -> tuple[int, int]:
    """Returns the span on the full picture, shrunk to even pixels: colour comes in pairs, and the
    first rows hold the compression's mix of bar and picture."""
    first, end = math.ceil(span[0] * scale), math.floor(span[1] * scale)
    return first + first % 2, end - end % 2


def _are_lit(edges: list[np.ndarray], bar_luma: float) -> bool:
    """Tells whether the rows next to a bar are lit along the edge in enough pictures."""
    lit = [
        np.mean(edge.max(axis=0) > bar_luma + EDGE_STEP_LUMA) >= EDGE_LIT_FRACTION for edge in edges
    ]
    return sum(lit) >= max(3, EDGE_PICTURES_FRACTION * len(lit))
