"""Features are cut on one grid of time, and a recipe has one name."""

import dataclasses
import json
import math

import numpy as np
import pytest

from tests import media
from utils import features, interleaved
from utils.audio import compute_mfcc
from utils.features import FeatureBlock, FeatureSpec, check_length, read_features
from utils.media import WHOLE, Crop, MediaError, packets
from utils.mfcc import MfccSpec
from utils.video import FRAME_MODES, read_frames

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


def read(path, spec=SPEC, part=WHOLE) -> tuple[np.ndarray, np.ndarray | None, FeatureBlock]:
    """Frames, rows of MFCC if there are any, and the last block."""
    blocks = list(read_features(path, spec, part))
    rows = [block.mfcc for block in blocks if block.mfcc is not None]
    heard = any(block.heard for block in blocks)
    frames = np.concatenate([block.frames for block in blocks])
    return frames, np.concatenate(rows) if heard else None, blocks[-1]


@pytest.mark.parametrize("mode", FRAME_MODES)
def test_frames_are_those_of_the_grid_and_sound_is_as_long(video, mode):
    spec = dataclasses.replace(SPEC, frames=mode)
    frames, mfcc, _ = read(video, spec)
    expected = list(read_frames(video, 4.0, (32, 48), mode=mode))
    np.testing.assert_array_equal(frames, expected)
    assert (frames.shape, frames.dtype) == ((12, 32, 48, 3), np.uint8)
    assert mfcc.dtype == np.float16
    np.testing.assert_array_equal(mfcc, compute_mfcc(video, MfccSpec(), 3.0))


def test_features_come_in_blocks(video, monkeypatch):
    frames, mfcc, _ = read(video)
    monkeypatch.setattr(features, "BLOCK_BYTES", 5 * 32 * 48 * 3)
    blocks = list(read_features(video, SPEC))
    assert [len(block.frames) for block in blocks] == [5, 5, 2, 0]
    np.testing.assert_array_equal(np.concatenate([block.frames for block in blocks]), frames)
    np.testing.assert_array_equal(np.concatenate([block.mfcc for block in blocks]), mfcc)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize(("delay", "lasts"), [(0.0, 1.0), (0.0, 6.0), (1.5, 1.0), (3.5, 2.0)])
def test_sound_of_another_span_than_the_picture_is_cut_or_silent(tmp_path, name, delay, lasts):
    path = media.write_video(
        tmp_path / name, seconds=3, fps=12, audio_delay_seconds=delay, audio_seconds=lasts
    )
    frames, mfcc, _ = read(path)
    assert len(frames) == 12
    assert mfcc.shape == (94, 20)
    loud = np.flatnonzero(mfcc[:, 0] > -500) / 31.25  # silence: -100 dB in 32 bands is -566
    if delay < 3:
        assert loud[0] == pytest.approx(delay, abs=0.06)
        assert loud[-1] == pytest.approx(min(3.0, delay + lasts), abs=0.06)


def test_recording_without_sound_has_no_mfcc(tmp_path):
    path = media.write_video(tmp_path / "a.mp4", seconds=1.0, fps=12, tone_hz=None)
    _, mfcc, block = read(path)
    assert mfcc is None
    assert (block.mfcc, block.heard) == (None, False)


def test_sound_track_without_sound_is_not_heard(tmp_path):
    path = media.write_video(tmp_path / "a.mkv", seconds=2, fps=12, audio_seconds=0)
    *_, block = read_features(path, SPEC)
    assert not block.heard


@pytest.mark.parametrize("mode", ["fast", "opencv"])
def test_sound_file_is_heard_instead_of_the_track_unless_it_is_unreadable(tmp_path, mode):
    path = media.write_video(tmp_path / "a.mp4", seconds=2, fps=12, tone_hz=500)
    spec = dataclasses.replace(SPEC, frames=mode)
    own = read(path, spec)[1]
    wav = media.write_wav(tmp_path / "a.wav", media.tone(2000, 1, 16000), 16000)
    other = read(path, spec)[1]
    np.testing.assert_array_equal(other, compute_mfcc(wav, MfccSpec(), 2.0))
    assert np.abs(other - own).max() > 20
    wav.write_bytes(b"no sound")
    np.testing.assert_array_equal(read(path, spec)[1], own)


