"""Features are cut on one grid of time, and a recipe has one name."""

import dataclasses
import json
import math

import media
import numpy as np
import pytest

from utils import features
from utils.audio import MfccSpec
from utils.features import (
    FeatureSpec,
    check_length,
    find_crop,
    read_cropped,
    read_picture,
    read_sound,
)
from utils.video import MediaError

SPEC = FeatureSpec(4.0, (32, 48), "fast", True, MfccSpec())


def test_id_changes_with_every_field_and_with_nothing_else():
    changed = [
        dataclasses.replace(SPEC, fps=5.0),
        dataclasses.replace(SPEC, frame_size=(48, 32)),
        dataclasses.replace(SPEC, frames="opencv"),
        dataclasses.replace(SPEC, crop_bars=False),
        *(
            dataclasses.replace(
                SPEC,
                mfcc=dataclasses.replace(
                    SPEC.mfcc, **{field.name: getattr(SPEC.mfcc, field.name) + 1}
                ),
            )
            for field in dataclasses.fields(MfccSpec)
        ),
    ]
    assert len(changed) == len(dataclasses.fields(FeatureSpec)) - 1 + len(
        dataclasses.fields(MfccSpec)
    )
    assert len({spec.id for spec in [SPEC, *changed]}) == 1 + len(changed)
    assert FeatureSpec(4.0, (32, 48), "fast", True, MfccSpec()).id == SPEC.id


def test_spec_comes_back_out_of_json_the_same():
    spec = FeatureSpec.from_dict(json.loads(json.dumps(SPEC.to_dict())))
    assert spec == SPEC
    assert spec.id == SPEC.id


def test_spec_of_another_version_is_refused():
    values = SPEC.to_dict()
    with pytest.raises(TypeError):
        FeatureSpec.from_dict(values | {"mfcc": values["mfcc"] | {"f_min": 20}})
    with pytest.raises(KeyError):
        FeatureSpec.from_dict({"fps": 4.0})


@pytest.mark.parametrize("fps", [1.0, 4.0, 6.0, 29.97])
def test_spans_side_by_side_share_no_row_and_skip_none(fps):
    spec = dataclasses.replace(SPEC, fps=fps)
    random = np.random.default_rng(0)
    for _ in range(50):
        cuts = np.sort(random.uniform(0, 100, 5))
        # Cuts on the grid are the ones that rounding could give to both sides or to none.
        cuts = np.concatenate([cuts, np.round(cuts * fps) / fps, np.round(cuts)])
        cuts = [0.0, *np.sort(cuts), 100.0]
        for span, rate in ((spec.frame_span, fps), (spec.mfcc_span, spec.mfcc.frames_per_second)):
            rows = [span(a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
            assert all(a.stop == b.start for a, b in zip(rows, rows[1:], strict=False))
            assert (rows[0].start, rows[-1].stop) == (0, math.ceil(100 * rate - 1e-6))


def test_span_is_half_open():
    assert SPEC.frame_span(1.0, 2.0) == slice(4, 8)
    assert SPEC.frame_span(1.01, 2.01) == slice(5, 9)
    assert SPEC.mfcc_span(0.0, 1.024) == slice(0, 32)


def test_float_noise_moves_no_row():
    assert SPEC.frame_span(0.1 + 0.2 + 0.7, 3 * 1.1 - 0.3) == slice(4, 12)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "a.mp4"
    return media.write_video(path, seconds=3.0, fps=12, draw=media.draw_texture)


def test_picture_comes_in_blocks_of_the_grid(video, monkeypatch):
    whole = np.concatenate(list(read_picture(video, SPEC)))
    assert (whole.shape, whole.dtype) == ((12, 32, 48, 3), np.uint8)
    monkeypatch.setattr(features, "BLOCK_FRAMES", 5)
    blocks = list(read_picture(video, SPEC))
    assert [len(block) for block in blocks] == [5, 5, 2]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_sound_is_as_long_as_the_picture(video):
    for num_frames in (8, 12, 16):
        mfcc = read_sound(video, SPEC, num_frames)
        assert mfcc.shape == (math.ceil(num_frames / 4 * 31.25), 20)
        assert mfcc.dtype == np.float16


def test_recording_without_sound_has_no_mfcc(tmp_path):
    path = media.write_video(tmp_path / "a.mp4", seconds=1.0, fps=12, tone_hz=None)
    assert read_sound(path, SPEC, 4) is None


def test_bars_are_cut_where_the_recipe_says_so(tmp_path):
    path = media.write_video(
        tmp_path / "a.mp4",
        size=(120, 160),
        fps=12,
        draw=media.with_bars(media.draw_texture, top=20, bottom=20),
        tone_hz=None,
    )
    kept = dataclasses.replace(SPEC, crop_bars=False)
    assert next(read_picture(path, kept))[:, 0].mean() < 30  # the bar
    assert next(read_picture(path, SPEC))[:, 0].mean() > 60
    assert find_crop(path, kept) is None
    crop = find_crop(path, SPEC)
    assert crop.bottom - crop.top == pytest.approx(80, abs=4)
    np.testing.assert_array_equal(
        next(read_cropped(path, SPEC, crop)), next(read_picture(path, SPEC))
    )


@pytest.mark.parametrize(("num_frames", "fps"), [(3, 4.0), (0, 4.0), (1, 1.0), (5, 6.0)])
def test_recording_shorter_than_a_second_or_two_frames_is_refused(num_frames, fps):
    with pytest.raises(MediaError, match=f"{num_frames} frames.*at least 1 s"):
        check_length(num_frames, dataclasses.replace(SPEC, fps=fps))


@pytest.mark.parametrize(("num_frames", "fps"), [(4, 4.0), (2, 1.0), (6, 6.0)])
def test_recording_of_a_second_and_two_frames_is_taken(num_frames, fps):
    check_length(num_frames, dataclasses.replace(SPEC, fps=fps))
