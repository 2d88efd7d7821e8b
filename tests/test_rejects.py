"""Reasons are remembered by content, and listed for people."""

import pytest

from utils.rejects import Rejects, write_list


def test_reasons_are_known_to_the_next_run(tmp_path):
    rejects = Rejects(tmp_path)
    rejects.add("b", "no video stream")
    rejects.add("a", "grün \udcff")  # a file name that is not UTF-8
    again = Rejects(tmp_path)
    assert again.get("b") == "no video stream"
    assert again.get("a") == "grün ?"
    assert again.get("c") is None
    assert again.get(None) is None
    assert len(again) == 2


def test_reasons_can_be_forgotten(tmp_path):
    rejects = Rejects(tmp_path)
    for key in "abc":
        rejects.add(key, "why")
    rejects.keep({"b", "d"})
    assert [Rejects(tmp_path).get(key) for key in "abc"] == [None, "why", None]
    rejects.keep(())
    assert len(Rejects(tmp_path)) == 0


def test_file_is_the_same_whatever_the_order(tmp_path):
    for folder, order in (("x", "ab"), ("y", "ba")):
        (tmp_path / folder).mkdir()
        rejects = Rejects(tmp_path / folder)
        for key in order:
            rejects.add(key, "why")
    assert (tmp_path / "x/rejected.json").read_bytes() == (
        tmp_path / "y/rejected.json"
    ).read_bytes()


@pytest.mark.parametrize("text", ["", "{", "\0"])
def test_damaged_memory_costs_only_trying_again(tmp_path, text):
    (tmp_path / "rejected.json").write_text(text)
    assert Rejects(tmp_path).get("a") is None


def test_list_is_written_only_where_it_changes(tmp_path):
    path = write_list(tmp_path / "new", [("ads/a,b.mp4", 'it says "no"')])
    assert path.read_bytes() == b'path,reason\r\n"ads/a,b.mp4","it says ""no"""\r\n'
    before = path.stat().st_mtime_ns
    write_list(tmp_path / "new", [("ads/a,b.mp4", 'it says "no"')])
    assert path.stat().st_mtime_ns == before
    write_list(tmp_path / "new", [])
    assert path.read_bytes() == b"path,reason\r\n"
