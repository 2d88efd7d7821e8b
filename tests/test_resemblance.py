"""Windows of a recording speak for windows like them, whatever is missing between them."""

from dataclasses import replace

import numpy as np
import pytest

from tests.tracks import CLASSES
from tests.trainings import make_config
from timeline.dense import EmbeddedBlock
from timeline.resemblance import MOST_LOG_ODDS, NEAR_SECONDS, Resemblance
from timeline.scoring import ScoredRecording
from timeline.segments import find_segments

FPS, HOP_SECONDS, SIZE = 2.0, 1.0, 512
ADS, GAMES = range(2)
VIEWS = range(4)  # of the match; other numbers are other pictures


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return replace(make_config(tmp_path_factory.mktemp("config")).feature_spec, fps=FPS)


def show(*pictures: tuple[int, float]) -> np.ndarray:
    """(T, SIZE) float16: embeddings of so many seconds of each picture, never twice the same."""
    rng = np.random.default_rng(0)
    looks = rng.gamma(1.0, 1.0, (100, SIZE))
    rows = [np.tile(looks[picture], (round(seconds * FPS), 1)) for picture, seconds in pictures]
    rows = np.concatenate(rows)
    return (rows * rng.uniform(0.8, 1.2, rows.shape)).astype(np.float16)


def play(seconds: float) -> list[tuple[int, float]]:
    return [(view, 6) for view in VIEWS] * round(seconds / 24)


def judge(embeddings: np.ndarray, *spans: tuple[float, float, float]) -> np.ndarray:
    """(2, N, 2) probabilities of ads and games: `games` from start to end of each span."""
    rows = np.full((round(len(embeddings) / FPS / HOP_SECONDS), 2), 0.5, np.float32)
    for start, end, games in spans:
        rows[int(start) : int(end)] = 1 - games, games
    return np.stack([rows, rows])


def gains_of(spec, embeddings, probabilities, *, shown=None, cuts=()) -> np.ndarray:
    resemblance = Resemblance(spec)
    shown = np.ones(len(embeddings), bool) if shown is None else shown
    for start, end in zip([0, *cuts], [*cuts, len(embeddings)], strict=True):
        nothing = np.zeros(0, bool)
        resemblance.add(EmbeddedBlock(embeddings[start:end], shown[start:end], None, nothing))
    return resemblance.gains(probabilities, HOP_SECONDS)


def pull(gains: np.ndarray, start: float, end: float) -> float:
    """Mean log odds towards the game, off the windows that lie across an end."""
    rows = gains[int(start) + 4 : int(end) - 4]
    return float((rows[:, GAMES] - rows[:, ADS]).mean())


@pytest.fixture(scope="module")
def broadcast():
    """Play with a break of two spots at 144 to 192 s, and taken for ads itself at 264 to 312 s."""
    embeddings = show(*play(144), (10, 24), (11, 24), *play(144))
    return embeddings, judge(embeddings, (0, 336, 0.95), (144, 192, 0.3), (264, 312, 0.2))


def test_play_is_known_by_the_play_of_other_minutes_and_a_spot_is_not(spec, broadcast):
    gains = gains_of(spec, *broadcast)
    assert pull(gains, 264, 312) > 0.5 * MOST_LOG_ODDS
    assert abs(pull(gains, 144, 168)) < 0.1
    assert abs(pull(gains, 168, 192)) < 0.1
    assert np.ptp(gains, axis=1).max() <= MOST_LOG_ODDS


def test_a_view_that_fills_most_of_it_draws_nothing_to_itself(spec):
    """Twenty minutes of one view, in which the network is sure of the game, and some of others."""
    rest = [(view, 10) for view in (1, 2, 1, 2)]
    spot = [(20, 12), (0, 2), (21, 10)]  # an unsure one, which shows a moment of the match
    embeddings = show((0, 560), *rest, *spot, (0, 560), *rest, *spot)
    seconds = len(embeddings) / FPS
    probabilities = judge(embeddings, (0, seconds, 0.95), (600, 624, 0.45), (1224, 1248, 0.45))
    gains = gains_of(spec, embeddings, probabilities)
    assert pull(gains, 600, 624) < 0.1
    assert pull(gains, 1224, 1248) < 0.1
    assert pull(gains, 560, 600) > -0.1


def test_segments_follow_what_windows_gain(spec, broadcast):
    def breaks(gains):
        probabilities, seconds = broadcast[1], broadcast[1].shape[1] * HOP_SECONDS
        scored = ScoredRecording(
            HOP_SECONDS, (10.0, 4.0), probabilities, seconds, True, 25.0, gains=gains
        )
        found = find_segments(scored, CLASSES)
        return [(s.start_seconds, s.end_seconds) for s in found if s.label == "ads"]

    assert CLASSES.index("ads") == ADS
    assert len(breaks(0.0)) == 2
    [(start, end)] = breaks(gains_of(spec, *broadcast))
    assert (start, end) == pytest.approx((144, 192), abs=HOP_SECONDS)


def test_what_the_network_is_sure_of_is_never_turned_round(spec, broadcast):
    embeddings, _ = broadcast
    probabilities = judge(embeddings, (0, 336, 0.999), (264, 312, 0.11))
    odds = probabilities[0] * np.exp(gains_of(spec, embeddings, probabilities))
    assert (odds[264:312].argmax(axis=1) == ADS).all()


def test_windows_nearby_and_more_than_an_hour_away_have_no_say(spec):
    near = show(*play(72))[: int(NEAR_SECONDS * FPS)]
    assert not gains_of(spec, near, judge(near, (0, NEAR_SECONDS, 0.95))).any()
    for seconds, has_a_say in ((3000, True), (3800, False)):
        between = [(picture, 20) for picture in range(10, 100)] * 3
        apart = np.concatenate([show((0, 20), *between)[: int(seconds * FPS)], show((0, 20))])
        probabilities = judge(apart, (0, 20, 0.99))
        gains = gains_of(spec, apart, probabilities)
        assert (pull(gains, len(gains) - 20, len(gains)) > 0.1) == has_a_say


def test_blocks_of_any_size_give_the_same(spec, broadcast):
    whole = gains_of(spec, *broadcast)
    cuts = (1, 3, 3, 80, 301, 302)
    np.testing.assert_allclose(gains_of(spec, *broadcast, cuts=cuts), whole, atol=1e-4)


def test_pictures_that_stand_for_a_gap_have_no_say_and_gain_nothing(spec, broadcast):
    embeddings, probabilities = broadcast
    shown = np.ones(len(embeddings), bool)
    for start, end in ((144, 192), (312, 336)):  # alike, and far enough apart
        shown[round(start * FPS) : round(end * FPS)] = False
    filled = embeddings.copy()
    filled[~shown] = embeddings[0]  # the picture before, again and again
    gains = gains_of(spec, filled, probabilities, shown=shown)
    assert not gains[148:188].any()
    others = np.r_[0:140, 196:308]
    filled[~shown] = 0.0
    again = gains_of(spec, filled, probabilities, shown=shown)
    np.testing.assert_allclose(again[others], gains[others], atol=1e-6)
    assert not gains_of(spec, filled, probabilities, shown=np.zeros_like(shown)).any()
