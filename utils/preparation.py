"""Preparation: recordings decoded once into the feature store, bad ones set aside with the reason."""

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.audio import find_audio
from utils.clips import Clip, cut_spans
from utils.feature_store import Column, FeatureStore
from utils.features import FeatureSpec, check_length, read_picture, read_sound
from utils.recordings import DataError, Recording
from utils.video import MediaError, probe

HASH_BLOCK_BYTES = 1 << 22
NUM_THUMBNAILS, THUMBNAIL_HEIGHT = 6, 112  # pictures, pixels


@dataclass(frozen=True)
class Rejected:
    """A recording that can't be used, and why."""

    recording: Recording
    reason: str


@dataclass(frozen=True)
class PreparedSet:
    """What preparation leaves: the usable recordings with their store keys, and the rejected ones."""

    store: FeatureStore
    spec: FeatureSpec
    keys: dict[Recording, str]
    rejected: list[Rejected]

    def seconds(self, recording: Recording) -> float:
        return self.store.num_rows(self.keys[recording], "frames") / self.spec.fps

    def clips(self, clip_seconds: float, hop_seconds: float) -> list[Clip]:
        """All recordings cut into clips, as `cut_spans` says."""
        return [
            Clip(recording, key, start, end)
            for recording, key in self.keys.items()
            for start, end in cut_spans(self.seconds(recording), clip_seconds, hop_seconds)
        ]

    def thumbnails(self, name: str, start_seconds: float, end_seconds: float) -> np.ndarray:
        """(n, h, w, 3) uint8 RGB: a few frames of a span, in the proportions of the picture."""
        recording = next(recording for recording in self.keys if recording.name == name)
        key = self.keys[recording]
        span = self.spec.frame_span(start_seconds, end_seconds)
        rows = np.linspace(span.start, span.stop - 1, NUM_THUMBNAILS).round().astype(int)
        frames = self.store.get(key, "frames")[rows]
        width = round(THUMBNAIL_HEIGHT * self.store.info(key)["aspect_ratio"])
        return np.stack(
            [np.asarray(Image.fromarray(f).resize((width, THUMBNAIL_HEIGHT))) for f in frames]
        )


def open_feature_store(cache_dir: str | Path, spec: FeatureSpec) -> FeatureStore:
    """The store of one FeatureSpec, `cache_dir/features/<spec id>`, with columns frames and mfcc."""
    columns = {
        "frames": Column("uint8", spec.frame_shape),
        "mfcc": Column("float16", (spec.mfcc.n_mfcc,)),
    }
    return FeatureStore(Path(cache_dir, "features", spec.id), columns)


def prepare_recordings(
    recordings: list[Recording],
    spec: FeatureSpec,
    cache_dir: str | Path,
    *,
    workers: int,
    max_rejected: float,
) -> PreparedSet:
    """Decodes what the store does not hold yet, one process per core, with a progress bar.

    A recording is known by the content of its files, not by name or date. Unreadable ones, and
    files of the same content under two classes, are set aside. Raises DataError where more than
    the fraction `max_rejected` is, or a class is left without a recording.
    """
    rejected: list[Rejected] = []
    keys = _fingerprints(recordings, Path(cache_dir), rejected)
    _reject_contradictions(keys, rejected)
    store = open_feature_store(cache_dir, spec)
    pending = {key: recording for recording, key in keys.items() if key not in store}
    if pending:
        with store.writing():
            failed = _decode_all(pending, spec, store, workers or os.cpu_count() or 1)
        rejected += [Rejected(r, failed[key]) for r, key in keys.items() if key in failed]
        keys = {r: key for r, key in keys.items() if key not in failed}
    rejected.sort(key=lambda item: item.recording)
    _refuse_too_many(recordings, keys, rejected, max_rejected)
    return PreparedSet(store, spec, keys, rejected)


def _fingerprints(
    recordings: list[Recording], cache_dir: Path, rejected: list[Rejected]
) -> dict[Recording, str]:
    """A key by recording, from the bytes of the video and of its separate sound file.

    Files whose size and time stamp are those of the last run are not read again.
    """
    memo_path = cache_dir / "fingerprints.json"
    memo = json.loads(memo_path.read_text()) if memo_path.exists() else {}
    known = dict(memo)
    keys: dict[Recording, str] = {}
    for recording in tqdm(recordings, "check files", unit="file", leave=False, delay=2):
        try:
            digest = _content_hash(recording.path, memo)
            sound = find_audio(recording.path)
            if sound is not None and sound != recording.path:
                digest += _content_hash(sound, memo)
        except MediaError as error:
            rejected.append(Rejected(recording, str(error)))
        except OSError as error:
            rejected.append(Rejected(recording, f"can't be read: {error.strerror}"))
        else:
            keys[recording] = digest
    if memo != known:
        cache_dir.mkdir(parents=True, exist_ok=True)
        _replace_text(memo_path, json.dumps(memo))
    return keys


def _content_hash(path: Path, memo: dict) -> str:
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns]
    name = os.path.abspath(path)
    if name not in memo or memo[name][0] != stamp:
        digest = hashlib.blake2b(digest_size=16)
        with open(path, "rb") as file:
            while block := file.read(HASH_BLOCK_BYTES):
                digest.update(block)
        memo[name] = [stamp, digest.hexdigest()]
    return memo[name][1]


