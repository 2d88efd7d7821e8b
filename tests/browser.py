"""A real browser and a real server: Chromium where there is one, serve.py as a child process."""

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import pytest

from tests.ports import keep_port
from tests.steady import Stopwatch, wait_until

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START_SECONDS, STOP_SECONDS, PAGE_SECONDS = 120.0, 60.0, 60.0  # only failures take them
# Of the machine that a page is shown on: software alone, and no look at the world outside.
ARGUMENTS = ["--autoplay-policy=no-user-gesture-required", "--disable-dev-shm-usage"]
STATUS = re.compile(r"Failed to load resource: the server responded with a status of (\d+)")
OFFLINE = 0  # what stands for no answer among statuses


# Chromium


def find_chromium(playwright) -> Path | None:
    """The Chromium that Playwright has installed, else one on the PATH; nothing is downloaded."""
    own = Path(playwright.chromium.executable_path)
    if own.is_file():
        return own
    return next((Path(found) for found in map(shutil.which, NAMES) if found), None)


@functools.cache
def known_chromium() -> Path | None:
    """What `find_chromium` finds, once for all tests."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return find_chromium(playwright)


def require_chromium() -> Path:
    """Where it is. Skips the test where there is none; fails it there if REQUIRE_BROWSER is 1."""
    path = known_chromium()
    if path is None:
        missing(
            f"no Chromium: neither Playwright's nor {', '.join(NAMES)} on the PATH; "
            "`playwright install chromium` brings one"
        )
    return path


@contextlib.contextmanager
def open_chromium() -> Iterator:
    """A running Chromium, as `require_chromium` finds it.

    Only for as long as a module's tests: Playwright's loop of events runs in the thread of whoever
    opened it, and nobody else can run one there.
    """
    from playwright.sync_api import sync_playwright

    path = require_chromium()
    with sync_playwright() as playwright:
        # Chromium's sandbox does not start as root, nor where user namespaces are locked.
        browser = playwright.chromium.launch(
            executable_path=path, args=ARGUMENTS, chromium_sandbox=False
        )
        try:
            yield browser
        finally:
            browser.close()


def missing(reason: str) -> NoReturn:
    """Skips the test, or fails it where a browser is required."""
    if os.environ.get("REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@contextlib.contextmanager
def open_page(browser, server: "Server", path: str = "/", **options) -> Iterator:
    """A page of the server in a window of its own, which nothing may be complained of.

    `options`: `width` and `height` in CSS pixels, `scheme` (light or dark), `expected` (statuses of
    HTTP that the test causes).
    """
    complaints = Complaints(set(options.get("expected", ())))
    context = browser.new_context(
        viewport={"width": options.get("width", 1280), "height": options.get("height", 900)},
        color_scheme=options.get("scheme", "light"),
        reduced_motion="reduce",
        accept_downloads=True,
    )
    context.set_default_timeout(PAGE_SECONDS * 1000)
    try:
        page = context.new_page()
        complaints.watch(page, server.host)
        page.goto(server.url + path)
        try:
            yield page
        except Exception as error:
            error.add_note("\n".join([f"on {page.url}", *complaints.found]))
            raise
        complaints.check()
    finally:
        context.close()


@dataclass
class Complaints:
    """What went wrong on a page that nobody clicked on: to be empty at the end of each test.

    `expected` are HTTP statuses that the test causes, OFFLINE among them.
    """

    expected: set[int] = field(default_factory=set)
    found: list[str] = field(default_factory=list)

    def watch(self, page, host: str) -> None:
        """Listens to errors, to violations of the policy and to requests to any other host."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.found.append(f"exception: {error}"))
        page.on("request", lambda request: self._request(request.url, host))

    def check(self) -> None:
        """Raises AssertionError where something went wrong."""
        if self.found:
            raise AssertionError("\n".join(self.found))

    def _console(self, message) -> None:
        status = STATUS.search(message.text)
        if status and int(status[1]) in self.expected:
            return
        if OFFLINE in self.expected and "net::ERR_" in message.text:
            return
        if message.type == "error" or "Content Security Policy" in message.text:
            self.found.append(f"console: {message.text} ({message.location.get('url')})")

    def _request(self, url: str, host: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and parts.netloc != host:
            self.found.append(f"request to another host: {url}")


# The server


class Server:
    """serve.py with `options` as a child on a free port of 127.0.0.1; it survives `stop`.

    What it says goes to `log`; `token` is what it is asked with.
    """

    def __init__(self, options: list[object], log: Path, token: str | None = None):
        self._options = [str(option) for option in options]
        self.log = log
        self._place = keep_port()
        self.port = self._place.getsockname()[1]
        self._token = token
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        if self._process is not None:
            self.stop()
        self._place.close()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        """Returns when it answers."""
        command = [sys.executable, "serve.py", *self._options, "--port", str(self.port)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

        def answers() -> bool:
            if self._process.poll() is not None:
                raise AssertionError(f"serve.py ended at once: {self.said()}")
            with contextlib.suppress(OSError):
                return self.ask("GET", "/api/health")[0] == 200
            return False

        wait_until(answers, START_SECONDS, what=lambda: f"an answer of serve.py: {self.said()}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> float:
        """Ends it, and returns the seconds it took; that it has to be killed is an error."""
        process, self._process = self._process, None
        process.send_signal(how)
        with Stopwatch() as watch:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                if how != signal.SIGKILL:
                    raise AssertionError(f"serve.py did not end: {self.said()}") from None
        return watch.seconds

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def ask(
        self, method: str, path: str, body: object = None, *, timeout_seconds: float = 60.0
    ) -> tuple[int, object]:
        """(status, content) of a request as a script would make it: JSON read, the rest bytes."""
        raw = isinstance(body, bytes)
        data = body if raw or body is None else json.dumps(body).encode()
        kind = "application/octet-stream" if raw else "application/json"
        headers = {"Content-Type": kind} if data is not None else {}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout_seconds) as answer:
                return answer.status, _content(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _content(error)

    def get(self, path: str) -> dict:
        status, content = self.ask("GET", path)
        assert status == 200, (path, status, content)
        return content

    def job(self, method: str, path: str, body: object = None, seconds: float = 120.0) -> dict:
        """The job that a request begins, when it is done."""
        status, job = self.ask(method, path, body)
        assert status == 202, (path, status, job)
        return self.wait_for_job(job["id"], seconds)

    def wait_for_job(self, name: str, seconds: float = 120.0) -> dict:
        last: dict = {}

        def ended() -> bool:
            last.update(self.get(f"/api/jobs/{name}"))
            return last["state"] in ("done", "failed", "cancelled")

        wait_until(ended, seconds, what=lambda: f"the end of {last}")
        assert last["state"] == "done", last
        return last


def _content(answer) -> object:
    data = answer.read()
    if "json" in answer.headers.get("Content-Type", ""):
        return json.loads(data)
    return data
