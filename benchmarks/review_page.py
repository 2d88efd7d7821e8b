"""The review page: how soon it can be used, how fast it seeks and draws, what its jobs cost.

    python -m benchmarks.review_page                     figures, from what it makes itself
    python -m benchmarks.review_page --screenshots docs  pictures of the page, of the demo set alone

Needs what the tests need, and Chromium: on the PATH, or from `playwright install chromium`. The
archive of the demo set takes minutes to make and stays in --folder, if that is given, for the next
time.
"""

import argparse
import contextlib
import io
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from benchmarks.figures import write_figures
from benchmarks.planted import (
    find_materials,
    plan_recording,
    repeat_recording,
    write_recording,
)
from label_recording import load_classifier
from tests.browser import Server, open_chromium, open_page
from tests.reviewer import Reviewer
from timeline.batch import label_recordings
from timeline.labelling import Method
from timeline.ledger import Ledger
from utils.demo_data import make_demo_set
from utils.labels import Span, parse_labels

RECORDINGS, QUICK_RECORDINGS = 1000, 100
LONG_SECONDS, QUICK_LONG_SECONDS = 3 * 3600, 600
SEGMENTS = 1000
SEEKS, ROUNDS, LOADS = 30, 5, 5
DRAW_SECONDS = 5.0
DEMO, DEMO_SIZE, TRUTH = "evening_match.mp4", (270, 480), "truth.edl"
TINY_SIZE, TINY_RATE, TINY_SECONDS = (90, 160), 25, 60
KEY_PICTURES_EVERY = 50  # pictures, as in a broadcast of two seconds
DRAFT_SECONDS = (1.4, -0.8, 2.2, -1.6, 0.5)  # by which a draft is off at five edges
PNG_BYTES = 200_000
SCREENSHOTS = {"wide": (1920, 920), "narrow": (360, 1480)}  # the whole page, in CSS pixels

