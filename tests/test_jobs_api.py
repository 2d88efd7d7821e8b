"""Jobs over HTTP: listed, cancelled, and told as they happen to whoever listens."""

import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.pages import make_settings, open_page, wait_for
from tests.steady import Stopwatch, wait_until
from tests.test_uploads_api import Served, ask
from web import jobs_api


@pytest.fixture
def page(tmp_path):
    with open_page(make_settings(tmp_path)) as client:
        yield client


@pytest.fixture
def gate(page):
    """Lets jobs of the kind `steps` go on; each reports its steps."""
    gate = threading.Event()

    def steps(handle, arguments):
        for step in range(arguments["steps"]):
            handle.report(step / arguments["steps"], f"step {step}")
            time.sleep(0.01)
        while not gate.wait(0.01):
            handle.check()
        return {"steps": arguments["steps"]}

    page.app.state.services.jobs.kind("steps", steps, lane="compute")
    yield gate
    gate.set()


def submit(page, steps: int) -> dict:
    jobs = page.app.state.services.jobs
    return jobs.submit("steps", {"steps": steps}, title=f"{steps} steps").to_api()


class Listener:
    """What a browser's EventSource would have."""

    def __init__(self, address: tuple[str, int]):
        self._connection = socket.create_connection(address, timeout=60)
        request = b"GET /api/jobs/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        self._connection.sendall(request)
        self._file = self._connection.makefile("rb")
        assert b"200" in self._file.readline()
        self.headers = dict(iter(self._header, ("", "")))

    def _header(self) -> tuple[str, str]:
        name, _, value = self._file.readline().decode().strip().partition(": ")
        return name.lower(), value

    def events(self) -> Iterator[dict]:
        for line in self._file:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])

    def lines(self) -> Iterator[bytes]:
        return iter(self._file)

    def close(self) -> None:
        self._file.close()
        self._connection.close()


def test_jobs_are_listed_the_newest_first_and_found(page, gate):
    first, second = submit(page, 1), submit(page, 2)
    assert [job["id"] for job in page.get("/api/jobs").json()["jobs"]] == [
        second["id"],
        first["id"],
    ]
    gate.set()
    done = wait_for(page, second)
    assert (done["state"], done["result"]) == ("done", {"steps": 2})
    assert set(done) == {
        *("id", "kind", "title", "recording", "state", "progress", "note", "eta_seconds"),
        *("created_at", "started_at", "ended_at", "error", "result"),
    }


def test_job_is_cancelled_and_unknown_ones_are_not(page, gate):
    job = submit(page, 1)
    page.delete(f"/api/jobs/{job['id']}").raise_for_status()
    assert wait_for(page, job)["state"] == "cancelled"
    for method in ("GET", "DELETE"):
        found = page.request(method, "/api/jobs/none")
        assert (found.status_code, found.json()["kind"]) == (404, "not_found")


def test_listener_hears_of_old_jobs_first_and_then_of_each_step_to_the_end(page, gate, monkeypatch):
    told = threading.Semaphore(0)

    def steps(handle, arguments):
        for step in range(5):
            handle.report(step / 5)
            told.acquire(timeout=60)  # else one that is slow to listen would miss some
        return {"steps": 5}

    monkeypatch.setattr("web.jobs.TELL_SECONDS", 0)
    jobs = page.app.state.services.jobs
    jobs.kind("told", steps, lane="compute")
    old = submit(page, 1)
    with Served(page.app) as address:
        listener = Listener(address)
        assert listener.headers["content-type"].startswith("text/event-stream")
        assert listener.headers["cache-control"] == "no-store"
        events = listener.events()
        assert next(events)["id"] == old["id"]
        gate.set()
        new, progress = jobs.submit("told", {}, title="5 steps"), []
        for event in events:
            if event["id"] == new.id and event["progress"] is not None:
                progress.append(event["progress"])
                told.release()
            if event["id"] == new.id and event["state"] == "done":
                break
        listener.close()
    assert progress == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert event["result"] == {"steps": 5}


def test_listener_that_does_not_read_stops_nobody_and_holds_no_more_than_the_jobs(page, gate):
    gate.set()
    with Served(page.app) as address:
        listener = Listener(address)  # and reads no more
        for number in range(300):
            submit(page, number % 2)
        ended = submit(page, 3)
        assert wait_for(page, ended)["state"] == "done"
        assert ask(address, b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").startswith(
            b"HTTP/1.1 200"
        )
        listener.close()


def test_silent_stream_is_kept_alive_by_comments(page, monkeypatch):
    monkeypatch.setattr(jobs_api, "COMMENT_SECONDS", 0.1)
    with Served(page.app) as address:
        listener = Listener(address)
        lines = listener.lines()
        while b": still here" not in next(lines):
            pass
        listener.close()


def test_only_so_many_listen_and_who_leaves_makes_room(page, monkeypatch):
    monkeypatch.setattr(jobs_api, "MAX_WATCHERS", 3)
    request = b"GET /api/jobs/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with Served(page.app) as address:
        listeners = [Listener(address) for _ in range(3)]
        assert ask(address, request).startswith(b"HTTP/1.1 429")
        listeners.pop().close()
        wait_until(lambda: ask(address, request).startswith(b"HTTP/1.1 200"))
        for listener in listeners:
            listener.close()


def test_streams_end_as_the_page_stops(page):
    with Served(page.app) as address:
        listener = Listener(address)
        threading.Timer(0.2, page.app.state.services.stop_streams).start()
        with Stopwatch() as watch:
            assert b"0\r\n" in listener.lines()  # the last chunk; else none would ever come
        assert watch.seconds < 3
        listener.close()
