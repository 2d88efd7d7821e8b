"""Ranged files: what players ask for, of files of any size that may change while they are sent."""

import asyncio
import os
from email.utils import formatdate

import pytest
from fastapi.testclient import TestClient

from web.ranged_file import CHUNK_BYTES, RangedFile

CONTENT = bytes(range(256)) * 4  # 1024 bytes


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(CONTENT)
    return path


def ask(path, method="GET", **headers):
    async def app(scope, receive, send):
        await RangedFile(path, "video/mp4")(scope, receive, send)

    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return TestClient(app).request(method, "/", headers=names)


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-", 0, 1024),
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=1000-9999", 1000, 1024),
        ("bytes=1023-", 1023, 1024),
        ("bytes=-100", 924, 1024),
        ("bytes=-5000", 0, 1024),
        ("Bytes = 5 - 9", 5, 10),
        ("bytes=0-9223372036854775807", 0, 1024),
    ],
)
def test_a_range_is_answered_with_its_bytes(path, wanted, start, end):
    answer = ask(path, range=wanted)
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/1024"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("wanted", ["bytes=1024-", "bytes=5000-6000", "bytes=-0"])
def test_a_range_that_the_file_has_not_is_refused_with_its_size(path, wanted):
    answer = ask(path, range=wanted)
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */1024"
    assert answer.json()["kind"] == "range"


@pytest.mark.parametrize(
    "wanted",
    ["", "bytes", "bytes=", "bytes=-", "bytes=9-5", "bytes=a-b", "bytes=0-1,5-9", "items=0-5"]
    + ["bytes=--5", "bytes=1e3-", f"bytes={'9' * 5000}-", "bytes=٣-٥"],
)
def test_what_is_no_single_range_is_answered_with_the_whole_file(path, wanted):
    answer = ask(path, range=wanted.encode())
    assert answer.status_code == 200
    assert answer.content == CONTENT


def test_a_file_says_what_it_is(path):
    answer = ask(path)
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["content-length"] == "1024"
    assert answer.headers["last-modified"] == formatdate(int(path.stat().st_mtime), usegmt=True)


def test_head_is_answered_without_a_body(path):
    whole, part = ask(path, "HEAD"), ask(path, "HEAD", range="bytes=5-9")
    assert (whole.status_code, whole.content, whole.headers["content-length"]) == (200, b"", "1024")
    assert (part.status_code, part.content, part.headers["content-length"]) == (206, b"", "5")


def test_an_empty_file_has_no_range(tmp_path):
    path = tmp_path / "empty.mp4"
    path.touch()
    assert (ask(path).status_code, ask(path).content) == (200, b"")
    assert ask(path, range="bytes=0-").status_code == 416


def test_the_end_of_a_file_of_many_gigabytes_comes_at_once(tmp_path):
    path = tmp_path / "large.ts"
    with open(path, "wb") as file:
        file.truncate(20 << 30)  # a hole, which takes no place
        file.seek(-3, os.SEEK_END)
        file.write(b"end")
    assert ask(path, range="bytes=-3").content == b"end"
    tail = ask(path, range=f"bytes={(20 << 30) - 2 * CHUNK_BYTES - 1}-")
    assert len(tail.content) == 2 * CHUNK_BYTES + 1
    assert tail.content.endswith(b"end")


def test_a_range_goes_on_only_with_the_same_file(path):
    tag, date = (ask(path).headers[name] for name in ("etag", "last-modified"))
    for condition in (tag, date):
        assert ask(path, range="bytes=5-", if_range=condition).status_code == 206
    for condition in ('"other"', f"W/{tag}", "yesterday", formatdate(0, usegmt=True), "9" * 400):
        answer = ask(path, range="bytes=5-", if_range=condition)
        assert (answer.status_code, answer.content) == (200, CONTENT)
    path.write_bytes(CONTENT[::-1])
    answer = ask(path, range="bytes=5-", if_range=tag)
    assert (answer.status_code, answer.content) == (200, CONTENT[::-1])


def test_a_file_that_the_client_has_is_not_sent_again(path):
    tag = ask(path).headers["etag"]
    for tags in (tag, f'"other", W/{tag}', "*"):
        answer = ask(path, if_none_match=tags)
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
    assert ask(path, if_none_match='"other"').status_code == 200


def test_what_is_no_file_is_gone(tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "folder").mkdir()
    for name in ("missing", "pipe", "link", "folder"):
        with pytest.raises(FileNotFoundError):
            RangedFile(tmp_path / name, "video/mp4")


class Client:
    """A client at the other end of an answer, which takes as much as it likes."""

    def __init__(self):
        self.body = b""
        self.takes = asyncio.Event()
        self.takes.set()
        self.asked = asyncio.Event()  # it was given something
        self.left = asyncio.Event()

    async def receive(self):
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.body += message.get("body", b"")
        if message["type"] == "http.response.body":
            self.asked.set()
            await self.takes.wait()

    def take(self, path) -> asyncio.Task:
        answer = RangedFile(path, "video/mp4")
        scope = {"type": "http", "method": "GET", "headers": []}
        return asyncio.create_task(answer(scope, self.receive, self.send))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc")
def test_the_file_is_closed_when_the_client_leaves(tmp_path):
    path = tmp_path / "a.mp4"
    with open(path, "wb") as file:
        file.truncate(64 * CHUNK_BYTES)

    async def leave() -> int:
        before = open_files()
        client = Client()
        client.takes.clear()
        sending = client.take(path)
        await client.asked.wait()
        assert open_files() == before + 1
        client.left.set()
        await asyncio.wait_for(sending, 5)
        assert open_files() == before
        return len(client.body)

    assert asyncio.run(leave()) <= 2 * CHUNK_BYTES


def test_a_file_that_is_replaced_while_it_is_sent_comes_as_it_was(tmp_path):
    path, old, new = tmp_path / "a.mp4", b"a" * 3 * CHUNK_BYTES, b"b" * CHUNK_BYTES
    path.write_bytes(old)

    async def replace() -> bytes:
        client = Client()
        client.takes.clear()
        sending = client.take(path)
        await client.asked.wait()
        (tmp_path / "new").write_bytes(new)
        os.replace(tmp_path / "new", path)
        client.takes.set()
        await asyncio.wait_for(sending, 5)
        return client.body

    assert asyncio.run(replace()) == old


def test_a_file_that_is_cut_short_or_grows_while_it_is_sent_ends_the_answer(tmp_path):
    path = tmp_path / "a.mp4"

    async def change(size: int) -> bytes:
        path.write_bytes(b"a" * 3 * CHUNK_BYTES)
        client = Client()
        client.takes.clear()
        sending = client.take(path)
        await client.asked.wait()
        os.truncate(path, size)
        client.takes.set()
        await asyncio.wait_for(sending, 5)
        return client.body

    assert len(asyncio.run(change(CHUNK_BYTES + 10))) == CHUNK_BYTES + 10
    assert len(asyncio.run(change(9 * CHUNK_BYTES))) == 3 * CHUNK_BYTES


def test_clients_that_take_nothing_hold_up_nobody(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"a" * 3 * CHUNK_BYTES)

    async def crowd() -> bytes:
        slow = [Client() for _ in range(100)]
        for client in slow:
            client.takes.clear()
        waiting = [client.take(path) for client in slow]
        await asyncio.gather(*(client.asked.wait() for client in slow))
        quick = Client()
        await asyncio.wait_for(quick.take(path), 5)
        for client in slow:
            client.left.set()
        await asyncio.gather(*waiting)
        return quick.body

    assert len(asyncio.run(crowd())) == 3 * CHUNK_BYTES
