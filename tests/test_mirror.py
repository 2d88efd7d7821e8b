"""The mirror holds a whole run at each moment, and sends nothing twice."""

import errno
import os
import random
import threading
import time
from hashlib import sha256
from pathlib import Path

import pytest

from cloud import mirror as module
from cloud.mirror import Mirror, SupersededError
from cloud.run_record import AttemptEnd, Latest, RecordError, RunRecord, utc_now
from cloud.s3 import (
    PART_BYTES,
    S3DamagedError,
    S3Error,
    S3ObjectError,
    forget_connection,
    list_objects,
    read_bytes,
)
from tests.s3_server import one_after, some_after

RUN = "2026-11-22_06-10-00-train-x7k2"


@pytest.fixture
def record(s3, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    forget_connection()
    yield RunRecord(s3.new_bucket(), RUN)
    forget_connection()


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "run"
    write(folder, {"config.json": b"{}", "last.ckpt": b"epoch 1", "run.log": b"one\n"})
    return folder


@pytest.fixture
def mirror(record, tmp_path) -> Mirror:
    return Mirror(record, 1, tmp_path / "sending")


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Each whole, as a training writes."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(content)
        partial.rename(path)


def read(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def on_s3(record: RunRecord) -> dict[str, bytes]:
    """The run as latest.json names it; fails where something is not there as it is named."""
    latest = record.read_latest()
    found = {}
    for name, file in (latest.files if latest else {}).items():
        content, _ = read_bytes(f"{record.files_url}/{file['sha256']}/{name}")
        assert sha256(content).hexdigest() == file["sha256"], name
        assert len(content) == file["size_bytes"]
        found[name] = content
    return found


def contents(record: RunRecord) -> list[str]:
    return sorted(item.url.rpartition("/")[2] for item in list_objects(record.files_url))


# --- there and back


def test_run_comes_back_byte_by_byte(mirror, record, folder, tmp_path):
    write(
        folder,
        {
            "best.safetensors": random.Random(0).randbytes(2 * PART_BYTES + 5),
            "exactly.bin": bytes(PART_BYTES),
            "empty.csv": b"",
            "tensorboard/events.out": b"\0\1",
        },
    )
    (folder / ".last.ckpt.17.partial").write_bytes(b"half")
    (folder / "latest").symlink_to("config.json")
    assert mirror.send(folder)
    back = tmp_path / "elsewhere" / RUN
    assert Mirror(record, 2, tmp_path / "other").bring_back(back)
    expected = {name: data for name, data in read(folder).items() if name[0] != "."}
    del expected["latest"]
    assert read(back) == expected
    assert [path.name for path in back.parent.iterdir()] == [RUN]
    assert not list((tmp_path / "sending").iterdir())


def test_no_run_yet_is_not_brought_back(mirror, tmp_path):
    assert not mirror.bring_back(tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_folder_that_is_no_run_yet_is_not_sent(mirror, record, tmp_path):
    write(tmp_path / "new", {"data.json": b"{}"})
    assert not mirror.send(tmp_path / "new")
    assert record.read_latest() is None


def test_what_was_brought_back_is_not_sent_again(mirror, record, folder, tmp_path, s3):
    mirror.send(folder)
    second = Mirror(record, 2, tmp_path / "other")
    second.bring_back(tmp_path / "back")
    s3.requests.clear()
    assert not second.send(tmp_path / "back")
    assert s3.count("PUT") == 0


# --- what is new


def test_only_what_is_new_is_sent(mirror, record, folder, s3):
    mirror.send(folder)
    s3.requests.clear()
    assert not mirror.send(folder)
    assert s3.requests == []
    write(folder, {"last.ckpt": b"epoch 2"})
    assert mirror.send(folder)
    assert s3.count("PUT", "last.ckpt") == s3.count("PUT", "latest.json") == 1
    assert s3.count("PUT") == 2
    assert on_s3(record)["last.ckpt"] == b"epoch 2"


def test_content_that_comes_again_is_not_sent_again(mirror, record, folder, s3):
    mirror.send(folder)
    write(folder, {"last.ckpt": b"epoch 2"})
    mirror.send(folder)
    write(folder, {"last.ckpt": b"epoch 1"})
    s3.requests.clear()
    mirror.send(folder)
    assert s3.count("PUT", "last.ckpt") == 0
    assert on_s3(record)["last.ckpt"] == b"epoch 1"


def test_old_contents_go_one_version_later(mirror, record, folder):
    for epoch in range(1, 5):
        write(folder, {"last.ckpt": f"epoch {epoch}".encode()})
        mirror.send(folder)
    # Who read the former latest.json may still be fetching.
    assert contents(record).count("last.ckpt") == 2
    assert on_s3(record)["last.ckpt"] == b"epoch 4"


def test_sweep_leaves_what_is_named(mirror, record, folder, s3):
    key = f"runs/{RUN}/files/{'0' * 64}/last.ckpt"
    bucket = record.url.split("/")[2]
    s3.put(bucket, **{key: b"of an attempt that was killed"})
    for epoch in (1, 2):
        write(folder, {"last.ckpt": f"epoch {epoch}".encode()})
        mirror.send(folder)
    mirror.sweep()
    assert contents(record) == ["config.json", "last.ckpt", "run.log"]
    assert on_s3(record)["last.ckpt"] == b"epoch 2"


def test_role_that_may_not_delete_is_no_hindrance(mirror, record, folder, s3):
    with s3.faulty(lambda method, path: "denied" if "delete" in path else None):
        for epoch in range(1, 5):
            write(folder, {"last.ckpt": f"epoch {epoch}".encode()})
            mirror.send(folder)
    assert "allow s3:DeleteObject" in mirror.note
    assert contents(record).count("last.ckpt") == 4
    assert s3.count("POST", "delete") == 1


# --- while it is written


@pytest.mark.parametrize("size_bytes", [1000, PART_BYTES + 1000])
def test_file_that_is_replaced_meanwhile_is_never_torn(mirror, record, folder, size_bytes):
    versions = [bytes([number]) * size_bytes for number in range(4)]
    stop, latest = threading.Event(), []

    def replace():
        while not stop.is_set():
            for version in versions:
                write(folder, {"last.ckpt": version})

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(4):
            mirror.send(folder)
            latest.append(on_s3(record)["last.ckpt"])
    finally:
        stop.set()
        writer.join()
    assert all(content in versions for content in latest)
    mirror.send(folder)
    assert on_s3(record)["last.ckpt"] == (folder / "last.ckpt").read_bytes()


def test_content_that_is_replaced_as_it_is_linked_is_linked_again(
    mirror, record, folder, monkeypatch
):
    content, link, tries = bytes(PART_BYTES + 1), os.link, []

    def replaced_once(path, other):
        tries.append(path)
        if len(tries) == 1:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        link(path, other)

    monkeypatch.setattr(os, "link", replaced_once)
    write(folder, {"last.ckpt": content})
    mirror.send(folder)
    assert len(tries) == 2
    assert on_s3(record)["last.ckpt"] == content


def test_file_that_grows_meanwhile_is_a_beginning_of_it(mirror, record, folder):
    stop = threading.Event()

    def append():
        with open(folder / "monitor.jsonl", "ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"line\n" * 100)
                time.sleep(0.001)

    writer = threading.Thread(target=append)
    writer.start()
    try:
        for _ in range(4):
            mirror.send(folder)
            content = on_s3(record).get("monitor.jsonl", b"")
            assert (folder / "monitor.jsonl").read_bytes().startswith(content)
    finally:
        stop.set()
        writer.join()


def test_file_that_vanishes_meanwhile_is_left_out(mirror, record, folder, monkeypatch):
    write(folder, {"thresholds.json": b"{}"})
    names = module._names(folder)
    monkeypatch.setattr(module, "_names", lambda _: names)
    (folder / "thresholds.json").unlink()
    mirror.send(folder)
    assert sorted(on_s3(record)) == ["config.json", "last.ckpt", "run.log"]


# --- S3 at fault


def test_latest_names_a_whole_run_whichever_request_fails(mirror, record, folder, s3):
    mirror.send(folder)
    whole = [on_s3(record)]
    failed = 0
    for number in range(12):
        files = {name: f"{name} {number}".encode() for name in ("last.ckpt", "run.log", "more")}
        write(folder, files)
        seen = iter(range(1000))

        def fail(method, path, number=number, seen=seen):
            return "busy" if next(seen) == number else None

        with s3.faulty(fail):
            try:
                mirror.send(folder)
            except S3Error:
                failed += 1
        found = on_s3(record)
        assert found in (whole[-1], read(folder))
        mirror.send(folder)
        whole.append(on_s3(record))
        assert whole[-1] == read(folder)
    assert failed > 6


def test_content_that_arrives_damaged_is_sent_again(mirror, record, folder, s3):
    with s3.faulty(one_after(0, "spoil", "PUT", "last.ckpt")):
        mirror.send(folder)
    assert s3.count("PUT", "last.ckpt") == 2
    assert on_s3(record)["last.ckpt"] == b"epoch 1"


def test_content_that_always_arrives_damaged_leaves_the_one_before(mirror, record, folder, s3):
    mirror.send(folder)
    write(folder, {"last.ckpt": b"epoch 2", "run.log": b"one\ntwo\n"})
    with s3.faulty(some_after(0, 100, "spoil", "PUT", "last.ckpt")):
        mirror.send(folder)
    assert on_s3(record)["last.ckpt"] == b"epoch 1"
    assert on_s3(record)["run.log"] == b"one\ntwo\n"
    assert "damaged" in mirror.note


def test_content_that_comes_back_damaged_is_fetched_again(mirror, record, folder, tmp_path, s3):
    mirror.send(folder)
    with s3.faulty(one_after(0, "cut", "GET", "last.ckpt")):
        Mirror(record, 2, tmp_path / "other").bring_back(tmp_path / "back")
    assert read(tmp_path / "back") == read(folder)


def test_content_that_was_changed_on_s3_is_refused(mirror, record, folder, tmp_path, s3):
    mirror.send(folder)
    file = record.read_latest().files["last.ckpt"]
    key = f"runs/{RUN}/files/{file['sha256']}/last.ckpt"
    s3.put(record.url.split("/")[2], **{key: b"epoch !"})
    with pytest.raises(S3DamagedError, match="damaged"):
        Mirror(record, 2, tmp_path / "other").bring_back(tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_content_that_is_gone_is_told(mirror, record, folder, tmp_path, s3):
    mirror.send(folder)
    file = record.read_latest().files["last.ckpt"]
    key = f"runs/{RUN}/files/{file['sha256']}/last.ckpt"
    s3.client.delete_object(Bucket=record.url.split("/")[2], Key=key)
    with pytest.raises(S3ObjectError, match="no such object"):
        Mirror(record, 2, tmp_path / "other").bring_back(tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("name", ["../elsewhere", "/etc/passwd", "a//b", "", "a/../../b"])
def test_names_that_leave_the_folder_are_refused(mirror, record, tmp_path, name):
    files = {name: {"sha256": "0" * 64, "size_bytes": 1}}
    record.write_latest(Latest(files, 1, utc_now()))
    with pytest.raises(RecordError, match="no file of a run"):
        mirror.bring_back(tmp_path / "back")


def test_attempt_that_counts_as_ended_sends_no_more(mirror, record, folder):
    mirror.send(folder)
    record.write_end(1, AttemptEnd("failed", "it was silent", 1, utc_now(), 0.0))
    write(folder, {"last.ckpt": b"epoch 2"})
    with pytest.raises(SupersededError):
        mirror.send(folder)
    assert on_s3(record)["last.ckpt"] == b"epoch 1"
