"""Duplicates: what is seen twice never lies on both sides of a split."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import media
from tests.pools import InThisProcess
from utils import duplicates, preparation
from utils.audio import MfccSpec
from utils.clips import Clip, group_folds, split_by_group
from utils.duplicates import Duplicates, Repeat, find_duplicates, regrouped
from utils.features import FeatureSpec
from utils.preparation import prepare_recordings
from utils.recordings import Recording, Span, find_recordings
from utils.repeats import Likeness
from utils.sources import Folder

SPEC = FeatureSpec(4.0, (48, 64), "fast", False, MfccSpec())


def make_clips(label: str, group: str, count: int = 3) -> list[Clip]:
    """10 s clips of one recording, whose key is the name of its group."""
    spans = (Span(0.0, math.inf, label),)
    recording = Recording(f"{group}.mp4", (f"{group}.mp4",), spans, group, False)
    return [Clip(recording, group, 10.0 * k, 10.0 * (k + 1), label) for k in range(count)]


def make_set(count: int = 6) -> list[Clip]:
    return [
        clip
        for label in ("ads", "games")
        for k in range(count)
        for clip in make_clips(label, f"{label}/{k}")
    ]


def same(first: str, second: str, at: float = 12.0, other: float = 3.0) -> Repeat:
    return Repeat(first, at, second, other, 5.0, "picture")


def sides(clips: list[Clip], merged: dict[str, str], seed: int) -> list[set[str]]:
    """The groups, as they were, of training and of validation."""
    moved = [
        Clip(
            Recording(c.recording.name, (), c.recording.spans, merged.get(c.key, c.key), False),
            c.key,
            c.start_seconds,
            c.end_seconds,
            c.label,
        )
        for c in clips
    ]
    return [{clip.key for clip in side} for side in split_by_group(moved, 0.2, seed)]


def test_groups_that_share_content_become_one_whatever_the_chain():
    clips = make_set()
    found = Duplicates([same("ads/1", "ads/4"), same("ads/4", "games/2", at=22.0)])
    assert found.merged_groups(clips) == dict.fromkeys(["ads/1", "ads/4", "games/2"], "ads/1")


def test_no_split_has_merged_groups_on_both_sides():
    clips = make_set()
    merged = Duplicates([same("ads/1", "ads/4"), same("games/0", "games/5")]).merged_groups(clips)
    for seed in range(30):
        training, validation = sides(clips, merged, seed)
        for one, two in (("ads/1", "ads/4"), ("games/0", "games/5")):
            assert (one in training) == (two in training)
        assert not training & validation


def test_merging_moves_no_group_that_shares_nothing_but_to_keep_the_fraction():
    clips = make_set(20)
    merged = Duplicates([same("ads/1", "ads/4")]).merged_groups(clips)
    for seed in range(10):
        before, after = (sides(clips, m, seed)[1] for m in ({}, merged))
        assert len((before ^ after) - {"ads/1", "ads/4"}) <= 2


def test_groups_that_would_hold_most_of_a_class_stay_apart_and_twins_are_left_out():
    clips = make_set(4)
    chain = [same(f"ads/{k}", f"ads/{k + 1}", at=12.0, other=12.0) for k in range(3)]
    found = Duplicates(chain)
    assert found.merged_groups(clips) == {}
    for seed in range(10):
        training, validation = split_by_group(clips, 0.25, seed)
        kept, twins = found.part_twins(training, validation)
        assert {clip.label for clip in twins} == {"ads"}
        assert {(clip.start_seconds, clip.end_seconds) for clip in twins} == {(10.0, 20.0)}
        assert len(twins) == 3  # of the three groups that learn, though only neighbours were linked
        assert sorted(map(id, kept + twins)) == sorted(map(id, training))


def test_folds_leave_out_the_twins_of_their_own_side():
    clips = make_set(4)
    found = Duplicates([same(f"ads/{k}", f"ads/{k + 1}", 12.0, 12.0) for k in range(3)])
    for training, validation in group_folds(clips, 4, 0):
        kept, _ = found.part_twins(training, validation)
        held_out = np.concatenate([found.content(clip) for clip in validation])
        shown = np.concatenate([found.content(clip) for clip in kept])
        assert not set(held_out) & set(shown)


def test_clip_that_only_grazes_held_out_content_stays():
    clips = make_clips("ads", "a") + make_clips("games", "g")
    validation = make_clips("ads", "b") + make_clips("games", "h")
    found = Duplicates([Repeat("a", 9.0, "b", 0.0, 5.0, "sound")])
    kept, twins = found.part_twins(clips, validation)
    assert [(clip.key, clip.start_seconds) for clip in twins] == [("a", 10.0)]
    assert len(kept) == 5


def test_class_of_which_all_is_held_out_too_keeps_its_clips():
    training = make_clips("ads", "a", 1) + make_clips("games", "g")
    validation = make_clips("ads", "b", 1) + make_clips("games", "h")
    found = Duplicates([Repeat("a", 0.0, "b", 0.0, 10.0, "picture")])
    assert found.part_twins(training, validation) == (training, [])


def test_users_validation_set_is_never_merged_into_training():
    clips = make_set()
    spans = (Span(0.0, math.inf, "ads"),)
    held_out = Recording("validation/ads/x.mp4", (), spans, "validation/ads/x.mp4", True)
    clips.append(Clip(held_out, "held out", 0.0, 10.0, "ads"))
    assert Duplicates([same("ads/1", "held out")]).merged_groups(clips) == {}


def test_repeats_within_a_recording_or_a_group_merge_nothing():
    clips = make_set()
    assert (
        Duplicates([Repeat("ads/1", 0.0, "ads/1", 20.0, 8.0, "sound")]).merged_groups(clips) == {}
    )
    assert Duplicates([]).merged_groups(clips) == {}
    assert Duplicates([]).part_twins(clips, clips[:3]) == (clips, [])


# From files


def draw(seed: int) -> Callable[[float, int, int], np.ndarray]:
    """Another blurred picture each second, none alike with another seed."""

    def picture(seconds: float, height: int, width: int) -> np.ndarray:
        waves = np.random.default_rng((seed, int(seconds))).uniform(-1, 1, (4, 4, 3))
        y, x = np.arange(height) / height, np.arange(width) / width
        down, across = (np.cos(np.pi * np.outer(p, np.arange(4))) for p in (y, x))
        levels = 128 + 45 * np.einsum("ya,abc,xb->yxc", down, waves, across)
        return levels.clip(0, 255).astype(np.uint8)

    return picture


def melody(seed: int) -> list[float]:
    return list(np.random.default_rng(seed).uniform(200, 3000, 20))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Six spots: two are one in another encoding, two have the sound in common."""
    folder = tmp_path_factory.mktemp("data")
    made = {
        "ads/a/first.mp4": (1, 11, (72, 128), 0.0),
        "ads/b/again.mp4": (1, 12, (48, 80), 0.3),
        "ads/c/sound.mp4": (3, 13, (72, 128), 0.0),
        "games/a/other.mp4": (4, 13, (72, 128), 0.0),
        "games/b/x.mp4": (5, 15, (72, 128), 0.0),
        "games/c/y.mp4": (6, 16, (72, 128), 0.0),
    }
    for name, (look, tune, size, shift) in made.items():
        path = folder / name
        path.parent.mkdir(parents=True)
        picture = draw(look)
        media.write_video(
            path,
            seconds=12,
            fps=8,
            size=size,
            draw=lambda s, h, w, picture=picture, shift=shift: picture(s + shift, h, w),
            tone_hz=melody(tune),
        )
    return folder


