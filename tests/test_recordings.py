"""Recordings are found by folder: classes, groups, the validation set, and what is wrong there."""

import errno
import json
import math
import os
from pathlib import Path

import pytest

from utils import recordings
from utils.audio import find_audio
from utils.errors import UserError
from utils.labels import Span
from utils.recordings import (
    DataError,
    Recording,
    class_names,
    describe_recordings,
    find_recordings,
    list_videos,
)
from utils.sources import Folder


def make(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def found(folder: Path) -> dict[str, Recording]:
    return {recording.name: recording for recording in find_recordings(Folder(folder))}


def refusal(folder: Path) -> str:
    """The one line that refuses a data folder."""
    with pytest.raises(UserError) as error:
        find_recordings(Folder(folder))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_class_is_the_folder_below_the_data_folder(tmp_path):
    make(tmp_path, "ads/a.mp4", "games/x/y/b.mp4", "replays/c.mp4")
    assert {name: r.labels for name, r in found(tmp_path).items()} == {
        "ads/a.mp4": ("ads",),
        "games/x/y/b.mp4": ("games",),
        "replays/c.mp4": ("replays",),
    }


def test_sub_folder_is_one_group_however_deep(tmp_path):
    make(tmp_path, "ads/x/a.mp4", "ads/x/deep/er/b.mp4", "ads/y/c.mp4", "games/x/d.mp4")
    group = {name: r.group for name, r in found(tmp_path).items()}
    assert group["ads/x/a.mp4"] == group["ads/x/deep/er/b.mp4"]
    assert len(set(group.values())) == 3


def test_file_directly_in_the_class_folder_is_its_own_group(tmp_path):
    make(tmp_path, "ads/a.mp4", "ads/b.mp4", "ads/a/c.mp4", "games/a.mp4")
    assert len({r.group for r in found(tmp_path).values()}) == 4


def test_validation_folder_is_the_validation_set(tmp_path):
    make(tmp_path, "ads/x/a.mp4", "games/b.mp4", "validation/ads/x/a.mp4", "validation/games/b.mp4")
    recordings = found(tmp_path)
    assert [name for name, r in recordings.items() if r.validation] == [
        "validation/ads/x/a.mp4",
        "validation/games/b.mp4",
    ]
    assert recordings["validation/ads/x/a.mp4"].labels == ("ads",)
    # Of the same sub-folder name, and still not the same group: the user held it out.
    assert recordings["validation/ads/x/a.mp4"].group != recordings["ads/x/a.mp4"].group


def test_every_video_suffix_counts_in_either_case_and_nothing_else_does(tmp_path):
    videos = [f"ads/{k}{suffix}" for k, suffix in enumerate(recordings.VIDEO_SUFFIXES)]
    shouted = [f"ads/shout{k}{s.upper()}" for k, s in enumerate(recordings.VIDEO_SUFFIXES)]
    others = ["ads/a.wav", "ads/a.txt", "ads/mp4", "ads/.a.mp4", "ads/.trash/a.mp4", "b.mp4"]
    make(tmp_path, *videos, *shouted, *others)
    assert set(found(tmp_path)) == {*videos, *shouted}


def test_hidden_and_reserved_folders_are_no_classes(tmp_path):
    make(tmp_path, "ads/a.mp4", ".cache/b.mp4", "recordings/c.mp4")
    assert set(found(tmp_path)) == {"ads/a.mp4"}


@pytest.mark.parametrize("sound", ["ads/x/a.wav", "ads/x/audio/a.wav", "ads/audio/a.wav", None])
def test_files_are_the_video_and_the_sound_that_would_be_heard(tmp_path, sound):
    make(tmp_path, *filter(None, ["ads/x/a.mp4", "games/b.mp4", "games/b.ogg", sound]))
    recordings = found(tmp_path)
    files = recordings["ads/x/a.mp4"].files
    assert files == ("ads/x/a.mp4", *filter(None, [sound]))
    assert recordings["games/b.mp4"].files == ("games/b.mp4",)
    if sound:  # the rule is that of the reader of sound
        assert find_audio(tmp_path / "ads/x/a.mp4") == tmp_path / sound


def test_sound_beside_a_video_wins_over_that_in_a_folder(tmp_path):
    make(tmp_path, "ads/x/a.mp4", "ads/x/a.wav", "ads/x/audio/a.wav", "ads/audio/a.wav")
    assert found(tmp_path)["ads/x/a.mp4"].files[1] == "ads/x/a.wav"
    assert find_audio(tmp_path / "ads/x/a.mp4") == tmp_path / "ads/x/a.wav"


def test_order_is_that_of_the_names(tmp_path):
    make(tmp_path, "b/2.mp4", "b/1/z.mp4", "a/9.mp4", "b/10.mp4")
    assert list(found(tmp_path)) == sorted(["b/2.mp4", "b/1/z.mp4", "a/9.mp4", "b/10.mp4"])


def test_links_are_followed_once_and_loops_end(tmp_path):
    elsewhere = make(tmp_path / "disk", "far.mp4", "sub/farther.mp4")
    data = make(tmp_path / "data", "ads/a.mp4")
    (data / "ads" / "linked").symlink_to(elsewhere)
    (elsewhere / "sub" / "loop").symlink_to(elsewhere)
    (data / "ads" / "up").symlink_to(data / "ads")
    names = [path.relative_to(data).as_posix() for path in list_videos(data / "ads")]
    assert names == ["ads/a.mp4", "ads/linked/far.mp4", "ads/linked/sub/farther.mp4"]


def test_folder_that_cannot_be_read_is_no_empty_folder(tmp_path, monkeypatch):
    make(tmp_path, "ads/x/a.mp4", "ads/y/b.mp4")
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "x":
            raise OSError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)  # modes do not stop a test that runs as root
    with pytest.raises(PermissionError) as error:
        find_recordings(Folder(tmp_path))
    assert error.value.filename == str(tmp_path / "ads" / "x")


