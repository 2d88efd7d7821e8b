"""A shared store holds whole files only, sends and fetches nothing twice, and loses nobody's."""

import dataclasses
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cloud import local_copy, shared_store
from cloud.local_copy import digest_file
from cloud.s3 import PART_BYTES, S3Error, list_objects, read_json, update_json
from cloud.shared_store import Copied, get_store, put_store
from tests.s3_server import one_after, some_after

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def url(s3) -> str:
    return f"s3://{s3.new_bucket()}/store"


def write(folder: Path, **contents: bytes) -> list[str]:
    """Files with `_` for the dot before a suffix; returns all names in the folder."""
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    return names_in(folder)


def names_in(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names_in(folder)}


def put(folder: Path, url: str) -> Copied:
    return put_store(folder, names_in(folder), url)


# --- there and back


def test_store_comes_back_byte_by_byte(url, tmp_path):
    write(
        tmp_path / "a",
        frames_npy=random.Random(0).randbytes(2 * PART_BYTES + 5),
        one_npy=bytes(PART_BYTES),
        index_jsonl=b'{"key": 1}\n',
        empty_npy=b"",
    )
    sent = put(tmp_path / "a", url)
    assert sent == Copied(4, 3 * PART_BYTES + 16)
    assert get_store(url, tmp_path / "b") == sent
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_large_file_goes_in_parts(s3, url, tmp_path):
    write(tmp_path / "a", frames_npy=bytes(2 * PART_BYTES + 5))
    put(tmp_path / "a", url)
    assert s3.count("PUT", "partNumber=") == 3


def test_place_without_a_store_gives_nothing(url, tmp_path):
    assert get_store(url, tmp_path / "a") == Copied(0, 0)
    assert names_in(tmp_path / "a") == []


def test_what_is_there_is_neither_sent_nor_fetched_again(s3, url, tmp_path):
    write(tmp_path / "a", frames_npy=b"frames", index_jsonl=b"one")
    put(tmp_path / "a", url)
    get_store(url, tmp_path / "b")
    s3.requests.clear()
    assert put(tmp_path / "a", url) == put(tmp_path / "b", url) == Copied(0, 0)
    assert get_store(url, tmp_path / "a") == get_store(url, tmp_path / "b") == Copied(0, 0)
    assert s3.count("PUT") == 0
    assert s3.count("GET", "npy") == 0


def test_only_what_grew_is_sent_and_fetched(s3, url, tmp_path):
    write(tmp_path / "a", old_npy=b"old", last_npy=b"last", index_jsonl=b"one\n")
    put(tmp_path / "a", url)
    get_store(url, tmp_path / "b")
    write(tmp_path / "a", last_npy=b"last and more", index_jsonl=b"one\ntwo\n")
    assert put(tmp_path / "a", url) == Copied(2, 21)
    assert get_store(url, tmp_path / "b") == Copied(2, 21)
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_unchanged_files_are_not_even_read_again(url, tmp_path, monkeypatch):
    write(tmp_path / "a", frames_npy=b"frames")
    put(tmp_path / "a", url)
    monkeypatch.setattr(local_copy, "digest_file", None)
    assert put(tmp_path / "a", url) == Copied(0, 0)


