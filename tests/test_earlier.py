"""What a stream showed speaks for what is like it now: not at once, and not for ever."""

import tracemalloc

import numpy as np
import pytest

from timeline.earlier import FAR_SECONDS, NEAR_SECONDS, EarlierWindows
from timeline.resemblance import MOST_LOG_ODDS

CLIP_SECONDS, STEP_SECONDS, SIZE = 10.0, 0.5, 1024
ADS, GAMES = range(2)
SURE_GAME, SURE_ADS, DOUBT = (0.05, 0.95), (0.95, 0.05), (0.5, 0.5)
RANDOM = np.random.default_rng(0)
LOOKS = RANDOM.gamma(1.0, 1.0, (100, SIZE))


def look(picture: int) -> np.ndarray:
    return (LOOKS[picture] * RANDOM.uniform(0.8, 1.2, SIZE)).astype(np.float32)


def show(earlier, start, *shown: tuple[int, float, tuple[float, float]]) -> float:
    """Goes on from `start` with (picture, seconds, probabilities); returns when it is over."""
    for picture, seconds, said in shown:
        for _ in range(round(seconds / STEP_SECONDS)):
            start += STEP_SECONDS
            earlier.take(start, look(picture), np.array(said))
    return start


def pull(earlier, seconds, picture) -> float:
    """Log odds towards the game."""
    gains = np.broadcast_to(earlier.gains(seconds, look(picture)), 2)
    return float(gains[GAMES] - gains[ADS])


def play(seconds: float) -> list[tuple[int, float, tuple[float, float]]]:
    return [(view, 8, SURE_GAME) for view in range(4)] * round(seconds / 32)


def spots(seconds: float, first: int = 10) -> list[tuple[int, float, tuple[float, float]]]:
    return [(first + number, 16, SURE_ADS) for number in range(round(seconds / 16))]


@pytest.fixture
def watched():
    """Three minutes of play, a break of two, and play again; and when it is."""
    earlier = EarlierWindows(CLIP_SECONDS)
    return earlier, show(earlier, 0.0, *play(192), *spots(128), *play(64))


def test_play_is_known_by_the_play_before_and_what_was_never_there_is_not(watched):
    earlier, now = watched
    for view in range(4):
        assert pull(earlier, now, view) > 0.5
    assert abs(pull(earlier, now, 50)) < 0.25


def test_a_spot_that_comes_again_is_known(watched):
    assert pull(*watched, 12) < -0.5


def test_no_gain_is_larger_than_the_bound(watched):
    earlier, now = watched
    assert all(abs(pull(earlier, now, picture)) <= MOST_LOG_ODDS + 1e-6 for picture in range(20))


def test_what_was_shown_just_now_does_not_speak_for_itself():
    earlier = EarlierWindows(CLIP_SECONDS)
    now = show(earlier, 0.0, *play(192), (30, NEAR_SECONDS - 2, SURE_ADS))
    assert abs(pull(earlier, now, 30)) < 0.25
    now = show(earlier, now, *play(64))
    assert pull(earlier, now, 30) < -0.5


def test_nothing_gains_before_there_is_something_to_go_by():
    earlier = EarlierWindows(CLIP_SECONDS)
    now = show(earlier, 0.0, (0, NEAR_SECONDS, SURE_GAME))
    assert pull(earlier, now, 0) == 0.0


def test_what_a_gap_follows_is_not_judged_by_what_comes_after_it():
    earlier = EarlierWindows(CLIP_SECONDS)
    now = show(earlier, 0.0, *play(96), *spots(96), (30, 4, DOUBT))
    # Only what is behind the gap was called a game.
    now = show(earlier, now + 30.0, *play(32), *spots(64, first=40))
    assert abs(pull(earlier, now, 30)) < 0.25


def test_an_hour_is_remembered_in_bounded_memory():
    earlier = EarlierWindows(CLIP_SECONDS)
    now = show(earlier, 0.0, (30, 16, SURE_ADS), *play(96))
    assert pull(earlier, now, 30) < -0.5
    tracemalloc.start()
    try:
        now = show(earlier, now, *play(FAR_SECONDS))
        full = tracemalloc.get_traced_memory()[0]
        now = show(earlier, now, *play(FAR_SECONDS))
        assert tracemalloc.get_traced_memory()[0] < 1.05 * full
    finally:
        tracemalloc.stop()
    assert abs(pull(earlier, now, 30)) < 0.1
