"""The queue begins with the segments of which most seconds are expected to be wrong."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.timelines import labelled, made_timeline
from web.review_queue import ReviewQueue, expected_wrong_seconds


@dataclass(frozen=True)
class MadeRecording:
    id: str
    editable: bool = True

    @property
    def name(self):
        return f"recordings/{self.id}.ts"


class Made:
    """A library, timelines and corrections in one."""

    def __init__(self, **said):
        self.said = said
        self.versions = {id: object() for id in said}
        self.corrected, self.clips, self.reads = set(), set(), 0

    def all(self):
        return [MadeRecording(id, id not in self.clips) for id in ("one", "two", "three")]

    def version(self, recording):
        return self.versions.get(recording.id)

    def find(self, recording):
        self.reads += 1
        return self.said.get(recording.id)

    def read(self, recording):
        return Path("x.json") if recording.id in self.corrected else None


def of(*parts):
    return labelled(made_timeline(*parts))


def queue_of(made):
    return ReviewQueue(made, made, made)


def test_long_doubt_comes_before_short_doubt_and_sure_ones_are_left_out():
    made = Made(
        one=of(("games", 100, 0.9, False), ("ads", 20, 0.6, True)),
        two=of(("games", 3600, 0.99, False), ("ads", 60, 1.0, False)),
    )
    items = queue_of(made).items()
    assert [(item.recording, item.segment.label) for item in items] == [
        ("two", "games"),
        ("one", "games"),
        ("one", "ads"),
    ]
    assert [item.expected_wrong_seconds for item in items] == pytest.approx([36, 10, 8], abs=0.01)


def test_corrected_recordings_and_training_clips_are_not_in_it():
    made = Made(one=of(("games", 100, 0.5, True)), two=of(("games", 100, 0.5, True)))
    queue = queue_of(made)
    assert len(queue.items()) == 2
    made.corrected = {"one"}
    made.clips = {"two"}
    assert queue.items() == []


def test_timeline_is_read_again_only_when_it_is_another():
    made = Made(one=of(("games", 100, 0.5, True)))
    queue = queue_of(made)
    queue.items()
    queue.items()
    assert made.reads == 1
    made.said["one"], made.versions["one"] = of(("games", 10, 0.5, True)), object()
    assert queue.items()[0].expected_wrong_seconds == pytest.approx(5)


def test_edge_that_the_curve_contradicts_costs_what_lies_between():
    sure = of(("games", 60, 1.0, False), ("ads", 30, 1.0, False))
    assert expected_wrong_seconds(sure) == pytest.approx((0, 0))
    curve = sure.break_probabilities.copy()
    curve[int(57 / sure.hop_seconds) : int(60 / sure.hop_seconds)] = 1.0
    late = replace(sure, break_probabilities=curve)
    assert expected_wrong_seconds(late) == pytest.approx((1.5, 1.5), abs=0.01)
    far = curve.copy()
    far[: int(50 / sure.hop_seconds)] = 1.0  # too far from the edge to be about it
    assert expected_wrong_seconds(replace(sure, break_probabilities=far)) == pytest.approx(
        (1.5, 1.5), abs=0.01
    )
    none = replace(sure, break_probabilities=np.zeros(0, np.float32))
    assert expected_wrong_seconds(none) == pytest.approx((0, 0))


def test_item_says_what_the_page_shows():
    [item] = queue_of(Made(one=of(("games", 100, 0.75, True)))).items()
    assert item.to_dict() == {
        "recording": "one",
        "name": "recordings/one.ts",
        "start_seconds": 0.0,
        "end_seconds": 100.0,
        "label": "games",
        "confidence": 0.75,
        "unsure": True,
        "expected_wrong_seconds": 25.0,
        "thumbnail": "/api/recordings/one/thumbnail?seconds=50.000",
    }
