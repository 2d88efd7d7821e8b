"""The library lists what is in its folders and nothing else, and knows what each recording is."""

import json
import os
import shutil
import threading
import time
from types import SimpleNamespace

import pytest

from tests.media import write_video
from tests.pages import make_settings
from tests.steady import wait_until
from utils.media import MediaError
from web import looks
from web.errors import NotFound
from web.library import Library
from web.readers import Readers


@pytest.fixture
def libraries():
    """Makes libraries that are closed at the end."""
    made = []

    def make(settings) -> Library:
        made.append(Library(settings))
        return made[-1]

    yield make
    for library in made:
        library.close()


def put(folder, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no video")


def names(library: Library) -> list[str]:
    return [recording.name for recording in library.all()]


def wait_for_looks(library: Library) -> dict:
    wait_until(lambda: all(recording.look for recording in library.all()), what=library.all)
    return {recording.name: recording for recording in library.all()}


def die(path, report):
    os.abort()


def test_a_folder_says_what_can_be_edited(tmp_path, libraries):
    settings = make_settings(tmp_path)
    put(settings.data_dir, "ads/tv/a.mp4", "validation/games/b.ts", "recordings/x/c.mkv")
    put(settings.data_dir, "validation/recordings/d.avi", "e.webm", "notes.txt", ".hidden/f.mp4")
    put(settings.data_dir, "recordings/.part.mp4")
    found = {r.name: (r.label, r.editable) for r in libraries(settings).all()}
    assert found == {
        "ads/tv/a.mp4": ("ads", False),
        "validation/games/b.ts": ("games", False),
        "recordings/x/c.mkv": (None, True),
        "validation/recordings/d.avi": (None, True),
        "e.webm": (None, True),
    }


def test_folders_below_the_data_folder_know_their_class_too(tmp_path, libraries):
    settings = make_settings(tmp_path)
    put(settings.data_dir, "ads/a.mp4", "recordings/b.mp4")
    put(tmp_path / "archive", "ads/c.mp4")
    folders = [settings.data_dir / "ads", settings.data_dir / "recordings", tmp_path / "archive"]
    library = libraries(make_settings(tmp_path, *folders))
    found = {(r.folder, r.name): r.label for r in library.all()}
    expected = {("ads", "a.mp4"): "ads", ("recordings", "b.mp4"): None}
    assert found == {**expected, ("archive", "ads/c.mp4"): None}


def test_an_id_is_of_the_place_and_stays(tmp_path, libraries):
    settings = make_settings(tmp_path)
    put(settings.data_dir, "recordings/a.mp4", "recordings/b.mp4")
    first = {r.name: r.id for r in libraries(settings).all()}
    put(settings.data_dir, "recordings/0.mp4", "recordings/a.mp4")
    again = {r.name: r.id for r in libraries(settings).all()}
    assert first.items() <= again.items()
    assert len(set(again.values())) == 3
    assert all(len(id) == 16 and int(id, 16) >= 0 for id in again.values())


def test_links_that_lead_out_of_a_folder_are_left_out_and_said(tmp_path, libraries):
    settings = make_settings(tmp_path)
    put(settings.data_dir, "recordings/a.mp4")
    put(tmp_path / "outside", "secret.mp4", "deep/more.mp4")
    inside = settings.data_dir / "recordings"
    (inside / "file.mp4").symlink_to(tmp_path / "outside" / "secret.mp4")
    (inside / "folder").symlink_to(tmp_path / "outside")
    (inside / "up").symlink_to("../..")
    (inside / "same.mp4").symlink_to("a.mp4")  # listed once
    (inside / "loop").symlink_to(".")
    (inside / "nowhere.mp4").symlink_to(inside / "gone.mp4")
    library = libraries(settings)
    assert names(library) == ["recordings/a.mp4"]
    [note] = library.notes
    assert "recordings/file.mp4 and 2 more" in note
    assert "serve.py" in note


def test_a_recording_that_becomes_a_link_out_is_not_found(tmp_path, libraries):
    settings = make_settings(tmp_path)
    put(settings.data_dir, "recordings/a.mp4")
    put(tmp_path / "outside", "a.mp4")
    library = libraries(settings)
    [recording] = library.all()
    assert library.find(recording.id).path == recording.path
    shutil.rmtree(settings.data_dir / "recordings")
    (settings.data_dir / "recordings").symlink_to(tmp_path / "outside")
    with pytest.raises(NotFound):
        library.find(recording.id)


def test_no_path_is_an_id(tmp_path, libraries):
    settings = make_settings(tmp_path)
    put(settings.data_dir, "recordings/a.mp4")
    library = libraries(settings)
    for id in ("", ".", "..", "../a.mp4", "recordings/a.mp4", "%2e%2e", "\0", "a" * 100_000):
        with pytest.raises(NotFound):
            library.find(id)


def test_a_new_recording_is_found_and_a_removed_one_is_not(tmp_path, libraries):
    settings = make_settings(tmp_path)
    library = libraries(settings)
    assert names(library) == []
    put(settings.uploads.path, "new.mp4")
    library.refresh()
    [recording] = library.all()
    recording.path.unlink()
    with pytest.raises(NotFound):
        library.find(recording.id)
    assert names(library) == []


def test_names_of_any_bytes_are_listed_and_told_apart(tmp_path, libraries):
    settings = make_settings(tmp_path)
    for name in (b"caf\xe9.mp4", b"caf\xea.mp4", "ż\n\u202e.mp4".encode()):
        with open(os.path.join(os.fsencode(settings.data_dir), name), "wb") as file:
            file.write(b"no video")
    library = libraries(settings)
    found = library.all()
    assert len({recording.id for recording in found}) == 3
    assert json.dumps(names(library), ensure_ascii=False).encode().decode()
    assert [library.find(recording.id).path for recording in found] == [r.path for r in found]


def test_a_folder_that_went_away_is_said(tmp_path, libraries):
    put(tmp_path / "archive", "a.mp4")
    put(tmp_path / "disk", "b.mp4")
    library = libraries(make_settings(tmp_path, tmp_path / "archive", tmp_path / "disk"))
    shutil.rmtree(tmp_path / "disk")
    assert names(library) == ["a.mp4"]
    [note] = library.notes
    assert "disk can't be listed" in note


def test_recordings_are_looked_into_in_the_background_once(tmp_path, libraries, monkeypatch):
    settings = make_settings(tmp_path)
    put(settings.data_dir, "recordings/broken.ts")
    write_video(settings.data_dir / "recordings" / "b.mp4", seconds=1.4, size=(64, 96))
    library = libraries(settings)
    assert [recording.probe for recording in library.all()] == [None, None]
    found = wait_for_looks(library)
    assert found["recordings/b.mp4"].probe.duration_seconds == pytest.approx(1.4, abs=0.05)
    assert found["recordings/b.mp4"].look.tracks.plays
    assert "not a video file" in found["recordings/broken.ts"].error
    library.close()

    monkeypatch.setattr(looks, "look_into", die)  # which nobody is to ask for what is known
    again = libraries(settings)
    known = {recording.name: recording.probe for recording in again.all()}
    assert known["recordings/b.mp4"] == found["recordings/b.mp4"].probe
    assert known["recordings/broken.ts"] is None  # a disk may have failed


def test_what_somebody_waited_for_is_not_looked_into_in_the_background_too(
    tmp_path, libraries, monkeypatch
):
    settings = make_settings(tmp_path)
    put(settings.data_dir, "a.mp4", "b.mp4")
    library, is_time, asked = libraries(settings), threading.Event(), []
    clock = SimpleNamespace(sleep=lambda _: is_time.wait(), monotonic=time.monotonic)
    monkeypatch.setattr(looks, "time", clock)

    def run(_, path):
        asked.append(path.name)
        library.all()  # as a page does that waits for the rest
        raise MediaError("no video")

    monkeypatch.setattr(library.readers, "run", run)
    first, second = library.all()
    library.looked(first)
    assert asked == ["a.mp4"]
    is_time.set()
    wait_until(lambda: library.find(second.id).look)
    assert asked == ["a.mp4", "b.mp4"]


def test_a_recording_that_changed_is_looked_into_again(tmp_path, libraries):
    settings = make_settings(tmp_path)
    path = write_video(settings.data_dir / "a.mp4", seconds=1)
    library = libraries(settings)
    first = library.looked(library.find(library.all()[0].id))
    write_video(path, seconds=2)
    changed = library.find(first.id)
    assert changed.look is None
    assert changed.version != first.version
    assert library.looked(changed).probe.duration_seconds == pytest.approx(2, abs=0.05)


def test_what_was_kept_may_be_damaged(tmp_path, libraries):
    settings = make_settings(tmp_path)
    write_video(settings.data_dir / "a.mp4", seconds=1)
    settings.review_dir.mkdir(parents=True)
    for content in (b"", b"{", b"[]", b'{"version": 1, "looks": {"a": 5}}', b'{"version": 1}'):
        (settings.review_dir / "recordings.json").write_bytes(content)
        library = libraries(settings)
        assert [recording.look for recording in library.all()] == [None]
        library.close()
    assert "a.mp4" in wait_for_looks(libraries(settings))


def test_a_recording_that_kills_its_reader_is_an_error_and_no_more(
    tmp_path, libraries, monkeypatch
):
    settings = make_settings(tmp_path)
    put(settings.data_dir, "a.mp4")
    library = libraries(settings)
    monkeypatch.setattr(looks, "look_into", die)
    found = wait_for_looks(library)
    assert "crashed" in found["a.mp4"].error
    monkeypatch.undo()
    assert library.readers.run(looks.look_into, write_video(tmp_path / "b.mp4"))


def test_readers_that_were_closed_say_so():
    readers = Readers()
    readers.close()
    with pytest.raises(MediaError, match="stop"):
        readers.run(die, None)
