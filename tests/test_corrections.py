"""Corrections are saved as label files that train as they are, and never over somebody's work."""

import json
import os
import threading

import pytest

from tests.media import write_video
from tests.timelines import labelled, timeline
from timeline.formats import format_timeline
from utils.labels import Span, parse_labels
from utils.recordings import find_recordings
from utils.sources import Folder
from web.corrections import (
    BadSegments,
    CorrectionConflict,
    Corrections,
    NotEditable,
    Part,
    covered,
    with_label,
)
from web.library import Library
from web.settings import Settings

MODEL = timeline("games 6", "ads? 3", "games 3", recording="game.ts", zero_seconds=0.5)


class MadeTimelines:
    """What a model said, by the name of the recording."""

    def __init__(self):
        self.said = {"game.ts": labelled(MODEL)}

    def find(self, recording):
        return self.said.get(recording.path.name)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "game.ts", seconds=2.0)


@pytest.fixture
def page(tmp_path, video):
    return Page(tmp_path, video)


class Page:
    """A data folder with one recording that is labelled, and its corrections."""

    def __init__(self, folder, video):
        self.recordings = folder / "data" / "recordings"
        self.recordings.mkdir(parents=True)
        self.video = video
        self.add("game.ts")
        self.sidecar = self.recordings / "game.json"
        self.settings = Settings.of(
            (), data_dir=folder / "data", cache_dir=folder / "cache", runs_dir=folder / "runs"
        )
        self.library = Library(self.settings)
        self.timelines = MadeTimelines()
        self.corrections = Corrections(self.settings, self.library, self.timelines)

    def add(self, name):
        path = self.recordings.parent / "recordings" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.video.read_bytes())

    def recording(self, name="game.ts"):
        self.library.refresh()
        return next(r for r in self.library.all() if r.path.name == name)

    def write(self, *parts, revision=None, **how):
        rows = [dict(zip(("start_seconds", "end_seconds", "label"), p, strict=True)) for p in parts]
        return self.corrections.write(self.recording(), rows, revision=revision, **how)

    def kind_of(self, *parts, **how):
        with pytest.raises(CorrectionConflict) as refused:
            self.write(*parts, **how)
        assert "\n" not in str(refused.value)
        return refused.value.kind


MINE = (0, 5.5, "games"), (5.5, 9, "ads"), (9, 12, "games")


def test_correction_lies_beside_the_recording_and_trains_as_it_is(page):
    saved = page.write(*MINE)
    assert (saved.place, saved.path) == ("beside", page.sidecar)
    assert parse_labels("game.json", page.sidecar.read_bytes()) == tuple(Span(*p) for p in MINE)
    [recording] = find_recordings(Folder(page.settings.data_dir))
    assert recording.spans == tuple(Span(*part) for part in MINE)
    again = Corrections(page.settings, page.library, page.timelines)
    assert again.read(page.recording()) == saved
    assert page.corrections.all() == [(page.recording(), page.sidecar)]


def test_file_says_whose_it_is_and_what_it_was_made_from(page):
    page.write(*MINE)
    document = json.loads(page.sidecar.read_bytes())
    assert document["corrections"]["saved_at"].startswith("20")
    assert (document["format"], document["recording"]) == ("ad-game-timeline", "game.ts")
    assert document["zero_seconds"] == 0.5
    assert document["model"] == dict(MODEL.model)


def test_downloads_are_made_of_the_timeline_of_a_correction(page):
    saved = page.write((0, 5.5, "games"), (5.5, 9, "ads"), (9, 10, None), (10, 12, "games"))
    assert format_timeline(saved.timeline, "edl") == b"6.000\t9.500\t3\n"
    assert {segment.label for segment in saved.timeline.segments} == {"ads", "games"}


def test_what_has_no_label_is_in_no_training(page):
    saved = page.write((0, 5, "games"), (5, 7, None), (7, 9, "ads"))
    assert [part.label for part in saved.parts] == ["games", None, "ads", None]
    assert saved.parts[-1] == Part(9, 12, None)
    spans = parse_labels("game.json", page.sidecar.read_bytes())
    assert spans == (Span(0, 5, "games"), Span(7, 9, "ads"))


def test_ads_beside_what_has_no_label_leave_no_game_over(page):
    page.write((3, 7, "ads"))
    assert parse_labels("game.json", page.sidecar.read_bytes()) == (Span(3, 7, "ads"),)


def test_second_save_needs_the_revision_of_the_first(page):
    first = page.write(*MINE)
    second = page.write((0, 12, "games"), revision=first.revision)
    assert second.revision != first.revision
    assert page.kind_of(*MINE, revision=first.revision) == "changed_elsewhere"
    assert page.kind_of(*MINE) == "changed_elsewhere"
    assert page.corrections.read(page.recording()) == second


