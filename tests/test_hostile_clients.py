"""One bad client does not stop the others: slow ones, idle ones, broken and endless uploads."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Server
from tests.steady import Stopwatch, wait_until

pytestmark = [pytest.mark.slow]

IDLE_CONNECTIONS = 200
ANSWER_SECONDS = 2.0  # of a busy machine with two cores; else it is a few milliseconds
ROUNDS = 10


@pytest.fixture(scope="module")
def archive(made_archive, tmp_path_factory):
    return made_archive.copy(tmp_path_factory.mktemp("hostile") / "archive")


@pytest.fixture(scope="module")
def server(archive) -> Iterator[Server]:
    with Server(archive.serve_options(), archive.folder / "log") as server:
        server.get(f"/api/recordings/{first_recording(server)}")  # what is read once
        yield server


def first_recording(server: Server) -> str:
    recordings = server.get("/api/recordings")["recordings"]
    return next(r["id"] for r in recordings if r["name"].endswith("first.mp4"))


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def head(server: Server, method: str, path: str, length: int | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {server.host}"]
    if length is not None:
        lines += [f"Content-Length: {length}", "Content-Type: application/octet-stream"]
    return "\r\n".join([*lines, "", ""]).encode()


def assert_others_are_answered(server: Server) -> None:
    name = first_recording(server)
    for _ in range(ROUNDS):
        for path in ("/api/health", "/api/recordings", f"/api/recordings/{name}", "/"):
            with Stopwatch() as watch:
                status, _ = server.ask("GET", path)
            assert (status, watch.seconds < ANSWER_SECONDS) == (200, True), (path, watch.seconds)


def uploads(server: Server) -> list[str]:
    recordings = server.get("/api/recordings")["recordings"]
    return [r["name"] for r in recordings if r["folder"] == "uploads"]


def test_idle_connections_leave_room_for_others(server):
    with contextlib.ExitStack() as stack:
        for number in range(IDLE_CONNECTIONS):
            idle = stack.enter_context(connect(server))
            if number % 2:
                idle.sendall(b"GET /api/health HTTP/1.1\r\nHost: ")  # and never more
        assert_others_are_answered(server)
    assert_others_are_answered(server)


def test_many_listeners_to_jobs_leave_room_for_others(server):
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            listener = stack.enter_context(connect(server))
            listener.sendall(head(server, "GET", "/api/jobs/events"))
        assert_others_are_answered(server)


def test_clients_that_read_slowly_leave_room_for_others(server):
    """More of them than there are threads for requests that block (40 in anyio)."""
    path = f"/api/recordings/{first_recording(server)}/media"
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            slow = stack.enter_context(socket.socket())
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.settimeout(60)
            slow.connect(("127.0.0.1", server.port))
            slow.sendall(head(server, "GET", path))
            assert slow.recv(16)
        assert_others_are_answered(server)


def test_client_that_sends_slowly_leaves_room_for_others(server):
    done = threading.Event()

    def trickle() -> None:
        with contextlib.suppress(OSError), connect(server) as slow:
            slow.sendall(head(server, "POST", "/api/uploads?name=slow.mp4", 1 << 20))
            while not done.wait(0.05):
                slow.sendall(b"\0")

    threads = [threading.Thread(target=trickle) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        assert_others_are_answered(server)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert uploads(server) == []


def leftovers(archive) -> list[Path]:
    folder = archive.cache / "uploads"
    return [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []


def test_upload_that_is_no_video_is_refused_in_one_line_and_leaves_nothing(server, archive):
    video = (archive.recordings / "first.mp4").read_bytes()
    for content in (b"", b"\0" * 100_000, b"not a video", b"\xff" * 4096, video[: len(video) // 2]):
        status, answer = server.ask("POST", "/api/uploads?name=broken.mp4", content)
        assert 400 <= status < 500, (status, answer)
        assert answer["error"]
        assert "\n" not in answer["error"]
        assert str(archive.folder) not in answer["error"]
    assert uploads(server) == []
    assert leftovers(archive) == []


def test_upload_that_breaks_off_leaves_nothing(server, archive):
    video = (archive.recordings / "first.mp4").read_bytes()
    for path in ("/api/uploads?name=cut.mp4", "/api/classify?name=cut.mp4"):
        with connect(server) as sender:
            sender.sendall(head(server, "POST", path, len(video)))
            sender.sendall(video[: len(video) // 2])
    assert_others_are_answered(server)
    wait_until(lambda: not leftovers(archive), what=lambda: f"the end of {leftovers(archive)}")
    assert uploads(server) == []


def test_upload_that_is_said_to_be_endless_is_refused_before_it_is_read(server):
    with connect(server) as sender:
        sender.sendall(head(server, "POST", "/api/uploads?name=huge.mp4", 1 << 50))
        answer = sender.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\n\r\n" in answer


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 1000,
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
        b"POST /api/uploads HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # how TLS begins
    ],
    ids=["zeros", "long address", "many headers", "negative length", "tls"],
)
def test_garbage_instead_of_a_request_is_no_trouble(server, garbage):
    with connect(server) as client, contextlib.suppress(OSError):
        client.sendall(garbage)
        client.settimeout(2)
        client.recv(1000)
    assert_others_are_answered(server)
