"""Changes: found soon, provisional first, and never by a short doubt; a game's return first of all."""

import numpy as np
import pytest

from timeline.changes import ChangeFinder, ChangeSettings

CLASSES = ("ads", "games")


def watch(finder, labels, *, start=0.0, sure=0.97, classes=CLASSES, step=0.5):
    """The changes of a stream that shows `labels` [(label, seconds)], as windows would see it."""
    shown = [label for label, seconds in labels for _ in range(round(seconds / step))]
    found = []
    for index in range(len(shown)):
        rows = []
        for length in (10.0, 5.0, 2.5):
            seen = shown[max(0, index + 1 - round(length / step)) : index + 1]
            rest = (1 - sure) / (len(classes) - 1)
            each = [[sure if name == label else rest for name in classes] for label in seen]
            rows.append(np.mean(each, axis=0))
        found += finder.step(start + (index + 1) * step, np.array(rows))
    return found


def said(changes) -> list[tuple]:
    return [(change.id, change.status, change.label) for change in changes]


def test_a_break_is_entered_and_left_provisionally_and_then_for_good():
    changes = watch(
        ChangeFinder(CLASSES, ChangeSettings()), [("games", 60), ("ads", 60), ("games", 60)]
    )
    assert said(changes) == [
        (1, "confirmed", "games"),
        (2, "provisional", "ads"),
        (2, "confirmed", "ads"),
        (3, "provisional", "games"),
        (3, "confirmed", "games"),
    ]
    assert [change.previous for change in changes] == [None, "games", "games", "ads", "ads"]
    assert changes[2].seconds == pytest.approx(60, abs=1.5)
    assert changes[4].seconds == pytest.approx(120, abs=1.5)
    assert all(0.5 < change.confidence <= 0.97 for change in changes)


def test_a_change_is_known_within_the_seconds_that_are_asked_for():
    for settings in (ChangeSettings(), ChangeSettings(20.0, 8.0)):
        finder = ChangeFinder(CLASSES, settings)
        watch(finder, [("games", 60)])
        for label, start, within in (
            ("ads", 60.0, settings.enter_seconds),
            ("games", 120.0, settings.leave_seconds),
        ):
            ...
