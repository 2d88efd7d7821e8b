"""The page in a browser without a server: its own files, and answers that a test makes up."""

import contextlib
import json
import mimetypes
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from web.access import HEADERS
from web.app import STATIC

HOST = "review.test"
URL = f"http://{HOST}"
Answer = tuple[int, object]
HEALTH = {
    "status": "ok",
    "model": {"name": "late_fusion", "run": "run-1", "path": "m", "classes": ["ads", "games"]},
    "jobs": {"running": 0, "queued": 0},
    "folders": [{"name": "data", "recordings": 0, "writable": True}],
    "notes": [],
}


class Stub:
    """Answers by (method, path); `asked` are the requests of the API, with their bodies."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Answer | Callable[[dict], Answer]] = {}
        self.asked: list[tuple[str, str, object]] = []
        self.jobs: list[dict] = []
        self.is_down = False
        self.say("GET", "/api/health", HEALTH)
        self.show_recordings([])

    def say(self, method: str, path: str, content: object, status: int = 200) -> None:
        self.answers[method, path] = status, content

    def show_recordings(self, recordings: list[dict]) -> None:
        listed = {"recordings": recordings, "folders": [{"name": "data"}], "notes": []}
        self.say("GET", "/api/recordings", listed)
        for recording in recordings:
            self.say("GET", f"/api/recordings/{recording['id']}", recording)

    def bodies(self, method: str, path: str) -> list[object]:
        """What was sent there."""
        return [body for *asked, body in self.asked if asked == [method, path]]

    def handle(self, route) -> None:
        """Answers a request of the browser."""
        request = route.request
        path = urlsplit(request.url).path
        if self.is_down:
            return route.abort("connectionrefused")
        if path == "/" or path.startswith("/static/"):
            file = STATIC / ("index.html" if path == "/" else path.removeprefix("/static/"))
            if not file.is_file():
                return route.fulfill(status=404)
            kind = mimetypes.guess_type(file.name)[0]
            return route.fulfill(path=file, content_type=kind, headers=HEADERS)
        if path.endswith("/thumbnail"):
            self.asked.append(("GET", path, None))
            return route.fulfill(
                content_type="image/svg+xml", body='<svg xmlns="http://www.w3.org/2000/svg"/>'
            )
        if path == "/api/jobs/events":
            events = "".join(f"event: job\ndata: {json.dumps(job)}\n\n" for job in self.jobs)
            return route.fulfill(content_type="text/event-stream", body=f": jobs\n\n{events}")
        with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
            self.asked.append(
                (request.method, path, json.loads(request.post_data_buffer or b"null"))
            )
        missing = 404, {"error": f"the test has no answer for {path}", "kind": "not_found"}
        status, content = self.answers.get((request.method, path), missing)
        return route.fulfill(
            status=status, content_type="application/json", body=json.dumps(content)
        )


@contextlib.contextmanager
def open_stub(browser, stub: Stub, view: str = "", **options) -> Iterator:
    """A page that `stub` answers; an exception on it fails the test."""
    context = browser.new_context(
        viewport={"width": options.get("width", 1280), "height": 900}, reduced_motion="reduce"
    )
    context.set_default_timeout(60_000)
    faults: list[str] = []
    try:
        context.route("**/*", stub.handle)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console",
            lambda said: "Security Policy" in said.text and faults.append(said.text),
        )
        page.goto(f"{URL}/#/{view}")
        yield page
        assert faults == []
    finally:
        context.close()


def make_recording(number: int, **changes: object) -> dict:
    """What the list says of a recording that is not labelled yet."""
    return {
        "id": f"{number:016x}",
        "name": f"recordings/match {number:04d}.mp4",
        "folder": "data",
        "size_bytes": 1_000_000_000 + number,
        "modified": 1_790_000_000.0 - number,
        "duration_seconds": 3600.0 + number,
        "state": "not_labelled",
        "label": None,
        "ads_share": None,
        "breaks": None,
        "unsure": None,
        "expected_wrong_seconds": None,
        "editable": True,
        "error": None,
        "job": None,
        **changes,
    }


def make_job(state: str, **changes: object) -> dict:
    return {
        "id": "j1",
        "kind": "label",
        "title": "Label match 0001.mp4",
        "recording": f"{1:016x}",
        "state": state,
        "progress": None,
        "note": "",
        "eta_seconds": None,
        "created_at": "2026-11-22T09:00:00+00:00",
        "started_at": None,
        "ended_at": None,
        "error": None,
        "result": None,
        **changes,
    }
