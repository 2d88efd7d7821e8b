"""No request reaches a file outside the folders: not by any name, link, encoding or parameter."""

import contextlib
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.pages import make_settings, open_page
from tests.test_uploads_api import Served, ask
from tests.trainings import write_clip

SECRET = b"nobody may read this"
ESCAPES = [  # of a segment of a path that should be a name
    "..",
    "../..",
    "../../secret.txt",
    "..%2f..%2fsecret.txt",
    "%2e%2e/%2e%2e/secret.txt",
    "%2e%2e%2f%2e%2e%2fsecret.txt",
    "%252e%252e%252fsecret.txt",
    "..%255c..%255csecret.txt",
    "..%c0%af..%c0%afsecret.txt",
    "%c0%ae%c0%ae/secret.txt",
    "..\\..\\secret.txt",
    "..%5c..%5csecret.txt",
    "....//....//secret.txt",
    "..;/..;/secret.txt",
    ".%00./secret.txt",
    "secret.txt%00.mp4",
    "%00",
    "//etc/passwd",
    "%2fetc%2fpasswd",
    "%2f%2fetc%2fpasswd",
    "file:///etc/passwd",
    "C:%5csecret.txt",
    "C:/secret.txt",
    "%uff0e%uff0e/secret.txt",
    "․․/secret.txt",  # one dot leaders
    "．．／secret.txt",  # full width
    "~/secret.txt",
    "$HOME/secret.txt",
    "link.txt",
    "linked/secret.txt",
    "linked.mp4",
    "latest/../../secret.txt",
    "*",
    "secret.txt?",
    "secret.txt#",
    "." * 4000,
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A page's folders with links that lead out of them, and a secret beside them."""
    place = tmp_path_factory.mktemp("place")
    (place / "secret.txt").write_bytes(SECRET)
    shutil.copy(write_clip(place / "secret.mp4", "games", 1, 1.0), place / "outside.mp4")
    folder = place / "page"
    recordings = folder / "data" / "recordings"
    write_clip(recordings / "game.mp4", "games", 2, 1.0)
    (recordings / "linked.mp4").symlink_to(place / "outside.mp4")
    (recordings / "linked").symlink_to(place)
    (recordings / "link.txt").symlink_to(place / "secret.txt")
    (recordings / "game.json").symlink_to(place / "secret.txt")
    run = folder / "runs" / "2026-01-01_00-00-00-train"
    run.mkdir(parents=True)
    (run / "report.html").symlink_to(place / "secret.txt")
    (folder / "runs" / "linked").symlink_to(place)
    return place


@pytest.fixture(scope="module")
def page(place):
    with open_page(make_settings(place / "page")) as client:
        yield client


@pytest.fixture(scope="module")
def address(page) -> Iterator[tuple[str, int]]:
    """Where the page is served over a socket, to which a path goes as it is written."""
    with Served(page.app) as address:
        yield address


def routes(page) -> list[tuple[str, str]]:
    """Each route with a parameter, and the static files, with `{}` for the parameter."""
    found = [("get", "/static/{}"), ("get", "/{}"), ("get", "/docs/{}"), ("head", "/static/{}")]
    for path, methods in page.app.openapi()["paths"].items():
        if "{" in path:
            before, _, after = path.partition("{")
            found += [(method, f"{before}{{}}{after.partition('}')[2]}") for method in methods]
    return found


def test_every_parameter_in_a_path_is_tried(page):
    names = {path for _, path in routes(page)}
    assert {"/api/recordings/{}", "/api/recordings/{}/media", "/runs/{}/report"} <= names
    assert len(routes(page)) * len(ESCAPES) >= 100


@pytest.mark.parametrize("escape", ESCAPES)
def test_no_path_leads_out(page, address, place, escape):
    before = contents(place)
    for method, path in routes(page):
        target = quote(path.format(escape), safe="/%\\:?#*~$;.", errors="surrogatepass")
        request = f"{method.upper()} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        answer = read_all(address, f"{request}Content-Length: 0\r\n\r\n".encode())
        status = int(answer.split()[1])
        is_the_page = path == "/{}" and escape in ("?", "#", "..", "../..")
        assert 400 <= status < 500 or is_the_page or status in (301, 303, 307), (
            target,
            answer[:300],
        )
        assert SECRET not in answer
        assert b"root:" not in answer
    assert contents(place) == before


def test_links_that_lead_out_are_neither_listed_nor_read(page):
    recordings = page.get("/api/recordings").json()
    assert [row["name"] for row in recordings["recordings"]] == ["recordings/game.mp4"]
    assert any("link" in note for note in recordings["notes"])
    (row,) = recordings["recordings"]
    found = page.get(f"/api/recordings/{row['id']}")
    assert found.status_code == 200
    assert SECRET.decode() not in found.text  # game.json beside it is a link to it


def test_label_file_that_is_a_link_out_is_not_written_through(page, place):
    (row,) = page.get("/api/recordings").json()["recordings"]
    rows = [{"start_seconds": 0, "end_seconds": 1, "label": "games"}]
    for overwrite in (False, True):
        body = {"segments": rows, "revision": None, "overwrite": overwrite}
        page.put(f"/api/recordings/{row['id']}/corrections", json=body)
        assert (place / "secret.txt").read_bytes() == SECRET


def test_recording_that_becomes_a_link_is_gone(page, place):
    recording = write_clip(place / "page" / "data" / "recordings" / "later.mp4", "games", 3, 1.0)
    page.app.state.services.library.refresh()
    rows = page.get("/api/recordings").json()["recordings"]
    (name,) = [row["id"] for row in rows if row["name"].endswith("later.mp4")]
    recording.unlink()
    recording.symlink_to(place / "outside.mp4")
    for part in ("", "/media", "/thumbnail?seconds=0", "/levels", "/proxy", "/cuts?start=0&end=1"):
        assert page.get(f"/api/recordings/{name}{part}").status_code in (404, 405), part
    recording.unlink()


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e%2f%2e%2e%2fserve.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/..\\app.py",
        "/static/",
        "/static",
        "/web/app.py",
        "/serve.py",
        "/.git/config",
        "/static/.",
        "/static/main.js%00",
        "/static/%00",
        "/static/" + "a/" * 2000,
    ],
)
def test_static_files_are_those_of_the_page_alone(address, path):
    answer = read_all(
        address, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    )
    assert int(answer.split()[1]) in (400, 404, 405, 307)
    assert b"import " not in answer


def test_requests_that_are_none_are_refused_and_the_page_goes_on(address):
    for raw in [
        b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /api/health HTTP/1.1\r\n\r\n",
        b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
        b"A" * 100_000,
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ]:
        answer = read_all(address, raw, seconds=1)
        assert b" 5" not in answer[:13], raw[:60]
    assert ask(address, b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")[9:12] == b"200"


def read_all(address: tuple[str, int], request: bytes, seconds: float = 30) -> bytes:
    """All that comes back until the server closes, or has nothing more to say for so long."""
    with socket.create_connection(address, timeout=seconds) as connection:
        answer = b""
        with contextlib.suppress(OSError):  # it hung up before all was sent, or waits for more
            connection.sendall(request)
            while chunk := connection.recv(65536):
                answer += chunk
        return answer


def contents(place: Path) -> dict[str, bytes]:
    """All files that nothing here may change, with what is in them."""
    files = (path for path in sorted(place.rglob("*")) if path.is_file())
    return {str(p): p.read_bytes() for p in files if "cache" not in p.parts}