def test_sound_that_lies_before_all_pictures_in_the_file_waits_for_them(tmp_path, monkeypatch):
    path = media.write_video(tmp_path / "a.mkv", seconds=3, fps=12, tone_hz=700)
    frames, mfcc, _ = read(path)
    for limit in (0, 1 << 20):
        monkeypatch.setattr(interleaved, "MAX_EARLY_BYTES", limit)
        monkeypatch.setattr(interleaved, "packets", sound_first)
        again = read(path)
        np.testing.assert_array_equal(again[0], frames)
        np.testing.assert_array_equal(again[1], mfcc)


def sound_first(container, *streams):
    every = [packet for packet in packets(container, *streams) if packet is not None]
    return iter([*sorted(every, key=lambda packet: packet.stream.type), None])


def test_bars_are_cut_where_the_recipe_says_so(tmp_path):
    path = media.write_video(
        tmp_path / "a.mp4",
        size=(120, 160),
        fps=12,
        draw=media.with_bars(media.draw_texture, top=20, bottom=20),
        tone_hz=None,
    )
    kept = dataclasses.replace(SPEC, crop_bars=False)
    assert read(path, kept)[0][0][0].mean() < 30  # the bar
    assert read(path, kept)[2].aspect_ratio == pytest.approx(160 / 120)
    for mode in FRAME_MODES:
        frames, _, block = read(path, dataclasses.replace(SPEC, frames=mode))
        assert frames[:, 0].mean() > 60
        assert block.aspect_ratio == pytest.approx(160 / 80, rel=0.05)


def test_pictures_are_decoded_once_and_few_are_held_to_find_bars(tmp_path, monkeypatch):
    bars = media.with_bars(media.draw_texture, top=20, bottom=20)
    path = media.write_video(tmp_path / "a.mp4", size=(120, 160), draw=bars, tone_hz=None)
    crop = features.find_bars(path)
    cropped = list(read_frames(path, 4.0, (32, 48), crop=crop))
    searches = []
    monkeypatch.setattr(features, "find_bars", lambda path: searches.append(path) or crop)
    np.testing.assert_array_equal(read(path)[0], cropped)
    assert searches == []
    monkeypatch.setattr(features, "HELD_BYTES", 3 * 120 * 160)
    np.testing.assert_array_equal(read(path)[0], cropped)
    assert searches == [path]
    plain = media.write_video(tmp_path / "b.mp4", draw=media.draw_texture, tone_hz=None)
    assert len(read(plain)[0]) == 8
    assert searches == [path]


def test_bars_that_come_and_go_are_cut_stretch_by_stretch(tmp_path):
    upright = media.with_bars(media.draw_texture, left=50, right=50)
    wide = media.with_bars(media.draw_texture, top=20, bottom=20)
    draws = [media.draw_texture] * 6 + [upright] * 8 + [media.draw_texture] * 2 + [wide] * 5

    def draw(seconds, height, width):
        return draws[int(seconds)](seconds, height, width)

    path = media.write_video(
        tmp_path / "a.mp4", size=(120, 160), seconds=21, fps=4, draw=draw, options={"crf": "12"}
    )
    blocks = list(read_features(path, SPEC, bars_by_stretch=True))
    frames = np.concatenate([block.frames for block in blocks])
    crops = {
        media.draw_texture: None,
        upright: Crop(0, 120, 50, 110),
        wide: Crop(20, 100, 0, 160),
    }
    as_drawn = {key: list(read_frames(path, 4, (32, 48), crop=crop)) for key, crop in crops.items()}
    assert len(frames) == 4 * len(draws)
    for k, frame in enumerate(frames):
        # Within a column or two: the first ones are the compression's mix of bar and picture.
        difference = np.abs(frame.astype(int) - as_drawn[draws[k // 4]][k])
        assert difference.mean() < 6, k / 4
    kept, mfcc, _ = read(path)
    assert kept[30][:, :4].mean() < 30  # of a file that is not all between bars none are cut
    np.testing.assert_array_equal(np.concatenate([block.mfcc for block in blocks]), mfcc)
    assert {block.aspect_ratio for block in blocks} == {160 / 120}


@pytest.mark.parametrize(("num_frames", "fps"), [(3, 4.0), (0, 4.0), (1, 1.0), (5, 6.0)])
def test_recording_shorter_than_a_second_or_two_frames_is_refused(num_frames, fps):
    with pytest.raises(MediaError, match=f"{num_frames} frames.*at least 1 s"):
        check_length(num_frames, dataclasses.replace(SPEC, fps=fps))


@pytest.mark.parametrize(("num_frames", "fps"), [(4, 4.0), (2, 1.0), (6, 6.0)])
def test_recording_of_a_second_and_two_frames_is_taken(num_frames, fps):
    check_length(num_frames, dataclasses.replace(SPEC, fps=fps))
