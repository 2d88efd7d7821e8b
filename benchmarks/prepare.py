"""Preparing recordings: speed against the usual loaders, two workers against one, memory.

    python -m benchmarks.prepare --data-dir CLIPS/train
    python -m benchmarks.prepare --data-dir CLIPS/train --checkpoint runs/latest/best.safetensors
    python -m benchmarks.prepare --data-dir CLIPS/train --quick

Every loader turns the same recordings into the same thing, frames of 96x96 at 4 a second and MFCC,
on the same single core, one after another and in rounds. `seek` is the loader that most people
write: OpenCV seeks to each frame of a ten-second clip, librosa loads the clip's sound. `sequential`
reads every frame with OpenCV and the sound with librosa. `exact`, `fast` and `keyframes` are ours,
with black bars found and cut off, which the others leave in. `ffmpeg`, where it is on the PATH, is
the command line with the skip flags of `fast`, and makes no MFCC. Without ffmpeg, librosa reads no
AAC: the sound of `seek` and `sequential` then costs nothing, which is in their favour.
Memory is that of a worker which prepares a made recording of three hours at 1280x720.
With --checkpoint, a trained model judges the windows of each recording by fast, exact and keyframes
features: how far do its probabilities differ?
"""

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import psutil
from tqdm import tqdm

from benchmarks.figures import FOLDER, write_figures
from models.array_network import ArrayNetwork
from timeline.scoring import score_recording
from training.checkpoint import Checkpoint, load_checkpoint
from utils.features import FeatureSpec, read_features
from utils.mfcc import MfccSpec
from utils.parts import split_recording
from utils.preparation import prepare_recordings
from utils.recordings import Recording, find_recordings
from utils.sources import Folder
from utils.video import probe

SPEC = FeatureSpec(4.0, (96, 96), "fast", True, MfccSpec())  # of cost_optimized_train.py
CLIP_SECONDS = 10.0
WORKER_ROUNDS = 3
QUICK_EVERY = 12
LONG_SECONDS, QUICK_LONG_SECONDS = 3 * 3600, 900
LONG_SIZE = (720, 1280)
MEMORY_POLL_SECONDS = 0.2
SURE = 0.8  # probability above which a label must not depend on the mode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--checkpoint", type=Path, help="of a model to compare the modes by")
    parser.add_argument("--rounds", type=int, default=3, help="over all recordings [3]")
    parser.add_argument("--quick", action="store_true", help="a few files, once")
    options = parser.parse_args()

    source = Folder(options.data_dir)
    recordings = find_recordings(source)[:: QUICK_EVERY if options.quick else 1]
    paths = [Path(options.data_dir, recording.name) for recording in recordings]
    rounds = 1 if options.quick else options.rounds
    speeds = measure_loaders(paths, rounds)
    print_table(speeds, len(paths), rounds)
    figures = {
        "fast_over_seek": ratio(speeds, "fast", "seek"),
        "fast_over_sequential_opencv": ratio(speeds, "fast", "sequential"),
        "keyframes_over_fast": ratio(speeds, "keyframes", "fast"),
    }
    if "ffmpeg" in speeds:
        figures["fast_over_ffmpeg"] = ratio(speeds, "fast", "ffmpeg")
    figures |= {f"{name}_times_real_time": mean(values) for name, values in speeds.items()}
    if options.checkpoint:
        figures |= compare_answers(load_checkpoint(options.checkpoint), paths)
    figures["two_workers_over_one"] = measure_workers(
        recordings, source, 1 if options.quick else WORKER_ROUNDS
    )
    with tempfile.TemporaryDirectory() as folder:
        long = make_long(paths[0], folder, QUICK_LONG_SECONDS if options.quick else LONG_SECONDS)
        figures |= measure_long(long)
    write_figures("prepare", figures)
    draw_speeds(speeds, FOLDER / "prepare.png")


def load_by_seeking(path: Path) -> int:
    """The usual loader: a seek for every frame, clip by clip."""
    capture = cv2.VideoCapture(str(path))
    duration = capture.get(cv2.CAP_PROP_FRAME_COUNT) / capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    count = 0
    for start in np.arange(0.0, duration, CLIP_SECONDS):
        capture = cv2.VideoCapture(str(path))
        for seconds in np.arange(start, min(start + CLIP_SECONDS, duration), 1 / SPEC.fps):
            capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * seconds)
            ok, picture = capture.read()
            if ok:
                _shrink(picture)
                count += 1
        capture.release()
        _load_sound(path, start, CLIP_SECONDS)
    return count


