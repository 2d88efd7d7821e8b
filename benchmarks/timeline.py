"""Timelines against a planted truth, beside Comskip: breaks and edges found, speed, memory.

    python -m benchmarks.timeline --data-dir CLIPS/heldout --checkpoint runs/latest/best.safetensors
    python -m benchmarks.timeline --data-dir CLIPS/heldout --checkpoint FILE --planted FOLDER
    python -m benchmarks.timeline --data-dir CLIPS/heldout --checkpoint FILE --quick

Recordings with planted breaks are put together from clips that the checkpoint never saw
(benchmarks.planted), and kept in --planted where it is given. What is judged is what people get:
scoring, segments and edges with all defaults, by a full pass and by keyframes first (`quick`).
`comskip`, where it is on the PATH, does the same recordings with its own defaults. Speed is
measured on one recording like a broadcast, 20 minutes with a break every ten, at 360 and at 720
lines: decode alone, the full pass, quick and comskip take turns, round after round, and the medians
count, all with the model loaded. Decode alone is one pass of the fast reader over all of it, by one
thread, as ever: the others may use every core. Start-up is what label_recording.py takes for the
shortest clip. Memory is that of label_recording.py and all its processes on a recording of three
hours. The benchmark's own --quick plants two short recordings, and does not measure the hours.
"""

import argparse
import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import add
from pathlib import Path

import psutil
from tqdm import tqdm

from benchmarks.figures import write_figures
from benchmarks.planted import (
    KINDS,
    SIZE,
    SUFFIXES,
    find_materials,
    plan_recording,
    repeat_recording,
    write_broadcast,
    write_recording,
)
from label_recording import load_classifier
from timeline.classifier import Classifier
from timeline.comparison import Comparison, compare, comparison_table
from timeline.labelled import Method
from timeline.labelling import Labeller
from timeline.timeline import Segment
from utils.features import read_features
from utils.labels import Span, parse_labels
from utils.video import probe

FIGURES = (
    *("ad_second_f1", "break_f1_iou50", "edge_median_seconds", "edge_p90_seconds"),
    "game_seconds_lost_per_hour",
)
SEEDS = 3
LARGE_SIZE = (720, 1280)
BROADCAST_SECONDS, LONG_SECONDS = 1100.0, 3 * 3600
MEMORY_POLL_SECONDS = 0.1
COMSKIP_SETTINGS = "[Output Control]\noutput_edl=1\noutput_default=0\n"

Label = Callable[[Path], Sequence[Segment | Span]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="ads/SOURCE/, games/SOURCE/")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--planted", type=Path, help="where planted recordings are kept")
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="of the speed measurement; 0 leaves out speed and memory [%(default)s]",
    )
    parser.add_argument("--quick", action="store_true", help="two recordings, one round, no hours")
    options = parser.parse_args()

    with contextlib.ExitStack() as stack:
        folder = options.planted or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        recordings = plant(options.data_dir, folder, quick=options.quick)
        cache_dir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        figures = {}
        if options.rounds:
            figures |= measure_start(options.data_dir, folder, options.checkpoint, cache_dir)
        classifier, *_ = load_classifier(options.checkpoint, cache_dir)
        labellers = all_labellers(classifier)
        for name, label in labellers.items():
            figures |= judge(name, label, recordings)
        jobs = {"decode": lambda path: read_to_end(path, classifier), **labellers}
        if options.rounds and options.quick:
            figures |= measure_speed(recordings[0], jobs, rounds=1)
            figures |= measure_command(recordings[0], options.checkpoint, cache_dir)
        elif options.rounds:
            for path in plant_sizes(options.data_dir, folder):
                figures |= measure_speed(path, jobs, options.rounds)
            long = folder / "long.mp4"
            if not long.exists():
                repeat_recording(recordings[0], long, LONG_SECONDS)
            figures |= measure_command(long, options.checkpoint, cache_dir)
    write_figures("timeline", figures)


def plant(data_dir: Path, folder: Path, *, quick: bool) -> list[Path]:
    """The planted recordings, made where they are not there yet; each kind in both containers."""
    materials = find_materials(data_dir)
    paths = []
    for seed in range(1 if quick else SEEDS):
        for kind in KINDS[:2] if quick else KINDS:
            path = folder / f"{kind}_{seed}{SUFFIXES[seed % len(SUFFIXES)]}"
            if not path.exists():
                write_recording(plan_recording(materials, kind, seed), path)
            paths.append(path)
    return paths


