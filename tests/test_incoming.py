"""The features of a part appear whole or not at all, and are read back as they were."""

import os
import shutil

import numpy as np
import pytest

from tests import media
from utils import incoming
from utils.audio import MfccSpec
from utils.feature_store import FeatureStore
from utils.features import FeatureSpec, read_features
from utils.incoming import (
    add_to_store,
    decode_part,
    drop_unfinished,
    find_part,
    part_folder,
    read_rows,
)
from utils.media import WHOLE, MediaError, Part
from utils.prepared_set import store_columns

SPEC = FeatureSpec(4.0, (32, 48), "fast", False, MfccSpec())


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return media.write_video(tmp_path_factory.mktemp("media") / "a.mp4", fps=12, size=(48, 64))


@pytest.fixture
def target(tmp_path):
    return part_folder(tmp_path / "key", WHOLE)


def test_part_is_found_by_the_next_run_as_it_was_written(video, target):
    said = []
    part = decode_part(video, SPEC, WHOLE, target, said.append)
    assert sum(said) == 8
    assert part.rows == {"frames": 8, "picture_hashes": 8, "mfcc": 63}
    assert part.heard
    assert part.aspect_ratio == 64 / 48
    assert find_part(target) == part
    frames = np.concatenate([block.frames for block in read_features(video, SPEC)])
    for column, kind in store_columns(SPEC).items():
        rows = np.concatenate(list(read_rows([part, part], column, kind)))
        assert rows.dtype == kind.dtype
        assert len(rows) == 2 * part.rows[column]
        if column == "frames":
            np.testing.assert_array_equal(rows[8:], frames)


def test_parts_go_into_the_store_one_behind_the_other(video, tmp_path, target):
    store = FeatureStore(tmp_path / "store", store_columns(SPEC))
    first = decode_part(video, SPEC, WHOLE, target, lambda _: None)
    second = decode_part(video, SPEC, WHOLE, target.with_name("second"), lambda _: None)
    with store.writing():
        add_to_store(store, "key", [first, second])
    assert [store.num_rows("key", name) for name in store.columns] == [16, 16, 126]
    assert store.info("key") == {"num_frames": 16, "has_sound": True, "aspect_ratio": 64 / 48}
    assert not target.parent.exists()


def test_sound_that_is_heard_in_no_part_is_no_sound(tmp_path, target):
    mute = media.write_video(tmp_path / "mute.mp4", fps=12, size=(48, 64), tone_hz=None)
    store = FeatureStore(tmp_path / "store", store_columns(SPEC))
    part = decode_part(mute, SPEC, WHOLE, target, lambda _: None)
    with store.writing():
        add_to_store(store, "key", [part])
    assert store.get("key", "mfcc") is None
    assert not store.info("key")["has_sound"]


def test_part_that_fails_leaves_nothing(tmp_path, target):
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(MediaError):
        decode_part(text, SPEC, WHOLE, target, lambda _: None)
    assert list(target.parent.iterdir()) == []


def test_part_is_not_there_before_it_is_whole(video, target, monkeypatch):
    seen = []
    write = incoming.write_whole

    def look(path, data):
        seen.append(target.exists())
        write(path, data)

    monkeypatch.setattr(incoming, "write_whole", look)
    decode_part(video, SPEC, WHOLE, target, lambda _: seen.append(target.exists()))
    assert set(seen) == {False}
    assert target.exists()


@pytest.mark.parametrize("harm", ["cut", "changed", "lost", "no description", "half a description"])
def test_damaged_part_is_not_used_and_removed(video, target, harm):
    decode_part(video, SPEC, WHOLE, target, lambda _: None)
    if harm == "cut":
        os.truncate(target / "frames", 100)
    elif harm == "changed":
        (target / "mfcc").write_bytes(bytes((target / "mfcc").stat().st_size))
    elif harm == "lost":
        (target / "picture_hashes").unlink()
    elif harm == "no description":
        (target / "part.json").unlink()
    else:
        os.truncate(target / "part.json", 10)
    assert find_part(target) is None
    assert not target.exists()
    assert find_part(target) is None


def test_other_ways_to_cut_a_recording_are_other_folders(tmp_path):
    parts = [WHOLE, Part(0, 2), Part(0, 3), Part(1, 2)]
    assert len({part_folder(tmp_path, part) for part in parts}) == 4
    assert part_folder(tmp_path, WHOLE) == part_folder(tmp_path, Part())


def test_only_what_killed_workers_left_is_dropped(video, tmp_path, target):
    part = decode_part(video, SPEC, WHOLE, target, lambda _: None)
    shutil.copytree(target, target.with_name(".00000-abc.77"))
    drop_unfinished(tmp_path)
    assert find_part(target) == part
    assert list(target.parent.iterdir()) == [target]
    drop_unfinished(tmp_path / "nowhere")
