"""Files are read again only where their stamp is new, and then known by their bytes."""

import json
import os
from pathlib import Path

import pytest

from utils.content_hashes import ContentHashes, hash_file
from utils.sources import Folder


@pytest.fixture
def folder(tmp_path) -> Path:
    place = tmp_path / "data"
    place.mkdir()
    for name in "ab":
        (place / name).write_text(name * 10)
    return place


def open_hashes(folder: Path) -> ContentHashes:
    return ContentHashes(folder.parent / "cache" / "fingerprints.json", Folder(folder))


def learn(hashes: ContentHashes, *names: str) -> None:
    for name, stamp in zip(names, hashes.stamps(names), strict=True):
        hashes.learn(name, stamp, f"hash of {name}")


def find(hashes: ContentHashes, *names: str) -> list[str | None]:
    return hashes.find(names, hashes.stamps(names))


def test_hash_is_of_the_bytes_alone(folder):
    said = []
    first = hash_file(folder / "a", said.append)
    assert said == [10]
    (folder / "b").write_text("a" * 10)
    assert hash_file(folder / "b", said.append) == first
    (folder / "b").write_text("a" * 11)
    assert hash_file(folder / "b", said.append) != first
    assert len(bytes.fromhex(first)) == 16


def test_what_was_learned_is_known_to_the_next_run(folder):
    hashes = open_hashes(folder)
    assert find(hashes, "a", "b") == [None, None]
    learn(hashes, "a")
    assert find(hashes, "a", "b") == ["hash of a", None]
    assert find(open_hashes(folder), "a") == [None]
    hashes.save()
    assert find(open_hashes(folder), "a", "b") == ["hash of a", None]


def test_file_that_was_touched_or_replaced_is_not_known(folder):
    hashes = open_hashes(folder)
    learn(hashes, "a", "b")
    status = (folder / "a").stat()
    os.utime(folder / "a")
    (folder / "b").write_text("c" * 10)
    os.utime(folder / "b", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert find(hashes, "a", "b") == [None, None]


def test_sources_and_runs_share_the_file(folder, tmp_path):
    first, second = open_hashes(folder), open_hashes(folder)
    learn(first, "a")
    learn(second, "b")
    first.save()
    second.save()
    assert find(open_hashes(folder), "a", "b") == ["hash of a", "hash of b"]
    folder.rename(tmp_path / "moved")
    moved = ContentHashes(tmp_path / "cache" / "fingerprints.json", Folder(tmp_path / "moved"))
    assert find(moved, "a") == [None]  # another place; what lies there is read once


def test_saving_is_put_off_while_work_goes_on(folder):
    hashes = open_hashes(folder)
    learn(hashes, "a")
    hashes.save(now=False)
    assert find(open_hashes(folder), "a") == [None]
    hashes._saved -= 100
    hashes.save(now=False)
    assert find(open_hashes(folder), "a") == ["hash of a"]


def test_files_that_are_gone_are_dropped_on_demand(folder):
    hashes = open_hashes(folder)
    learn(hashes, "a", "b")
    hashes.save()
    assert open_hashes(folder).forget_others(["b"]) == 1
    assert find(open_hashes(folder), "a", "b") == [None, "hash of b"]


@pytest.mark.parametrize("text", ["", "{", '{"place": 3}', "\0\0"])
def test_damaged_file_costs_only_reading_again(folder, text):
    path = folder.parent / "cache" / "fingerprints.json"
    path.parent.mkdir()
    path.write_text(text)
    hashes = open_hashes(folder)
    assert find(hashes, "a") == [None]
    learn(hashes, "a")
    hashes.save()
    assert find(open_hashes(folder), "a") == ["hash of a"]
    assert list(json.loads(path.read_text())) == [str(folder)]


def test_size_is_known_from_the_stamp(folder):
    hashes = open_hashes(folder)
    assert hashes.size_bytes("a") == 10
    assert hashes.size_bytes("gone") == 0
