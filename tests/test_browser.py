"""The harness of the browser tests finds a Chromium, says why it has none, and misses no fault."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from tests import browser as harness
from tests import page_rules

NO_ICON = "<link rel=icon href=/none>"  # else it is asked for, and is not there
POLICY = "default-src 'self'; img-src *"


class Pages(BaseHTTPRequestHandler):
    """Each page has one fault, named by its address."""

    FAULTS = {
        "/none": "<p>ok",
        "/inline": "<script>document.title = 'no'</script>",
        "/host": "<img src='http://localhost:9/x.png' alt=''>",
        "/exception": "<script src='/throws.js'></script>",
        "/status": "<img src='/418' alt=''>",
        "/throws.js": "null.x",
    }

    def do_GET(self) -> None:
        text = self.FAULTS.get(self.path)
        self.send_response(200 if text else 418)
        kind = "text/javascript" if self.path.endswith(".js") else "text/html"
        self.send_header("Content-Type", kind)
        if self.path != "/host":
            self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        head = "" if self.path.endswith(".js") else NO_ICON
        self.wfile.write(f"{head}{text}".encode() if text else b"")

    def log_message(self, *_) -> None:
        pass


@pytest.fixture(scope="module")
def server():
    pages = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=pages.serve_forever, args=(0.02,))
    thread.start()
    host = f"127.0.0.1:{pages.server_port}"
    yield SimpleNamespace(host=host, url=f"http://{host}")
    pages.shutdown()
    thread.join()
    pages.server_close()


def nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    return SimpleNamespace(chromium=SimpleNamespace(executable_path=tmp_path / "chrome"))


def test_own_chromium_is_taken_before_one_on_the_path(monkeypatch, tmp_path):
    playwright = nowhere(monkeypatch, tmp_path)
    assert harness.find_chromium(playwright) is None
    (tmp_path / "chromium").touch(0o755)
    assert harness.find_chromium(playwright) == tmp_path / "chromium"
    playwright.chromium.executable_path.touch(0o755)
    assert harness.find_chromium(playwright) == playwright.chromium.executable_path


def test_missing_browser_skips_and_fails_where_it_is_required(monkeypatch):
    monkeypatch.delenv("REQUIRE_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no browser"):
        harness.missing("no browser")
    monkeypatch.setenv("REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="no browser"):
        harness.missing("no browser")


@pytest.mark.browser
@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("/inline", "Content Security Policy"),
        ("/host", "another host"),
        ("/exception", "exception"),
        ("/status", "418"),
    ],
)
def test_page_with_a_fault_is_complained_of(chromium, server, path, complaint):
    with (
        pytest.raises(AssertionError, match=complaint),
        harness.open_page(chromium, server, path) as page,
    ):
        page.wait_for_load_state("networkidle")


@pytest.mark.browser
def test_page_without_a_fault_is_not_complained_of(chromium, server):
    with harness.open_page(chromium, server, "/none") as page:
        assert page.inner_text("p") == "ok"
    with harness.open_page(chromium, server, "/status", expected=[418]) as page:
        page.wait_for_load_state("networkidle")


FAULTY = {
    page_rules.too_wide: "<div style='width: 3000px'>wide</div>",
    page_rules.too_faint: "<p style='color: #aaa; background: #fff'>faint</p>",
    page_rules.unnamed: "<button></button>",
    page_rules.mouse_only: "<div style='cursor: pointer'>click</div>",
    page_rules.tab_stops_missed: "<style>a:focus { outline: 0 }</style><a href='#'>there</a>",
    page_rules.headings_skipped: "<h1>one</h1><h3>three</h3>",
}
SOUND = """
<!doctype html><html lang="en"><title>sound</title><h1>one</h1><h2>two</h2><p>text</p>
<button>press</button><label>name <input></label><a href="#">there</a>
"""


@pytest.mark.browser
@pytest.mark.parametrize("rule", FAULTY, ids=lambda rule: rule.__name__)
def test_each_rule_for_pages_finds_what_breaks_it_and_nothing_else(chromium, rule):
    page = chromium.new_page()
    page.set_content(FAULTY[rule])
    assert rule(page)
    page.set_content(SOUND)
    assert rule(page) == []
    page.close()