def plant_sizes(data_dir: Path, folder: Path) -> list[Path]:
    """One recording like a broadcast, at 360 and 720 lines."""
    plan = plan_recording(find_materials(data_dir), KINDS[0], 0)
    paths = []
    for size in (SIZE, LARGE_SIZE):
        recording = folder / f"{size[0]}p" / "recording.mp4"
        if not recording.exists():
            write_recording(plan, recording, size=size)
        paths.append(recording.with_name("broadcast.mp4"))
        if not paths[-1].exists():
            write_broadcast(recording, paths[-1], BROADCAST_SECONDS)
    return paths


def all_labellers(classifier: Classifier) -> dict[str, Label]:
    """What makes spans of a file, by name: the product in both modes, and comskip if there."""
    full, quick = Labeller(classifier, Method()), Labeller(classifier, Method(quick=True))
    labellers: dict[str, Label] = {
        "full": lambda path: full.label(path).timeline.segments,
        "quick": lambda path: quick.label(path).timeline.segments,
    }
    if shutil.which("comskip"):
        labellers["comskip"] = label_by_comskip
    return labellers


def read_to_end(path: Path, classifier: Classifier) -> None:
    """The fast reader alone: what a timeline can't be faster than, with one reader."""
    deque(read_features(path, classifier.spec), maxlen=0)


def label_by_comskip(path: Path) -> list[Span]:
    """The spans that Comskip finds with its own defaults. It ends with 1 where it finds none."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, "comskip.ini")
        settings.write_text(COMSKIP_SETTINGS)
        command = ["comskip", "--quiet", f"--ini={settings}", f"--output={folder}", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        edl = Path(folder, path.stem + ".edl")
        if done.returncode > 1 or (done.returncode == 0 and not edl.exists()):
            raise RuntimeError(f"comskip ended with {done.returncode}: {done.stderr[-500:]}")
        return list(parse_labels(edl.name, edl.read_bytes() if edl.exists() else b""))


def judge(name: str, label: Label, recordings: list[Path]) -> dict[str, float]:
    """Figures of one labeller over all recordings and by kind; the product's own have no prefix."""
    by_kind: dict[str, list[Comparison]] = {}
    for path in tqdm(recordings, name, leave=False, disable=None):
        kind = path.stem.partition("_")[0]
        by_kind.setdefault(kind, []).append(compare_with_truth(label(path), path))
    prefix = "" if name == "full" else f"{name}_"
    pooled = {kind: reduce(add, comparisons) for kind, comparisons in by_kind.items()}
    everything = reduce(add, pooled.values())
    print(f"\n{name}: {len(recordings)} recordings, planted breaks\n{comparison_table(everything)}")
    print_kinds({**pooled, "all": everything})
    figures = _figures(prefix, everything)
    for kind, comparison in pooled.items():
        figures |= _figures(f"{prefix}{kind}_", comparison)
    return figures


def compare_with_truth(found: Sequence[Segment | Span], path: Path) -> Comparison:
    # The .json ends where the recording does, the game that an .edl leaves over never.
    truth = path.with_suffix(".json")
    spans = parse_labels(truth.name, truth.read_bytes())
    return compare(found, spans, spans[-1].end_seconds)


def print_kinds(comparisons: dict[str, Comparison]) -> None:
    names = (*FIGURES, "break_f1_iou30", "break_f1_iou70")
    print("".join([f"\n{'':<8}", *(f"{name.replace('_seconds', ''):>27}" for name in names)]))
    for kind, comparison in comparisons.items():
        values = (comparison.to_dict()[name] for name in names)
        cells = (f"{'-' if value is None else f'{value:.3f}':>27}" for value in values)
        print("".join([f"{kind:<8}", *cells]))