@pytest.fixture
def prepared(data, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "WorkerPool", InThisProcess)
    source = Folder(data)
    recordings = find_recordings(source)
    return prepare_recordings(
        recordings, source, SPEC, tmp_path / "cache", workers=1, max_rejected=0.0
    )


def pairs(prepared, found: Duplicates) -> set[tuple[str, str, str]]:
    names = {key: recording.name for recording, key in prepared.keys.items()}
    return {(*sorted((names[r.first], names[r.second])), r.by) for r in found.repeats}


def test_same_spot_in_another_encoding_and_the_same_sound_are_found_in_videos(
    prepared, tmp_path, monkeypatch
):
    keys = list(prepared.keys.values())
    found = find_duplicates(prepared.store, SPEC, keys, tmp_path)
    assert pairs(prepared, found) == {
        ("ads/a/first.mp4", "ads/b/again.mp4", "picture"),
        ("ads/c/sound.mp4", "games/a/other.mp4", "sound"),
    }
    merged = found.merged_groups(prepared.clips(4.0, 4.0))
    # The other two would hold two thirds of the ads.
    assert merged == dict.fromkeys(["ads/c", "games/a"], "ads/c")
    again = regrouped(prepared, {"ads/b": "ads/a"})
    assert {r.group for r in again.keys} == {"ads/a", "ads/c", "games/a", "games/b", "games/c"}
    assert list(again.keys.values()) == keys

    kept = json.loads((tmp_path / "duplicates.json").read_bytes())
    monkeypatch.setattr(duplicates, "find_runs", None)  # a second start looks for nothing
    assert find_duplicates(prepared.store, SPEC, keys[::-1], tmp_path).repeats == found.repeats
    with pytest.raises(TypeError):
        find_duplicates(prepared.store, SPEC, keys[1:], tmp_path)
    assert json.loads((tmp_path / "duplicates.json").read_bytes()) == kept
    monkeypatch.setattr(duplicates, "PICTURES", Likeness(seconds=9.0, bits=1.0))
    with pytest.raises(TypeError):  # an answer to another question
        find_duplicates(prepared.store, SPEC, keys, tmp_path)
