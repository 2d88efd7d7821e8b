"""Clips cover their recording, and no group is on both sides of a split."""

from math import inf

import numpy as np
import pytest

from utils.clips import (
    MIN_CLIP_SECONDS,
    Clip,
    cut_recording,
    cut_spans,
    group_folds,
    split_at_random,
    split_by_group,
)
from utils.recordings import DataError, Recording, Span

LENGTHS = [1.0, 2.0, 9.75, 10.0, 10.04, 10.999, 11.0, 14.9999999, 15.0, 20.9, 21.1, 59.94, 3600.0]
CUTS = [(10.0, 5.0), (10.0, 10.0), (10.0, 0.5), (1.0, 0.5), (3.3, 1.1), (600.0, 600.0)]


def lengths() -> np.ndarray:
    """Seconds, from 1 s to 3 h: the awkward ones, and random ones on a frame grid and off it."""
    random = np.exp(np.random.default_rng(0).uniform(0, np.log(3 * 3600), 40))
    return np.concatenate([LENGTHS, random, np.ceil(random * 4) / 4, [3 * 3600.0]])


@pytest.mark.parametrize(("clip", "hop"), CUTS)
def test_spans_cover_every_moment_of_a_recording_and_no_other(clip, hop):
    for length in lengths():
        spans = cut_spans(length, clip, hop)
        assert spans[0][0] == 0.0
        assert spans[-1][1] == length
        assert all(start < end for start, end in spans)
        for (start, end), (next_start, next_end) in zip(spans, spans[1:], strict=False):
            assert start < next_start <= end
            assert next_end > end


@pytest.mark.parametrize(("clip", "hop"), CUTS)
def test_spans_of_a_long_recording_are_a_clip_long(clip, hop):
    for length in lengths():
        spans = cut_spans(length, clip, hop)
        if length >= clip:
            np.testing.assert_allclose([end - start for start, end in spans[:-1]], clip)
            last = spans[-1][1] - spans[-1][0]
            assert clip - 1e-6 <= last < clip + MIN_CLIP_SECONDS


@pytest.mark.parametrize(("clip", "hop"), CUTS)
def test_spans_start_a_hop_apart_but_for_the_last(clip, hop):
    for length in lengths():
        starts = [start for start, _ in cut_spans(length, clip, hop)]
        np.testing.assert_allclose(np.diff(starts)[:-1], hop)
        assert len(starts) == 1 or starts[-1] - starts[-2] <= hop + 1e-6


def test_short_recording_is_one_clip_of_its_own_length():
    assert cut_spans(2.5, 10.0, 5.0) == [(0.0, 2.5)]


def test_span_that_ends_with_the_recording_is_there_for_any_hop():
    assert cut_spans(11.0, 10.0, 0.5) == [(0.0, 10.0), (0.5, 10.5), (1.0, 11.0)]
    assert cut_spans(12.0, 10.0, 2.0) == [(0.0, 10.0), (2.0, 12.0)]


def test_last_span_is_moved_back_to_end_with_the_recording():
    assert cut_spans(23.0, 10.0, 10.0) == [(0.0, 10.0), (10.0, 20.0), (13.0, 23.0)]


def test_short_rest_joins_the_last_span():
    assert cut_spans(20.5, 10.0, 10.0) == [(0.0, 10.0), (10.0, 20.5)]


BREAK = (Span(0.0, 100.0, "games"), Span(100.0, 130.0, "ads"), Span(130.0, inf, "games"))


@pytest.mark.parametrize("margin", [0.0, 0.5, 3.0])
def test_clips_of_a_labelled_recording_keep_the_margin_from_every_boundary(margin):
    clips = cut_recording(BREAK, 200.0, 10.0, 5.0, margin_seconds=margin)
    for label, start, end in (
        ("games", 0.0, 100.0 - margin),
        ("ads", 100.0 + margin, 130.0 - margin),
        ("games", 130.0 + margin, 200.0),
    ):
        inside = [clip for clip in clips if start <= clip[0] and clip[1] <= end]
        assert {clip[2] for clip in inside} == {label}
        assert (inside[0][0], inside[-1][1]) == (start, end)
        for clip in inside:
            clips.remove(clip)
    assert clips == []


def test_recording_of_a_single_class_is_cut_as_before():
    spans = (Span(0.0, inf, "ads"),)
    for length in lengths():
        clips = cut_recording(spans, length, 10.0, 5.0, margin_seconds=0.5)
        assert clips == [(*span, "ads") for span in cut_spans(length, 10.0, 5.0)]