def load_in_sequence(path: Path) -> int:
    """OpenCV reads every frame once, from the first to the last."""
    capture = cv2.VideoCapture(str(path))
    frame_rate = capture.get(cv2.CAP_PROP_FPS)
    index = count = 0
    while True:
        ok, picture = capture.read()
        if not ok:
            break
        if index / frame_rate >= count / SPEC.fps:
            _shrink(picture)
            count += 1
        index += 1
    capture.release()
    _load_sound(path, 0.0, None)
    return count


def load_features(path: Path, frames: str) -> int:
    """What a worker of prepare_data.py does with a recording, except storing it."""
    spec = replace(SPEC, frames=frames)
    return sum(
        len(block.frames)
        for part in split_recording(path, spec)
        for block in read_features(path, spec, part)
    )


def load_by_ffmpeg(path: Path) -> int:
    """The command line, one thread, with the skip flags of `fast`; frames and samples to a pipe."""
    height, width = SPEC.frame_size
    skip = ["-threads", "1", "-skip_frame", "noref", "-skip_loop_filter", "all"]
    picture = f"fps={SPEC.fps:g},scale={width}:{height}:flags=area"
    video = ["-map", "0:v:0", "-vf", picture, "-pix_fmt", "rgb24", "-f", "rawvideo", "pipe:1"]
    rate = str(SPEC.mfcc.sample_rate)
    sound = ["-map", "0:a:0?", "-ac", "1", "-ar", rate, "-f", "f32le", os.devnull]
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-filter_threads", "1", *skip]
    command += ["-i", str(path), *video]
    if probe(path).has_audio:
        command += sound
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return len(out) // (height * width * 3)


def measure_loaders(paths: list[Path], rounds: int) -> dict[str, list[float]]:
    """Times real time by loader and recording, medians over the rounds, all on one core."""
    loaders: dict[str, Callable[[Path], int]] = {
        "seek": load_by_seeking,
        "sequential": load_in_sequence,
        "exact": lambda path: load_features(path, "exact"),
        "fast": lambda path: load_features(path, "fast"),
        "keyframes": lambda path: load_features(path, "keyframes"),
    }
    if shutil.which("ffmpeg"):
        loaders["ffmpeg"] = load_by_ffmpeg
    seconds = {name: [[] for _ in paths] for name in loaders}
    with _one_core():
        for load in loaders.values():
            load(paths[0])  # imports, and the file into memory
        for _ in range(rounds):
            for index, path in enumerate(tqdm(paths, "recordings", leave=False)):
                for name, load in loaders.items():
                    started = time.perf_counter()
                    count = load(path)
                    seconds[name][index].append(time.perf_counter() - started)
                    if count == 0:
                        raise RuntimeError(f"{name} found no frame in {path}")
    durations = [probe(path).duration_seconds for path in paths]
    return {
        name: [d / statistics.median(s) for d, s in zip(durations, times, strict=True)]
        for name, times in seconds.items()
    }


def measure_workers(recordings: list[Recording], source: Folder, rounds: int) -> float:
    """How many times faster two workers prepare the recordings than one; median of the rounds."""
    ratios = []
    for _ in range(rounds):
        seconds = {workers: _prepare(recordings, source, workers) for workers in (1, 2)}
        ratios.append(seconds[1] / seconds[2])
    return statistics.median(ratios)


