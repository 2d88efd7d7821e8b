"""The demo set: whole or absent, the same for a seed, and not to be told by colour or loudness."""

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from utils import demo_data
from utils.demo_ads import draw_ad
from utils.demo_data import CAMPAIGNS, VENUES, is_demo_set, make_demo_set
from utils.demo_games import draw_game
from utils.demo_sounds import SAMPLE_RATE, ad_sound, game_sound


@dataclass(frozen=True)
class Look:
    """What the tests know of one recording; loudness and flatness are nan without sound."""

    is_ad: bool
    group: str
    palette: int
    colour: np.ndarray
    histogram: np.ndarray
    cuts_per_second: float
    loudness: float
    flatness: float


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "set"
    make_demo_set(folder, seed=3, workers=1, progress=False, groups_per_class=1)
    return folder


@pytest.fixture(scope="module")
def looks(tmp_path_factory) -> list[Look]:
    folder = tmp_path_factory.mktemp("demo") / "set"
    make_demo_set(folder, progress=False)
    return [look_at(path) for path in sorted(folder.glob("*/*/*.mp4"))]


def test_set_has_both_classes_in_groups_of_two_recordings(small_set):
    found = sorted(str(path.relative_to(small_set)) for path in small_set.rglob("*.mp4"))
    assert found == [
        "ads/verdo/verdo_1.mp4",
        "ads/verdo/verdo_2.mp4",
        "games/rivals/rivals_1.mp4",
        "games/rivals/rivals_2.mp4",
    ]
    assert is_demo_set(small_set)


def test_recordings_are_h264_and_aac_of_the_same_length(small_set):
    for path in small_set.rglob("*.mp4"):
        with av.open(str(path)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec.canonical_name, audio.codec.canonical_name) == ("h264", "aac")
            assert (video.height, video.width, video.average_rate) == (180, 320, 25)
            seconds = float(video.duration * video.time_base)
            assert 12 <= seconds <= 18
            assert float(audio.duration * audio.time_base) == pytest.approx(seconds, abs=0.1)


def test_set_is_not_written_over_other_files(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="not empty"):
        make_demo_set(tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]
    assert not is_demo_set(tmp_path)


def test_nothing_is_left_when_making_fails(tmp_path, monkeypatch):
    written = []

    def fill_disk(path, frames, sound):
        path.write_bytes(b"part of a recording")
        written.append(path)
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo_data, "_write", fill_disk)
    with pytest.raises(OSError, match="No space left"):
        make_demo_set(tmp_path / "set", workers=1, progress=False, groups_per_class=1)
    assert len(written) == 2
    assert list(tmp_path.iterdir()) == []


def test_more_groups_than_there_are_is_refused(tmp_path):
    with pytest.raises(ValueError, match="choose 1 to 8"):
        make_demo_set(tmp_path / "set", progress=False, groups_per_class=9)


@pytest.mark.parametrize(("draw", "subjects"), [(draw_ad, CAMPAIGNS), (draw_game, VENUES)])
def test_frames_are_the_same_for_a_seed_and_differ_between_seeds(draw, subjects):
    for subject, _ in list(subjects.values())[:3]:
        first, second, other = (
            np.stack(list(draw(subject, 120, np.random.default_rng(seed)))) for seed in (5, 5, 6)
        )
        assert first.shape == (120, 180, 320, 3)
        assert first.dtype == np.uint8
        assert np.array_equal(first, second)
        assert not np.array_equal(first, other)


@pytest.mark.parametrize(("make", "subjects"), [(ad_sound, CAMPAIGNS), (game_sound, VENUES)])
def test_samples_are_the_same_for_a_seed_and_never_clip_at_the_loudest_level(make, subjects):
    loudest = 10 ** (demo_data.LEVELS_DECIBELS[1] / 20)
    for _, style in subjects.values():
        first, second = (make(style, 4.0, np.random.default_rng(5)) for _ in range(2))
        assert np.array_equal(first, second)
        assert first.shape == (4 * SAMPLE_RATE,)
        assert np.sqrt(np.mean(first**2)) == pytest.approx(1, abs=1e-3)
        assert np.abs(first).max() * loudest < 1


@pytest.mark.slow
def test_neither_colour_nor_loudness_tells_ads_from_games(looks):
    shortcuts = {
        "mean colour": [look.colour for look in looks],
        "colour histogram": [look.histogram for look in looks],
        "loudness": [[look.loudness] for look in looks],
    }
    # A palette is shared by one ad and one game: leaving out both is the fairer judge, leaving
    # out one only puts its twin of the other class into training.
    for groups in ([look.palette for look in looks], [look.group for look in looks]):
        for name, features in shortcuts.items():
            assert balanced_accuracy(looks, features, groups) < 0.75, name


@pytest.mark.slow
def test_cuts_and_tone_of_the_sound_tell_ads_from_games(looks):
    features = [[look.cuts_per_second, look.flatness] for look in looks]
    assert balanced_accuracy(looks, features, [look.group for look in looks]) > 0.9


@pytest.mark.slow
def test_both_classes_have_as_many_recordings_without_sound(looks):
    silent = [look.is_ad for look in looks if np.isnan(look.loudness)]
    assert sorted(silent) == [False, False, True, True]


def look_at(path: Path) -> Look:
    frames, sound = read(path)
    changes = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean(axis=(1, 2, 3))
    is_cut = changes > np.maximum(12, 4 * np.median(changes))
    bins = frames[::10].reshape(-1, 3) // 86 @ np.array([9, 3, 1])  # 3 x 3 x 3 colours
    histogram = np.bincount(bins, minlength=27) / len(bins)
    loudness = flatness = np.nan
    if sound is not None:
        loudness = 10 * np.log10(np.mean(sound**2))
        spans = np.lib.stride_tricks.sliding_window_view(sound, 2048)[::1024]
        power = np.abs(np.fft.rfft(spans * np.hanning(2048)))[:, 17:340] ** 2 + 1e-12  # 0.2-4 kHz
        flatness = np.median(np.log(power).mean(axis=1) - np.log(power.mean(axis=1)))
    groups = list(CAMPAIGNS) + list(VENUES)
    return Look(
        is_ad=path.parts[-3] == "ads",
        group=path.parts[-2],
        palette=groups.index(path.parts[-2]) % len(CAMPAIGNS),
        colour=frames.mean(axis=(0, 1, 2)),
        histogram=histogram,
        cuts_per_second=float(is_cut.mean() * 25),
        loudness=loudness,
        flatness=float(flatness),
    )


def read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns frames (T, 45, 80, 3) uint8 RGB, and the samples or None."""
    frames, sound = [], []
    with av.open(str(path)) as container:
        for part in container.decode(*container.streams):
            if isinstance(part, av.VideoFrame):
                frames.append(part.reformat(80, 45, "rgb24").to_ndarray())
            else:
                sound.append(part.to_ndarray()[0])
    return np.stack(frames), np.concatenate(sound) if sound else None


def balanced_accuracy(looks: list[Look], features: list, groups: list) -> float:
    """Balanced accuracy of a logistic regression, each group judged by a fit without it."""
    labels = [look.is_ad for look in looks]
    model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=1000))
    guesses = cross_val_predict(
        model, np.array(features), labels, groups=groups, cv=LeaveOneGroupOut()
    )
    return balanced_accuracy_score(labels, guesses)