def test_file_changed_behind_its_old_time_and_size_is_sent(url, tmp_path):
    write(tmp_path / "a", frames_npy=b"one")
    times = (tmp_path / "a/frames.npy").stat()
    put(tmp_path / "a", url)
    write(tmp_path / "a", frames_npy=b"two")
    os.utime(tmp_path / "a/frames.npy", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert put(tmp_path / "a", url) == Copied(1, 3)


def test_lost_notes_of_the_folder_cost_reading_and_no_sending(url, tmp_path):
    write(tmp_path / "a", frames_npy=b"frames")
    put(tmp_path / "a", url)
    for damage in (lambda path: path.unlink(), lambda path: path.write_text("{")):
        damage(tmp_path / "a/.shared.json")
        assert put(tmp_path / "a", url) == get_store(url, tmp_path / "a") == Copied(0, 0)


def test_file_that_was_lost_here_is_not_lost_there_and_comes_back(url, tmp_path):
    write(tmp_path / "a", old_npy=b"old", new_npy=b"new")
    put(tmp_path / "a", url)
    (tmp_path / "a/old.npy").unlink()
    put(tmp_path / "a", url)
    assert get_store(url, tmp_path / "a") == Copied(1, 3)
    assert contents(tmp_path / "a") == {"old.npy": b"old", "new.npy": b"new"}


# --- several machines


def test_stores_of_two_machines_become_one(url, tmp_path):
    write(tmp_path / "a", a_npy=b"a", **{"index-a_jsonl": b"a"})
    write(tmp_path / "b", b_npy=b"b", **{"index-b_jsonl": b"b"})
    for _ in range(2):  # the second put of one must not take what it does not have for removed
        put(tmp_path / "a", url)
        put(tmp_path / "b", url)
    get_store(url, tmp_path / "c")
    assert contents(tmp_path / "c") == {**contents(tmp_path / "a"), **contents(tmp_path / "b")}


def test_many_machines_at_once_lose_nothing(url, tmp_path):
    folders = [tmp_path / str(k) for k in range(6)]
    for folder in folders:
        write(folder, **{f"{folder.name}_npy": folder.name.encode()})
    errors = []

    def run(folder: Path) -> None:
        try:
            put(folder, url)
        except S3Error as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    get_store(url, tmp_path / "all")
    assert names_in(tmp_path / "all") == [f"{k}.npy" for k in range(6)]


def test_what_others_changed_meanwhile_is_neither_undone_nor_a_conflict(url, tmp_path):
    write(tmp_path / "a", a_npy=b"a")
    put(tmp_path / "a", url)
    get_store(url, tmp_path / "b")
    write(tmp_path / "a", a_npy=b"a, longer")
    put(tmp_path / "a", url)
    write(tmp_path / "b", b_npy=b"b")
    assert put(tmp_path / "b", url) == Copied(1, 1)
    get_store(url, tmp_path / "b")
    assert contents(tmp_path / "b") == {"a.npy": b"a, longer", "b.npy": b"b"}


def test_get_that_was_interrupted_between_two_puts_of_others_is_no_conflict(s3, url, tmp_path):
    write(tmp_path / "a", a_npy=b"1", b_npy=b"1")
    put(tmp_path / "a", url)
    get_store(url, tmp_path / "b")
    write(tmp_path / "a", a_npy=b"2", b_npy=b"2")
    put(tmp_path / "a", url)
    with s3.faulty(one_after(0, "denied", "GET", "b.npy")), pytest.raises(S3Error):
        get_store(url, tmp_path / "b")
    write(tmp_path / "a", a_npy=b"3", b_npy=b"3")
    put(tmp_path / "a", url)
    get_store(url, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_two_machines_that_both_say_main_do_not_meet(url, tmp_path):
    for name in ("a", "b"):
        files = {"frames-main-00000_npy": b"%s" % name.encode(), "index-main_jsonl": name.encode()}
        write(tmp_path / name, **files)
        put(tmp_path / name, url)
    for name, other in (("a", "b"), ("b", "a")):
        get_store(url, tmp_path / name)
        found = contents(tmp_path / name)
        assert len(found) == 4
        assert found["frames-main-00000.npy"] == name.encode()  # still its own
        others = [file for file in found if "main" not in file]
        assert {found[file] for file in others} == {other.encode()}
        assert get_store(url, tmp_path / name) == Copied(0, 0)
        assert put(tmp_path / name, url) == Copied(0, 0)


def test_change_of_one_file_by_two_machines_is_refused_and_overwrites_nothing(url, tmp_path):
    write(tmp_path / "a", frames_npy=b"one")
    put(tmp_path / "a", url)
    get_store(url, tmp_path / "b")
    write(tmp_path / "a", frames_npy=b"one and a")
    write(tmp_path / "b", frames_npy=b"one and b")
    put(tmp_path / "a", url)
    for attempt in (lambda: put(tmp_path / "b", url), lambda: get_store(url, tmp_path / "b")):
        with pytest.raises(S3Error, match=r"frames\.npy was changed .*another machine"):
            attempt()
    assert contents(tmp_path / "b") == {"frames.npy": b"one and b"}
    get_store(url, tmp_path / "c")
    assert contents(tmp_path / "c") == {"frames.npy": b"one and a"}


def test_change_that_was_not_put_yet_survives_a_get(url, tmp_path):
    write(tmp_path / "a", frames_npy=b"one")
    put(tmp_path / "a", url)
    write(tmp_path / "a", frames_npy=b"one and two")
    assert get_store(url, tmp_path / "a") == Copied(0, 0)
    assert put(tmp_path / "a", url) == Copied(1, 11)


def test_json_changed_by_many_keeps_every_change(url):
    def add(k: int) -> None:
        update_json(f"{url}/memory.json", lambda old: {**old, str(k): k})

    threads = [threading.Thread(target=add, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_json(f"{url}/memory.json")[0] == {str(k): k for k in range(8)}


# --- faults


def test_interrupted_put_leaves_the_old_store_and_goes_on_where_it_was(s3, url, tmp_path):
    write(tmp_path / "a", a_npy=b"a", index_jsonl=b"one")
    put(tmp_path / "a", url)
    old = contents(tmp_path / "a")
    write(tmp_path / "a", a_npy=b"a, longer", b_npy=b"b", index_jsonl=b"one, two")
    with s3.faulty(one_after(0, "denied", "PUT", "manifest")), pytest.raises(S3Error):
        put(tmp_path / "a", url)
    get_store(url, tmp_path / "b")
    assert contents(tmp_path / "b") == old
    s3.requests.clear()
    assert put(tmp_path / "a", url) == Copied(0, 0)  # all of it had arrived
    assert s3.count("PUT") == 1
    get_store(url, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


@pytest.mark.parametrize("fault", ["spoil", (400, "BadDigest")], ids=str)
@pytest.mark.parametrize("size", [1000, PART_BYTES + 1])
def test_content_spoilt_on_its_way_to_s3_is_noticed_and_sent_again(
    s3, url, tmp_path, capsys, size, fault
):
    write(tmp_path / "a", frames_npy=random.Random(1).randbytes(size))
    with s3.faulty(one_after(0, fault, "PUT", "frames.npy")):
        assert put(tmp_path / "a", url) == Copied(2, 2 * size)
    assert "frames.npy arrived damaged on S3: sent again" in capsys.readouterr().out
    get_store(url, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_content_spoilt_again_and_again_is_given_up_and_is_in_no_manifest(s3, url, tmp_path):
    write(tmp_path / "a", frames_npy=b"frames")
    spoil = some_after(0, 100, "spoil", "PUT", "frames.npy")
    with s3.faulty(spoil), pytest.raises(S3Error, match="arrives damaged again and again"):
        put(tmp_path / "a", url)
    assert read_json(f"{url}/manifest.json") == ({}, None)


@pytest.mark.parametrize("size", [1000, PART_BYTES + 1])
def test_content_spoilt_on_its_way_here_is_noticed_and_fetched_again(s3, url, tmp_path, size):
    write(tmp_path / "a", frames_npy=random.Random(2).randbytes(size))
    put(tmp_path / "a", url)
    with s3.faulty(one_after(0, "spoil", "GET", "frames.npy")):
        get_store(url, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_content_damaged_on_s3_never_takes_its_place(s3, url, tmp_path):
    write(tmp_path / "a", frames_npy=b"frames")
    put(tmp_path / "a", url)
    item = next(item for item in list_objects(url) if item.url.endswith("frames.npy"))
    bucket, key = item.url.removeprefix("s3://").split("/", 1)
    s3.put(bucket, **{key: b"frameS"})
    with pytest.raises(S3Error, match="arrives damaged again and again"):
        get_store(url, tmp_path / "b")
    assert names_in(tmp_path / "b") == []


def test_etag_that_is_no_checksum_is_settled_by_reading_back(s3, url, tmp_path, monkeypatch):
    """As with KMS keys, where S3's ETag says nothing of the content."""
    write(tmp_path / "a", frames_npy=b"frames")
    monkeypatch.setattr(
        local_copy,
        "digest_file",
        lambda *args: dataclasses.replace(digest_file(*args), etag="not what S3 says"),
    )
    assert put(tmp_path / "a", url) == Copied(1, 6)
    assert s3.count("GET", "frames.npy") == 1
    assert names_in(tmp_path / "a") == ["frames.npy"]


def test_interrupted_get_goes_on_with_what_is_missing(s3, url, tmp_path):
    write(tmp_path / "a", a_npy=b"aa", b_npy=b"bb", index_jsonl=b"one")
    put(tmp_path / "a", url)
    with s3.faulty(one_after(0, "denied", "GET", "b.npy")), pytest.raises(S3Error):
        get_store(url, tmp_path / "b")
    assert names_in(tmp_path / "b") == ["a.npy"]  # and no index, which would name b.npy
    assert get_store(url, tmp_path / "b") == Copied(2, 5)
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_killed_put_and_get_are_finished_by_the_next(s3, url, tmp_path):
    for k in range(3):
        write(tmp_path / "a", **{f"{k}_npy": random.Random(k).randbytes(100_000)})
    code = (
        "import sys; from pathlib import Path; from cloud.shared_store import *\n"
        "folder, url = Path(sys.argv[1]), sys.argv[2]\n"
        "put_store(folder, ['0.npy', '1.npy', '2.npy'], url)\n"
        "get_store(url, folder.parent / 'b')\n"
    )

    def run_until(method: str, part: str) -> None:
        killed = threading.Event()

        def kill() -> None:
            child.kill()
            killed.set()

        with s3.faulty(one_after(1, kill, method, part)):
            child = subprocess.Popen([sys.executable, "-c", code, tmp_path / "a", url], cwd=ROOT)
            child.wait(60)
        assert killed.is_set()

    run_until("PUT", "npy")
    assert read_json(f"{url}/manifest.json") == ({}, None)
    run_until("GET", "npy")
    assert len(names_in(tmp_path / "b")) == 1
    (tmp_path / "b" / ".1.npy.partial.AbCd").write_bytes(b"left")
    get_store(url, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    assert [name for name in os.listdir(tmp_path / "b") if "partial" in name] == []


def test_contents_replaced_while_they_are_fetched_are_fetched_as_they_are_now(s3, url, tmp_path):
    write(tmp_path / "a", a_npy=b"old a", b_npy=b"old b")
    put(tmp_path / "a", url)

    def replace_all() -> None:
        old = [item for item in list_objects(url) if item.url.endswith(".npy")]
        write(tmp_path / "a", a_npy=b"new a", b_npy=b"new b")
        put(tmp_path / "a", url)
        shared_store.delete(old)

    with s3.faulty(one_after(0, replace_all, "GET", "a.npy")):
        get_store(url, tmp_path / "b")
    assert contents(tmp_path / "b") == {"a.npy": b"new a", "b.npy": b"new b"}


def test_old_contents_are_deleted_when_no_put_can_want_them(s3, url, tmp_path, monkeypatch):
    write(tmp_path / "a", a_npy=b"one")
    put(tmp_path / "a", url)
    s3.put(url.split("/")[2], **{"store/notes.txt": b"the user's"})
    write(tmp_path / "a", a_npy=b"two")
    put(tmp_path / "a", url)
    assert len(list(list_objects(url))) == 4  # both contents, the manifest and the notes
    monkeypatch.setattr(shared_store, "ORPHAN_SECONDS", -3600)
    put(tmp_path / "a", url)
    names = sorted(item.url.rpartition("/")[2] for item in list_objects(url))
    assert names == ["a.npy", "manifest.json", "notes.txt"]
    assert get_store(url, tmp_path / "b") == Copied(1, 3)


def test_machine_that_may_not_delete_says_what_stays(s3, url, tmp_path, monkeypatch, capsys):
    write(tmp_path / "a", a_npy=b"one")
    put(tmp_path / "a", url)
    write(tmp_path / "a", a_npy=b"two")
    monkeypatch.setattr(shared_store, "ORPHAN_SECONDS", -3600)
    with s3.faulty(one_after(0, "denied", "POST", "delete")):
        assert put(tmp_path / "a", url) == Copied(1, 3)
    assert "s3:DeleteObject" in capsys.readouterr().out


# --- refusals


@pytest.mark.parametrize("name", ["../x.npy", "a/b.npy", ".hidden", "manifest.json"])
def test_names_that_could_leave_the_folder_are_refused(s3, url, tmp_path, name):
    with pytest.raises(S3Error, match="can't be the name"):
        put_store(tmp_path, [name], url)
    file = {"sha256": "0" * 64, "size_bytes": 1}
    update_json(f"{url}/manifest.json", lambda _: {"files": {name: file}})
    with pytest.raises(S3Error, match="can't be the name"):
        get_store(url, tmp_path / "b")


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"files": 3}', b'{"files": {"a": {"b": 1}}}'])
def test_something_else_in_the_manifests_place_is_left_alone(s3, url, tmp_path, content):
    s3.put(url.split("/")[2], **{"store/manifest.json": content})
    write(tmp_path / "a", a_npy=b"a")
    for attempt in (lambda: put(tmp_path / "a", url), lambda: get_store(url, tmp_path / "b")):
        with pytest.raises(S3Error, match="not a .*of ours") as error:
            attempt()
        assert error.value.filename == f"{url}/manifest.json"


def test_store_larger_than_the_disk_is_refused_before_it_comes(s3, url, tmp_path):
    file = {"sha256": "0" * 64, "size_bytes": 1 << 60}
    update_json(f"{url}/manifest.json", lambda _: {"files": {"a.npy": file}})
    with pytest.raises(S3Error, match=r"has room for .*--cache-dir"):
        get_store(url, tmp_path / "b")


def test_manifest_says_size_and_sha256(url, tmp_path):
    write(tmp_path / "a", a_npy=b"abc")
    put(tmp_path / "a", url)
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert json.loads(json.dumps(read_json(f"{url}/manifest.json")[0])) == {
        "files": {"a.npy": {"sha256": sha256, "size_bytes": 3}}
    }
    assert {item.url for item in list_objects(url)} == {
        f"{url}/manifest.json",
        f"{url}/{sha256}/a.npy",
    }
    assert next(iter(list_objects(url))).modified_seconds == pytest.approx(time.time(), abs=3600)
