"""Streams are chosen as players do, damage is skipped, and a clock never goes back."""

import numpy as np
import pytest

from tests import media
from utils.media import (
    MAX_FILE_GAP_SECONDS,
    Clock,
    MediaError,
    Part,
    SplitError,
    audio_stream,
    duration_seconds,
    opened,
    packets,
    video_stream,
)


def clock_of(folder, name: str, part: Part | None = None) -> Clock:
    path = media.write_video(folder / name, seconds=0.4, tone_hz=None)
    with opened(path) as container:
        return Clock(video_stream(container), *([part] if part else []))


def test_time_zero_is_the_first_picture_and_unknown_times_go_on(tmp_path):
    clock = clock_of(tmp_path, "a.mp4")
    found = [clock(raw) for raw in (5.0, 5.04, None, 5.12)]
    np.testing.assert_allclose(found, [0, 0.04, 0.08, 0.12])


def test_times_always_grow(tmp_path):
    clock = clock_of(tmp_path, "a.ts")
    raw = np.random.default_rng(0).uniform(0, 1000, 300)
    found = [clock(float(seconds)) for seconds in raw]
    assert (np.diff(found) > 0).all()


@pytest.mark.parametrize(("name", "pause", "jump"), [("a.ts", 9.0, 11.0), ("a.mp4", 9.0, 11.0)])
def test_pause_is_kept_and_a_jump_is_a_new_time_base(tmp_path, name, pause, jump):
    clock = clock_of(tmp_path, name)
    times = np.cumsum([100.0, 0.04, pause, jump, 0.04, -50.0, 0.04])
    found = [clock(float(seconds)) for seconds in times]
    np.testing.assert_allclose(np.diff(found), [0.04, pause, 0.04, 0.04, 0.04, 0.04])


def test_picture_of_a_long_file_may_stand_for_long(tmp_path):
    times = [0, 0.04, 1800.0, 1800.04]
    path = media.write_video(tmp_path / "a.mp4", times=times, tone_hz=None, options={"bf": "0"})
    with opened(path) as container:
        clock = Clock(video_stream(container))
    np.testing.assert_allclose([clock(time) for time in times], times)
    assert clock(1900.0 + MAX_FILE_GAP_SECONDS) == pytest.approx(1800.04 + clock.frame_seconds)


def test_jump_inside_a_part_is_refused(tmp_path):
    clock = clock_of(tmp_path, "a.ts", Part(1, 2, None, None, 100.0))
    assert clock(700.0) == 600.0
    with pytest.raises(SplitError):
        clock(900.0)


def test_packets_come_over_damage_and_end_with_none(tmp_path):
    path = media.write_video(tmp_path / "a.ts", tone_hz=None, options={"g": "5", "bf": "0"})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3] + bytes(2000) + whole[len(whole) // 2 :])
    with opened(path) as container:
        found = list(packets(container, video_stream(container)))
    assert found[-1] is None
    assert None not in found[:-1]
    assert 20 < len(found) < 51


def test_streams_and_length(tmp_path):
    path = media.write_video(tmp_path / "a.mkv", start_seconds=5.0)
    with opened(path) as container:
        assert video_stream(container).type == "video"
        assert audio_stream(container).type == "audio"
        assert duration_seconds(container, video_stream(container)) == pytest.approx(2, abs=0.1)
    silent = media.write_video(tmp_path / "b.mkv", tone_hz=None)
    with opened(silent) as container:
        assert audio_stream(container) is None


def test_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(MediaError, match="no such file"), opened(tmp_path / "a.mp4"):
        pass
