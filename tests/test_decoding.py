"""A recording is fetched, known and decoded once, and every failure gets its reason."""

import contextlib
from pathlib import Path

import pytest

from tests import media
from tests.pools import InThisProcess, InThreads
from utils import decoding
from utils.audio import MfccSpec
from utils.content_hashes import ContentHashes
from utils.decoding import Decoder, unreadable
from utils.features import FeatureSpec
from utils.media import WHOLE, MediaError, Part, SplitError
from utils.processes import WorkerLost
from utils.progress import Progress
from utils.recordings import Recording
from utils.sources import Folder

SPEC = FeatureSpec(4.0, (32, 48), "fast", False, MfccSpec())
RECORDING = Recording("a.mp4", ("a.mp4",), (), "group", False)


class Remote(Folder):
    is_remote = True


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    media.write_video(folder / "a.mp4", fps=12, size=(48, 64))
    return folder


def make_decoder(source: Folder, tmp_path: Path) -> Decoder:
    return Decoder(
        source,
        SPEC,
        InThisProcess(),
        hashes=ContentHashes(tmp_path / "fingerprints.json", source),
        incoming=tmp_path / "incoming",
        progress=Progress({"a.mp4": 1}),
    )


def yes(key: str) -> bool:
    return True


def no(key: str) -> bool:
    return False


def test_recording_comes_as_parts_with_its_key(data, tmp_path):
    decoded = make_decoder(Folder(data), tmp_path).decode(RECORDING, yes)
    assert decoded.reason is None
    assert [part.rows["frames"] for part in decoded.parts] == [8]
    assert decoded.parts[0].folder.parent == tmp_path / "incoming" / decoded.key


def test_content_that_nobody_wants_is_known_and_not_decoded(data, tmp_path):
    decoder = make_decoder(Folder(data), tmp_path)
    decoded = decoder.decode(RECORDING, no)
    assert decoded.parts == []
    assert decoded.reason is None
    assert decoded.key == decoder.decode(RECORDING, yes).key


def test_remote_content_that_is_known_and_not_wanted_is_not_fetched(data, tmp_path, monkeypatch):
    source = Remote(data)
    decoder = make_decoder(source, tmp_path)
    key = decoder.decode(RECORDING, no).key
    monkeypatch.setattr(source, "fetch", lambda _: pytest.fail("fetched"))
    assert decoder.decode(RECORDING, no).key == key


def test_object_replaced_before_it_is_fetched_is_known_by_what_came(data, tmp_path, monkeypatch):
    source = Remote(data)
    decoder = make_decoder(source, tmp_path)
    changes = iter([b"free", b"skip"])

    @contextlib.contextmanager
    def fetch(names):
        with open(data / "a.mp4", "ab") as file:
            file.write(b"\0\0\0\x08" + next(changes))
        yield data

    monkeypatch.setattr(source, "fetch", fetch)
    first = decoder.decode(RECORDING, yes)
    assert first.reason is None
    second = decoder.decode(RECORDING, yes)  # its content was known, and is another now
    assert second.reason == decoding.CHANGED
    assert not second.lasting


def test_reason_of_the_content_lasts_and_that_of_the_place_does_not(data, tmp_path):
    decoder = make_decoder(Folder(data), tmp_path)
    (data / "a.mp4").write_text("no video")
    decoded = decoder.decode(RECORDING, yes)
    assert decoded.lasting
    assert "not a video file" in decoded.reason
    (data / "a.mp4").unlink()
    decoded = decoder.decode(RECORDING, yes)
    assert not decoded.lasting
    assert decoded.reason == "can't be read: No such file or directory"


@pytest.mark.parametrize("error", [SplitError("no key"), MediaError("damage"), WorkerLost("crash")])
def test_part_that_fails_leaves_the_decision_to_the_whole(data, tmp_path, monkeypatch, error):
    parts = [Part(k, 4) for k in range(4)]
    monkeypatch.setattr(decoding, "split_recording", lambda *_: parts)
    begun = []
    decode = decoding.decode_part

    def decode_or_fail(path, spec, part, *arguments):
        begun.append(part)
        if part == parts[1]:
            raise error
        return decode(path, spec, WHOLE, *arguments)

    monkeypatch.setattr(decoding, "decode_part", decode_or_fail)
    decoder = make_decoder(Folder(data), tmp_path)
    with InThreads(1) as pool:
        decoder._pool = pool
        decoded = decoder.decode(RECORDING, yes)
    assert decoded.reason is None
    assert [part.rows["frames"] for part in decoded.parts] == [8]
    assert begun[:2] == parts[:2]
    assert begun[-1] == WHOLE


def test_recording_whose_hashing_was_lost_is_tried_by_the_next_run(data, tmp_path, monkeypatch):
    def lost(*_):
        raise WorkerLost("killed")

    monkeypatch.setattr(decoding, "hash_file", lost)
    decoded = make_decoder(Folder(data), tmp_path).decode(RECORDING, yes)
    assert decoded.reason == "killed"
    assert not decoded.lasting


def test_one_missing_object_is_set_aside_and_a_lost_network_ends_the_run(data):
    assert "gone" in unreadable(FileNotFoundError(2, "gone", "a"), Remote(data))
    assert "denied" in unreadable(PermissionError(13, "denied", "a"), Folder(data))
    for error, source in (
        (OSError(5, "no network", "a"), Remote(data)),
        (OSError(28, "no space", "a"), Folder(data)),
    ):
        with pytest.raises(OSError, match="no "):
            unreadable(error, source)
