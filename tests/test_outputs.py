"""Files of a labelled recording lie where players look, and never where training would learn."""

import pytest

from tests.timelines import labelled, timeline
from timeline.outputs import NAMES, Outputs, find_truth
from utils.errors import UserError


def test_files_lie_beside_the_recording_or_in_the_folder(tmp_path):
    recording, relative = tmp_path / "cup" / "game.ts", tmp_path / "cup" / "game.ts"
    relative = relative.relative_to(tmp_path)
    beside = Outputs.of("edl, picture", None).paths(recording, relative)
    assert beside == [recording.with_suffix(".edl"), tmp_path / "cup" / "game.timeline.svg"]
    out = Outputs.of("edl", tmp_path / "out").paths(recording, relative)
    assert out == [tmp_path / "out" / "cup" / "game.edl"]


def test_names_are_checked_before_anything_is_labelled():
    with pytest.raises(UserError, match="no format 'eld': choose from json, csv, edl"):
        Outputs.of("edl,eld", None)


def test_nothing_is_written_that_training_would_take_for_labels(tmp_path):
    recording = tmp_path / "data" / "recordings" / "game.ts"
    outputs = Outputs.of("edl", None, labels_dir=tmp_path / "data")
    with pytest.raises(UserError, match=r"game\.edl would be read as .* labels .*--out FOLDER"):
        outputs.paths(recording, recording.relative_to(tmp_path))
    harmless = Outputs.of("json,csv,comskip", None, labels_dir=tmp_path / "data")
    assert len(harmless.paths(recording, recording.relative_to(tmp_path))) == 3


def test_every_kind_of_file_has_content(tmp_path):
    outputs = Outputs.of(",".join(NAMES), tmp_path)
    made = labelled(timeline("games 60", "ads 30", "games 60"))
    paths = outputs.paths(tmp_path / "game.mp4", tmp_path / "game.mp4")
    assert len(set(paths)) == len(NAMES)
    contents = dict(outputs.contents(paths, made, ()))
    assert list(contents) == paths
    assert all(contents.values())


def test_truth_is_the_file_itself_or_the_one_of_that_name_in_a_folder(tmp_path):
    recording = tmp_path / "game.ts"
    truth = tmp_path / "truth" / "game.edl"
    truth.parent.mkdir()
    truth.write_text("1 2 0\n")
    (truth.parent / "other.edl").write_text("1 2 0\n")
    assert find_truth(truth, recording) == truth
    assert find_truth(truth.parent, recording) == truth
    with pytest.raises(UserError, match=r"has no file for cup\.ts"):
        find_truth(truth.parent, tmp_path / "cup.ts")
    (truth.parent / "game.csv").write_text("1,2,ads\n")
    with pytest.raises(UserError, match=r"has game\.csv and game\.edl for game\.ts"):
        find_truth(truth.parent, recording)
