"""What the page's player shows at a time is the picture of that time, whatever the container."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import Server, open_page
from tests.media import read_time, write_video
from tests.steady import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SECONDS, FRAME_RATE = 8.0, 25
AT = 3.4  # seconds
RECORDINGS = {  # each picture carries its own time; what a browser can't play as it is comes last
    "plain.mp4": {},
    "starts late.mp4": {"start_seconds": 1.4, "audio_delay_seconds": 0.2},
    "starts late.ts": {"start_seconds": 1.4},
    "old.mpg": {"codec": "mpeg2video", "tone_hz": None},
    "silent.mkv": {"tone_hz": None},
}
TOKEN = "a-token-of-the-tests"
SHOWN = """
() => {
  const video = document.querySelector("video"), canvas = document.createElement("canvas");
  if (!video.hasAttribute("src") || video.seeking || video.readyState < 2) return null;
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  return canvas.toDataURL("image/png").split(",")[1];
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of recordings; there is no model."""
    folder = tmp_path_factory.mktemp("playing")
    recordings = folder / "data" / "recordings"
    recordings.mkdir(parents=True)
    for name, how in RECORDINGS.items():
        write_video(recordings / name, seconds=SECONDS, fps=FRAME_RATE, **how)
    return folder


def options(folder: Path, cache: str = "cache") -> list[object]:
    places = [("--cache-dir", folder / cache), ("--runs-dir", folder / "runs")]
    return [folder / "data", *(word for place in places for word in place)]


@pytest.fixture(scope="module")
def server(folder) -> Iterator[Server]:
    with Server(options(folder), folder / "log") as server:
        yield server


def id_of(server: Server, name: str) -> str:
    recordings = server.get("/api/recordings")["recordings"]
    return next(r["id"] for r in recordings if r["name"] == f"recordings/{name}")


def wait_for_time(page, seconds: float, within: float) -> None:
    """Until the picture in the player says that it is of this time: it may be on its way there."""
    wait_until(
        lambda: time_shown(page) == pytest.approx(seconds, abs=within),
        what=lambda: f"{seconds} s, not {time_shown(page)} s",
    )


def time_shown(page) -> float:
    """The seconds that the picture in the player says it is from."""
    found: list[str] = []

    def look() -> bool:
        found[:] = [page.evaluate(SHOWN)]
        return found[0] is not None

    wait_until(look, what=lambda: "a picture in the player")
    picture = Image.open(io.BytesIO(base64.b64decode(found[0]))).convert("RGB")
    return read_time(np.asarray(picture))


@pytest.mark.parametrize("name", RECORDINGS)
def test_player_shows_the_picture_of_the_time_it_is_sent_to(chromium, server, name):
    recording = server.get(f"/api/recordings/{id_of(server, name)}")
    last = recording["duration_seconds"] - 1 / FRAME_RATE
    with open_page(chromium, server, f"/#/review/{recording['id']}?t={AT}") as page:
        page.locator("[data-test=strip]").wait_for()
        if not page.locator("video[src]").count():
            page.get_by_role("button", name="Make a light copy to play").click()
        wait_for_time(page, AT, 1 / FRAME_RATE + 0.001)
        page.keyboard.press("Home")
        wait_for_time(page, 0.0, 0.001)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        wait_for_time(page, 2 / FRAME_RATE, 0.001)
        page.keyboard.press("End")
        wait_for_time(page, last, 0.001)


def test_player_plays_and_stops(chromium, server):
    with open_page(chromium, server, f"/#/review/{id_of(server, 'plain.mp4')}") as page:
        page.locator("[data-test=strip]").wait_for()
        time_shown(page)
        page.keyboard.press("Space")
        page.wait_for_function("() => document.querySelector('video').currentTime > 0.5")
        page.keyboard.press("Space")
        page.wait_for_function("() => document.querySelector('video').paused")


def test_page_without_a_model_says_what_to_do(chromium, server):
    with open_page(chromium, server, expected=[409]) as page:
        page.locator("[data-test=label-button]").first.click()
        page.locator("#alerts").get_by_text("train").first.wait_for()


def test_token_opens_the_page_once_and_is_in_no_log(chromium, folder):
    log = folder / "token.log"
    arguments = [*options(folder, "other"), "--token", TOKEN]
    with Server(arguments, log, TOKEN) as server:
        with open_page(chromium, server, expected=[401]) as page:  # nobody has shown it
            page.get_by_text("wants its token").wait_for()
            assert not page.locator("[data-test=recording-row]").count()
        with open_page(chromium, server, f"/?token={TOKEN}") as page:
            page.locator("[data-test=recording-row]").first.wait_for()
            assert "token" not in page.url
            assert page.evaluate("() => document.cookie") == ""  # no script can read it
            page.reload()
            page.locator("[data-test=recording-row]").first.wait_for()
    assert TOKEN not in log.read_text()
