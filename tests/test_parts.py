"""Parts of a recording, decoded apart, are the recording; what can't be cut is not."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests import media
from utils import parts
from utils.features import FeatureSpec, read_features
from utils.media import WHOLE, MediaError, Part, SplitError
from utils.mfcc import MfccSpec
from utils.parts import split_recording

SPEC = FeatureSpec(5.0, (32, 48), "fast", False, MfccSpec())
SECONDS = 9.0
OPEN_GROUPS = {
    "preset": "veryfast",
    "x264-params": "keyint=20:open-gop=1:bframes=3:b-pyramid=normal:b-adapt=0",
}


@pytest.fixture(autouse=True)
def short_parts(monkeypatch):
    monkeypatch.setattr(parts, "MIN_SPLIT_SECONDS", 6.0)
    monkeypatch.setattr(parts, "PART_SECONDS", 3.0)


def write(path: Path, **options) -> Path:
    defaults = {
        "seconds": SECONDS,
        "tone_hz": [300, 900, 500, 1300, 400, 1000, 600, 1500, 700],
        "options": OPEN_GROUPS,
    }
    return media.write_video(path, **(defaults | options))


def read(path: Path, spec: FeatureSpec, part: Part) -> tuple[np.ndarray, np.ndarray]:
    blocks = list(read_features(path, spec, part))
    rows = [block.mfcc for block in blocks if block.mfcc is not None]
    frames = np.concatenate([block.frames for block in blocks])
    return frames, np.concatenate(rows) if rows else np.zeros((0, 20))


def assert_parts_are_the_whole(path: Path, spec: FeatureSpec = SPEC) -> list[Part]:
    found = split_recording(path, spec)
    assert len(found) > 1
    pieces = [read(path, spec, part) for part in found]
    frames, mfcc = read(path, spec, WHOLE)
    assert all(len(piece) >= 5 for piece, _ in pieces)
    np.testing.assert_array_equal(np.concatenate([piece for piece, _ in pieces]), frames)
    joined = np.concatenate([rows for _, rows in pieces])
    assert joined.shape == mfcc.shape
    # The same sound, but that its first sample is rounded to 1 / 16000 s, in Matroska to 1 ms.
    assert len(mfcc) == 0 or np.abs(joined.astype(float) - mfcc).mean() < 0.3
    return found


@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_parts_are_the_whole_with_open_groups_and_b_frames(tmp_path, name, mode):
    path = write(tmp_path / name, start_seconds=3.3)
    assert_parts_are_the_whole(path, dataclasses.replace(SPEC, frames=mode))


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        (
            "a.mkv",
            "libx265",
            {"preset": "ultrafast", "x265-params": "keyint=20:open-gop=1:bframes=3:log-level=none"},
        ),
        ("a.ts", "mpeg2video", {"g": "12", "bf": "2"}),
    ],
)
def test_parts_are_the_whole_in_other_codecs(tmp_path, name, codec, options):
    assert_parts_are_the_whole(write(tmp_path / name, codec=codec, options=options, tone_hz=None))


def test_parts_hear_a_sound_file_of_their_time(tmp_path):
    path = write(tmp_path / "a.mp4", tone_hz=None)
    media.write_wav(tmp_path / "a.wav", media.tone([300, 1100, 500, 800], SECONDS, 16000), 16000)
    assert_parts_are_the_whole(path)


def test_parts_of_variable_frame_rate_are_the_whole(tmp_path):
    random = np.random.default_rng(0)
    times = np.cumsum(random.choice([0.02, 0.04, 0.1, 0.5], 150))
    times = [float(time) for time in times[times < SECONDS]]
    assert_parts_are_the_whole(
        write(tmp_path / "a.mp4", times=times, options={"g": "8", "bf": "2"})
    )


def test_parts_share_one_crop(tmp_path):
    bars = media.with_bars(media.draw_texture, top=12, bottom=12)
    path = write(tmp_path / "a.mp4", draw=bars)
    found = assert_parts_are_the_whole(path, dataclasses.replace(SPEC, crop_bars=True))
    assert len({part.crop for part in found}) == 1
    assert found[0].crop.top >= 12


def test_parts_travel_to_another_process(tmp_path):
    found = split_recording(write(tmp_path / "a.mp4"), SPEC)
    assert pickle.loads(pickle.dumps(found)) == found
    assert [part.index for part in found] == [0, 1, 2]
    assert {part.count for part in found} == {3}


def test_short_recordings_and_those_not_to_be_cut_stay_whole(tmp_path, monkeypatch):
    assert split_recording(write(tmp_path / "short.mp4", seconds=5.0), SPEC) == [WHOLE]
    long = write(tmp_path / "a.mp4")
    for mode in ("keyframes", "opencv"):
        assert split_recording(long, dataclasses.replace(SPEC, frames=mode)) == [WHOLE]
    avi = write(tmp_path / "a.avi", codec="mpeg4", options={"g": "12"})
    assert split_recording(avi, SPEC) == [WHOLE]
    one_key = write(tmp_path / "one.mp4", options={"g": "1000", "sc_threshold": "0"})
    assert split_recording(one_key, SPEC) == [WHOLE]


def test_timestamps_that_jump_or_come_twice_are_no_parts(tmp_path):
    first = write(tmp_path / "1.ts", seconds=4.5)
    for start in (900.0, 0.0):
        second = write(tmp_path / "2.ts", seconds=4.5, start_seconds=start)
        both = tmp_path / "both.ts"
        both.write_bytes(first.read_bytes() + second.read_bytes())
        found = split_recording(both, SPEC)
        if len(found) > 1:
            with pytest.raises(SplitError):
                [read(both, SPEC, part) for part in found]
        assert len(read(both, SPEC, WHOLE)[0]) == pytest.approx(45, abs=1)


def test_keys_that_are_none_are_no_parts(tmp_path):
    """Streams that refresh the picture bit by bit flag packets that don't decode on their own."""
    options = {"preset": "veryfast", "x264-params": "keyint=30:intra-refresh=1:bframes=0"}
    path = write(tmp_path / "a.ts", options=options, draw=media.draw_texture)
    found = split_recording(path, SPEC)
    assert len(found) == 3
    with pytest.raises(SplitError):
        [read(path, SPEC, part) for part in found]


def test_file_that_changed_is_no_longer_the_parts(tmp_path):
    path = write(tmp_path / "a.ts")
    found = split_recording(path, SPEC)
    write(path, options={"g": "17", "preset": "veryfast"})
    with pytest.raises(SplitError):
        [read(path, SPEC, part) for part in found]


def test_file_that_is_no_video_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(MediaError, match="not a video file"):
        split_recording(tmp_path / "a.mp4", SPEC)