def test_of_many_saves_at_once_with_one_revision_one_wins(page):
    first, kinds = page.write(*MINE), []
    recording = page.recording()

    def save(number):
        rows = [{"start_seconds": 0, "end_seconds": 1 + number, "label": "games"}]
        try:
            page.corrections.write(recording, rows, revision=first.revision)
            kinds.append("saved")
        except CorrectionConflict as error:
            kinds.append(error.kind)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(kinds) == ["changed_elsewhere"] * 7 + ["saved"]


def test_hand_that_changed_our_file_is_seen_before_it_is_written_over(page):
    saved = page.write(*MINE)
    document = json.loads(page.sidecar.read_bytes())
    document["segments"][1]["start_seconds"] = document["segments"][0]["end_seconds"] = 5.0
    page.sidecar.write_text(json.dumps(document))
    assert page.kind_of(*MINE, revision=saved.revision) == "changed_elsewhere"
    changed = page.corrections.read(page.recording())
    assert changed.parts[1].start_seconds == 5.0
    assert page.write(*MINE, revision=changed.revision).parts[1].start_seconds == 5.5


@pytest.mark.parametrize(
    "theirs",
    [
        b'{"segments": [{"start_seconds": 1, "end_seconds": 2, "label": "ads"}]}',
        b"not even JSON",
        format_timeline(MODEL, "json"),
        b'{"corrections": {"saved_at": "2026"}, "recording": "game.mp4", "segments": []}',
    ],
)
def test_file_of_somebody_else_is_replaced_only_when_asked_and_kept(page, theirs):
    page.sidecar.write_bytes(theirs)
    assert page.corrections.read(page.recording()) is None
    assert page.kind_of(*MINE) == "unknown_file"
    assert page.sidecar.read_bytes() == theirs
    assert page.write(*MINE, overwrite=True).place == "beside"
    [kept] = page.settings.cache_dir.rglob("replaced-game.json")
    assert kept.read_bytes() == theirs


def test_recording_of_the_same_stem_keeps_its_corrections(page):
    page.write(*MINE)
    page.add("game.mkv")
    with pytest.raises(CorrectionConflict) as refused:
        page.corrections.write(
            page.recording("game.mkv"),
            [{"start_seconds": 0, "end_seconds": 1, "label": "ads"}],
            revision=None,
        )
    assert refused.value.kind == "unknown_file"


def test_folder_for_reading_has_its_corrections_in_the_cache(page, monkeypatch):
    access = os.access
    closed = {page.recordings}
    monkeypatch.setattr(os, "access", lambda path, mode: path not in closed and access(path, mode))
    page.sidecar.write_bytes(b"somebody's, which is not touched")
    saved = page.write(*MINE)
    assert saved.place == "cache"
    assert saved.path.is_relative_to(page.settings.cache_dir / "corrections")
    assert saved.path.stem == "game"
    assert page.corrections.all() == [(page.recording(), saved.path)]
    assert page.corrections.read(page.recording()) == saved
    page.sidecar.unlink()
    closed.clear()
    moved = page.write(*MINE, revision=saved.revision)
    assert moved.place == "beside"
    assert not saved.path.exists()


def test_disk_that_refuses_beside_leads_to_the_cache(page, monkeypatch):
    import web.corrections

    whole = web.corrections.write_whole

    def refuse(path, data):
        if path == page.sidecar:
            raise PermissionError(30, "Read-only file system", str(path))
        whole(path, data)

    monkeypatch.setattr(web.corrections, "write_whole", refuse)
    assert page.write(*MINE).place == "cache"


def test_taking_back_removes_the_file_that_was_seen(page):
    saved = page.write(*MINE)
    with pytest.raises(CorrectionConflict):
        page.corrections.remove(page.recording(), "another")
    page.corrections.remove(page.recording(), saved.revision)
    assert not page.sidecar.exists()
    assert page.corrections.read(page.recording()) is None
    page.corrections.remove(page.recording(), None)  # there is nothing to take back, which is fine


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([(0, 5, "games"), (4, 6, "ads")], "segment 2 starts at 4 s"),
        ([(5, 5, "games")], "segment 1 is from 5 to 5 s"),
        ([(0, float("nan"), "games")], "segment 1"),
        ([(0, float("inf"), "games")], "segment 1"),
        ([(-1, 5, "games")], "segment 1"),
        ([(0, 13, "games")], "ends at 13 s and the recording at 12 s"),
        ([(0, 5, "advert")], "choose from ads, games"),
        ([(0, 5, 7)], "segment 1 has the label 7"),
        ([(0, "x", "ads")], "segment 1 lacks"),
        ([(0, 12, None)], "no segment has a label"),
        ([], "no segment has a label"),
    ],
)
def test_segments_that_no_recording_has_are_refused(page, parts, said):
    with pytest.raises(BadSegments, match=said):
        page.write(*parts)
    assert not page.sidecar.exists()


