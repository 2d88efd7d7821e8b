"""Loudness is that of the recording's sound, on the time of its pictures."""

import numpy as np
import pytest

from tests.media import tone, write_video, write_wav
from utils.loudness import FLOOR_DECIBELS, HOP_SECONDS, read_loudness
from utils.media import MediaError

SINE = -9  # decibels of a sine of amplitude 1/2


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.mkv"])
def test_a_tone_is_as_loud_as_it_is_where_it_is(tmp_path, name):
    path = write_video(
        tmp_path / name, seconds=6, audio_delay_seconds=2, audio_seconds=2, start_seconds=3
    )
    levels = read_loudness(path)
    assert levels[:7] == [FLOOR_DECIBELS] * 7
    assert levels[9:15] == [SINE] * 6
    assert len(levels) == pytest.approx(4 / HOP_SECONDS, abs=1)


def test_it_is_the_loudness_of_all_channels(tmp_path):
    path = write_video(tmp_path / "a.mp4", seconds=2, channels=2)
    assert read_loudness(path)[2:6] == [SINE] * 4


def test_a_sound_file_beside_the_recording_counts(tmp_path):
    path = write_video(tmp_path / "a.mp4", seconds=3)
    write_wav(tmp_path / "a.wav", tone(440, 3, 8000) / 10, 8000)
    assert read_loudness(path)[2:10] == [SINE - 20] * 8


def test_a_recording_without_sound_has_no_loudness(tmp_path):
    assert read_loudness(write_video(tmp_path / "a.mp4", tone_hz=None)) == []


def test_silence_and_full_scale_are_the_ends(tmp_path):
    path = write_video(tmp_path / "a.mp4", seconds=4, tone_hz=None)
    loud = np.sign(tone(50, 2, 16_000))
    write_wav(tmp_path / "a.wav", np.concatenate([loud, np.zeros(32_000)]), 16_000)
    levels = read_loudness(path)
    assert levels[1:7] == [0] * 6
    assert levels[9:] == [FLOOR_DECIBELS] * 7


def test_a_damaged_recording_keeps_its_time(tmp_path):
    path = write_video(tmp_path / "a.ts", seconds=8, options={"g": "12"})
    data = bytearray(path.read_bytes())
    start = len(data) * 3 // 8 // 188 * 188
    data[start : start + 188 * 40] = np.random.default_rng(0).bytes(188 * 40)
    path.write_bytes(data)
    levels = read_loudness(path)
    assert len(levels) == pytest.approx(8 / HOP_SECONDS, abs=2)
    assert levels[:8] == [SINE] * 8
    (tmp_path / "b.ts").write_bytes(b"no video")
    with pytest.raises(MediaError):
        read_loudness(tmp_path / "b.ts")


def test_progress_is_told_in_seconds(tmp_path):
    path = write_video(tmp_path / "a.mp4", seconds=1, tone_hz=None)
    write_wav(tmp_path / "a.wav", tone(440, 65, 8000), 8000)
    told = []
    read_loudness(path, told.append)
    assert [round(seconds, -1) for seconds in told] == [20, 40, 60]