def _reject_contradictions(keys: dict[Recording, str], rejected: list[Rejected]) -> None:
    """Sets aside recordings whose very bytes also lie in another class: one label must be wrong."""
    by_key: dict[str, list[Recording]] = {}
    for recording, key in keys.items():
        by_key.setdefault(key, []).append(recording)
    for same in by_key.values():
        if len({recording.label for recording in same}) > 1:
            for recording in same:
                other = next(r for r in same if r.label != recording.label)
                reason = f"the same file is also {other.name}: keep it in one class"
                rejected.append(Rejected(recording, reason))
                del keys[recording]


def _decode_all(
    pending: dict[str, Recording], spec: FeatureSpec, store: FeatureStore, workers: int
) -> dict[str, str]:
    """Fills the store; returns the reason of each key that failed."""
    incoming = store.folder / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)  # left by a run that was killed
    incoming.mkdir()
    failed: dict[str, str] = {}
    done_seconds, started = 0.0, time.monotonic()
    bar = tqdm(total=len(pending), desc="prepare", unit="recording", smoothing=0)
    try:
        for key, result in _decoded(pending, spec, incoming, workers):
            if isinstance(result, str):
                failed[key] = result
            else:
                _move_into_store(store, key, incoming, result)
                done_seconds += result["num_frames"] / spec.fps
            rate = done_seconds / (time.monotonic() - started)
            bar.set_postfix_str(f"{rate:.0f}x real time, {len(failed)} rejected", refresh=False)
            bar.update()
    finally:
        bar.close()
        shutil.rmtree(incoming, ignore_errors=True)
    return failed


def _decoded(
    pending: dict[str, Recording], spec: FeatureSpec, incoming: Path, workers: int
) -> Iterator[tuple[str, dict | str]]:
    """(key, what was decoded or the reason why not), in the order of `pending`.

    In order, so that the same recordings always give the same store. A file that kills its
    worker process is found by decoding the suspects one at a time, and rejected.
    """
    keys = list(pending)
    results: dict[str, dict | str] = {}
    position = 0
    while position < len(keys):
        todo = [key for key in keys[position:] if key not in results]
        try:
            for key, result in _pool_results(todo, pending, spec, incoming, workers):
                results[key] = result
                while position < len(keys) and keys[position] in results:
                    yield keys[position], results.pop(keys[position])
                    position += 1
        except BrokenProcessPool:
            if workers == 1:
                yield keys[position], "the decoder crashed on it"
                position += 1
            workers = 1


def _pool_results(
    keys: list[str], pending: dict[str, Recording], spec: FeatureSpec, incoming: Path, workers: int
) -> Iterator[tuple[str, dict | str]]:
    # spawn: a forked child inherits the locks of the parent's threads and can hang on them.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_ignore_interrupt)
    queue = iter(keys)
    running: dict[Future, str] = {}
    try:
        while True:
            # A few ahead only: finished recordings wait on the disk for their turn.
            while len(running) < 2 * workers and (key := next(queue, None)) is not None:
                running[pool.submit(_decode, pending[key].path, spec, incoming / key)] = key
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result = future.result()
                yield running.pop(future), result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decode(path: Path, spec: FeatureSpec, target: Path) -> dict | str:
    """Writes `target`.frames and .mfcc, returns their sizes, or the reason why it can't be used."""
    num_frames = 0
    try:
        info = probe(path)
        with open(target.with_suffix(".frames"), "wb") as file:
            for block in read_picture(path, spec):
                file.write(block.data)
                num_frames += len(block)
        check_length(num_frames, spec)
        mfcc = read_sound(path, spec, num_frames)
    except MediaError as error:
        return str(error)
    if mfcc is not None:
        np.save(target.with_suffix(".npy"), mfcc)
    aspect_ratio = info.width / info.height
    return {
        "num_frames": num_frames,
        "has_sound": mfcc is not None,
        "aspect_ratio": aspect_ratio,
    }


def _move_into_store(store: FeatureStore, key: str, incoming: Path, result: dict) -> None:
    frames_path = (incoming / key).with_suffix(".frames")
    mfcc_path = (incoming / key).with_suffix(".npy")
    shape = (result["num_frames"], *store.columns["frames"].row_shape)
    frames = np.memmap(frames_path, "uint8", "r", shape=shape)
    arrays = {"frames": (frames[i : i + 512] for i in range(0, len(frames), 512))}
    if result["has_sound"]:
        arrays["mfcc"] = iter([np.load(mfcc_path)])
    store.add(key, arrays, result)
    frames_path.unlink()
    mfcc_path.unlink(missing_ok=True)


def _refuse_too_many(
    recordings: list[Recording],
    keys: dict[Recording, str],
    rejected: list[Rejected],
    max_rejected: float,
) -> None:
    if not rejected:
        return
    first = rejected[0]
    example = f"{first.recording.name}: {first.reason}"
    if len(rejected) > max_rejected * len(recordings):
        raise DataError(
            f"{len(rejected)} of {len(recordings)} recordings can't be used, more than "
            f"--max-rejected {max_rejected:g} allows; the first is {example}"
        )
    lost = {r.label for r in recordings} - {r.label for r in keys}
    if lost:
        raise DataError(f"no recording of {', '.join(sorted(lost))} can be used; {example}")


def _ignore_interrupt() -> None:
    """Ctrl-C is the parent's to handle: workers finish or are cancelled by it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
