"""A recording is scored in windows without gaps, as training would have seen them."""

import numpy as np
import pytest
import torch

from models.array_network import ArrayNetwork
from models.late_fusion import LateFusionClassifier
from tests import media
from tests.trainings import fill_heads, fill_norms, make_config, write_clip
from timeline.dense import tile_windows
from timeline.scoring import ScoredRecording, score_recording
from training.scores import score_clips
from utils.clips import MIN_CLIP_SECONDS
from utils.dataset import ClipDataset
from utils.features import read_features
from utils.preparation import prepare_recordings
from utils.recordings import find_recordings
from utils.sources import Folder
from utils.video import MediaError


def test_windows_tile_any_recording_without_gaps():
    rng = np.random.default_rng(0)
    lengths = [1.0, 9.5, 10.0, 10.5, 10.999, 11.0, 19.99, 20.0, 30 + 1e-9, 3600.0]
    for duration in [*lengths, *rng.uniform(1, 100, 300)]:
        for window in (10.0, 1.0, 3.7):
            windows = tile_windows(duration, window)
            assert windows[0][0] == 0
            assert windows[-1][1] == duration
            assert all(a[1] == b[0] for a, b in zip(windows, windows[1:], strict=False))
            sizes = [end - start for start, end in windows]
            assert np.allclose(sizes[:-1], window)
            assert MIN_CLIP_SECONDS - 1e-6 <= sizes[-1] < window + MIN_CLIP_SECONDS + 1e-6


def test_overall_counts_windows_by_their_length():
    tiles = np.array([[0.9, 0.1], [0.3, 0.7]])
    rows = np.zeros((1, 48, 2))
    scored = ScoredRecording(0.25, (10.0,), rows, 12.0, True, 25.0, tile_probabilities=tiles)
    assert [tile[:2] for tile in scored.tiles()] == [(0.0, 10.0), (10.0, 12.0)]
    assert scored.overall == pytest.approx([0.8, 0.2])


@pytest.fixture(scope="module")
def model() -> LateFusionClassifier:
    torch.manual_seed(0)
    model = LateFusionClassifier(2, 20).eval()
    fill_heads(model)
    fill_norms(model.video_encoder)
    return model


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return make_config(tmp_path_factory.mktemp("config")).feature_spec


def score(path, model, spec, clip_seconds=3.0, temperature=1.0) -> ScoredRecording:
    return score_recording(
        path, ArrayNetwork(model), spec, clip_seconds=clip_seconds, temperature=temperature
    )


@pytest.mark.parametrize("tone_hz", [440.0, None])
def test_scores_are_those_of_the_prepared_recording(tmp_path, model, tone_hz):
    config = make_config(tmp_path, clip_hop_seconds=3, workers=1)
    path = write_clip(tmp_path / "data" / "ads" / "a.mp4", "ads", 1, 7.0, tone_hz=tone_hz)
    source = Folder(tmp_path / "data")
    recordings = find_recordings(source)
    spec = config.feature_spec
    prepared = prepare_recordings(
        recordings, source, spec, config.cache_dir, workers=1, max_rejected=0.0
    )
    clips = prepared.clips(3.0, 3.0)
    dataset = ClipDataset(clips, ["ads", "games"], spec, prepared.store)
    expected = score_clips(model, dataset).logits
    scored = score(path, model, spec)
    spans = [(clip.start_seconds, clip.end_seconds) for clip in clips]
    assert scored.has_sound == (tone_hz is not None)
    # Training moves a short last clip back, scoring does not: the whole ones are the same.
    assert [tile[:2] for tile in scored.tiles()][:2] == spans[:2]
    probabilities = torch.softmax(torch.from_numpy(expected[:2]).double(), dim=1)
    assert scored.tile_probabilities[:2] == pytest.approx(probabilities.numpy(), abs=2e-3)


def test_probabilities_add_up_and_temperature_softens_them(tmp_path, model, spec):
    path = write_clip(tmp_path / "a.mp4", "ads", 2)
    sharp, soft = (score(path, model, spec, temperature=t).probabilities[0] for t in (0.2, 5.0))
    assert sharp.sum(axis=1) == pytest.approx(1)
    assert (sharp.argmax(axis=1) == soft.argmax(axis=1)).all()
    assert (sharp.max(axis=1) > soft.max(axis=1)).all()


def test_recording_shorter_than_a_window_is_one_window(tmp_path, model, spec):
    scored = score(write_clip(tmp_path / "a.mp4", "games", 1, 2.0), model, spec, 10.0)
    assert [tile[:2] for tile in scored.tiles()] == [(0.0, 2.0)]


@pytest.mark.parametrize("sound_seconds", [0.5, 30.0])
def test_sound_file_of_another_length_is_taken_as_far_as_it_goes(
    tmp_path, model, spec, sound_seconds
):
    path = write_clip(tmp_path / "a.mp4", "ads", 1, 4.0, tone_hz=None)
    media.write_wav(tmp_path / "a.wav", media.tone(800, sound_seconds, 16000), 16000)
    scored = score(path, model, spec)
    assert scored.has_sound
    assert scored.duration_seconds == 4.0
    assert np.isfinite(scored.probabilities).all()


def test_file_that_is_no_video_is_refused(tmp_path, model, spec):
    (tmp_path / "a.mp4").write_text("not a video")
    with pytest.raises(MediaError):
        score(tmp_path / "a.mp4", model, spec)


