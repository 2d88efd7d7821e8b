"""A stream watched live: how late changes are told, how often in vain, and memory over time.

    python -m benchmarks.live --data-dir CLIPS/heldout --checkpoint runs/latest/best.safetensors
    python -m benchmarks.live --data-dir CLIPS/heldout --checkpoint FILE --planted FOLDER
    python -m benchmarks.live --data-dir CLIPS/heldout --checkpoint FILE --quick

The recordings of benchmarks.timeline, whose breaks are planted, run through what `--live` is made
of as fast as they can be read. A change is known when what is shown (`shows` in its events) turns
to the truth; how late that is counts in seconds of the stream, to which a machine that keeps up
adds less than one. What is shown wrongly for a moment counts as a false break or a false return.
Then label_recording.py itself watches a stream of --minutes in real time over loopback, whose
connection is cut about every minute and a half; its memory is what it says of itself. The
benchmark's own --quick takes two recordings and two minutes.
"""

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.figures import write_figures
from benchmarks.planted import find_materials, plan_recording, repeat_recording, write_recording
from benchmarks.timeline import plant
from label_recording import load_classifier
from tests.live_server import LiveServer
from timeline.changes import ENTER_SECONDS, LEAVE_SECONDS, ChangeSettings
from timeline.classifier import Classifier
from timeline.live import ENDED, GAVE_UP, StreamWatch
from timeline.network import network_of
from utils.connections import find_source
from utils.labels import BREAK_LABEL, REST_LABEL, Span, parse_labels
from utils.streams import WallClock, read_stream

ASKED_SECONDS = {BREAK_LABEL: ENTER_SECONDS, REST_LABEL: LEAVE_SECONDS}
WORDS = {BREAK_LABEL: "enter", REST_LABEL: "leave"}
AS_FAST_AS_CAN_BE = 1e6
MINUTES, QUICK_MINUTES = 30.0, 2.0
STATUS_SECONDS = 5.0
CUT_EVERY_SECONDS, CUT_SECONDS = (60.0, 120.0), (0.5, 3.0, 6.0, 15.0)


@dataclass(frozen=True)
class Shown:
    """What a stream showed from a moment on, seconds of the stream."""

    seconds: float
    label: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="ads/SOURCE/, games/SOURCE/")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--planted", type=Path, help="where planted recordings are kept")
    parser.add_argument("--minutes", type=float, help=f"of the stream in real time [{MINUTES:g}]")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()

    with contextlib.ExitStack() as stack:
        folder = options.planted or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        recordings = plant(options.data_dir, folder, quick=options.quick)
        cache_dir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        classifier, *_ = load_classifier(options.checkpoint, cache_dir)
        figures = judge_changes(recordings, classifier)
        minutes = options.minutes or (QUICK_MINUTES if options.quick else MINUTES)
        stream = plant_stream(options.data_dir, folder, 60 * minutes)
        figures |= measure_memory(stream, 60 * minutes, options.checkpoint, cache_dir)
    write_figures("live", figures)


def judge_changes(recordings: list[Path], classifier: Classifier) -> dict[str, float]:
    """How late changes are known over all recordings, and false ones an hour."""
    late: dict[str, list[float]] = {BREAK_LABEL: [], REST_LABEL: []}
    num_false = dict.fromkeys(late, 0)
    seconds = dict.fromkeys(late, 0.0)
    for path in tqdm(recordings, "changes", disable=None):
        shown = list(watch_file(path, classifier))
        truth = path.with_suffix(".json")
        spans = parse_labels(truth.name, truth.read_bytes())
        for number, span in enumerate(spans):
            seconds[span.label] += span.end_seconds - span.start_seconds
            for turned in shown:
                is_inside = span.start_seconds <= turned.seconds < span.end_seconds
                num_false[turned.label] += is_inside and turned.label != span.label
            if number:
                late[span.label].append(known_after(shown, span))
    figures = {}
    for label, word in WORDS.items():
        other = REST_LABEL if label == BREAK_LABEL else BREAK_LABEL
        within = [x <= ASKED_SECONDS[label] for x in late[label]]
        figures |= {
            f"{word}_changes": len(within),
            f"{word}_median_seconds": statistics.median(late[label]),
            f"{word}_within_{ASKED_SECONDS[label]:g}_s": statistics.mean(within),
            f"false_{word}s_per_hour": num_false[label] / (seconds[other] / 3600),
        }
    return figures


