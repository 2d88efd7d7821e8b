"""Sound is at its true time after the first picture, and its MFCC are librosa's."""

from pathlib import Path

import av
import librosa
import numpy as np
import pytest

from tests import media
from utils.audio import compute_mfcc, find_audio, read_audio
from utils.media import MediaError
from utils.mfcc import MfccSpec

RATE = 16000
SPEC = MfccSpec()
SCALE = [300, 400, 500, 600, 700, 800]


def read(path: Path, **options) -> np.ndarray:
    return np.concatenate(list(read_audio(path, RATE, **options)))


def pitch_at(samples: np.ndarray, seconds: float) -> float:
    """The pitch heard in the 0.6 s around the middle of the second that begins at `seconds`."""
    first = round((seconds + 0.2) * RATE)
    return media.pitch_of(samples[first : first + round(0.6 * RATE)], RATE)


def onset_seconds(samples: np.ndarray) -> float:
    return int(np.argmax(np.abs(samples) > 0.1)) / RATE


def whole_mfcc(samples: np.ndarray, spec: MfccSpec) -> np.ndarray:
    """The MFCC of a recording held in memory, by librosa alone."""
    power = librosa.feature.melspectrogram(
        y=samples,
        sr=spec.sample_rate,
        n_fft=spec.n_fft,
        hop_length=spec.hop_length,
        n_mels=spec.n_mels,
    )
    return librosa.feature.mfcc(S=librosa.power_to_db(power, top_db=None), n_mfcc=spec.n_mfcc).T


def speech_like(seconds: float) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(round(seconds * RATE))
    loudness = 0.1 * (1.2 + np.sin(np.arange(len(noise)) / 3000))
    return (np.cumsum(noise) / 300 % 1 * loudness + 0.01 * noise).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 12])