def test_span_too_short_for_a_clip_or_behind_the_end_gives_none():
    spans = (Span(0.0, 1.4, "games"), Span(1.4, 3.0, "ads"), Span(3.0, inf, "games"))
    found = cut_recording(spans, 50.0, 10.0, 10.0, margin_seconds=0.5)
    assert {clip[2] for clip in found} == {"games"}
    assert found[0] == (3.5, 13.5, "games")
    behind = (Span(0.0, 60.0, "games"), Span(60.0, 90.0, "ads"), Span(90.0, inf, "games"))
    assert cut_recording(behind, 50.0, 60.0, 60.0, margin_seconds=0.5) == [(0.0, 50.0, "games")]


def make_clips(label: str, groups, *, clips: int = 3, validation: bool = False) -> list[Clip]:
    side = "validation/" if validation else ""
    return [
        Clip(
            Recording(name, (name,), (Span(0, inf, label),), f"{side}{label}/{group}", validation),
            f"key of {name}",
            10.0 * k,
            10.0 * (k + 1),
            label,
        )
        for group in groups
        for name in [f"{side}{label}/{group}/a.mp4"]
        for k in range(clips)
    ]


def groups_of(clips: list[Clip]) -> set[str]:
    return {clip.recording.group for clip in clips}


def labels_of(clips: list[Clip]) -> set[str]:
    return {clip.label for clip in clips}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [2, 3, 8, 50])
def test_split_keeps_groups_together_and_each_class_on_both_sides(count, seed):
    clips = make_clips("ads", range(count)) + make_clips("games", range(2 * count))
    training, validation = split_by_group(clips, 0.2, seed)
    assert not groups_of(training) & groups_of(validation)
    assert set(training) | set(validation) == set(clips)
    assert len(training) + len(validation) == len(clips)
    assert labels_of(training) == labels_of(validation) == {"ads", "games"}


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("count", [2, 5, 8, 40, 400])
def test_held_out_groups_are_about_the_fraction_asked_for(count, fraction):
    clips = make_clips("ads", range(count), clips=1) + make_clips("games", range(count), clips=1)
    for seed in range(10):
        _, validation = split_by_group(clips, fraction, seed)
        for label in ("ads", "games"):
            held = sum(clip.label == label for clip in validation)
            assert 1 <= held < count
            assert abs(held - fraction * count) <= max(1, 0.5 * fraction * count)


def test_split_depends_on_no_order():
    clips = make_clips("ads", range(30)) + make_clips("games", range(30))
    shuffled = [clips[k] for k in np.random.default_rng(0).permutation(len(clips))]
    for ours, theirs in zip(
        split_by_group(clips, 0.2, 1), split_by_group(shuffled, 0.2, 1), strict=True
    ):
        assert set(ours) == set(theirs)


def test_split_depends_on_the_seed():
    clips = make_clips("ads", range(30)) + make_clips("games", range(30))
    held_out = {frozenset(groups_of(split_by_group(clips, 0.2, seed)[1])) for seed in range(5)}
    assert len(held_out) == 5


def test_new_recordings_of_known_groups_move_nothing():
    few = make_clips("ads", range(20), clips=1) + make_clips("games", range(20), clips=1)
    many = make_clips("ads", range(20), clips=5) + make_clips("games", range(20), clips=1)
    assert groups_of(split_by_group(few, 0.2, 3)[1]) == groups_of(split_by_group(many, 0.2, 3)[1])


def test_new_groups_hardly_move_old_ones():
    before = make_clips("ads", range(100), clips=1) + make_clips("games", range(100), clips=1)
    after = make_clips("ads", range(110), clips=1) + make_clips("games", range(100), clips=1)
    for seed in range(10):
        held_before = groups_of(split_by_group(before, 0.2, seed)[1])
        held_after = groups_of(split_by_group(after, 0.2, seed)[1])
        moved = held_before ^ (held_after & groups_of(before))
        # Of 40 held out; a split drawn anew among the ads would move about 32.
        assert len(moved) <= 5


def test_class_of_a_single_group_is_refused_with_the_cure():
    clips = make_clips("ads", range(5)) + make_clips("games", ["only"])
    with pytest.raises(DataError) as error:
        split_by_group(clips, 0.2, 0)
    assert "\n" not in str(error.value)
    assert "games has a single group (games/only)" in str(error.value)
    assert "data/validation" in str(error.value)