def test_recording_that_is_too_short_is_refused(tmp_path, model, spec):
    path = write_clip(tmp_path / "a.mp4", "ads", 1, 0.4)
    with pytest.raises(MediaError, match="at least 1 s is needed"):
        score(path, model, spec)


def clip_probabilities(model, spec, features, start_seconds, end_seconds) -> np.ndarray:
    """(C,) what the network says of a span, given as a clip."""
    frames, mfcc = features
    frames = torch.from_numpy(frames[spec.frame_span(start_seconds, end_seconds)])[None]
    mfcc = torch.from_numpy(mfcc[spec.mfcc_span(start_seconds, end_seconds)])[None]
    masks = (torch.ones(x.shape[:2], dtype=torch.bool) for x in (frames, mfcc))
    logits = model(frames, next(masks), mfcc, next(masks))
    return torch.softmax(logits[0], dim=0).numpy()


def test_every_dense_row_is_what_the_network_says_of_that_span(tmp_path, model, spec):
    path = write_clip(tmp_path / "a.mp4", "ads", 3, 13.0)
    blocks = list(read_features(path, spec))
    features = [np.concatenate([getattr(b, name) for b in blocks]) for name in ("frames", "mfcc")]
    scored = score(path, model, spec, clip_seconds=10.0)
    assert scored.window_seconds == (10.0, 4.0)
    assert scored.probabilities.shape == (2, 52, 2)
    with torch.inference_mode():
        for window, rows in zip(scored.window_seconds, scored.probabilities, strict=True):
            for row in (0, 5, 17, 25, 40, 51):
                centre = (row + 0.5) * scored.hop_seconds
                start, end = max(0.0, centre - window / 2), min(13.0, centre + window / 2)
                expected = clip_probabilities(model, spec, features, start, end)
                assert rows[row] == pytest.approx(expected, abs=2e-3), (window, row)


def test_windows_gain_from_those_like_them(tmp_path, model, spec, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", "ads", 3, 13.0)
    short = score(path, model, spec)
    assert not short.gains.any()  # nothing is far enough away
    monkeypatch.setattr("timeline.resemblance.NEAR_SECONDS", 2.0)
    monkeypatch.setattr("timeline.resemblance.LEAST_COSINE", -1.0)
    gains = score(path, model, spec).gains
    assert gains.shape == short.probabilities.shape[1:]
    assert gains.any()


def test_kept_embeddings_give_the_same_answers_without_the_recording(tmp_path, model, spec):
    path = write_clip(tmp_path / "a.mp4", "ads", 3, 8.0)
    options = {"clip_seconds": 3.0, "temperature": 1.0, "embeddings": tmp_path / "kept"}
    first = score_recording(path, ArrayNetwork(model), spec, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("timeline.reading.read_features", lambda *_, **__: pytest.fail("read again"))
        again = score_recording(path, ArrayNetwork(model), spec, **options)
    np.testing.assert_array_equal(again.probabilities, first.probabilities)
    assert again.duration_seconds == first.duration_seconds
    (kept,) = (tmp_path / "kept").glob("*.zip")
    kept.write_bytes(kept.read_bytes()[:-100])
    mended = score_recording(path, ArrayNetwork(model), spec, **options)
    np.testing.assert_array_equal(mended.probabilities, first.probabilities)


def test_stopped_midway_it_leaves_nothing_behind(tmp_path, model, spec):
    path = write_clip(tmp_path / "a.mp4", "ads", 3, 8.0)
    threads = torch.get_num_threads()

    def stop(done: float, total: float) -> None:
        assert 0 < done <= total == pytest.approx(8.0, abs=0.2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_recording(
            path,
            ArrayNetwork(model),
            spec,
            clip_seconds=3.0,
            temperature=1.0,
            embeddings=tmp_path / "kept",
            on_progress=stop,
        )
    assert [kept.suffix for kept in (tmp_path / "kept").iterdir()] == [".json"]
    assert torch.get_num_threads() == threads


def test_times_are_those_of_the_file(tmp_path, model, spec):
    path = media.write_video(
        tmp_path / "a.mkv", seconds=3.3, fps=30, start_seconds=7.0, audio_delay_seconds=-0.5
    )
    scored = score(path, model, spec)
    assert scored.duration_seconds == pytest.approx(3.3, abs=0.002)
    assert scored.probabilities.shape[1] == 14
    assert scored.zero_seconds == pytest.approx(0.5, abs=0.05)
    assert scored.frame_rate == pytest.approx(30, abs=0.1)
    assert scored.damage == ()


def test_minutes_without_sound_are_told_apart_from_silence(tmp_path, model, spec):
    """As in a recording without a track there, and as it is where the sound plays."""
    long = media.write_video(tmp_path / "a.mp4", seconds=50, fps=4, size=(32, 32))
    late = media.write_video(
        tmp_path / "b.mp4", seconds=50, fps=4, size=(32, 32), audio_delay_seconds=25.0
    )
    mute = media.write_video(tmp_path / "c.mp4", seconds=50, fps=4, size=(32, 32), tone_hz=None)
    whole, away, none = (score(path, model, spec) for path in (long, late, mute))
    assert [damage.kind for damage in away.damage] == ["no sound"]
    assert (whole.has_sound, away.has_sound, none.has_sound) == (True, True, False)
    early, later = slice(0, 4 * 22), slice(4 * 28, 4 * 49)
    np.testing.assert_allclose(
        away.probabilities[:, early], none.probabilities[:, early], atol=1e-3
    )
    np.testing.assert_allclose(
        away.probabilities[:, later], whole.probabilities[:, later], atol=2e-2
    )