def test_folder_without_any_video_gives_none(tmp_path):
    make(tmp_path, "README.md", "ads/notes.txt")
    (tmp_path / "games").mkdir()
    assert find_recordings(Folder(tmp_path)) == []


def test_missing_data_folder_is_refused(tmp_path):
    said = refusal(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in said
    assert "--data-dir" in said


@pytest.mark.parametrize("empty", ["games", "validation/games"])
def test_empty_class_folder_is_refused(tmp_path, empty):
    make(tmp_path, "ads/a.mp4", "replays/b.mp4", "games/c.mp4" if "/" in empty else "ads/c.mp4")
    (tmp_path / empty).mkdir(parents=True)
    said = refusal(tmp_path)
    assert f"{tmp_path / empty} has no video" in said
    assert ".mp4" in said
    assert "put recordings there" in said


def test_empty_class_is_not_mistaken_for_a_longer_name(tmp_path):
    make(tmp_path, "ads2/a.mp4", "games/b.mp4")
    (tmp_path / "ads").mkdir()
    assert f"{tmp_path / 'ads'} has no video" in refusal(tmp_path)


def test_validation_class_that_training_lacks_is_refused(tmp_path):
    make(tmp_path, "ads/a.mp4", "games/b.mp4", "validation/ads/c.mp4", "validation/game/d.mp4")
    said = refusal(tmp_path)
    assert "the class game," in said
    assert "name its folders like those of training" in said


def test_classes_are_in_alphabetical_order(tmp_path):
    make(tmp_path, "replays/a.mp4", "ads/b.mp4", "games/c.mp4", "ads/d.mp4")
    assert class_names(find_recordings(Folder(tmp_path))) == ["ads", "games", "replays"]


@pytest.mark.parametrize(("names", "says"), [(["ads/a.mp4"], r"\(ads\)"), ([], "no class")])
def test_fewer_than_two_classes_are_refused(tmp_path, names, says):
    make(tmp_path, *names)
    with pytest.raises(DataError, match=says + ".*at least two folders"):
        class_names(find_recordings(Folder(tmp_path)))


def test_description_counts_recordings_and_groups_of_each_class(tmp_path):
    make(tmp_path, "ads/x/a.mp4", "ads/x/b.mp4", "ads/c.mp4", "games/d.mp4")
    assert describe_recordings(find_recordings(Folder(tmp_path))) == (
        "ads: 3 recordings in 2 groups · games: 1 recording in 1 group"
    )


# Whole recordings with label files


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def listened(folder: Path) -> tuple[dict[str, Recording], list[str]]:
    """What was found, and the lines that were said."""
    lines: list[str] = []
    return {r.name: r for r in find_recordings(Folder(folder), lines.append)}, lines


def test_labelled_recording_shows_several_classes_without_any_class_folder(tmp_path):
    make(tmp_path, "recordings/game.ts", "recordings/ch5/a.mkv", "recordings/ch5/b.mkv")
    write(tmp_path / "recordings/game.edl", "60 90 3")
    write(tmp_path / "recordings/ch5/a.csv", "0,30,ads\n40,50,replays")
    write(tmp_path / "recordings/ch5/b.json", '{"segments": []}')
    recordings, lines = listened(tmp_path)
    assert recordings["recordings/game.ts"].spans == (
        Span(0.0, 60.0, "games"),
        Span(60.0, 90.0, "ads"),
        Span(90.0, math.inf, "games"),
    )
    assert recordings["recordings/game.ts"].labels == ("ads", "games")
    assert recordings["recordings/ch5/a.mkv"].labels == ("ads", "replays")
    assert {r.group for r in recordings.values()} == {"recordings/game.ts", "recordings/ch5"}
    assert class_names(list(recordings.values())) == ["ads", "games", "replays"]
    assert describe_recordings(list(recordings.values())) == (
        "ads: 2 recordings in 2 groups · games: 2 recordings in 2 groups"
        " · replays: 1 recording in 1 group"
    )
    assert lines == []


def test_labelled_recordings_of_validation_are_held_out(tmp_path):
    make(tmp_path, "recordings/a.ts", "validation/recordings/x/b.ts")
    write(tmp_path / "recordings/a.edl", "60 90 3")
    write(tmp_path / "validation/recordings/x/b.edl", "60 90 3")
    recordings, _ = listened(tmp_path)
    assert {name: (r.validation, r.group) for name, r in recordings.items()} == {
        "recordings/a.ts": (False, "recordings/a.ts"),
        "validation/recordings/x/b.ts": (True, "validation/recordings/x"),
    }


def test_what_is_left_out_is_said_in_a_line_each(tmp_path):
    make(tmp_path, "ads/a.mp4", "games/b.mp4", "ads/a.csv")
    make(tmp_path / "recordings", "new1.ts", "new2.ts", "gone.csv", "notes.txt", "new1.nfo")
    recordings, lines = listened(tmp_path)
    assert set(recordings) == {"ads/a.mp4", "games/b.mp4"}
    assert lines == [
        "recordings: 2 without labels (.json .csv .edl), not used: recordings/new1.ts and 1 more",
        "recordings: 1 of labels without a video beside it, not used: recordings/gone.csv",
    ]


def test_correction_by_the_review_page_wins_over_other_label_files_and_is_said(tmp_path):
    make(tmp_path, "recordings/a.ts")
    write(tmp_path / "recordings/a.edl", "60 90 3")
    write(tmp_path / "recordings/a.csv", "this is no label file")
    segment = {"start_seconds": 10, "end_seconds": 20, "label": "ads"}
    write(tmp_path / "recordings/a.json", json.dumps({"segments": [segment]}))
    recordings, lines = listened(tmp_path)
    assert recordings["recordings/a.ts"].spans[0] == Span(0.0, 10.0, "games")
    assert lines == [
        "recordings: 1 with two label files (.json, then .csv, then .edl counts): "
        "recordings/a.ts has a.json and a.csv and a.edl"
    ]


def test_label_files_with_mistakes_are_refused_with_the_first_and_their_count(tmp_path):
    make(tmp_path, "recordings/a.ts", "recordings/b.ts", "recordings/c.ts")
    write(tmp_path / "recordings/a.edl", "1 2 3")
    write(tmp_path / "recordings/b.edl", "5 2 3")
    write(tmp_path / "recordings/c.edl", "what")
    said = refusal(tmp_path)
    assert said.startswith(f"{tmp_path}/recordings/b.edl: line 1 ends at 2 and starts at 5")
    assert said.endswith("(1 more label files have mistakes)")


def test_label_that_is_no_class_folder_is_refused_and_the_folder_is_the_cure(tmp_path):
    make(tmp_path, "ads/a.mp4", "recordings/b.ts")
    write(tmp_path / "recordings/b.csv", "0,30,ads\n30,60,gmaes")
    said = refusal(tmp_path)
    assert f"{tmp_path}/recordings/b.ts is labelled 'gmaes', which is no class (ads, games)" in said
    (tmp_path / "gmaes").mkdir()
    assert set(listened(tmp_path)[0]) == {"ads/a.mp4", "recordings/b.ts"}


def test_class_folder_without_a_video_is_no_mistake_where_labels_fill_the_class(tmp_path):
    make(tmp_path, "ads/a.mp4", "recordings/b.ts")
    (tmp_path / "games").mkdir()
    write(tmp_path / "recordings/b.edl", "0 30 3")
    assert class_names(list(listened(tmp_path)[0].values())) == ["ads", "games"]