def test_validation_folder_is_the_validation_set_whatever_the_seed():
    training = make_clips("ads", ["x"]) + make_clips("games", ["x"])
    held_out = make_clips("ads", ["x"], validation=True) + make_clips(
        "games", ["y"], validation=True
    )
    for seed in range(3):
        assert split_by_group(training + held_out, 0.2, seed) == (training, held_out)


def test_validation_folder_that_lacks_a_class_is_refused_with_the_cure():
    clips = make_clips("ads", range(5)) + make_clips("games", range(5))
    clips += make_clips("ads", ["v"], validation=True)
    with pytest.raises(DataError, match="data/validation has no video of games: put some there"):
        split_by_group(clips, 0.2, 0)


def test_random_split_breaks_groups_and_loses_no_clip():
    clips = make_clips("ads", range(5), clips=10)
    training, validation = split_at_random(clips, 12, seed=0)
    assert len(validation) == 12
    assert set(training) | set(validation) == set(clips)
    assert len(training) == len(clips) - 12
    assert groups_of(training) & groups_of(validation)
    assert split_at_random(clips, 12, seed=0) == (training, validation)
    assert split_at_random(clips, 12, seed=1) != (training, validation)


# Groups of several classes


def make_mixed(names, labels=("ads", "games"), clips: int = 3) -> list[Clip]:
    """A whole recording for each name, of all the labels."""
    spans = tuple(Span(100.0 * k, 100.0 * (k + 1), label) for k, label in enumerate(labels))
    return [
        Clip(
            Recording(f"recordings/{name}", (), spans, f"recordings/{name}", False),
            f"key of {name}",
            span.start_seconds + 10 * k,
            span.start_seconds + 10 * (k + 1),
            span.label,
        )
        for name in names
        for span in spans
        for k in range(clips)
    ]


MIXTURES = [
    make_mixed(range(2)),
    make_mixed(range(9)),
    make_mixed(range(2)) + make_clips("games", range(30)),
    make_mixed(range(5)) + make_clips("ads", range(2)) + make_clips("games", range(3)),
    make_mixed(range(3), ("ads", "games", "replays")) + make_clips("ads", range(40)),
    make_mixed("ab", ("ads",)) + make_mixed("cd", ("games",)) + make_mixed("ae", ("replays",)),
]


@pytest.mark.parametrize("clips", MIXTURES)
@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_split_of_groups_of_several_classes_keeps_all_on_both_sides(clips, fraction):
    for seed in range(30):
        training, validation = split_by_group(clips, fraction, seed)
        assert not groups_of(training) & groups_of(validation)
        assert set(training) | set(validation) == set(clips)
        assert labels_of(training) == labels_of(validation) == labels_of(clips)


@pytest.mark.parametrize("clips", MIXTURES)
def test_folds_keep_groups_together_and_every_class_to_learn_from(clips):
    for seed in range(30):
        folds = group_folds(clips, 5, seed)
        assert 2 <= len(folds) <= 5
        for training, validation in folds:
            assert not groups_of(training) & groups_of(validation)
            assert set(training) | set(validation) == set(clips)
            assert labels_of(training) == labels_of(clips)
        judged = [clip for _, validation in folds for clip in validation]
        assert len(judged) == len(clips)
        assert set(judged) == set(clips)


def test_folds_deal_the_groups_of_each_class_out_evenly():
    clips = make_clips("ads", range(12)) + make_clips("games", range(20)) + make_mixed(range(6))
    for _, validation in group_folds(clips, 5, 0):
        for label, count in (("ads", 18), ("games", 26)):
            held = {clip.recording.group for clip in validation if clip.label == label}
            assert abs(len(held) - count / 5) <= 1


def test_class_whose_spans_are_too_short_for_a_clip_is_on_no_side():
    clips = make_clips("ads", range(5)) + make_clips("games", range(5))
    spans = (Span(0.0, 100.0, "games"), Span(100.0, 100.5, "ads"))
    mixed = Recording("recordings/a", (), spans, "recordings/a", False)
    clips += [Clip(mixed, "key", 0.0, 10.0, "games")]
    for seed in range(20):
        training, validation = split_by_group(clips, 0.2, seed)
        assert labels_of(training) == labels_of(validation) == {"ads", "games"}


def test_new_labelled_recordings_hardly_move_old_ones():
    before, after = make_mixed(range(100), clips=1), make_mixed(range(110), clips=1)
    for seed in range(10):
        held_before = groups_of(split_by_group(before, 0.2, seed)[1])
        held_after = groups_of(split_by_group(after, 0.2, seed)[1])
        assert len(held_before ^ (held_after & groups_of(before))) <= 5