IS_COMPLETE = "() => !document.querySelector('.loading, [aria-busy=true]')"
READY = "() => new Promise((done) => requestIdleCallback(() => done(performance.now())))"
SEEK = """
(seconds) => new Promise((done) => {
  const video = document.querySelector("video"), began = performance.now();
  video.addEventListener("seeked", () => done(performance.now() - began), {once: true});
  video.currentTime = seconds;
})
"""
# Zooms in and out by the wheel, once a picture, and tells when each picture was drawn.
DRAW = """
(seconds) => new Promise((done) => {
  const strip = document.querySelector("[data-test=strip]"), box = strip.getBoundingClientRect();
  const times = [];
  const draw = (now) => {
    times.push(now);
    if (now > times[0] + 1000 * seconds) return done(times);
    const phase = Math.floor((now - times[0]) / 500) % 2;
    strip.dispatchEvent(new WheelEvent("wheel", {
      deltaY: phase ? 40 : -40, deltaX: 0, clientX: box.x + box.width * 0.4, clientY: box.y + 40,
      bubbles: true, cancelable: true,
    }));
    requestAnimationFrame(draw);
  };
  requestAnimationFrame(draw);
})
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where the archives are kept [nowhere]")
    parser.add_argument("--weights", default="auto", help="of the demo archive's model [auto]")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="write pictures only")
    parser.add_argument("--quick", action="store_true", help="100 recordings, 10 minutes, a round")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        archive = make_demo_archive(folder.resolve() / "demo", options.weights)
        if options.screenshots:
            with open_chromium() as chromium, serving(archive) as server:
                take_screenshots(chromium, server, options.screenshots)
            return
        many = make_many(folder.resolve() / "many", options.quick)
        long = make_long(folder.resolve() / "long", options.quick)
        rounds = 1 if options.quick else ROUNDS
        figures = {}
        with open_chromium() as chromium:
            with serving(many) as server:
                figures |= measure_loading(chromium, server)
            with serving(long) as server:
                figures |= measure_long(chromium, server)
            with serving(archive) as server:
                figures |= measure_keyboard(chromium, server, archive)
                figures |= measure_jobs(server, archive, rounds)
    write_figures("review_page", figures)
    if options.folder is None:
        print("made and deleted: pass --folder to keep the archives")


# Archives: each a folder with data, cache and runs


def make_demo_archive(folder: Path, weights: str) -> Path:
    """The demo set, a recording planted from it with its truth, and a model trained on the set."""
    if (folder / "runs" / "latest").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    make_demo_set(folder / "data")
    recording = folder / "data" / "recordings" / DEMO
    plan = plan_recording(find_materials(folder / "data"), "black", 0)
    write_recording(plan, recording, size=DEMO_SIZE)
    recording.with_suffix(".json").unlink()  # it says the same as the .edl
    os.replace(recording.with_suffix(".edl"), folder / TRUTH)
    command = [sys.executable, "cost_optimized_train.py", "--folds", "0", "--weights", weights]
    for name in ("data", "cache", "runs"):
        command += [f"--{name}-dir", str(folder / name)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def make_many(folder: Path, quick: bool) -> Path:
    """An archive of as many recordings as a club has after years."""
    recordings = folder / "data" / "recordings"
    count = QUICK_RECORDINGS if quick else RECORDINGS
    recordings.mkdir(parents=True, exist_ok=True)
    first = recordings / "match_0000.mp4"
    if not first.exists():
        write_tiny(first, 4)
    for number in range(count):
        path = recordings / f"match_{number:04}.mp4"
        if not path.exists():
            shutil.copy(first, path)
    return folder


def make_long(folder: Path, quick: bool) -> Path:
    """One recording of hours."""
    path = folder / "data" / "recordings" / "long.mp4"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        short = write_tiny(folder / "short.mp4", TINY_SECONDS)
        partial = folder / "long.mp4"
        repeat_recording(short, partial, QUICK_LONG_SECONDS if quick else LONG_SECONDS)
        os.replace(partial, path)
    return folder


def write_tiny(path: Path, seconds: int) -> Path:
    """Writes H.264 and AAC at a tiny bit rate; returns the path."""
    coding = {"preset": "veryfast", "crf": "40", "g": str(KEY_PICTURES_EVERY)}
    y, x = np.mgrid[: TINY_SIZE[0], : TINY_SIZE[1]]
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=TINY_RATE, options=coding)
        video.height, video.width, video.pix_fmt = *TINY_SIZE, "yuv420p"
        audio = file.add_stream("aac", rate=16_000, layout="mono")
        audio.bit_rate = 16_000
        for number in range(seconds * TINY_RATE):
            shade = ((x + 2 * number) // 16 + y // 16) % 2 * 120 + 40
            picture = np.repeat(shade.astype(np.uint8)[..., None], 3, axis=2)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, TINY_RATE)
            file.mux(video.encode(frame))
        file.mux(video.encode())
        for start in range(0, seconds * 16_000, 1024):
            tone = 0.1 * np.sin(np.arange(start, start + 1024) * 0.1, dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, start
            file.mux(audio.encode(frame))
        file.mux(audio.encode())
    return path


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """serve.py on an archive, when it knows all its recordings' lengths."""
    options: list[object] = [folder / "data"]
    for name in ("data", "cache", "runs"):
        options += [f"--{name}-dir", folder / name]
    with Server(options, folder / "serve.log") as server:
        end = time.monotonic() + 300
        while any(r["duration_seconds"] is None for r in recordings_of(server)):
            if time.monotonic() > end:
                raise RuntimeError(f"lengths are not known after 5 minutes: {server.said()}")
            time.sleep(0.5)
        yield server


def recordings_of(server: Server) -> list[dict]:
    return server.get("/api/recordings")["recordings"]


def id_of(server: Server, name: str) -> str:
    return next(r["id"] for r in recordings_of(server) if r["name"].endswith(name))


