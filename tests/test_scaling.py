"""Pictures are scaled once, upright and cropped; their luma and edges are true."""

import gc
from fractions import Fraction

import av
import numpy as np
import pytest

from utils.media import Crop, MediaError
from utils.scaling import (
    OpencvScaler,
    PyavScaler,
    StretchScaler,
    displayed_size,
    full_range_edges,
    luma_of,
    size_bytes,
)


def frame_of(picture: np.ndarray, pix_fmt: str = "yuv420p") -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
    frame.time_base = Fraction(1, 25)
    return frame


def grey_with_edges(height: int, width: int) -> np.ndarray:
    """Grey 120, with a first and last row of 40 and 80, columns of 160 and 200 between them."""
    picture = np.full((height, width, 3), 120, np.uint8)
    picture[:, :2], picture[:, -2:] = 160, 200
    picture[:2], picture[-2:] = 40, 80
    return picture


def test_picture_shown_again_is_scaled_once():
    picture = grey_with_edges(64, 96)
    for scaler, shown in (
        (PyavScaler((16, 16), None), frame_of(picture)),
        (OpencvScaler((16, 16), None), picture),
    ):
        first = scaler(shown)
        assert (first.shape, first.dtype) == ((16, 16, 3), np.uint8)
        assert scaler(shown) is first
        assert scaler.aspect_ratio == pytest.approx(96 / 64)


def test_crop_gives_the_aspect_ratio():
    crop = Crop(8, 56, 0, 96)
    scaler = PyavScaler((16, 16), crop)
    scaler(frame_of(grey_with_edges(64, 96)))
    assert scaler.aspect_ratio == 2.0


def test_each_picture_is_scaled_by_its_own_crop_and_no_other_is_held():
    scaler = StretchScaler((16, 16))
    picture = frame_of(grey_with_edges(64, 96))
    for left in range(0, 40, 2):
        crop = Crop(2, 62, left, 94) if left else None
        frame = scaler((picture, crop))
        np.testing.assert_array_equal(frame, PyavScaler((16, 16), crop)(picture))
        assert scaler((picture, crop)) is frame
    assert scaler.aspect_ratio == pytest.approx(96 / 64)
    gc.collect()
    assert sum(type(item) is PyavScaler for item in gc.get_objects()) == 1


def test_crop_outside_of_the_picture_is_a_media_error():
    with pytest.raises(MediaError, match="scaled"):
        PyavScaler((16, 16), Crop(0, 20, 500, 600))(frame_of(grey_with_edges(64, 96)))


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv444p", "nv12", "yuv420p10le"])
def test_edges_are_those_of_the_picture_in_full_range(pix_fmt):
    edges = full_range_edges(frame_of(grey_with_edges(64, 90), pix_fmt))
    assert [len(edge) for edge in edges] == [90, 90, 64, 64]
    found = [np.median(edge) for edge in edges]
    np.testing.assert_allclose(found, [40, 80, 160, 200], atol=2)


def test_luma_is_full_range_and_smaller_by_a_whole_number():
    luma = luma_of(frame_of(np.full((720, 1280, 3), 77, np.uint8)))
    assert (luma.shape, luma.dtype) == ((360, 640), np.uint8)
    np.testing.assert_allclose(luma, 77, atol=2)


def test_size_in_memory_is_that_of_the_planes():
    frame = frame_of(np.zeros((64, 96, 3), np.uint8))
    assert 64 * 96 * 1.5 <= size_bytes(frame) < 64 * 96 * 3
    assert displayed_size(frame) == (64, 96)
