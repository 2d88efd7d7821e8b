"""Bars are found where they are, and no picture is cropped."""

import media
import numpy as np
import pytest

from utils import video
from utils.bars import find_bars
from utils.media import Crop


def found_bars(tmp_path, draw, **options) -> Crop | None:
    path = media.write_video(
        tmp_path / "a.mp4", size=(180, 320), draw=draw, tone_hz=None, seconds=2, fps=15, **options
    )
    return find_bars(path)


@pytest.mark.parametrize(
    "bars",
    [
        {"top": 22, "bottom": 22},
        {"left": 40, "right": 40},
        {"left": 110, "right": 108},
        {"top": 22, "bottom": 22, "left": 40, "right": 40},
    ],
)
def test_bars_are_found(tmp_path, bars):
    crop = found_bars(tmp_path, media.with_bars(media.draw_texture, **bars))
    expected = (bars.get("top", 0), 180 - bars.get("bottom", 0))
    expected += (bars.get("left", 0), 320 - bars.get("right", 0))
    found = (crop.top, crop.bottom, crop.left, crop.right)
    np.testing.assert_allclose(found, expected, atol=2)
    assert all(edge % 2 == 0 for edge in found)


def test_bars_of_a_turned_recording_are_those_seen(tmp_path):
    sides = media.with_bars(media.draw_texture, left=40, right=40)
    crop = found_bars(tmp_path, sides, rotation_degrees=90)
    np.testing.assert_allclose(
        (crop.top, crop.bottom, crop.left, crop.right), (40, 280, 0, 180), atol=2
    )


def test_bars_of_a_long_recording_are_found_by_seeking(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "SEEK_SECONDS", 1.0)
    monkeypatch.setattr(video, "_pyav_pictures", lambda *_: pytest.fail("read the whole recording"))
    draw = media.with_bars(media.draw_texture, top=22, bottom=22)
    assert found_bars(tmp_path, draw, options={"g": "3"}) == Crop(22, 158, 0, 320)


def night(seconds, height, width):
    """A dim ground under floodlights and a black sky whose skyline is ragged."""
    picture = media.draw_texture(seconds, height, width) // 10
    skyline = (height * (0.25 + 0.1 * np.sin(np.arange(width) / 15))).astype(int)
    picture[np.arange(height)[:, None] < skyline] = 0
    picture[height * 2 // 5 : height * 2 // 5 + 6, :: width // 6] = 255
    return picture


def vignette(seconds, height, width):
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = np.clip(1.1 - np.hypot(y, x), 0, 1)[..., None] ** 2
    return (media.draw_texture(seconds, height, width) * light).astype(np.uint8)


def logo_in_bar(seconds, height, width):
    picture = media.with_bars(media.draw_texture, top=22, bottom=22)(seconds, height, width)
    picture[5:15, 20:60] = 200
    return picture


def bars_for_a_while(seconds, height, width):
    if seconds < 1:
        return media.with_bars(media.draw_texture, top=22, bottom=22)(seconds, height, width)
    return media.draw_texture(seconds, height, width)


def faint_picture(seconds, height, width):
    return media.with_bars(media.draw_texture, top=22, bottom=22)(seconds, height, width) // 12


def one_bar(seconds, height, width):
    return media.with_bars(media.draw_texture, top=40)(seconds, height, width)


def unequal_bars(seconds, height, width):
    return media.with_bars(media.draw_texture, top=50, bottom=20)(seconds, height, width)


def title_on_black(seconds, height, width):
    picture = np.zeros((height, width, 3), np.uint8)
    picture[80:100, 100:220:4] = 255
    return picture


def sliver(seconds, height, width):
    return media.with_bars(media.draw_texture, left=130, right=130)(seconds, height, width)


@pytest.mark.parametrize(
    "draw",
    [
        media.draw_texture,
        night,
        vignette,
        logo_in_bar,
        bars_for_a_while,
        faint_picture,
        one_bar,
        unequal_bars,
        title_on_black,
        sliver,
        lambda seconds, height, width: np.zeros((height, width, 3), np.uint8),
    ],
)
def test_picture_that_is_no_bar_is_kept(tmp_path, draw):
    assert found_bars(tmp_path, draw) is None


def test_too_few_pictures_are_no_evidence_of_bars(tmp_path):
    draw = media.with_bars(media.draw_texture, top=22, bottom=22)
    path = media.write_video(tmp_path / "a.mp4", size=(180, 320), draw=draw, times=[0])
    assert find_bars(path) is None
