"""Only who may is answered: by host, by origin, by token; and every answer is safe to show."""

import logging

import pytest

from tests.pages import ADDRESS, make_settings, open_page
from web.access import COOKIE, HEADERS, MAX_BODY_BYTES

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with open_page(make_settings(tmp_path_factory.mktemp("open"))) as client:
        yield client


@pytest.fixture(scope="module")
def guarded_page(tmp_path_factory):
    settings = make_settings(tmp_path_factory.mktemp("guarded"), token=TOKEN)
    with open_page(settings, follow_redirects=False) as client:
        yield client


@pytest.fixture
def guarded(guarded_page):
    """Without what an earlier test was let in with."""
    guarded_page.cookies.clear()
    return guarded_page


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LOCALHOST", "[::1]:8000"]
)
def test_this_machine_is_answered(page, host):
    assert page.get("/api/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "", "10.0.0.1"]
    + ["127.0.0.1@evil.example", "127.0.0.1/", "localhost:80:80", "[::1", "127.0.0.1 evil"],
)
def test_other_hosts_are_not(page, host):
    found = page.get("/api/health", headers={"Host": host})
    assert (found.status_code, found.json()["kind"]) == (400, "host")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},  # another page of this machine
        {"Origin": "null"},
        {"Origin": f"{ADDRESS}.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ],
)
def test_other_sites_change_nothing(page, headers):
    for method, path in [("POST", "/api/label"), ("DELETE", "/api/jobs/1"), ("PUT", "/x")]:
        found = page.request(method, path, headers=headers)
        assert (found.status_code, found.json()["kind"]) == (403, "origin")


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": ADDRESS, "Sec-Fetch-Site": "same-origin"}, {"Origin": ADDRESS}]
)
def test_the_page_itself_and_programs_do(page, headers):
    assert page.delete("/api/jobs/1", headers=headers).json()["kind"] == "not_found"


def test_other_sites_embed_nothing_and_may_lead_here(page):
    site = {"Sec-Fetch-Site": "cross-site"}
    embedded = page.get("/api/health", headers={**site, "Sec-Fetch-Mode": "no-cors"})
    assert embedded.status_code == 403
    assert page.get("/docs", headers={**site, "Sec-Fetch-Mode": "navigate"}).status_code != 403


@pytest.mark.parametrize("path", ["/api/health", "/api/none", "/static/none.js", "/openapi.json"])
def test_every_answer_has_the_headers(page, path):
    found = page.get(path).headers
    for name, value in HEADERS.items():
        assert found[name] == value
    policy = found["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_without_the_token_nothing_is_told(guarded):
    for path in ["/", "/api/health", "/openapi.json", "/docs", "/static/main.js", "/none"]:
        found = guarded.get(path)
        assert (found.status_code, found.json()["kind"]) == (401, "token")
        assert TOKEN not in found.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer"},
        {"Authorization": b"Bearer \xff\xfe"},
        {"Cookie": f"{COOKIE}={TOKEN}"},  # the cookie is not the token: who reads it has not that
        {"Cookie": f"{COOKIE}="},
        {"Cookie": "=;=;;"},
    ],
)
def test_wrong_tokens_are_refused(guarded, headers):
    assert guarded.get("/api/health", headers=headers).status_code == 401
    assert guarded.get("/api/health?token=wrong").status_code == 401
    assert guarded.get("/api/health?token=").status_code == 401


def test_programs_send_the_token(guarded):
    found = guarded.get("/api/health", headers={"Authorization": f"Bearer {TOKEN}"})
    assert found.status_code == 200


def test_opening_the_address_once_lets_the_browser_in(guarded):
    found = guarded.get(f"/docs?a=1&token={TOKEN}&b=%26")
    assert (found.status_code, found.headers["location"]) == (303, "/docs?a=1&b=%26")
    cookie = found.headers["set-cookie"]
    assert TOKEN not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert guarded.get("/api/health").status_code == 200  # by the cookie alone


def test_the_way_in_leads_nowhere_else(guarded):
    for path in ["//evil.example/", "/\\evil.example", "///evil.example/%2e%2e"]:
        found = guarded.get(f"{ADDRESS}{path}?token={TOKEN}")
        assert found.headers["location"].startswith("/")
        assert not found.headers["location"].startswith(("//", "/\\"))


def test_a_change_is_not_let_in_by_a_link(guarded):
    assert guarded.post(f"/api/label?token={TOKEN}").status_code == 401


def test_token_makes_other_names_fine_and_other_sites_not(guarded):
    headers = {"Authorization": f"Bearer {TOKEN}", "Host": "archive.local:8000"}
    assert guarded.get("/api/health", headers=headers).status_code == 200
    headers["Origin"] = "https://evil.example"
    assert guarded.delete("/api/jobs/1", headers=headers).status_code == 403


def test_token_is_in_no_log(guarded, caplog):
    caplog.set_level(logging.DEBUG)
    ours = logging.getLogger("web")
    guarded.get(f"/api/health?token={TOKEN}")
    guarded.get("/api/none", headers={"Authorization": f"Bearer {TOKEN}"})
    ours.warning("something")
    said = [record.getMessage() for record in caplog.records if record.name != "httpx"]
    assert said
    assert not any(TOKEN in line for line in said)  # httpx is the browser here


def test_long_requests_are_refused_whatever_length_they_say(page):
    text = b" " * (MAX_BODY_BYTES + 1)
    said = page.post("/api/label", content=text)
    unsaid = page.post("/api/label", content=iter([text[:1000], text]))
    for found in (said, unsaid):
        assert (found.status_code, found.json()["kind"]) == (413, "too_large")


@pytest.mark.parametrize("length", ["9" * 5000, b"\xb2", "-1", "1e9", ""])
def test_lengths_that_are_none_do_no_harm(page, length):
    found = page.post("/api/label", content=b"{}", headers={"Content-Length": length})
    assert found.status_code in (413, 422)


def test_refusals_are_one_line_with_a_kind(page):
    found = page.post("/api/label", json={"recordings": 5})
    assert found.status_code == 422
    assert set(found.json()) == {"error", "kind"}
    assert "recordings" in found.json()["error"]
    for method, path, status in [("GET", "/api/x", 404), ("PATCH", "/api/jobs", 405)]:
        found = page.request(method, path)
        assert found.status_code == status
        assert set(found.json()) == {"error", "kind"}
        assert "\n" not in found.json()["error"]
