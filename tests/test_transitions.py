"""Transitions are found where one shot becomes another, and not where things only move."""

import numpy as np
import pytest

from tests import media
from timeline.transitions import SIZE, Colours, find_transitions
from utils.stretches import Stretch

FPS = 25


def shot(seed, count, *, fps=FPS):
    """(count, *SIZE, 3) float pictures of a moving scene; another seed is another scene."""
    shift, tint = 7.3 * seed, np.random.default_rng(seed).uniform(-70, 70, 3)
    small = np.stack([media.draw_texture(shift + 0.1 * k / fps, *SIZE) for k in range(count)])
    return np.clip(0.7 * small + 38 + tint, 0, 255)


def stretch_of(*parts, start=100.0, fps=FPS):
    pictures = np.concatenate(parts).round().astype(np.uint8)
    return Stretch(start + np.arange(len(pictures)) / fps, pictures, None)


def found_in(stretch):
    return [
        (
            t.kind,
            round(t.start_seconds - stretch.times[0], 3),
            round(t.end_seconds - stretch.times[0], 3),
        )
        for t in find_transitions(stretch)
    ]


@pytest.mark.parametrize("fps", [25, 30, 50, 60])
def test_cut_is_at_the_first_picture_of_the_new_shot(fps):
    at = round(1.2 * fps)
    stretch = stretch_of(shot(1, at, fps=fps), shot(2, 2 * fps, fps=fps), fps=fps)
    ((kind, start, end),) = found_in(stretch)
    assert (kind, start, end) == ("cut", pytest.approx(at / fps, abs=1e-3), start)


def test_motion_flashes_and_noise_are_no_transitions():
    scene = shot(1, 100)
    scene[40] = 250  # a photographer
    scene += np.random.default_rng(0).normal(0, 3, scene.shape)
    assert found_in(stretch_of(scene.clip(0, 255))) == []


def test_black_is_one_transition_from_its_first_picture_to_the_next_shot():
    black = np.full((12, *SIZE, 3), 4.0)
    stretch = stretch_of(shot(1, 40), black, shot(2, 40))
    assert found_in(stretch) == [("black", 1.6, 2.08)]


def test_dark_picture_with_something_lit_is_not_black():
    night = np.full((12, *SIZE, 3), 4.0)
    night[:, 4:9, 5:20] = 120
    kinds = {kind for kind, _, _ in found_in(stretch_of(shot(1, 40), night, shot(2, 40)))}
    assert "black" not in kinds


@pytest.mark.parametrize("count", [12, 18, 25])
def test_dissolve_is_found_with_its_middle(count):
    a, b = shot(1, 40 + count), shot(2, 40 + count)
    weight = ((np.arange(count) + 1) / (count + 1))[:, None, None, None]
    stretch = stretch_of(a[:40], a[40:] + weight * (b[:count] - a[40:]), b[count:])
    (found,) = found_in(stretch)
    assert found[0] == "dissolve"
    assert (found[1] + found[2]) / 2 == pytest.approx((40 + count / 2) / FPS, abs=0.1)


def test_cut_with_a_picture_of_both_shots_is_found():
    """Fields of two shots in one picture, as interlaced broadcasts have at every other cut."""
    a, b = shot(1, 40), shot(2, 40)
    ((kind, start, _),) = found_in(stretch_of(a, (a[-1:] + b[:1]) / 2, b))
    assert kind == "cut"
    assert start == pytest.approx(41 / FPS, abs=1 / FPS)


def test_next_to_no_pictures_show_nothing():
    for count in range(8):
        assert (
            found_in(Stretch(np.arange(count) / FPS, shot(1, 4)[:count].astype(np.uint8), None))
            == []
        )


def test_colours_tell_scenes_apart_and_not_pictures_of_one():
    stretch = stretch_of(shot(1, 50), shot(2, 50))
    colours = Colours(stretch)
    assert colours.change(102.0, 102.0) > 0.5
    assert colours.change(101.0, 101.0) < 0.5 * colours.change(102.0, 102.0)
    other = Colours(stretch_of(shot(1, 50), shot(1, 50)))
    assert other.change(102.0, 102.0) < 0.1
    assert colours.change(90.0, 90.0) == colours.change(120.0, 120.0) == 0
