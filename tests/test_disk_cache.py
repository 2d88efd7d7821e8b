"""The disk cache keeps what was used last, up to so many bytes."""

import os

import pytest

from web.disk_cache import DiskCache


def names(cache: DiskCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()}


def age(cache: DiskCache, *aged: str) -> None:
    """Makes the files old, the first one the oldest."""
    for number, name in enumerate(aged):
        os.utime(cache.folder / name, (number, number))


def test_what_was_kept_is_found_as_it_was(tmp_path):
    cache = DiskCache(tmp_path / "new" / "folder", 100)
    assert cache.read("a") is None
    cache.write("a", b"one")
    assert cache.read("a") == b"one"
    cache.write("a", b"two")
    assert DiskCache(cache.folder, 100).read("a") == b"two"


def test_the_longest_unused_goes_first(tmp_path):
    cache = DiskCache(tmp_path, 100)
    for name in "abcd":
        cache.write(name, b"." * 24)
    age(cache, *"abcd")
    cache.find("a")
    cache.write("e", b"." * 24)
    assert names(cache) == {"a", "d", "e"}  # a tenth more than need be is made free


def test_being_used_does_not_look_like_a_change(tmp_path):
    cache = DiskCache(tmp_path, 100)
    cache.write("a", b"one")
    age(cache, "a")
    before = (tmp_path / "a").stat()
    after = cache.find("a").stat()
    assert after.st_mtime_ns == before.st_mtime_ns
    assert after.st_atime_ns > before.st_atime_ns


def test_files_of_an_earlier_process_count(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(b"." * 50)
    age(DiskCache(tmp_path, 100), *"abc")
    cache = DiskCache(tmp_path, 100)
    removed = cache.added(0)
    assert [path.name for path in removed] == ["a", "b"]
    assert names(cache) == {"c"}


def test_what_is_too_large_alone_is_kept_where_it_is_to_be(tmp_path):
    cache = DiskCache(tmp_path, 100)
    cache.write("a", b"." * 50)
    (tmp_path / "b").write_bytes(b"." * 500)
    cache.added(500, keep=tmp_path / "b")
    assert names(cache) == {"b"}


def test_files_are_removed_by_name(tmp_path):
    cache = DiskCache(tmp_path, 100)
    for name in ("a-1", "a-2", "b-1", ".a-3.partial"):
        cache.write(name, b"one")
    cache.remove(lambda name: "a-" in name and name != "a-2")
    assert names(cache) == {"a-2", "b-1"}
    DiskCache(tmp_path / "missing", 100).remove(lambda name: True)


def test_what_can_not_be_written_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        DiskCache(tmp_path / "file" / "below", 100).write("a", b"one")
