"""The review view in a real browser: the strip, the player, the keys, and what is saved."""

import json
import re
import shutil
from collections.abc import Iterator

import numpy as np
import pytest

from tests.archives import FIRST, FRAME_RATE, Archive, write_recording
from tests.browser import Server, open_page
from tests.media import draw_texture, write_video
from tests.reviewer import Reviewer
from tests.steady import wait_until
from utils.labels import parse_labels

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FRAME_SECONDS = 1 / FRAME_RATE
SEGMENTS = [(0, 20, "games"), (20, 35, "ads"), (35, 95, "games")]
EDL = "30 60 3\n"
CUT_SECONDS = 10.0
DRAWN = "[data-test=strip][data-start]"  # from then on a place on it is a time
SHOWN = f"""
() => new Promise(requestAnimationFrame).then(() => {{
  const {{ start, end }} = document.querySelector("{DRAWN}").dataset;
  return [Number(start), Number(end)];
}})
"""


def draw_two_shots(seconds: float, height: int, width: int) -> np.ndarray:
    return draw_texture(float(seconds >= CUT_SECONDS) / 3, height, width)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Archive:
    """Recordings without a model, which the review page needs none for."""
    made = Archive(tmp_path_factory.mktemp("view"))
    made.recordings.mkdir(parents=True)
    write_recording(made.recordings / "first.mp4", FIRST)
    for name in ("edl.mp4", "queue.mp4"):
        shutil.copy(made.recordings / "first.mp4", made.recordings / name)
    (made.recordings / "edl.edl").write_text(EDL)
    write_video(made.recordings / "cut.mp4", seconds=20.0, draw=draw_two_shots)
    write_video(
        made.recordings / "old.mpg",
        seconds=3.0,
        codec="mpeg2video",
        size=(72, 128),
        fps=25,
        tone_hz=None,
    )
    made.runs.mkdir()
    return made


@pytest.fixture(scope="module")
def server(archive) -> Iterator[Server]:
    options = ["--data-dir", archive.data, "--cache-dir", archive.cache, "--runs-dir", archive.runs]
    with Server([archive.data, *options], archive.folder / "log") as server:
        yield server


@pytest.fixture
def view(request, chromium, server, archive) -> Iterator["View"]:
    """The first recording with SEGMENTS saved; no corrections of it are left behind.

    Its parameter: statuses of HTTP that the test causes.
    """
    made = View(server, archive, "first.mp4")
    made.save(SEGMENTS)
    try:
        expected = getattr(request, "param", [])
        with open_page(chromium, server, made.path, expected=expected) as page:
            made.show(page)
            yield made
            page.goto("about:blank")
    finally:
        made.sidecar.unlink(missing_ok=True)


class View:
    """A recording's review in a browser, and what the server has of it."""

    def __init__(self, server: Server, archive: Archive, name: str):
        self.server = server
        recordings = server.get("/api/recordings")["recordings"]
        self.id = next(r["id"] for r in recordings if r["name"].endswith(name))
        self.sidecar = (archive.recordings / name).with_suffix(".json")
        self.path = f"/#/review/{self.id}"

    def show(self, page, seconds: float = 95.0, frame_seconds: float = FRAME_SECONDS) -> None:
        page.locator(DRAWN).wait_for()
        self.page, self.hands = page, Reviewer(page, seconds, frame_seconds)

    def save(self, segments) -> None:
        rows = [
            dict(zip(("start_seconds", "end_seconds", "label"), s, strict=True)) for s in segments
        ]
        body = {"segments": rows, "revision": None, "overwrite": True}
        status, answer = self.server.ask("PUT", f"/api/recordings/{self.id}/corrections", body)
        assert status == 200, answer

    def saved(self) -> list[tuple] | None:
        found = self.server.get(f"/api/recordings/{self.id}")["corrections"]
        rows = found["segments"] if found else None
        return rows and [(r["start_seconds"], r["end_seconds"], r["label"]) for r in rows]

    def wait_for(self, wanted: list[tuple] | None) -> None:
        wait_until(lambda: self.saved() == wanted, what=lambda: f"{wanted}, not {self.saved()}")

    def said(self) -> str:
        return self.page.locator("[data-test=said]").inner_text()

    def time(self) -> float:
        minutes, seconds = self.page.locator(".time").inner_text().split(" /")[0].split(":")
        return 60 * int(minutes) + float(seconds)

    def shown(self) -> tuple[float, float]:
        """The first and last second on the strip, in the next picture of it."""
        start, end = self.page.evaluate(SHOWN)
        return start, end


