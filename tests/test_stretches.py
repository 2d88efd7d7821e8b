"""Stretches hold every picture and the sound of their spans, wherever the file has them."""

import numpy as np
import pytest

from tests import media
from utils.media import MediaError
from utils.stretches import read_stretches

RATE = 16_000
SPANS = [(0.0, 1.0), (2.5, 4.5), (3.5, 5.0), (7.0, 8.0)]
SECONDS = 8.0


def stretches_of(path, spans=SPANS, **options):
    options = {"sample_rate": RATE, "recording_seconds": SECONDS, **options}
    return list(read_stretches(path, spans, (36, 64), **options))


def assert_every_picture(stretches, spans, times, *, drawn_within=0.002):
    for (start, end), stretch in zip(spans, stretches, strict=True):
        expected = [t for t in times if start - 0.001 <= t < end - 0.001]
        np.testing.assert_allclose(stretch.times, expected, atol=0.002)
        shown = [media.read_time(picture) for picture in stretch.pictures]
        np.testing.assert_allclose(shown, expected, atol=drawn_within)


FILES = {
    "a.mp4": {"options": {"g": "50", "bf": "3", "preset": "veryfast"}},
    "a.mkv": {"options": {"g": "250"}, "start_seconds": 7.3},
    "a.ts": {"options": {"g": "25", "bf": "2"}, "start_seconds": 95_440.0},  # wraps at 95,443.7
    "open.ts": {"options": {"x264-params": "keyint=20:open-gop=1:scenecut=0:bframes=3"}},
    "a.avi": {"codec": "mpeg4"},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}},
    "a.webm": {"codec": "libvpx"},
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("has_jumps", [False, True])
def test_every_picture_of_the_spans_has_its_time(tmp_path, name, has_jumps):
    tone = None if name.endswith(".webm") else 440.0
    path = media.write_video(tmp_path / name, seconds=SECONDS, tone_hz=tone, **FILES[name])
    times, drawn_within = [k / 25 for k in range(200)], 0.002
    if name == "a.avi":  # its writer puts the second picture, and all behind, one place later
        times.remove(0.04)
        drawn_within = 0.041
    found = stretches_of(path, has_jumps=has_jumps)
    assert_every_picture(found, SPANS, times, drawn_within=drawn_within)


def test_every_picture_of_a_variable_frame_rate_has_its_time(tmp_path):
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.choice([0.02, 0.04, 0.1, 0.3], 80))
    times = (times - times[0]).round(3).tolist()
    path = media.write_video(tmp_path / "a.mp4", times=times, tone_hz=None)
    spans = [(0.5, 2.0), (4.0, 6.0)]
    found = stretches_of(path, spans, recording_seconds=times[-1] + 0.04)
    assert_every_picture(found, spans, times)


PITCHES = [200, 300, 450, 650, 900, 1200, 1600, 2100]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_sound_is_that_of_the_span(tmp_path, name):
    path = media.write_video(
        tmp_path / name, seconds=SECONDS, tone_hz=PITCHES, start_seconds=2.0, options={"g": "50"}
    )
    spans = [(second + 0.2, second + 0.8) for second in range(8)]
    for stretch, hertz in zip(stretches_of(path, spans), PITCHES, strict=True):
        assert len(stretch.sound) == 0.6 * RATE
        assert media.pitch_of(stretch.sound, RATE) == pytest.approx(hertz, rel=0.02)


def test_sound_changes_at_its_time(tmp_path):
    path = media.write_video(tmp_path / "a.mp4", seconds=SECONDS, tone_hz=[0, 440] * 4)
    (stretch,) = stretches_of(path, [(2.5, 3.5)])
    loud = np.abs(stretch.sound) > 0.1
    assert 2.5 + np.argmax(loud) / RATE == pytest.approx(3.0, abs=0.03)


def test_sound_file_beside_the_video_is_heard_even_where_the_video_jumps(tmp_path):
    path = media.write_video(tmp_path / "a.mp4", seconds=SECONDS)
    media.write_wav(tmp_path / "a.wav", media.tone(PITCHES, SECONDS, RATE), RATE)
    for has_jumps in (False, True):
        (stretch,) = stretches_of(path, [(5.2, 5.8)], has_jumps=has_jumps)
        assert media.pitch_of(stretch.sound, RATE) == pytest.approx(1200, rel=0.02)


def test_no_sound_is_none_and_an_ended_track_is_silence(tmp_path):
    silent = media.write_video(tmp_path / "a.mp4", seconds=SECONDS, tone_hz=None)
    assert [stretch.sound for stretch in stretches_of(silent)] == [None] * len(SPANS)
    ended = media.write_video(tmp_path / "b.mp4", seconds=SECONDS, audio_seconds=3.0)
    (stretch,) = stretches_of(ended, [(2.5, 4.5)])
    assert np.abs(stretch.sound[: RATE // 4]).max() > 0.1
    assert not stretch.sound[RATE:].any()


def joined(folder, *parts):
    """A transport stream of several, one after another, as a recorder leaves them."""
    path = folder / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("start", [500.0, 20.0])
def test_times_go_on_behind_a_jump_of_the_timestamps(tmp_path, start):
    def later(seconds, height, width):
        return media.draw_time(seconds + 4.0, height, width)

    options = {"seconds": 4.0, "options": {"g": "25", "bf": "2"}}
    first = media.write_video(tmp_path / "1.ts", start_seconds=100.0, **options)
    second = media.write_video(tmp_path / "2.ts", start_seconds=start, draw=later, **options)
    path = joined(tmp_path, first, second)
    spans = [(1.0, 2.0), (3.5, 4.5), (6.0, 7.0)]
    times = np.arange(200) / 25
    for stretch, (start, end) in zip(stretches_of(path, spans), spans, strict=True):
        expected = times[(times > start - 0.001) & (times < end - 0.001)]
        shown = [media.read_time(picture) for picture in stretch.pictures]
        # At the seam a picture or two may be lost; those that are there have their time.
        assert set(np.round(shown, 2)) >= set(np.round(expected[3:-3], 2)) - {4.0, 4.04, 4.08}
        np.testing.assert_allclose(stretch.times, shown, atol=0.1)


def test_damage_leaves_out_pictures_and_moves_none(tmp_path):
    path = media.write_video(
        tmp_path / "a.ts", seconds=SECONDS, size=(144, 256), options={"g": "12"}
    )
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(data)
    stretches = stretches_of(path)
    assert all(
        len(stretch.times) > 0.4 * 25 * (b - a)
        for stretch, (a, b) in zip(stretches, SPANS, strict=True)
    )
    for stretch in stretches:
        assert (np.diff(stretch.times) > 0).all()


def test_what_is_behind_the_end_is_empty(tmp_path):
    path = media.write_video(tmp_path / "a.mp4", seconds=2.0)
    (stretch,) = stretches_of(path, [(5.0, 6.0)], recording_seconds=2.0)
    assert len(stretch.times) == 0
    assert stretch.pictures.shape == (0, 36, 64, 3)


def test_file_without_pictures_is_refused(tmp_path):
    path = media.write_wav(tmp_path / "a.wav", media.tone(440, 1, RATE), RATE)
    with pytest.raises(MediaError, match="no video stream"):
        stretches_of(path)