def measure_speed(
    path: Path, jobs: dict[str, Callable[[Path], object]], rounds: int
) -> dict[str, float]:
    """Times real time of each on one file, in turns, and how they stand to each other."""
    duration_seconds = probe(path).duration_seconds
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    jobs["full"](path)  # what is loaded once, and the file into memory
    for _ in tqdm(range(rounds), f"speed at {path.parent.name}", leave=False, disable=None):
        for name, job in jobs.items():
            started = time.perf_counter()
            job(path)
            seconds[name].append(time.perf_counter() - started)
    speeds = {name: duration_seconds / statistics.median(s) for name, s in seconds.items()}
    print(f"\ntimes real time, {path.parent.name}, {duration_seconds:.0f} s, {rounds} rounds")
    for name, speed in speeds.items():
        print(f"{name:<10}{speed:8.1f}")
    suffix = f"_{path.parent.name}" if path.parent.name == f"{LARGE_SIZE[0]}p" else ""
    figures = {
        f"times_real_time{suffix}": speeds["full"],
        f"speed_over_decode{suffix}": speeds["full"] / speeds["decode"],
        f"quick_times_real_time{suffix}": speeds["quick"],
    }
    if "comskip" in speeds:
        figures[f"speed_over_comskip{suffix}"] = speeds["full"] / speeds["comskip"]
        figures[f"quick_speed_over_comskip{suffix}"] = speeds["quick"] / speeds["comskip"]
        figures[f"comskip_times_real_time{suffix}"] = speeds["comskip"]
    return figures


def measure_command(path: Path, checkpoint: Path, cache_dir: Path) -> dict[str, float]:
    """Memory and speed of label_recording.py, all its processes together, from start to end."""
    seconds, peak_bytes = _run_command(path, checkpoint, cache_dir)
    figures = {"peak_mb": peak_bytes / 1e6}
    figures["long_times_real_time"] = probe(path).duration_seconds / seconds
    print(f"label_recording.py, {path.name}: peak {figures['peak_mb']:.0f} MB")
    return figures


def measure_start(
    data_dir: Path, folder: Path, checkpoint: Path, cache_dir: Path
) -> dict[str, float]:
    """Seconds that label_recording.py takes for the shortest clip, with its files in memory, and
    what it holds: the first time that it opens the model, with PyTorch, and after that."""
    shortest = min(find_materials(data_dir), key=lambda material: material.num_frames).path
    clip = folder / f"start{shortest.suffix}"
    shutil.copyfile(shortest, clip)
    figures = {}
    for name, folders in (("first_", "abc"), ("", "aaa")):
        runs = [_run_command(clip, checkpoint, cache_dir / folder) for folder in folders]
        seconds, peak_bytes = map(min, zip(*runs, strict=True))
        print(f"{name or 'later_'}start, with the shortest clip: {seconds:.1f} s, ", end="")
        print(f"{peak_bytes / 1e6:.0f} MB")
        figures |= {f"{name}start_seconds": seconds, f"{name}start_peak_mb": peak_bytes / 1e6}
    return figures


def _run_command(path: Path, checkpoint: Path, cache_dir: Path) -> tuple[float, int]:
    """Wall-clock seconds of label_recording.py on a file, and the most bytes that it held."""
    command = [sys.executable, "label_recording.py", str(path), "--checkpoint", str(checkpoint)]
    command += ["--again", "--cache-dir", str(cache_dir)]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    with watch_memory(process.pid) as peak:
        process.wait()
    if process.returncode:
        raise RuntimeError(f"label_recording.py ended with {process.returncode} on {path}")
    return time.perf_counter() - started, peak[0]


@contextlib.contextmanager
def watch_memory(pid: int) -> Iterator[list[int]]:
    """Gives [the most bytes that a process and its children held at once], filled in at the end."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(MEMORY_POLL_SECONDS):
            with contextlib.suppress(psutil.NoSuchProcess):
                processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
                peak[0] = max(peak[0], sum(map(_own_bytes, processes)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _own_bytes(process: psutil.Process) -> int:
    """Memory of a process; what it shares with others is divided among them where that is known."""
    memory = process.memory_full_info()
    return getattr(memory, "pss", memory.rss)


def _figures(prefix: str, comparison: Comparison) -> dict[str, float]:
    """Those of FIGURES that there are: without any break found there is no edge."""
    values = comparison.to_dict()
    return {prefix + name: values[name] for name in FIGURES if values[name] is not None}


if __name__ == "__main__":
    main()