# Figures


def measure_loading(chromium, server: Server) -> dict[str, float]:
    """Seconds from the address to a page that shows its rows and has nothing left to do."""
    waited, asked = [], []
    for _ in range(LOADS):
        with open_page(chromium, server, "/#/recordings", width=1920, height=1080) as page:
            page.locator("[data-test=recording-row]").first.wait_for()
            waited.append(page.evaluate(READY) / 1000)
        began = time.perf_counter()
        server.get("/api/recordings")
        asked.append(time.perf_counter() - began)
    return {
        "page_ready_seconds": statistics.median(waited),
        "recordings_api_seconds": statistics.median(asked),
    }


def measure_long(chromium, server: Server) -> dict[str, float]:
    """Milliseconds of a seek anywhere in hours, and pictures a second of a strip full of edges."""
    name = id_of(server, "long.mp4")
    duration = server.get(f"/api/recordings/{name}")["duration_seconds"]
    edges = np.linspace(0, duration, SEGMENTS + 1)
    rows = [
        {"start_seconds": start, "end_seconds": end, "label": ("games", "ads")[k % 2]}
        for k, (start, end) in enumerate(zip(edges[:-1], edges[1:], strict=True))
    ]
    body = {"segments": rows, "revision": None, "overwrite": True}
    status, answer = server.ask("PUT", f"/api/recordings/{name}/corrections", body)
    if status != 200:
        raise RuntimeError(f"corrections were not saved: {answer}")
    choose = random.Random(0)
    with open_page(chromium, server, f"/#/review/{name}", width=1920, height=1080) as page:
        page.locator("[data-test=edge]").first.wait_for()
        page.wait_for_function("() => document.querySelector('video')?.readyState >= 2")
        page.evaluate(READY)
        waits = [page.evaluate(SEEK, choose.uniform(0, duration - 1)) for _ in range(SEEKS)]
        times = np.diff(page.evaluate(DRAW, DRAW_SECONDS))
    server.ask("DELETE", f"/api/recordings/{name}/corrections?revision={answer['revision']}")
    return {
        "seek_ms": statistics.median(waits),
        "seek_p95_ms": float(np.percentile(waits, 95)),
        "strip_frames_per_second": float(1000 / times.mean()),
        "strip_frame_p95_ms": float(np.percentile(times, 95)),
    }


def measure_keyboard(chromium, server: Server, archive: Path) -> dict[str, float]:
    """Seconds in which five edges that are off are put right and saved, by keys alone."""
    name = id_of(server, DEMO)
    detail = server.get(f"/api/recordings/{name}")
    truth = _truth(archive / TRUTH, detail["duration_seconds"])[:6]
    edges = [span.end_seconds for span in truth[:-1]]
    drafted = [edge + off for edge, off in zip(edges, DRAFT_SECONDS, strict=True)]
    ends = [*drafted, detail["duration_seconds"]]
    rows = [
        {"start_seconds": start, "end_seconds": end, "label": span.label}
        for span, start, end in zip(truth, [0.0, *drafted], ends, strict=True)
    ]
    body = {"segments": rows, "revision": None, "overwrite": True}
    status, answer = server.ask("PUT", f"/api/recordings/{name}/corrections", body)
    if status != 200:
        raise RuntimeError(f"the draft was not saved: {answer}")
    with open_page(chromium, server, f"/#/review/{name}") as page:
        page.locator("[data-test=edge]").first.wait_for()
        reviewer = Reviewer(page, detail["duration_seconds"], 1 / detail["frame_rate"])
        began = time.perf_counter()
        reviewer.correct_edges(edges)
        while True:
            saved = server.get(f"/api/recordings/{name}")["corrections"]
            found = [row["end_seconds"] for row in saved["segments"][:-1]]
            if np.allclose(found, edges, atol=0.5 / detail["frame_rate"] + 0.001):
                break
            if time.perf_counter() - began > 120:
                raise RuntimeError(f"edges are at {found} and belong at {edges}")
            time.sleep(0.05)
        seconds = time.perf_counter() - began
    server.ask("DELETE", f"/api/recordings/{name}/corrections?revision={saved['revision']}")
    return {"keyboard_seconds_for_five_edges": seconds}