def watch_file(path: Path, classifier: Classifier) -> Iterator[Shown]:
    """Yields whenever what is shown turns, a file played as fast as it can be read."""
    clock, stop = WallClock(), threading.Event()
    network = network_of(classifier.model)
    watch = StreamWatch(classifier, network, ChangeSettings(), clock)
    source = find_source(str(path))
    shows = None
    for item in read_stream(
        source, classifier.spec, stop=stop, clock=clock, speed=AS_FAST_AS_CAN_BE
    ):
        for event in watch.take(item):
            if event.get("shows", shows) != shows:
                shows = event["shows"]
                yield Shown(watch.seconds, shows)


def known_after(shown: list[Shown], span: Span) -> float:
    """Seconds into a span until its label is shown; all of it where it never is."""
    before = [turned.label for turned in shown if turned.seconds <= span.start_seconds]
    if before and before[-1] == span.label:
        return 0.0
    for turned in shown:
        if turned.label == span.label and span.start_seconds < turned.seconds < span.end_seconds:
            return turned.seconds - span.start_seconds
    return span.end_seconds - span.start_seconds


def plant_stream(data_dir: Path, folder: Path, seconds: float) -> Path:
    """An MPEG-TS recording of that length, the same again and again."""
    path, once = folder / f"stream_{seconds:.0f}.ts", folder / "stream_once.ts"
    if not path.exists():
        write_recording(plan_recording(find_materials(data_dir), "mixed", 0), once)
        repeat_recording(once, path, seconds)
    return path


def measure_memory(
    path: Path, seconds: float, checkpoint: Path, cache_dir: Path
) -> dict[str, float]:
    """Memory of `label_recording.py --live` through that many seconds, and how it grew."""
    cuts = list(plan_cuts(seconds))
    command = [sys.executable, "label_recording.py", "--checkpoint", str(checkpoint)]
    command += ["--cache-dir", str(cache_dir)]
    command += ["--status-seconds", str(STATUS_SECONDS), "--give-up-minutes", "0.5", "--live"]
    statuses, num_reconnects = [], 0
    with LiveServer(path, cuts=cuts) as server:
        process = subprocess.Popen([*command, server.url], stdout=subprocess.PIPE, text=True)
        with tqdm(total=round(seconds), desc="stream", unit="s", disable=None) as bar:
            for line in process.stdout:
                event = json.loads(line)
                num_reconnects += event["event"] == "reconnected"
                if event["event"] == "status":
                    statuses.append(event)
                    bar.update(min(round(event["seconds"]), bar.total) - bar.n)
        if process.wait() not in (ENDED, GAVE_UP):  # nobody is served after the end
            raise RuntimeError(f"label_recording.py --live ended with {process.returncode}")
    # The first fifth loads what is loaded once.
    fifth = len(statuses) // 5
    memory = [event["memory_mb"] for event in statuses]
    early = statistics.median(memory[fifth : 2 * fifth])
    return {
        "stream_minutes": seconds / 60,
        "connection_cuts": len(cuts),
        "reconnects": num_reconnects,
        "peak_mb": max(memory),
        "memory_growth_mb": statistics.median(memory[-fifth:]) - early,
        "dropped_seconds": statuses[-1]["dropped_seconds"],
    }


def plan_cuts(seconds: float) -> Iterator[tuple[float, float]]:
    """Spans of the stream in which nobody is served."""
    rng = random.Random(0)
    at = rng.uniform(*CUT_EVERY_SECONDS) / 2
    while at < seconds - max(CUT_SECONDS):
        length = rng.choice(CUT_SECONDS)
        yield at, at + length
        at += length + rng.uniform(*CUT_EVERY_SECONDS)


if __name__ == "__main__":
    main()
