"""Subsets of groups are whole, from every class, and another for each draw."""

import dataclasses

import numpy as np
import pytest

from tests.test_evaluation import make_scores
from tests.test_results import groups_of
from tests.trainings import make_config, make_sets
from training.cross_validation import draw_groups, join_scores


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    sets = make_sets(make_config(tmp_path_factory.mktemp("made")), counts=(12, 6))
    clips = sets.train_set.clips + sets.val_set.clips
    late = [dataclasses.replace(clip, start_seconds=1.0) for clip in clips]
    return clips + late


def count(clips, label: str) -> int:
    return len({clip.recording.group for clip in clips if clip.label == label})


@pytest.mark.parametrize(("share", "ads", "games"), [(0.1, 1, 1), (0.25, 3, 2), (0.5, 6, 3)])
def test_part_of_the_groups_of_each_class_is_drawn_whole(clips, share, ads, games):
    for subset in draw_groups(clips, share, 4, 0):
        assert (count(subset, "ads"), count(subset, "games")) == (ads, games)
        kept = groups_of(subset)
        assert subset == [clip for clip in clips if clip.recording.group in kept]


def test_all_of_the_groups_are_all_clips(clips):
    assert list(draw_groups(clips, 1.0, 1, 0)) == [clips]


def test_draws_differ_and_are_a_function_of_the_seed(clips):
    first, again = (list(draw_groups(clips, 0.25, 5, 7)) for _ in range(2))
    assert first == again
    assert len({frozenset(groups_of(subset)) for subset in first}) > 1
    assert list(draw_groups(clips, 0.25, 5, 8)) != first


def test_joined_scores_hold_every_clip_in_order():
    parts = [make_scores([[1, 0]], [0], recordings=["a"]), make_scores([[0, 1], [2, 0]], [1, 0])]
    joined = join_scores(parts)
    assert len(joined) == 3
    assert joined.recordings == ["a", "clip_0.mp4", "clip_1.mp4"]
    assert np.array_equal(joined.labels, [0, 1, 0])
    assert np.array_equal(joined.only(np.array([1, 2])).logits, parts[1].logits)