# Editing


def test_dragged_edge_snaps_to_the_shot_cut_unless_alt_is_held(chromium, server, archive):
    view = View(server, archive, "cut.mp4")
    view.save([(0, 6, "games"), (6, 20, "ads")])
    with open_page(chromium, server, view.path) as page:
        view.show(page, 20.0, 0.04)
        page.get_by_text("▲ shot cuts").wait_for()

        def drag(start: float, end: float) -> float:
            """Where the edge is saved."""
            before = view.saved()
            view.hands.drag(start, end)
            wait_until(lambda: view.saved() != before)
            return view.saved()[0][1]

        assert drag(6.0, 9.92) == pytest.approx(CUT_SECONDS, abs=0.021)
        page.keyboard.down("Alt")
        assert drag(view.saved()[0][1], 9.92) == pytest.approx(9.92, abs=0.03)


def test_drag_that_is_given_up_leaves_everything_as_it_was(view):
    view.page.mouse.move(*view.hands.place(20.0))
    view.page.mouse.down()
    view.page.mouse.move(*view.hands.place(10.0))
    wait_until(lambda: view.hands.edges()[0] < 15)
    view.page.keyboard.press("Escape")
    view.page.mouse.up()
    wait_until(lambda: view.hands.edges()[0] == 20.0)
    assert view.page.locator("[data-test=undo]").is_disabled()


def test_edge_in_focus_moves_with_the_keys_of_a_slider(view):
    edge = view.page.get_by_role("slider", name="Edge 1 of 2")
    edge.focus()
    for key, at in (("ArrowRight", 20.125), ("ArrowLeft", 20.0), ("PageUp", 21.0)):
        view.hands.press(key)
        wait_until(lambda at=at: float(edge.get_attribute("aria-valuenow")) == at)
    assert edge.get_attribute("aria-valuetext") == "0:21.00, games to ads"
    view.wait_for([(0, 21, "games"), (21, 35, "ads"), (35, 95, "games")])
    stops = view.page.locator("[data-test=edge]").evaluate_all(
        "(all) => all.map((e) => e.tabIndex)"
    )
    assert sorted(stops) == [-1, 0]  # one stop of Tab for all of them


def test_split_merge_and_labels_by_key(view):
    view.hands.seek(50.0)
    at = round(view.time(), 2)
    view.hands.press("s", "0")
    labels = ["games", "ads", "games", None]  # what the first key did may be saved by itself
    wait_until(lambda: [row[2] for row in view.saved()] == labels)
    assert view.saved()[2][1] == pytest.approx(at, abs=0.01)
    view.hands.press("2")
    view.wait_for([(0, 20, "games"), (20, 35, "ads"), (35, 95, "games")])  # joined again
    view.hands.seek(25.0)
    view.hands.press("m")
    view.wait_for([(0, 20, "games"), (20, 95, "ads")])
    view.hands.press("e")
    wait_until(lambda: view.saved()[0][1] == pytest.approx(25.0, abs=0.1))


def test_everything_can_be_undone_after_the_page_was_loaded_again(view):
    view.hands.press("]", "Alt+Period", "Shift+Comma", "Period")
    moved = 20 + 1 - 0.1 + FRAME_SECONDS
    view.wait_for([(0, moved, "games"), (moved, 35, "ads"), (35, 95, "games")])
    view.hands.wait_until_saved()
    view.page.reload()
    view.show(view.page)
    wait_until(lambda: view.hands.edges()[:1] == [pytest.approx(moved, abs=0.001)])
    view.hands.press(*["Control+z"] * 3)
    view.wait_for([(a, b, label) for a, b, label in SEGMENTS])
    assert view.page.locator("[data-test=undo]").is_disabled()
    view.hands.press(*["Control+Shift+z"] * 2, "Control+y")
    view.wait_for([(0, moved, "games"), (moved, 35, "ads"), (35, 95, "games")])


