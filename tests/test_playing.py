"""A browser shows the picture of the second that the page asks for, of files and of proxies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Server, open_page
from tests.media import write_video
from tests.trainings import flags

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SECONDS, SIZE = 6, (72, 128)
FAST_VP8 = {"g": "25", "deadline": "realtime", "cpu-used": "8"}
HEVC = {"codec": "libx265", "options": {"x265-params": "log-level=none"}}
FILES = {  # how each is written, and what the page says of it
    "plain.mp4": ({}, "direct"),
    "late_sound.mp4": ({"audio_delay_seconds": 0.5}, "direct"),
    "late_picture.mp4": ({"start_seconds": 0.7, "audio_delay_seconds": -0.7}, "direct"),
    "plain.webm": ({"codec": "libvpx", "tone_hz": None, "options": FAST_VP8}, "direct"),
    "late.mp4": ({"start_seconds": 2.0}, "needs_proxy"),  # of which browsers disagree
    "wraps.ts": ({"start_seconds": 95_440.0, "audio_delay_seconds": -0.5}, "needs_proxy"),
    "late.mkv": ({"start_seconds": 7.3}, "needs_proxy"),
    "hevc.mkv": (HEVC, "needs_proxy"),
}
# Seeks to each time, and reads what `media.draw_time` wrote into the picture that is shown then.
# It may take a moment to be there: what still is another one after some seconds is the answer.
SEEK_AND_READ = """async ([url, times, wanted]) => {
  const video = document.createElement('video');
  const happens = (name) => new Promise((resolve, reject) => {
    video.addEventListener(name, resolve, {once: true});
    video.addEventListener('error', () => reject(new Error(video.error.message)), {once: true});
  });
  video.muted = true;
  video.preload = 'auto';
  video.src = url;
  await happens('loadeddata');
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [128, 72];
  const context = canvas.getContext('2d');
  const read = () => {
    context.drawImage(video, 0, 0, 128, 72);
    const {data} = context.getImageData(0, 0, 128, 72);
    let milliseconds = 0;
    for (let bit = 0; bit < 16; bit++) {
      const [row, column] = [18 + 36 * Math.floor(bit / 8), 8 + 16 * (bit % 8)];
      if (data[4 * (128 * row + column)] > 127) milliseconds |= 1 << bit;
    }
    return milliseconds / 1000;
  };
  const shown = [];
  for (const [index, time] of times.entries()) {
    const sought = happens('seeked');
    video.currentTime = time;
    await sought;
    for (let left = 100; left > 0 && read() !== wanted[index]; left--)
      await new Promise((resolve) => setTimeout(resolve, 50));
    shown.push(read());
  }
  return shown;
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("playing")
    places = {f"{name}_dir": folder / name for name in ("data", "cache", "runs")}
    recordings = places["data_dir"] / "recordings"
    recordings.mkdir(parents=True)
    for name, (how, _) in FILES.items():
        how = {"options": {"g": "25", "preset": "ultrafast"}, **how}
        write_video(recordings / name, seconds=SECONDS, size=SIZE, **how)
    with Server([places["data_dir"], *flags(**places)], folder / "log") as server:
        yield server


@pytest.mark.parametrize("name", FILES)
def test_the_picture_of_a_second_is_shown_at_that_second(chromium, server, name):
    listed = server.get("/api/recordings")["recordings"]
    id = next(r["id"] for r in listed if Path(r["name"]).name == name)
    media = server.get(f"/api/recordings/{id}")["media"]
    assert media["kind"] == FILES[name][1]
    if media["kind"] == "needs_proxy":
        server.job("POST", f"/api/recordings/{id}/proxy")
        media = server.get(f"/api/recordings/{id}")["media"]
        assert media["kind"] == "proxy"
    asked = [0.0, 3.0, 2.48, 5.0, 5.96]
    with open_page(chromium, server, "/docs") as page:
        times = [seconds + media["zero_seconds"] + 0.02 for seconds in asked]
        assert page.evaluate(SEEK_AND_READ, [media["url"], times, asked]) == asked
