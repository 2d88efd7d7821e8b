"""Changes: found soon, provisional first, and not by a short doubt."""

import numpy as np
import pytest

from timeline.changes import WINDOW_SHARES, ChangeFinder, ChangeSettings
from utils.errors import UserError

CLASSES = ("ads", "games")
STEP_SECONDS = 0.5


def show(finder, spans, *, start=0.0, sure=0.97):
    """What the finder says, with its moment, of a stream that shows `spans` [(label, seconds)]."""
    classes = finder._classes
    shown = [label for label, seconds in spans for _ in range(round(seconds / STEP_SECONDS))]
    said = []
    for index in range(len(shown)):
        rows = []
        for share in WINDOW_SHARES:
            seen = shown[max(0, index + 1 - round(10 * share / STEP_SECONDS)) : index + 1]
            rest = (1 - sure) / (len(classes) - 1)
            rows.append(
                np.mean([[sure if c == x else rest for c in classes] for x in seen], axis=0)
            )
        now = start + (index + 1) * STEP_SECONDS
        said += [(now, change) for change in finder.step(now, np.array(rows))]
    return said


def words(said) -> list[tuple]:
    return [(change.id, change.status, change.label) for _, change in said]


def test_a_break_is_entered_and_left_provisionally_and_then_for_good():
    said = show(
        ChangeFinder(CLASSES, ChangeSettings()), [("games", 60), ("ads", 60), ("games", 60)]
    )
    assert words(said) == [
        (1, "confirmed", "games"),
        (2, "provisional", "ads"),
        (2, "confirmed", "ads"),
        (3, "provisional", "games"),
        (3, "confirmed", "games"),
    ]
    changes = [change for _, change in said]
    assert [change.previous for change in changes] == [None, "games", "games", "ads", "ads"]
    assert changes[2].seconds == pytest.approx(60, abs=2)
    assert changes[4].seconds == pytest.approx(120, abs=2)
    assert all(0.5 < change.confidence <= 0.97 for change in changes)


@pytest.mark.parametrize("settings", [ChangeSettings(), ChangeSettings(20.0, 10.0)])
def test_a_clear_change_is_known_within_the_seconds_asked_for(settings):
    spans = [("games", 60), ("ads", 60), ("games", 60)]
    said = show(ChangeFinder(CLASSES, settings), spans)
    entered = next(now for now, change in said if change.label == "ads")
    confirmed = next(now for now, c in said if c.label == "ads" and c.status == "confirmed")
    left = next(now for now, change in said if change.previous == "ads")
    assert entered - 60 < confirmed - 60 <= settings.enter_seconds
    assert 0.4 * settings.leave_seconds < left - 120 <= settings.leave_seconds
    assert left - 120 < confirmed - 60  # of the two, the return is told sooner


def test_a_short_doubt_changes_nothing_and_a_longer_one_is_taken_back():
    finder = ChangeFinder(CLASSES, ChangeSettings())
    doubts = [("games", 60), ("ads", 2), ("games", 20), ("ads", 60), ("games", 2), ("ads", 30)]
    said = show(finder, doubts)
    assert words(said) == [
        (1, "confirmed", "games"),
        (2, "provisional", "ads"),
        (2, "confirmed", "ads"),
    ]
    said = show(finder, [("ads", 20), ("games", 5), ("ads", 30)], start=200.0)
    assert words(said) == [(3, "provisional", "games"), (3, "retracted", "games")]
    assert finder.label == "ads"


def test_a_retraction_does_not_wait_as_long_as_the_doubt_lasted():
    finder = ChangeFinder(CLASSES, ChangeSettings())
    show(finder, [("games", 30), ("ads", 60)])
    ads, game = (0.97, 0.03), (0.03, 0.97)
    rows = [[ads, ads, ads, game]] * 120 + [
        [ads] * 4
    ] * 10  # a minute that only the shortest doubts
    said = []
    for index, row in enumerate(rows):
        said += [(index / 2, c) for c in finder.step(200 + index / 2, np.array(row))]
    assert words(said) == [(3, "provisional", "games"), (3, "retracted", "games")]
    assert said[0][0] <= 5
    assert 60 < said[1][0] <= 65


def test_every_provisional_change_is_confirmed_or_retracted_under_its_id():
    random = np.random.default_rng(5)
    finder = ChangeFinder(("ads", "games", "studio"), ChangeSettings())
    spans = [(finder._classes[random.integers(3)], random.uniform(1, 30)) for _ in range(80)]
    said = show(finder, spans, sure=0.9)
    open_id, label = None, None
    for _, change in said:
        if change.status == "provisional":
            assert open_id is None
            assert change.previous == label
            open_id = change.id
        else:
            assert open_id in (None, change.id)
            open_id = None
            if change.status == "confirmed":
                label = change.label
    ids = [change.id for _, change in said if change.status != "provisional"]
    assert ids == sorted(set(ids))
    assert {change.status for _, change in said} == {"provisional", "confirmed", "retracted"}


def test_a_gap_counts_for_nothing():
    finder = ChangeFinder(CLASSES, ChangeSettings())
    show(finder, [("games", 60)])
    assert words(show(finder, [("ads", 1)], start=3600.0)) == []


def test_it_works_without_a_class_of_ads():
    said = show(ChangeFinder(("studio", "play"), ChangeSettings()), [("play", 30), ("studio", 30)])
    assert words(said)[-1] == (2, "confirmed", "studio")


def test_no_time_at_all_is_refused():
    with pytest.raises(UserError, match="pass more than 0"):
        ChangeSettings(leave_seconds=0.0)