def test_range_takes_a_label(view):
    view.hands.seek(50.0)
    start = view.time()
    view.hands.press("i", "l", "o")
    link = view.page.locator("[data-test=search-range]")
    found = re.fullmatch(
        rf"#/search\?recording={view.id}&start=([\d.]+)&end=([\d.]+)", link.get_attribute("href")
    )
    assert [float(found[1]), float(found[2])] == pytest.approx([start, start + 5], abs=0.02)
    view.hands.press("1")
    wait_until(lambda: len(view.saved()) == 5)
    assert view.saved()[3][2] == "ads"
    assert view.saved()[3][1] - view.saved()[3][0] == pytest.approx(5, abs=0.01)
    assert not link.is_visible()


@pytest.mark.parametrize("view", [[409]], indirect=True)
def test_marked_range_leads_to_the_search_which_says_what_it_needs(view):
    view.page.keyboard.down("Shift")
    view.hands.drag(60.0, 70.0)
    view.page.keyboard.up("Shift")
    view.page.locator("[data-test=search-range]").click()
    view.page.wait_for_url(re.compile(r"#/search\?recording=.*&start=(59|60)\.\d+&end=(69|70)"))
    view.page.get_by_text("no recording is indexed").wait_for()


def test_keys_are_listed_and_do_nothing_behind_a_dialog(view):
    view.hands.press("?")
    dialog = view.page.get_by_role("dialog", name="Keys")
    assert "label: ads" in dialog.inner_text()
    view.hands.press("s", "1", "m")
    view.hands.press("Escape")
    dialog.wait_for(state="detached")
    assert view.page.locator("[data-test=undo]").is_disabled()


# Looking


def test_video_plays_and_is_stepped_by_frames(view):
    view.hands.press("Space")
    wait_until(lambda: view.time() > 0.4)
    assert view.page.locator("[data-test=play]").inner_text() == "Pause"
    view.hands.press("Space")
    wait_until(lambda: view.page.locator("[data-test=play]").inner_text() == "Play")
    view.hands.seek(41.0)
    view.hands.press("ArrowRight", "ArrowRight", "ArrowLeft")
    at = view.time()
    assert abs(at / FRAME_SECONDS - round(at / FRAME_SECONDS)) < 0.1
    video = view.page.locator("video")
    wait_until(lambda: abs(video.evaluate("(v) => v.currentTime") - at) < FRAME_SECONDS / 2)
    view.hands.press("End", "Home")
    assert view.time() == 0.0


def test_strip_zooms_about_the_pointer_and_moves_along(view):
    assert view.shown() == (0.0, 95.0)
    x, y = view.hands.place(60.0)
    view.page.mouse.move(x, y + 40)
    view.page.mouse.wheel(0, -600)
    wait_until(lambda: view.shown()[1] - view.shown()[0] < 60)
    start, end = view.shown()
    box = view.page.locator("[data-test=strip]").bounding_box()
    assert start + (x - box["x"]) / box["width"] * (end - start) == pytest.approx(60, abs=0.1)
    view.page.mouse.down()
    view.page.mouse.move(x + 200, y + 40, steps=4)
    view.page.mouse.up()
    moved = 200 / box["width"] * (end - start)
    wait_until(lambda: view.shown()[0] == pytest.approx(start - moved, abs=0.1))
    view.hands.press("f")
    wait_until(lambda: view.shown() == (0.0, 95.0))
    view.hands.press("+", "+")
    wait_until(lambda: view.shown()[1] - view.shown()[0] == pytest.approx(95 / 4))


def test_hovering_shows_the_picture_and_what_is_there(view):
    view.page.mouse.move(*view.hands.place(27.0))
    hover = view.page.locator(".hover")
    wait_until(lambda: re.match(r"0:2[67]\.\d · ads", hover.inner_text()))
    picture = hover.locator("img")
    wait_until(lambda: picture.evaluate("(i) => i.naturalHeight"))