def measure_long(path: Path) -> dict[str, float]:
    """Memory of the largest worker while a long recording is prepared, and its speed."""
    source = Folder(path.parents[1])
    recordings = find_recordings(source)
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(MEMORY_POLL_SECONDS):
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    peak = max(peak, child.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        seconds = _prepare(recordings, source, workers=2)
    finally:
        done.set()
        watcher.join()
    speed = probe(path).duration_seconds / seconds
    return {"peak_worker_mb": peak / 1e6, "long_recording_times_real_time": speed}


def compare_answers(checkpoint: Checkpoint, paths: list[Path]) -> dict[str, float]:
    """How far a model's answers by fast and by keyframes features are from those by exact ones."""
    network = ArrayNetwork(checkpoint.model)
    answers = {
        mode: np.concatenate(
            [
                score_recording(
                    path,
                    network,
                    replace(checkpoint.spec, frames=mode),
                    clip_seconds=checkpoint.clip_seconds,
                    temperature=checkpoint.temperature,
                ).tile_probabilities
                for path in tqdm(paths, f"judge {mode}", leave=False)
            ]
        )
        for mode in ("exact", "fast", "keyframes")
    }
    exact = answers.pop("exact")
    sure = exact.max(axis=1) > SURE
    figures = {"windows": len(exact), "windows_sure": int(sure.sum())}
    for mode, found in answers.items():
        flipped = found.argmax(axis=1) != exact.argmax(axis=1)
        figures[f"{mode}_probability_difference"] = float(np.abs(found - exact).mean())
        figures[f"{mode}_label_changes"] = int(flipped.sum())
        figures[f"{mode}_sure_label_changes"] = int((flipped & sure).sum())
    return figures


def make_long(path: Path, folder: str, seconds: float) -> Path:
    """`folder`/ads/long.mp4: a recording at 1280x720, repeated without encoding it again."""
    once = Path(folder, "once.mp4")
    height, width = LONG_SIZE
    with av.open(str(path)) as source, av.open(str(once), "w") as target:
        rate = source.streams.video[0].average_rate
        options = {"preset": "veryfast", "g": "50"}
        video = target.add_stream("libx264", rate=rate, options=options)
        video.height, video.width, video.pix_fmt = height, width, "yuv420p"
        for index, picture in enumerate(source.decode(video=0)):
            scaled = picture.reformat(width, height, "yuv420p")
            scaled.pts, scaled.time_base = index, 1 / Fraction(rate)
            target.mux(video.encode(scaled))
        target.mux(video.encode(None))
    long = Path(folder, "long", "ads", "long.mp4")
    long.parent.mkdir(parents=True)
    with av.open(str(long), "w") as target:
        stream, offset, end = None, 0, 0
        while stream is None or offset * stream.time_base < seconds:
            with av.open(str(once)) as source:
                video = source.streams.video[0]
                stream = stream or target.add_stream_from_template(video)
                for packet in source.demux(video):
                    if packet.size:
                        packet.pts += offset
                        packet.dts += offset
                        # The last picture shown is not the last one in the file.
                        end = max(end, packet.pts + packet.duration)
                        packet.stream = stream
                        target.mux(packet)
                offset = end
    return long


def ratio(speeds: dict[str, list[float]], name: str, other: str) -> float:
    """Geometric mean over the recordings of how many times faster one loader is than another."""
    return mean([a / b for a, b in zip(speeds[name], speeds[other], strict=True)])


def mean(values: list[float]) -> float:
    return statistics.geometric_mean(values)


def print_table(speeds: dict[str, list[float]], count: int, rounds: int) -> None:
    print(f"times real time on one core, {count} recordings, median of {rounds} rounds")
    print(f"{'':<12}{'mean':>8}{'slowest':>9}{'fastest':>9}{'over seek':>11}")
    for name, values in speeds.items():
        gain = ratio(speeds, name, "seek")
        print(f"{name:<12}{mean(values):8.1f}{min(values):9.1f}{max(values):9.1f}{gain:11.1f}")


def draw_speeds(speeds: dict[str, list[float]], path: Path) -> None:
    """A bar for each loader: times real time on one core."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(speeds)[::-1]
    figure, axes = pyplot.subplots(figsize=(7, 0.5 * len(names) + 1.2), layout="constrained")
    bars = axes.barh(names, [mean(speeds[name]) for name in names], color="#3a6ea5")
    axes.bar_label(bars, fmt="%.0fx", padding=3)
    axes.set_xlabel("times real time on one core (geometric mean over the recordings)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    figure.savefig(path, dpi=150)
    print(f"drawn in {path}")


def _prepare(recordings: list[Recording], source: Folder, workers: int) -> float:
    """Seconds that preparing takes, from nothing."""
    with tempfile.TemporaryDirectory() as cache_dir:
        started = time.perf_counter()
        prepare_recordings(recordings, source, SPEC, cache_dir, workers=workers, max_rejected=0.0)
        return time.perf_counter() - started


def _shrink(picture: np.ndarray) -> np.ndarray:
    height, width = SPEC.frame_size
    return cv2.cvtColor(cv2.resize(picture, (width, height)), cv2.COLOR_BGR2RGB)


def _load_sound(path: Path, start_seconds: float, duration_seconds: float | None) -> None:
    import audioread
    import librosa

    rate = SPEC.mfcc.sample_rate
    with warnings.catch_warnings(), contextlib.suppress(audioread.NoBackendError, EOFError):
        warnings.simplefilter("ignore")  # librosa says of every file how it reads it
        samples, _ = librosa.load(
            path, sr=rate, offset=float(start_seconds), duration=duration_seconds
        )
        if len(samples):
            librosa.feature.mfcc(y=samples, sr=rate, n_mfcc=SPEC.mfcc.n_mfcc)


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Everything on one core, where the system can do that."""
    cv2.setNumThreads(1)
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    main()
