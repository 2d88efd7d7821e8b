"""Demo motion: every clip of a scene shows the same pictures, in an order of its own."""

import numpy as np
import pytest

from tests.trainings import make_config
from utils.demo_motion import FOUR_ORDERS, arrange, draw_scene, make_motion_sets


@pytest.mark.parametrize("count", [2, 3, 6, 7, 12])
@pytest.mark.parametrize("order", FOUR_ORDERS)
def test_every_order_shows_each_picture_once(order, count):
    assert sorted(arrange(order, count)) == list(range(count))


def test_orders_are_the_motions_they_are_named_for():
    assert [arrange(order, 6).tolist() for order in FOUR_ORDERS] == [
        [0, 1, 2, 3, 4, 5],
        [5, 4, 3, 2, 1, 0],
        [0, 2, 4, 5, 3, 1],
        [5, 3, 1, 0, 2, 4],
    ]


def test_something_comes_nearer_in_every_scene():
    for seed in range(20):
        frames = draw_scene(seed, 6, (40, 32))
        assert frames.shape == (6, 40, 32, 3)
        bright = (frames.min(axis=3) > 125).sum(axis=(1, 2))
        assert (np.diff(bright) > 0).all()
        assert bright[-1] > 4 * bright[0]


def test_scenes_lie_on_one_side_whole_and_in_all_orders(tmp_path):
    spec = make_config(tmp_path).feature_spec
    sides = make_motion_sets(spec, str(tmp_path / "cache"), FOUR_ORDERS, scenes=6)
    groups = [{clip.recording.group for clip in side.clips} for side in sides]
    assert not groups[0] & groups[1]
    assert [len(side) for side in sides] == [16, 8]
    for side in sides:
        for group in {clip.recording.group for clip in side.clips}:
            own = [i for i, clip in enumerate(side.clips) if clip.recording.group == group]
            pictures = [sorted(frame.tobytes() for frame in side.whole(i)[0]) for i in own]
            assert len(own) == 4
            assert all(each == pictures[0] for each in pictures)