def _truth(path: Path, duration_seconds: float) -> list[Span]:
    """The game between breaks, too: an .edl has breaks alone."""
    spans, at = [], 0.0
    for span in parse_labels(path.name, path.read_bytes()):
        if span.label != "ads":
            continue
        if span.start_seconds > at:
            spans.append(Span(at, span.start_seconds, "games"))
        spans.append(span)
        at = span.end_seconds
    return [*spans, Span(at, duration_seconds, "games")] if at < duration_seconds else spans


def measure_jobs(server: Server, archive: Path, rounds: int) -> dict[str, float]:
    """How much longer a timeline takes as a job of the page than in label_recording.py.

    Both have the model loaded, as the script has from its second recording on.
    """
    path = archive / "data" / "recordings" / DEMO
    name = id_of(server, path.name)

    def job() -> None:
        server.job("POST", f"/api/recordings/{name}/label", {"again": True}, seconds=600)

    script = _script(path, archive)
    seconds: dict[str, list[float]] = {"script": [], "job": []}
    for run in (script, job):
        run()  # what is loaded once
    for _ in range(rounds):
        for kind, run in (("script", script), ("job", job)):
            began = time.perf_counter()
            run()
            seconds[kind].append(time.perf_counter() - began)
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    return {
        "job_overhead": medians["job"] / medians["script"] - 1,
        "script_seconds": medians["script"],
        "job_seconds": medians["job"],
    }


def _script(path: Path, archive: Path) -> Callable[[], None]:
    """What label_recording.py does for one recording, until it is remembered."""
    classifier, *_ = load_classifier(archive / "runs" / "latest" / "best.safetensors")
    method = Method()
    ledger = Ledger.of(archive / "script", classifier, method)

    def label() -> None:
        ((_, found),) = label_recordings([path], classifier, method, jobs=1, report=lambda *_: None)
        ledger.add(path, found)
        ledger.find(path)

    return label


# Pictures


def take_screenshots(chromium, server: Server, folder: Path) -> None:
    """Writes review_<width>_<scheme>.png, of a recording of the demo set with its breaks found."""
    name = id_of(server, DEMO)
    server.job("POST", f"/api/recordings/{name}/label", {}, seconds=600)
    status, answer = server.ask("GET", f"/api/recordings/{name}/levels")
    if status == 202:
        server.wait_for_job(answer["job"]["id"], seconds=600)
    rows = server.get(f"/api/recordings/{name}")["timeline"]["segments"]
    shown = next(row["start_seconds"] for row in rows if row["label"] == "ads") + 8
    folder.mkdir(parents=True, exist_ok=True)
    for width, (across, down) in SCREENSHOTS.items():
        for scheme in ("light", "dark"):
            path = f"/#/review/{name}?t={shown:.1f}"
            options = {"width": across, "height": down, "scheme": scheme}
            with open_page(chromium, server, path, **options) as page:
                page.locator("[data-test=edge]").first.wait_for()
                page.wait_for_function("() => document.querySelector('video')?.readyState >= 2")
                page.wait_for_function(IS_COMPLETE)
                page.evaluate(READY)
                target = folder / f"review_{width}_{scheme}.png"
                target.write_bytes(fewer_colours(page.screenshot()))
            print(f"{target}  {target.stat().st_size / 1000:.0f} kB")


def fewer_colours(png: bytes) -> bytes:
    """The picture in as many colours as PNG_BYTES have room for, 256 at most."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in (256, 128, 64, 32):
        buffer = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= PNG_BYTES:
            break
    return buffer.getvalue()


if __name__ == "__main__":
    main()
