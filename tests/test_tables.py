"""JSON holds all that a timeline says, CSV a row for each segment, and both train as they are."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest

from tests.timelines import made_timeline, random_timeline
from timeline.formats import format_timeline
from timeline.tables import SCHEMA, VERSION, TimelineError, from_json, to_csv, to_json
from timeline.timeline import Damage, Segment
from utils.labels import Span, parse_labels

FULL = made_timeline(
    segments=(
        Segment(0.0, 61.2, "games", 0.9876, False, (), ("cut", "silence")),
        Segment(61.2, 92.04, "ads", 0.5123, True, ("cut", "silence"), ()),
    ),
    recording='Größe "1" \ud800.ts',
    duration_seconds=92.04,
    zero_seconds=1.4,
    frame_rate=29.97,
    has_sound=False,
    damage=(Damage(12.5, "gap", "4.2 s are missing"),),
    model={"checkpoint": "runs/x/best.safetensors", "feature_spec": "ab12", "classes": [1, None]},
)


def test_json_holds_the_whole_timeline():
    assert from_json("a.json", to_json(FULL).encode()) == FULL


@pytest.mark.parametrize("seed", range(40))
def test_random_timelines_are_the_same_after_json(seed):
    timeline = random_timeline(seed)
    found = from_json("a.json", to_json(timeline).encode())
    for before, after in zip(timeline.segments, found.segments, strict=True):
        assert before.start_seconds == pytest.approx(after.start_seconds, abs=1e-6)
        assert before.confidence == pytest.approx(after.confidence, abs=1e-4)
        assert (before.label, before.unsure) == (after.label, after.unsure)
    assert to_json(found) == to_json(timeline)


def test_json_is_strict_and_takes_numbers_of_numpy():
    segment = Segment(np.float64(0), np.float32(1.5), "ads", np.float32(0.75), np.bool_(True))
    timeline = made_timeline(segments=(segment,), duration_seconds=np.float32(1.5))
    [found] = json.loads(to_json(timeline), parse_constant=pytest.fail)["segments"]
    assert found["confidence"] == 0.75
    assert found["unsure"] is True
    broken = dataclasses.replace(segment, confidence=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        to_json(made_timeline(segments=(broken,)))


@pytest.mark.parametrize("name", ["json", "csv"])
def test_tables_are_label_files_as_they_are(name):
    spans = parse_labels(f"game.{name}", format_timeline(FULL, name))
    assert spans == (Span(0.0, 61.2, "games"), Span(61.2, 92.04, "ads"))


def test_csv_is_a_row_for_each_segment():
    rows = list(csv.DictReader(io.StringIO(to_csv(FULL))))
    assert rows[1] == {
        "start_seconds": "61.200",
        "end_seconds": "92.040",
        "label": "ads",
        "confidence": "0.5123",
        "unsure": "yes",
        "start_evidence": "cut silence",
        "end_evidence": "",
    }
    assert len(rows) == 2


def test_csv_keeps_every_label_in_its_cell():
    labels = ['a,"b"', "two\nlines", "x;y", "tab\there", "  spaced  "]
    timeline = made_timeline(*[(label, 2.0) for label in labels])
    spans = parse_labels("a.csv", format_timeline(timeline, "csv"))
    assert [span.label for span in spans] == ['a,"b"', "two lines", "x;y", "tab here", "spaced"]


def test_csv_says_that_it_is_utf_8_where_it_matters():
    """Excel takes it for its old code page otherwise."""
    assert format_timeline(made_timeline(("Größe", 1.0)), "csv").startswith(b"\xef\xbb\xbfstart")
    assert format_timeline(made_timeline(("ads", 1.0)), "csv").startswith(b"start_seconds,end")


def test_segment_too_short_to_say_is_left_out_of_tables():
    timeline = made_timeline(("games", 10.0), ("ads", 1e-7), ("games", 5.0))
    for name in ("json", "csv"):
        assert parse_labels(f"a.{name}", format_timeline(timeline, name))[0].label == "games"
        assert b"ads," not in format_timeline(timeline, name)


def changed(**changes: object) -> str:
    return json.dumps(json.loads(to_json(FULL)) | changes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no timeline: label the recording again"),
        ("[1]", "holds no timeline"),
        ('{"segments": []}', "holds no timeline"),
        (changed(version=VERSION + 1), f"is '{SCHEMA}' version 2, and this program reads"),
        (changed(version="new"), "version 'new'"),
        (changed(format="other"), "is 'other' version 1"),
        (changed(segments=[{}]), "is damaged (KeyError: 'start_seconds')"),
        (changed(zero_seconds=None), "is damaged (TypeError"),
        (changed(duration_seconds="long"), "is damaged (ValueError"),
        (changed(duration_seconds=10**400), "is damaged (OverflowError"),
    ],
)
def test_file_that_holds_no_timeline_is_refused(text, says):
    with pytest.raises(TimelineError) as error:
        from_json("x/a.json", text.encode())
    assert str(error.value).startswith("x/a.json ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_what_a_later_program_adds_is_passed_over():
    assert from_json("a.json", changed(colour="red").encode()) == FULL
