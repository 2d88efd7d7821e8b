"""Every view fits narrow and wide windows, in both schemes, without a mouse and without faults."""

import contextlib
import re
from collections.abc import Iterator

import pytest

from tests import page_rules
from tests.browser import Server, open_page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# Each view with what is there when it is shown; {id} is a recording's.
VIEWS = {
    "recordings": ("/#/recordings", "[data-test=recording-row]"),
    "review": ("/#/review/{id}?t=21", "[data-test=segment-list] *"),
    "queue": ("/#/queue", "[data-test=queue-item]"),
    "search": ("/#/search?recording={id}&start=21&end=33", "[data-test=search-result]"),
    "runs": ("/#/runs", "[data-test=run-row]"),
    "jobs": ("/#/jobs", "[data-test=job]"),
    "docs": ("/docs", "h2"),
}
WINDOWS = [(360, "light"), (360, "dark"), (1920, "light"), (1920, "dark")]
IS_COMPLETE = "() => !document.querySelector('.loading, [aria-busy=true]')"


@pytest.fixture(scope="module")
def server(made_archive, tmp_path_factory) -> Iterator[Server]:
    """All recordings labelled, one corrected, everything indexed: no view is empty."""
    archive = made_archive.copy(tmp_path_factory.mktemp("pages") / "archive")
    with Server(archive.serve_options(), archive.folder / "log") as server:
        status, answer = server.ask("POST", "/api/label", {"recordings": "all_unlabelled"})
        assert status == 202, answer
        for job in answer["jobs"]:
            server.wait_for_job(job["id"])
        name = recording_id(server, "second.mp4")
        segments = [{"start_seconds": 0.0, "end_seconds": 105.0, "label": "games"}]
        body = {"segments": segments, "revision": None}
        assert server.ask("PUT", f"/api/recordings/{name}/corrections", body)[0] == 200
        server.job("POST", "/api/search/index")
        yield server


def recording_id(server: Server, name: str) -> str:
    recordings = server.get("/api/recordings")["recordings"]
    return next(r["id"] for r in recordings if r["name"].endswith(name))


@pytest.fixture
def show(chromium, server):
    """Shows a view in a window of its own, complete; what went wrong there is said at the end."""
    name = recording_id(server, "first.mp4")
    with contextlib.ExitStack() as windows:

        def show(view: str, **options):
            path, there = VIEWS[view]
            page = windows.enter_context(
                open_page(chromium, server, path.format(id=name), **options)
            )
            page.locator(there).first.wait_for()
            page.wait_for_function(IS_COMPLETE)
            return page

        yield show


@pytest.mark.parametrize(("width", "scheme"), WINDOWS)
@pytest.mark.parametrize("view", VIEWS)
def test_view_fits_and_can_be_read_and_heard(show, view, width, scheme):
    page = show(view, width=width, scheme=scheme)
    broken = {
        rule.__name__: rule(page)
        for rule in (
            page_rules.too_wide,
            page_rules.too_faint,
            page_rules.unnamed,
            page_rules.mouse_only,
            page_rules.headings_skipped,
        )
    }
    assert {name: found for name, found in broken.items() if found} == {}
    assert page.locator("html").get_attribute("lang") == "en"


@pytest.mark.parametrize("view", VIEWS)
def test_view_is_reached_by_keyboard_alone(show, view):
    assert page_rules.tab_stops_missed(show(view)) == []


def test_each_view_has_a_title_of_its_own(show):
    page = show("recordings")
    titles = {page.title()}
    for name in ("Queue", "Search", "Runs", "Jobs"):
        page.get_by_role("link", name=name).first.click()
        page.get_by_role("heading", level=1).filter(has_text=re.compile(name, re.I)).wait_for()
        titles.add(page.title())
    assert len(titles) == 5, titles


def test_scheme_can_be_chosen_and_is_kept(show):
    page = show("recordings", scheme="light")

    def ground() -> str:
        return page.evaluate("() => getComputedStyle(document.body).backgroundColor")

    light, seen = ground(), set()
    for _ in range(3):
        page.locator("#theme").click()
        seen.add(ground())
        if ground() != light:
            break
    assert seen - {light}
    dark = ground()
    page.reload()
    page.locator("[data-test=recording-row]").first.wait_for()
    assert ground() == dark


def test_back_button_goes_to_the_view_before(show):
    page = show("recordings")
    page.get_by_role("link", name="Queue").click()
    page.locator("[data-test=queue-item]").first.wait_for()
    page.go_back()
    page.locator("[data-test=recording-row]").first.wait_for()
