"""Drawing: text, gradients and sprites on RGB frames of the demo set."""

from collections.abc import Sequence
from functools import cache, lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

FRAME_SIZE = (180, 320)
WHITE = (245, 245, 245)
BLACK = (16, 16, 20)
SUBPIXEL_BITS = 4  # shapes are placed at 1/16 pixel, else what is small jitters as it moves
SUBPIXELS = 1 << SUBPIXEL_BITS

Colour = tuple[int, int, int]


@lru_cache(maxsize=4096)
def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Colour between two colours; `share` of the second, 0 to 1 (beyond 1 overshoots, clipped)."""
    red, green, blue = (
        max(0, min(255, int(a + (b - a) * share))) for a, b in zip(first, second, strict=True)
    )
    return red, green, blue


def ink_on(colour: Colour) -> Colour:
    """White or black, whichever reads better on the colour."""
    return BLACK if sum(colour) > 380 else WHITE


def gradient(
    size: tuple[int, int], first: Colour, second: Colour, angle_degrees: float
) -> np.ndarray:
    """Returns (H, W, 3) uint8 that runs from one colour to the other along the angle."""
    height, width = size
    angle = np.radians(angle_degrees)
    rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    ramp = columns * np.cos(angle) + rows * np.sin(angle)
    ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
    colours = np.asarray(first) * (1 - ramp[..., None]) + np.asarray(second) * ramp[..., None]
    return colours.astype(np.uint8)


@lru_cache(maxsize=1024)
def text_mask(text: str, size_pixels: int) -> np.ndarray:
    """Returns (H, W) uint8 coverage of one line of text, cropped to its ink; read-only."""
    font = _font(size_pixels)
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new("L", (max(1, int(right - left)), max(1, int(bottom - top))))
    ImageDraw.Draw(picture).text((-left, -top), text, fill=255, font=font)
    mask = np.array(picture)
    mask.setflags(write=False)
    return mask


def fitting_size(text: str, size_pixels: int, width_pixels: int) -> int:
    """Text size, at most `size_pixels`, at which the text is no wider than `width_pixels`."""
    ink_width = text_mask(text, size_pixels).shape[1]
    return max(6, min(size_pixels, size_pixels * width_pixels // ink_width))


def paint_text(
    frame: np.ndarray,
    text: str,
    centre: tuple[float, float],
    size_pixels: int,
    colour: Colour,
    *,
    opacity: float = 1.0,
) -> None:
    """Draws text into the frame around (x, y); what lies outside the frame is cut off."""
    mask = text_mask(text, size_pixels)
    height, width = mask.shape
    left, top = round(centre[0] - width / 2), round(centre[1] - height / 2)
    rows = slice(max(0, top), min(frame.shape[0], top + height))
    columns = slice(max(0, left), min(frame.shape[1], left + width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    share = mask[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    share = share[..., None] * (opacity / 255)
    under = frame[rows, columns]
    under[:] = under + (np.asarray(colour, np.float32) - under) * share


def paint_ellipse(
    picture: np.ndarray,
    centre: tuple[float, float],
    axes_pixels: tuple[float, float],
    colour: Colour,
) -> None:
    """Fills an ellipse around (x, y) in an RGB frame or in a sprite, placed at 1/16 pixel."""
    centre = (round(centre[0] * SUBPIXELS), round(centre[1] * SUBPIXELS))
    axes = (max(0, round(axes_pixels[0] * SUBPIXELS)), max(0, round(axes_pixels[1] * SUBPIXELS)))
    fill = (*colour, 255)
    cv2.ellipse(picture, centre, axes, 0, 0, 360, fill, -1, cv2.LINE_AA, SUBPIXEL_BITS)


def paint_polygon(
    picture: np.ndarray, corners: Sequence[tuple[float, float]] | np.ndarray, colour: Colour
) -> None:
    """Fills a polygon in an RGB frame or in a sprite."""
    fill = (*colour, 255)
    cv2.fillPoly(picture, [subpixel(corners)], fill, cv2.LINE_AA, SUBPIXEL_BITS)


def subpixel(points: Sequence | np.ndarray) -> np.ndarray:
    """Returns (..., 2) int: pixels in the fixed point that OpenCV's drawing takes."""
    return np.rint(np.asarray(points) * SUBPIXELS).astype(np.int32)


def paint_sprite(
    frame: np.ndarray,
    sprite: np.ndarray,
    centre: tuple[float, float],
    scale: float,
    angle_degrees: float = 0.0,
) -> None:
    """Draws an (H, W, 4) uint8 sprite, RGB premultiplied by alpha, into the frame around (x, y)."""
    height, width = sprite.shape[:2]
    reach = int(np.hypot(height, width) * scale / 2) + 2
    left, right = (np.clip(int(centre[0]) + side, 0, frame.shape[1]) for side in (-reach, reach))
    top, bottom = (np.clip(int(centre[1]) + side, 0, frame.shape[0]) for side in (-reach, reach))
    if left >= right or top >= bottom:
        return
    under = frame[top:bottom, left:right]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle_degrees, scale)
    turn[:, 2] += np.asarray(centre) - (width / 2 + left, height / 2 + top)
    placed = cv2.warpAffine(sprite, turn, under.shape[1::-1], flags=cv2.INTER_LINEAR)
    uncovered = cv2.cvtColor(255 - placed[..., 3], cv2.COLOR_GRAY2RGB)
    shown = cv2.multiply(under, uncovered, scale=1 / 255)
    under[:] = cv2.add(shown, cv2.cvtColor(placed, cv2.COLOR_RGBA2RGB))


@cache
def _font(size_pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size_pixels)
