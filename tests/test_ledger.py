"""The ledger knows what was labelled in the same way, and which files are its own."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.timelines import labelled, timeline
from timeline.ledger import ExistingFileError, Ledger


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "game.ts"
    path.write_bytes(b"video")
    return path


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(tmp_path / "cache" / "labelled", "this way")


def test_what_was_added_is_found_again(ledger, recording):
    added = labelled(timeline("games 60", "ads 30", "games 60"))
    ledger.add(recording, added)
    found = ledger.find(recording)
    assert found.timeline == added.timeline
    assert found.overall == added.overall
    assert found.hop_seconds == added.hop_seconds
    np.testing.assert_allclose(found.break_probabilities, added.break_probabilities, atol=5e-4)


def test_nothing_is_known_of_a_recording_that_changed(ledger, recording):
    ledger.add(recording, labelled(timeline("games 60")))
    recording.write_bytes(b"other")
    assert ledger.find(recording) is None


def test_nothing_is_known_of_another_way(ledger, recording):
    ledger.add(recording, labelled(timeline("games 60")))
    assert replace(ledger, way="another way").find(recording) is None


def test_recordings_of_one_name_are_told_apart(ledger, recording, tmp_path):
    other = tmp_path / "deep" / recording.name
    other.parent.mkdir()
    other.write_bytes(b"video")
    ledger.add(recording, labelled(timeline("games 60")))
    assert ledger.find(other) is None


def test_damaged_entry_is_as_if_there_were_none(ledger, recording):
    ledger.add(recording, labelled(timeline("games 60")))
    (entry,) = ledger.folder.iterdir()
    entry.write_bytes(entry.read_bytes()[:100])
    assert ledger.find(recording) is None
    content = {"stamp": None}
    entry.write_text(json.dumps(content))
    assert ledger.find(recording) is None


def test_files_are_written_once_and_replaced_when_they_were_written_here(ledger, recording):
    target = recording.with_suffix(".edl")
    assert ledger.write(recording, [(target, b"1")], overwrite=False) == 1
    assert ledger.write(recording, [(target, b"1")], overwrite=False) == 0
    assert ledger.write(recording, [(target, b"2")], overwrite=False) == 1
    assert target.read_bytes() == b"2"


def test_file_that_somebody_changed_is_kept(ledger, recording):
    target, other = recording.with_suffix(".edl"), recording.with_suffix(".csv")
    ledger.write(recording, [(target, b"1")], overwrite=False)
    target.write_bytes(b"corrected")
    with pytest.raises(ExistingFileError, match=r"game\.edl .*--overwrite"):
        ledger.write(recording, [(other, b"new"), (target, b"2")], overwrite=False)
    assert target.read_bytes() == b"corrected"
    assert not other.exists()  # all of them or none
    ledger.write(recording, [(target, b"2")], overwrite=True)
    assert target.read_bytes() == b"2"


def test_labelling_again_keeps_what_was_written(ledger, recording):
    target = recording.with_suffix(".edl")
    ledger.add(recording, labelled(timeline("games 60")))
    ledger.write(recording, [(target, b"1")], overwrite=False)
    ledger.add(recording, labelled(timeline("ads 60")))
    assert ledger.write(recording, [(target, b"2")], overwrite=False) == 1
