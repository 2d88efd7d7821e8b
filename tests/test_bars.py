"""Bars are found where they are, and no picture is cropped."""

import av
import numpy as np
import pytest

from tests import media
from utils import bars, video
from utils.bars import MIN_PICTURES, STRETCH_PICTURES, crop_by_stretch, find_bars
from utils.media import Crop


def found_bars(tmp_path, draw, **options) -> Crop | None:
    path = media.write_video(
        tmp_path / "a.mp4", size=(180, 320), draw=draw, tone_hz=None, seconds=2, fps=15, **options
    )
    return find_bars(path)


@pytest.mark.parametrize(
    "sides",
    [
        {"top": 22, "bottom": 22},
        {"left": 40, "right": 40},
        {"left": 110, "right": 108},
        {"top": 22, "bottom": 22, "left": 40, "right": 40},
    ],
)
def test_bars_are_found(tmp_path, sides):
    crop = found_bars(tmp_path, media.with_bars(media.draw_texture, **sides))
    expected = (sides.get("top", 0), 180 - sides.get("bottom", 0))
    expected += (sides.get("left", 0), 320 - sides.get("right", 0))
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


def black(seconds, height, width):
    return np.zeros((height, width, 3), np.uint8)


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
        black,
    ],
)
def test_picture_that_is_no_bar_is_kept(tmp_path, draw):
    assert found_bars(tmp_path, draw) is None


def test_too_few_pictures_are_no_evidence_of_bars(tmp_path):
    draw = media.with_bars(media.draw_texture, top=22, bottom=22)
    path = media.write_video(tmp_path / "a.mp4", size=(180, 320), draw=draw, times=[0])
    assert find_bars(path) is None


# By stretch


UPRIGHT = media.with_bars(media.draw_texture, left=110, right=110)
WIDE = media.with_bars(media.draw_texture, top=22, bottom=22)
CROP_OF = {UPRIGHT: Crop(0, 180, 110, 210), WIDE: Crop(22, 158, 0, 320)}


def drawn(*stretches, size=(180, 320)) -> list[av.VideoFrame]:
    """Pictures, two a second, of stretches (draw, how many)."""
    draws = [draw for draw, count in stretches for _ in range(count)]
    return [
        av.VideoFrame.from_ndarray(draw(k / 2, *size), format="rgb24").reformat(format="yuv420p")
        for k, draw in enumerate(draws)
    ]


def crops_of(pictures: list[av.VideoFrame]) -> list[Crop | None]:
    """What each is cropped to; they come once each and in order."""
    cropped = list(crop_by_stretch(iter(pictures)))
    assert [id(picture) for picture, _ in cropped] == [id(picture) for picture in pictures]
    return [crop for _, crop in cropped]


def test_each_stretch_is_cropped_to_what_is_between_its_own_bars():
    stretches = (media.draw_texture, 20), (UPRIGHT, 31), (media.draw_texture, 9), (WIDE, 15)
    stretches += (UPRIGHT, 13), (WIDE, 6)
    expected = [CROP_OF.get(draw) for draw, count in stretches for _ in range(count)]
    assert crops_of(drawn(*stretches)) == expected


@pytest.mark.parametrize("length", [1, 5, 30])
@pytest.mark.parametrize("before", [7, 12, 14])
def test_black_pictures_between_bars_keep_the_crop(before, length):
    pictures = drawn((UPRIGHT, before), (black, length), (UPRIGHT, 17))
    assert set(crops_of(pictures)) == {CROP_OF[UPRIGHT]}


def test_black_pictures_between_full_ones_bring_no_crop():
    for length in (3, 30):
        pictures = drawn((media.draw_texture, 8), (black, length), (media.draw_texture, 8))
        assert set(crops_of(pictures)) == {None}


@pytest.mark.parametrize("draw", [night, vignette, title_on_black, one_bar, unequal_bars])
def test_dark_scenes_of_a_full_picture_are_kept(draw):
    pictures = drawn((media.draw_texture, 8), (draw, 30), (media.draw_texture, 8))
    assert set(crops_of(pictures)) == {None}


def test_first_picture_without_bars_ends_their_crop():
    for length in (1, MIN_PICTURES):
        pictures = drawn((UPRIGHT, 13), (media.draw_texture, length), (black, 2))
        assert crops_of(pictures)[13:] == [None] * (length + 2)


def test_too_few_pictures_between_bars_are_not_judged():
    pictures = drawn((media.draw_texture, 4), (WIDE, MIN_PICTURES - 1), (media.draw_texture, 4))
    assert set(crops_of(pictures)) == {None}
    repeated = [picture for picture in pictures for _ in range(20)]
    assert set(crops_of(repeated)) == {None}


def test_picture_shown_for_long_is_held_and_judged_once():
    pictures = drawn((UPRIGHT, 9))
    repeated = [pictures[0]] * 200 + pictures[1:] + [pictures[-1]] * 30
    assert set(crops_of(repeated)) == {CROP_OF[UPRIGHT]}


def test_crop_is_not_taken_to_pictures_of_another_size():
    twice = media.with_bars(media.draw_texture, left=220, right=220)
    small = drawn((UPRIGHT, 14))
    for count, expected in ((14, Crop(0, 360, 220, 420)), (4, None)):
        large = drawn((twice, count), size=(360, 640))
        found = crops_of(small + large)
        assert found == [CROP_OF[UPRIGHT]] * 14 + [expected] * count


@pytest.mark.parametrize(
    ("draw", "held_bytes", "most"),
    [
        (UPRIGHT, bars.HELD_BYTES, STRETCH_PICTURES),
        (UPRIGHT, 0, MIN_PICTURES),
        (UPRIGHT, 9 * 88_000, 9),  # a picture of 180 x 320 is 86,400 bytes and some padding
        (media.draw_texture, bars.HELD_BYTES, 1),
    ],
)
def test_few_pictures_wait_for_their_crop(monkeypatch, draw, held_bytes, most):
    monkeypatch.setattr(bars, "HELD_BYTES", held_bytes)
    taken = 0

    def taking():
        nonlocal taken
        for picture in drawn((draw, 40)):
            taken += 1
            yield picture

    held = [taken - given for given, _ in enumerate(crop_by_stretch(taking()))]
    assert max(held) == most
