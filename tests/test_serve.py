"""serve.py starts in no time with one screen, refuses what is unsafe, and stops in seconds."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import serve
from tests.pages import make_settings
from tests.steady import Stopwatch, wait_until
from tests.trainings import ROOT, run_script, write_clip

TOKEN = "a-token-of-some-length"


class Page:
    """serve.py as a process of its own."""

    def __init__(self, folder: Path, *options: object, **environment: str):
        self.log = folder / "log"
        command = [sys.executable, ROOT / "serve.py", "--port", "0", *options]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                list(map(str, command)),
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            )
        wait_until(lambda: "Ctrl-C" in self.said or self.process.poll() is not None)
        found = re.search(r"page +http://[\w.]+:(\d+)/", self.said)
        assert found, self.said
        self.port = int(found[1])

    @property
    def said(self) -> str:
        return self.log.read_text()

    def ask(self, method: str, path: str, body: dict | None = None, **headers: str):
        """Status and JSON of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        content = None if body is None else json.dumps(body)
        headers |= {"Content-Type": "application/json"} if content else {}
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text) if text.startswith(b"{") else text

    def stop(self, sign: signal.Signals) -> int:
        self.process.send_signal(sign)
        return self.process.wait(60)  # an endless stream would take longer


@pytest.fixture
def start(tmp_path):
    """Starts the page in a folder of its own; all are killed in the end."""
    pages = []

    def start(*options: object, **environment: str) -> Page:
        pages.append(Page(tmp_path, *options, **environment))
        return pages[-1]

    yield start
    for page in pages:
        page.process.kill()
        page.process.wait()


@pytest.fixture
def refuse(tmp_path, monkeypatch):
    """What serve.py says to options that it refuses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(serve.TOKEN_VARIABLE, raising=False)

    def refuse(*options: object) -> str:
        done = run_script(serve, *options)
        assert done.code == 1
        assert "Traceback" not in done.err
        assert not (tmp_path / "cache" / "review" / "jobs").exists()
        return done.last

    return refuse


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_network_is_let_in_only_with_a_token(refuse, host):
    line = refuse("--host", host)
    assert f"--host {host} would let everybody" in line
    assert "--token" in line


def test_token_that_is_guessed_at_once_is_refused(refuse):
    assert "fewer than 16" in refuse("--token", "short")
    assert "ASCII" in refuse("--token", "ä" * 20)


def test_folders_and_models_that_are_not_there_are_said(refuse, tmp_path):
    assert "none is no folder" in refuse("none")
    assert "none.safetensors is not a file" in refuse("--checkpoint", "none.safetensors")
    assert "--max-upload-gb" in refuse("--max-upload-gb", "0")


def test_port_that_is_taken_is_said(refuse):
    with socket.create_server(("127.0.0.1", 0)) as other:
        line = refuse("--port", other.getsockname()[1])
    assert "can't listen on 127.0.0.1" in line
    assert "--port" in line
    for port in (99999, -1):
        assert "ports go from 0" in refuse("--port", port)


def test_page_says_where_it_is_and_what_is_missing_and_stops_at_a_signal(start, tmp_path):
    page = start()
    assert "data  is not there yet" in page.said
    assert "none yet: train one on the Runs page" in page.said
    status, health = page.ask("GET", "/api/health")
    assert (status, health["status"], health["model"]) == (200, "ok", None)
    listener = socket.create_connection(("127.0.0.1", page.port))
    listener.sendall(b"GET /api/jobs/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert listener.recv(100)
    with Stopwatch() as watch:
        assert page.stop(signal.SIGTERM) == 0
    assert watch.seconds < 8
    listener.close()
    assert "stopped; jobs that were running go on" in page.said
    assert "Traceback" not in page.said


def test_two_pages_do_not_share_a_cache(start, tmp_path):
    start()
    command = [sys.executable, ROOT / "serve.py", "--port", "0"]
    other = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert other.returncode == 1
    assert re.fullmatch(r"error: another serve\.py works in .*--cache-dir\n", other.stderr)


def test_token_is_made_and_printed_nowhere_but_into_a_file_of_ones_own(start, tmp_path):
    page = start("--token")
    (file,) = (tmp_path / "cache" / "review").glob("token")
    token = file.read_text().strip()
    assert len(token) >= 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert str(file) in page.said
    assert page.ask("GET", "/api/health")[0] == 401
    assert page.ask("GET", f"/?token={token}")[0] == 303
    assert page.ask("GET", "/api/health", Authorization=f"Bearer {token}")[0] == 200
    page.ask("GET", f"/api/health?token={token}x")
    assert page.stop(signal.SIGINT) == 0
    assert token not in page.said


def test_token_of_the_environment_is_used_and_in_no_log(start):
    page = start(**{serve.TOKEN_VARIABLE: TOKEN})
    assert page.ask("GET", "/api/health")[0] == 401
    assert page.ask("GET", f"/api/health?token={TOKEN}")[0] == 303
    assert page.ask("GET", "/api/health", Authorization=f"Bearer {TOKEN}")[0] == 200
    connection = socket.create_connection(("127.0.0.1", page.port))
    connection.sendall(f"GET /?token={TOKEN} HTTP/9.9\r\nHost: a b\r\n\r\n".encode())
    connection.recv(4096)
    connection.close()
    page.stop(signal.SIGTERM)
    assert TOKEN not in page.said


@pytest.mark.slow
def test_job_goes_on_after_a_stop_and_after_a_kill(start, tmp_path, trained_run):
    """Labels a recording of three minutes; its process dies with the page's."""
    write_clip(tmp_path / "data" / "recordings" / "game.mp4", "games", 1, 180.0)
    shutil.copytree(trained_run, tmp_path / "runs" / "latest")
    page = start()
    (recording,) = page.ask("GET", "/api/recordings")[1]["recordings"]
    status, job = page.ask("POST", f"/api/recordings/{recording['id']}/label", {"again": True})
    assert status == 202
    for sign in (signal.SIGTERM, signal.SIGKILL):
        state(page, job, "running")
        children = children_of(page.process.pid)
        with Stopwatch() as watch:
            page.stop(sign)
        assert watch.seconds < 10
        record = json.loads(next((tmp_path / "cache/review/jobs").glob("*.json")).read_bytes())
        assert record["state"] == ("interrupted" if sign == signal.SIGTERM else "running")
        for child in children:
            wait_until(lambda child=child: not Path(f"/proc/{child}").exists())
        page = start()
    done = state(page, job, "done", seconds=120)
    assert done["result"]["label"] == "games"


def state(page: Page, job: dict, wanted: str, seconds: float = 60) -> dict:
    found: dict = {}

    def is_so() -> bool:
        found.update(page.ask("GET", f"/api/jobs/{job['id']}")[1])
        assert found["state"] in ("queued", "running", wanted), found
        return found["state"] == wanted

    wait_until(is_so, seconds, what=lambda: found)
    return found


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_settings_name_each_folder_once(tmp_path):
    for name in ("a/tv", "b/tv", "uploads"):
        (tmp_path / name).mkdir(parents=True)
    folders = [tmp_path / "a/tv", tmp_path / "b/tv", tmp_path / "a/tv", tmp_path / "uploads"]
    settings = make_settings(tmp_path, *folders, tmp_path / "a")
    assert [folder.name for folder in settings.folders] == [
        "tv",
        "tv-2",
        "uploads-2",
        "a",
        "uploads",
    ]
    assert settings.uploads.path == (tmp_path / "cache" / "uploads").resolve()