def test_any_number_of_channels_is_averaged(tmp_path, channels):
    sound = np.zeros((channels, RATE))
    sound[0] = media.tone(400, 1, RATE)
    samples = read(media.write_wav(tmp_path / "a.wav", sound, RATE))
    np.testing.assert_allclose(samples, sound[0] / channels, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_each_second_sounds_as_it_was_made(tmp_path, name, channels):
    path = media.write_video(
        tmp_path / name, seconds=3, tone_hz=SCALE, channels=channels, start_seconds=4.2
    )
    samples = read(find_audio(path))
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(3 * RATE, abs=0.05 * RATE)
    assert 0.4 < np.abs(samples).max() <= 1
    for second in range(3):
        assert pitch_at(samples, second) == pytest.approx(SCALE[second], abs=5)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_late_sound_comes_after_silence(tmp_path, name):
    path = media.write_video(
        tmp_path / name, seconds=3, tone_hz=SCALE, audio_delay_seconds=1.25, start_seconds=2
    )
    samples = read(path)
    assert onset_seconds(samples) == pytest.approx(1.25, abs=0.03)
    assert pitch_at(samples, 1.25) == pytest.approx(SCALE[0], abs=5)


def test_early_sound_is_trimmed_to_the_first_picture(tmp_path):
    path = media.write_video(
        tmp_path / "a.mkv", seconds=2, tone_hz=SCALE, audio_delay_seconds=-1.0, start_seconds=5
    )
    samples = read(path)
    assert len(samples) == pytest.approx(2 * RATE, abs=0.05 * RATE)
    assert pitch_at(samples, 0) == pytest.approx(SCALE[1], abs=5)


def write_pcm(path: Path, runs: list[tuple[float, np.ndarray]]) -> Path:
    """Writes sound alone, each run of samples at its second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for seconds, samples in runs:
            frame = av.AudioFrame.from_ndarray(
                (samples * 32767).astype(np.int16)[None], format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts = RATE, round(seconds * RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_holes_are_silence_and_overlaps_are_cut(tmp_path):
    runs = [(0.0, media.tone(300, 1, RATE)), (2.0, media.tone(500, 1, RATE))]
    holed = read(write_pcm(tmp_path / "holed.mka", runs))
    assert len(holed) == 3 * RATE
    assert np.abs(holed[RATE : 2 * RATE]).max() == 0
    assert pitch_at(holed, 2) == pytest.approx(500, abs=5)
    runs = [(0.0, media.tone(300, 2, RATE)), (1.5, media.tone(500, 2, RATE))]
    overlapping = read(write_pcm(tmp_path / "overlapping.mka", runs))
    assert len(overlapping) == round(3.5 * RATE)
    assert pitch_at(overlapping, 1) == pytest.approx(300, abs=5)
    assert pitch_at(overlapping, 2.5) == pytest.approx(500, abs=5)


def test_time_zero_of_a_sound_file_is_its_first_sample_or_another_files_first_picture(tmp_path):
    sound = write_pcm(tmp_path / "a.mka", [(5.0, media.tone(SCALE, 3, RATE))])
    video = media.write_video(tmp_path / "a.mkv", start_seconds=6.0, tone_hz=None)
    assert pitch_at(read(sound), 0) == pytest.approx(SCALE[0], abs=5)
    assert pitch_at(read(sound, video_path=video), 0) == pytest.approx(SCALE[1], abs=5)


def test_sound_goes_on_after_damage(tmp_path):
    whole = media.write_video(tmp_path / "a.ts", seconds=6, tone_hz=SCALE)
    stream = bytearray(whole.read_bytes())
    packets = len(stream) // 188
    noise = np.random.default_rng(0)
    for packet in range(188 * (packets // 3), 188 * (packets // 2), 188):
        stream[packet + 20 : packet + 180] = noise.bytes(160)
    path = tmp_path / "damaged.ts"
    path.write_bytes(stream)
    samples = read(path)
    for second in (0, 1, 4, 5):
        assert pitch_at(samples, second) == pytest.approx(SCALE[second], abs=5)


def test_spliced_streams_may_change_their_channels(tmp_path):
    first = media.write_video(tmp_path / "1.ts", tone_hz=SCALE[:2], channels=2)
    second = media.write_video(
        tmp_path / "2.ts", tone_hz=SCALE[2:4], channels=6, sample_rate=44100, start_seconds=900
    )
    path = tmp_path / "both.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    samples = read(path)
    assert len(samples) == pytest.approx(4 * RATE, abs=0.1 * RATE)
    for second in range(4):
        assert pitch_at(samples, second) == pytest.approx(SCALE[second], abs=5)


def test_sound_is_looked_for_beside_the_video_first(tmp_path):
    folder = tmp_path / "video"
    folder.mkdir()
    path = media.write_video(folder / "a.mp4", seconds=0.2)
    silent = media.write_video(folder / "silent.mp4", seconds=0.2, tone_hz=None)
    assert find_audio(silent) is None
    assert find_audio(path) == path
    for place in (tmp_path / "audio", folder / "audio", folder):
        place.mkdir(exist_ok=True)
        wav = media.write_wav(place / "a.wav", media.tone(440, 1, RATE), RATE)
        assert find_audio(path).samefile(wav)
    assert find_audio(silent) is None


@pytest.mark.parametrize("block_seconds", [0.1, 0.5, 30.0])
@pytest.mark.parametrize(("duration_seconds", "rows"), [(2, 63), (3, 94), (4, 125)])
def test_mfcc_in_blocks_equal_those_of_the_whole(
    tmp_path, monkeypatch, block_seconds, duration_seconds, rows
):
    monkeypatch.setattr("utils.audio.BLOCK_SECONDS", block_seconds)
    path = media.write_wav(tmp_path / "a.wav", speech_like(3), RATE)
    mfcc = compute_mfcc(path, SPEC, duration_seconds)
    assert mfcc.shape == (rows, 20)
    assert mfcc.dtype == np.float16
    cut_or_padded = np.zeros(rows * SPEC.hop_length, np.float32)
    samples = read(path)[: len(cut_or_padded)]
    cut_or_padded[: len(samples)] = samples
    expected = whole_mfcc(cut_or_padded, SPEC)[:rows]
    np.testing.assert_allclose(mfcc, expected, rtol=1e-3, atol=0.02)


def test_mfcc_of_another_spec_are_librosas(tmp_path):
    spec = MfccSpec(sample_rate=22050, n_mfcc=13, n_mels=40, n_fft=2048, hop_length=441)
    path = media.write_wav(tmp_path / "a.wav", speech_like(2), RATE)
    samples = np.concatenate(list(read_audio(path, 22050)))
    mfcc = compute_mfcc(path, spec, 1.5)
    assert mfcc.shape == (75, 13)
    expected = whole_mfcc(samples, spec)[:75]
    np.testing.assert_allclose(mfcc, expected, rtol=1e-3, atol=0.02)


@pytest.mark.parametrize("duration_seconds", [0.01, 1, 2, 10 / 3, 7.5])
def test_mfcc_last_as_long_as_the_video(tmp_path, duration_seconds):
    path = media.write_wav(tmp_path / "a.wav", speech_like(2), RATE)
    mfcc = compute_mfcc(path, SPEC, duration_seconds)
    assert len(mfcc) == int(np.ceil(duration_seconds * SPEC.frames_per_second))
    silence = mfcc[round(2.1 * SPEC.frames_per_second) :]
    assert (silence == silence[:1]).all()
    heard = mfcc[: round(1.9 * SPEC.frames_per_second)]
    assert len(heard) == 1 or np.std(heard[:, 0]) > 1


def test_row_is_centred_on_its_hop(tmp_path):
    click = np.zeros(2 * RATE, np.float32)
    click[40 * SPEC.hop_length] = 1
    mfcc = compute_mfcc(media.write_wav(tmp_path / "a.wav", click, RATE), SPEC, 2)
    assert np.argmax(mfcc[:, 0]) == 40


def test_mfcc_do_not_depend_on_what_comes_later(tmp_path):
    quiet = speech_like(2) / 30
    bang = np.concatenate([quiet, np.sign(speech_like(1) - 0.1)])
    alone = compute_mfcc(media.write_wav(tmp_path / "1.wav", quiet, RATE), SPEC, 1.5)
    before = compute_mfcc(media.write_wav(tmp_path / "2.wav", bang, RATE), SPEC, 1.5)
    np.testing.assert_array_equal(alone, before)


def test_digital_silence_is_sound_and_no_sound_is_none(tmp_path):
    silence = media.write_wav(tmp_path / "a.wav", np.zeros(RATE, np.float32), RATE)
    mfcc = compute_mfcc(silence, SPEC, 1)
    assert np.isfinite(mfcc).all()
    np.testing.assert_array_equal(mfcc, np.broadcast_to(mfcc[0], mfcc.shape))
    empty = media.write_wav(tmp_path / "empty.wav", np.zeros(0, np.float32), RATE)
    nothing = tmp_path / "nothing.wav"
    nothing.write_bytes(b"")
    text = tmp_path / "text.wav"
    text.write_text("no sound in here\n" * 20)
    silent = media.write_video(tmp_path / "silent.mp4", seconds=0.2, tone_hz=None)
    for path in (empty, nothing, text, silent, tmp_path / "missing.wav"):
        assert compute_mfcc(path, SPEC, 1) is None
    with pytest.raises(MediaError, match="no sound track"):
        read(silent)


def test_title_that_is_no_utf8_does_not_matter(tmp_path):
    path = media.write_wav(tmp_path / "a.wav", media.tone(440, 1, RATE), RATE)
    info = b"INFOINAM\x04\x00\x00\x00caf\xe9"
    chunk = b"LIST" + len(info).to_bytes(4, "little") + info
    whole = bytearray(path.read_bytes())
    whole[12:12] = chunk
    whole[4:8] = (len(whole) - 8).to_bytes(4, "little")
    path.write_bytes(whole)
    assert len(read(path)) == RATE
