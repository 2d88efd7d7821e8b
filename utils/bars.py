"""Bars: the black letterbox or pillarbox around the picture of a recording."""

import math
import os
from collections.abc import Iterator, Sequence

import av
import numpy as np

from utils.media import Crop
from utils.scaling import displayed_size, full_range_edges, luma_of, size_bytes
from utils.video import sample_pictures

SAMPLES = 28
MIN_PICTURES = 6
# Luma 0..255: black is 0, or 16 where the range is mislabelled, plus compression noise.
MAX_LUMA = 26
MAX_SPREAD = 14
NOISE_DIVISOR = 100  # a hundredth of a row may be noise, at either end; a logo is wider
EVERY_PIXEL = 4  # of a row whose evenness is looked at: sorting all takes longer than decoding
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
STRETCH_PICTURES = 12  # 6 s of a long recording
# Of decoded pictures that wait until it is known what of them is cropped; MIN_PICTURES do anyway.
HELD_BYTES = 64 << 20


def find_bars(path: str | os.PathLike) -> Crop | None:
    """Returns the part of the picture inside black bars, None without bars or on weak evidence.

    A bar is near-black and even in every sampled picture, one of a pair, and ends in a straight
    edge that the picture reaches. Dark scenes, or a logo on the bar, therefore give None.
    Raises MediaError.
    """
    watch = EdgeWatch()
    lumas, size = [], (0, 0)
    for picture in sample_pictures(path, SAMPLES):
        if watch.excludes_bars(picture):
            return None
        lumas.append(luma_of(picture))
        size = displayed_size(picture) if len(lumas) == 1 else size
    return _bars_in(lumas, size)


def bars_of(pictures: Sequence[av.VideoFrame]) -> Crop | None:
    """Returns what `find_bars` does, judged by the different ones of some pictures in order."""
    different = list({id(picture): picture for picture in pictures}.values())
    step = math.ceil(len(different) / SAMPLES)
    return _bars_in([luma_of(p) for p in different[::step]], displayed_size(pictures[0]))


class EdgeWatch:
    """Looks at pictures until they can't have bars: a bar is black in every one of them.

    Most recordings show at once that they have none, by their first and last rows and columns;
    the full search takes as long as decoding ten seconds.
    """

    def __init__(self):
        self._lit = np.zeros(2, bool)  # rows, columns as stored

    def excludes_bars(self, picture: av.VideoFrame) -> bool:
        """Tells whether this or an earlier picture is lit at an edge of both pairs."""
        if not self._lit.all():
            top, bottom, left, right = map(_is_black, full_range_edges(picture))
            self._lit |= (not (top and bottom), not (left and right))
        return bool(self._lit.all())


class LiveBars:
    """The bars of a stream as it comes: as `crop_by_stretch`, but nothing waits to be judged.

    The first pictures of a stretch between bars, until there are enough to judge by, are cropped as
    those before them if there is only black outside, else not at all.
    """

    def __init__(self):
        self._stretch = _Stretch()

    def crop_of(self, picture: av.VideoFrame) -> Crop | None:
        """Returns the part of the next picture inside bars, None without."""
        flags = self._stretch.flags_of(picture)
        if not self._stretch.takes(picture, flags):
            self._stretch = self._stretch.successor(picture)
        self._stretch.add(picture, flags)
        self._stretch.judge()
        if self._stretch.is_full:
            self._stretch.go_on()
        return self._stretch.crop


def has_lit_sides(picture: av.VideoFrame) -> bool:
    """Returns whether neither pair of sides is black: `crop_by_stretch` begins anew with it."""
    return not any(_black_sides(picture))


def crop_by_stretch(
    pictures: Iterator[av.VideoFrame],
) -> Iterator[tuple[av.VideoFrame, Crop | None]]:
    """Yields each picture with the crop of the stretch it is in.

    For recordings that show now an upright video between bars and then a full picture: what is
    learned from are files of one or the other, each without its bars. A stretch between bars ends
    where a side that was black is lit, one without where a pair of sides is black;
    STRETCH_PICTURES different pictures of it are judged together. Where too little is seen to
    judge, the last crop stays as long as there is only black outside it.
    """
    stretch = _Stretch()
    for picture in pictures:
        flags = stretch.flags_of(picture)
        if not stretch.takes(picture, flags):
            yield from stretch.cropped()
            stretch = stretch.successor(picture)
        stretch.add(picture, flags)
        if stretch.is_full:
            yield from stretch.cropped()
            stretch.go_on()
    yield from stretch.cropped()