def test_end_that_a_player_takes_for_longer_is_the_end(page):
    assert page.write((0, 12.3, "games")).parts == (Part(0, 12, "games"),)


def test_recording_without_a_timeline_is_as_long_as_its_file_says(page):
    page.timelines.said.clear()
    saved = page.write((0.5, 1.5, "ads"))
    assert saved.parts[-1].end_seconds == pytest.approx(2.0, abs=0.05)
    assert saved.timeline.frame_rate == 25


def test_class_folders_of_the_data_are_labels(page):
    (page.settings.data_dir / "news").mkdir()
    (page.settings.data_dir / "validation").mkdir()
    assert page.corrections.labels(page.recording()) == ("ads", "games", "news")
    assert page.write((0, 5, "news")).parts[0].label == "news"


def test_label_files_name_the_classes_where_no_folder_does(page):
    (page.recordings / "game.csv").write_text("0,5,games\n5,7,replays\n")
    assert page.corrections.labels(page.recording()) == ("ads", "games", "replays")
    page.write((5, 7, "replays"))
    (page.recordings / "game.csv").unlink()
    assert page.corrections.labels(page.recording()) == ("ads", "games", "replays")
    (page.settings.data_dir / "news").mkdir()  # now a training refuses any other
    assert page.corrections.labels(page.recording()) == ("ads", "games", "news")


def test_folder_in_the_way_is_left_there(page):
    page.sidecar.mkdir()
    assert page.write(*MINE, overwrite=True).place == "cache"


def test_training_clip_is_not_corrected(page, video):
    page.add("../ads/spot.ts")
    recording = page.recording("spot.ts")
    with pytest.raises(NotEditable, match="data/recordings"):
        page.corrections.write(recording, [], revision=None)


def test_labels_of_somebody_else_are_where_to_begin(page):
    (page.recordings / "game.edl").write_text("2.5 4.5 3\n")
    found = page.corrections.found_labels(page.recording())
    assert found.file == "game.edl"
    assert found.parts == (Part(0, 2, "games"), Part(2, 4, "ads"), Part(4, 12, "games"))
    page.write(*MINE)
    assert page.corrections.found_labels(page.recording()) is None


def test_edl_that_was_written_of_the_timeline_is_no_news(page):
    (page.recordings / "game.edl").write_bytes(format_timeline(MODEL, "edl"))
    assert page.corrections.found_labels(page.recording()) is None


def test_label_file_with_a_mistake_says_it(page):
    (page.recordings / "game.csv").write_text("1,2\n")
    found = page.corrections.found_labels(page.recording())
    assert found.parts == ()
    assert "line 1" in found.error


def test_link_that_leads_out_of_the_folder_is_never_read(page, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_bytes(b'{"segments": [{"start_seconds": 1, "end_seconds": 2, "label": "ads"}]}')
    page.sidecar.symlink_to(secret)
    found = page.corrections.found_labels(page.recording())
    assert found.parts == ()
    assert page.kind_of(*MINE) == "unknown_file"
    page.write(*MINE, overwrite=True)
    assert b"corrections" not in secret.read_bytes()
    assert list(page.settings.cache_dir.rglob("replaced-*")) == []


def test_gaps_have_no_label():
    parts = [Part(1, 2, "ads"), Part(2, 3, "ads"), Part(5, 9, "games")]
    assert covered(parts, 8.0) == (
        Part(0, 1, None),
        *parts[:2],
        Part(3, 5, None),
        Part(5, 8, "games"),
    )
    assert covered([], 8.0) == (Part(0, 8.0, None),)
    assert covered(parts, 0.0)[-1] == Part(5, 9, "games")


def test_stretch_takes_a_label_and_joins_its_neighbours():
    parts = covered([Part(0, 10, "games"), Part(10, 20, "ads"), Part(20, 40, "games")], 40)
    assert with_label(parts, 5, 15, "ads") == (
        Part(0, 5, "games"),
        Part(5, 20, "ads"),
        Part(20, 40, "games"),
    )
    assert with_label(parts, 10, 20, "games") == (Part(0, 40, "games"),)
    assert with_label(parts, 25, 30, None)[2:] == (
        Part(20, 25, "games"),
        Part(25, 30, None),
        Part(30, 40, "games"),
    )