def test_address_with_a_time_begins_there(view):
    view.page.goto(f"{view.server.url}{view.path}?t=35")
    view.show(view.page)
    wait_until(lambda: view.time() == 35.0)
    view.hands.press("Period")  # the edge there is the one that is moved
    view.wait_for([(0, 20, "games"), (20, 35.125, "ads"), (35.125, 95, "games")])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone_and_all_buttons_have_names(chromium, view, scheme):
    with open_page(chromium, view.server, view.path, width=360, height=780, scheme=scheme) as page:
        page.locator("[data-test=edge]").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        nameless = page.locator("button, a, select, [role=slider]").evaluate_all(
            "(all) => all.filter((e) => !(e.ariaLabel || e.innerText || e.title).trim())"
            ".map((e) => e.outerHTML)"
        )
        assert [html for html in nameless if "hidden" not in html] == []


# Saving


def test_recording_without_a_model_is_labelled_by_hand_and_given_up(chromium, server, archive):
    view = View(server, archive, "queue.mp4")
    with open_page(chromium, server, view.path) as page:
        view.show(page)
        assert page.locator("[data-test=save-state]").inner_text() == "no corrections yet"
        view.hands.press("2")
        view.wait_for([(0, 95, "games")])
        page.locator("[data-test=back-to-model]").click()
        view.wait_for(None)
        assert not view.sidecar.exists()
        view.hands.press("Control+z")
        view.wait_for([(0, 95, "games")])
        view.hands.press("Control+z")
        view.wait_for(None)


def test_labels_of_somebody_else_are_shown_and_accepted(chromium, server, archive):
    view = View(server, archive, "edl.mp4")
    with open_page(chromium, server, view.path) as page:
        view.show(page)
        page.get_by_text("These are the labels of edl.edl").wait_for()
        assert view.hands.labels() == ["games", "ads", "games"]
        page.locator("[data-test=accept]").click()
        view.wait_for([(0, 30, "games"), (30, 60, "ads"), (60, 95, "games")])
    spans = parse_labels("edl.json", view.sidecar.read_bytes())
    assert [span.label for span in spans] == ["games", "ads", "games"]
    assert view.sidecar.with_suffix(".edl").read_text() == EDL
    view.sidecar.unlink()


def test_page_warns_before_unsaved_work_is_left(chromium, view):
    with open_page(chromium, view.server, view.path, expected=[503]) as page:
        view.show(page)
        refused = {"status": 503, "json": {"error": "the disk is full", "kind": "disk_full"}}
        page.route("**/corrections", lambda route: route.fulfill(**refused))
        view.hands.press("]", "Period")
        state = page.locator("[data-test=save-state]")
        state.filter(has_text="not saved: the disk is full").wait_for()
        asked = []

        def stay(dialog):
            asked.append(dialog.type)
            dialog.dismiss()

        page.on("dialog", stay)
        page.close(run_before_unload=True)
        wait_until(lambda: asked or page.wait_for_timeout(50))
        assert asked == ["beforeunload"]
        page.unroute("**/corrections")
        view.hands.wait_until_saved()  # by itself
    view.wait_for([(0, 20.125, "games"), (20.125, 35, "ads"), (35, 95, "games")])


def test_edit_is_saved_when_the_view_is_left_at_once(view):
    view.hands.press("]", "Period")
    view.page.evaluate("location.hash = '#/queue'")
    view.wait_for([(0, 20.125, "games"), (20.125, 35, "ads"), (35, 95, "games")])


def test_file_that_no_browser_plays_is_shown_and_gets_a_copy_that_does(chromium, server, archive):
    view = View(server, archive, "old.mpg")
    with open_page(chromium, server, view.path) as page:
        view.show(page, 3.0, 0.04)
        still = page.locator(".still")
        wait_until(lambda: still.evaluate("(i) => i.naturalHeight"))
        first = still.get_attribute("src")
        page.locator("[data-test=strip]").click()
        wait_until(lambda: still.get_attribute("src") != first)
        page.get_by_role("button", name="Make a light copy").click()
        wait_until(lambda: page.locator("video").get_attribute("src"))
        view.hands.press("Home", "Space")
        wait_until(lambda: view.time() > 0.3)


def test_sidecar_says_nothing_that_a_training_would_not_read(view):
    document = json.loads(view.sidecar.read_bytes())
    assert set(document["segments"][0]) >= {"start_seconds", "end_seconds", "label", "confidence"}
    assert [s.label for s in parse_labels("first.json", view.sidecar.read_bytes())] == [
        "games",
        "ads",
        "games",
    ]