class _Stretch:
    """Pictures in a row whose black sides may be bars, and what is left of them without."""

    def __init__(self, crop: Crop | None = None):
        self.crop = crop  # of the pictures that were judged last, at first of those before
        self.flags: tuple[bool, bool] | None = None  # upper and lower, left and right side black
        self._last: av.VideoFrame | None = None
        self._last_flags = (False, False)
        self._size = (0, 0)
        self._pictures: list[av.VideoFrame] = []
        self._different: list[av.VideoFrame] = []

    @property
    def is_full(self) -> bool:
        """Whether the pictures that are held are enough to judge by."""
        most = max(MIN_PICTURES, min(STRETCH_PICTURES, HELD_BYTES // size_bytes(self._last)))
        return not any(self.flags) or len(self._different) >= most

    def flags_of(self, picture: av.VideoFrame) -> tuple[bool, bool]:
        return self._last_flags if picture is self._last else _black_sides(picture)

    def successor(self, picture: av.VideoFrame) -> "_Stretch":
        """What begins with a picture that this one does not take."""
        return _Stretch(self.crop if displayed_size(picture) == self._size else None)

    def takes(self, picture: av.VideoFrame, flags: tuple[bool, bool]) -> bool:
        """Whether a picture goes on with what the others showed."""
        if self.flags is None:
            return True
        if not any(self.flags):
            return not any(flags)
        return displayed_size(picture) == self._size and all(
            is_black or not was_black for is_black, was_black in zip(flags, self.flags, strict=True)
        )

    def add(self, picture: av.VideoFrame, flags: tuple[bool, bool]) -> None:
        if self.flags is None:
            self.flags, self._size = flags, displayed_size(picture)
        if picture is not self._last:
            self._different.append(picture)
        self._pictures.append(picture)
        self._last, self._last_flags = picture, flags

    def cropped(self) -> Iterator[tuple[av.VideoFrame, Crop | None]]:
        """Yields the pictures that are held."""
        if self._pictures:
            self.judge()
            for picture in self._pictures:
                yield picture, self.crop

    def go_on(self) -> None:
        """Lets go of the pictures; what comes is of the same stretch."""
        self._pictures, self._different = [], []

    def judge(self) -> None:
        """Finds the crop of the pictures that are held."""
        if not any(self.flags):
            self.crop = None
            return
        lumas = [luma_of(picture) for picture in self._different]
        found = _bars_in(lumas, self._size)
        if (
            found is not None
            or self.crop is None
            or not _is_dark_outside(lumas, self.crop, self._size)
        ):
            self.crop = found


def _black_sides(picture: av.VideoFrame) -> tuple[bool, bool]:
    """Whether the first and last row, and the first and last column, are black."""
    top, bottom, left, right = map(_is_black, full_range_edges(picture))
    return top and bottom, left and right


def _is_dark_outside(lumas: list[np.ndarray], crop: Crop, size: tuple[int, int]) -> bool:
    for luma in lumas:
        (height, width), outside = luma.shape, luma.copy()
        rows = slice(
            math.floor(crop.top * height / size[0]), math.ceil(crop.bottom * height / size[0])
        )
        columns = slice(
            math.floor(crop.left * width / size[1]), math.ceil(crop.right * width / size[1])
        )
        outside[rows, columns] = 0
        if np.count_nonzero(outside > MAX_LUMA) > outside.size // NOISE_DIVISOR:
            return False
    return True


def _is_black(line: np.ndarray) -> bool:
    noise = len(line) // NOISE_DIVISOR
    ordered = np.partition(line, (noise, len(line) - 1 - noise))
    dark, bright = int(ordered[noise]), int(ordered[-1 - noise])
    return bright <= MAX_LUMA and bright - dark <= MAX_SPREAD


def _bars_in(lumas: list[np.ndarray], size: tuple[int, int]) -> Crop | None:
    """Returns the crop of pictures of that (height, width) of which the lumas are smaller ones."""
    if len(lumas) < MIN_PICTURES:
        return None
    height, width = lumas[0].shape
    lumas = [luma for luma in lumas if luma.shape == (height, width)]
    rows = _bar_pair(lumas)
    columns = _bar_pair([luma[slice(*rows)].T for luma in lumas])
    if columns != (0, width):  # a box's upper edge is measured along the width found after it
        found, rows = rows, _bar_pair([luma[:, slice(*columns)] for luma in lumas])
        if rows != found:
            columns = _bar_pair([luma[slice(*rows)].T for luma in lumas])
    if rows == (0, height) and columns == (0, width):
        return None
    top, bottom = _even_inwards(rows, size[0] / height)
    left, right = _even_inwards(columns, size[1] / width)
    kept = min((bottom - top) / size[0], (right - left) / size[1])
    return Crop(top, bottom, left, right) if kept >= CROP_MIN_FRACTION else None


def _bar_pair(lumas: list[np.ndarray]) -> tuple[int, int]:
    """Returns the rows [first, last) between a pair of bars; all rows without such a pair."""
    height, width = lumas[0].shape
    everything = (0, height)
    noise = width // NOISE_DIVISOR
    dark = np.ones(height, bool)
    for luma in lumas:
        dark &= np.count_nonzero(luma > MAX_LUMA, axis=1) <= noise
    if dark.all():
        return everything
    first = _num_even(lumas, slice(0, int(np.argmin(dark)), 1))
    after = _num_even(lumas, slice(-1, -1 - int(np.argmin(dark[::-1])), -1))
    if min(first, after) < MIN_FRACTION * height:
        return everything
    if abs(first - after) > MAX_ASYMMETRY * height:
        return everything
    level = max(
        float(np.partition(luma[:first], -1 - noise)[:, -1 - noise].max()) for luma in lumas
    )
    inside = [luma[first : height - after] for luma in lumas]
    depth = max(3, height // 40)
    for edges in ([luma[:depth] for luma in inside], [luma[-depth:] for luma in inside]):
        if not _are_lit(edges, level):
            return everything
    return first, height - after


def _num_even(lumas: list[np.ndarray], dark_rows: slice) -> int:
    """Returns how many dark rows, from the edge on, are of one brightness in each picture."""
    even = np.ones(len(lumas[0][dark_rows]), bool)
    for luma in lumas:
        rows = luma[dark_rows, ::EVERY_PIXEL]
        noise = rows.shape[1] // NOISE_DIVISOR
        rows = np.partition(rows, (noise, -1 - noise), axis=1)
        # Not a difference of uint8, which would wrap; neither exceeds MAX_LUMA.
        even &= rows[:, -1 - noise] <= rows[:, noise].astype(int) + MAX_SPREAD
    return len(even) if even.all() else int(np.argmin(even))


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
