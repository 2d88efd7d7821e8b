"""Preparation: recordings decoded once into the feature store, bad ones set aside."""

import hashlib
import json
import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.audio import find_audio
from utils.clips import Clip, cut_spans
from utils.feature_store import Column, FeatureStore
from utils.features import FeatureSpec, check_length, read_features
from utils.files import write_whole
from utils.media import MediaError
from utils.processes import LightContext
from utils.recordings import DataError, Recording

HASH_BLOCK_BYTES = 1 << 22
NUM_THUMBNAILS, THUMBNAIL_HEIGHT = 6, 112  # pictures, pixels


@dataclass(frozen=True)
class Rejected:
    """A recording that can't be used, and why."""

    recording: Recording
    reason: str


@dataclass(frozen=True)
class PreparedSet:
    """The usable recordings with their keys in the store, and the rejected ones."""

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
        frames = self.store.get(key, "frames")
        # Times that were written to a file are rounded: the last may lie a frame behind the end.
        frames = frames[self.spec.frame_span(start_seconds, end_seconds)]
        rows = np.linspace(0, len(frames) - 1, NUM_THUMBNAILS).round().astype(int)
        width = round(THUMBNAIL_HEIGHT * self.store.info(key)["aspect_ratio"])
        return np.stack(
            [np.asarray(Image.fromarray(frames[i]).resize((width, THUMBNAIL_HEIGHT))) for i in rows]
        )


def open_feature_store(cache_dir: str | Path, spec: FeatureSpec) -> FeatureStore:
    """The store `cache_dir/features/<spec id>` with the columns frames and mfcc."""
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
    copies of a file in another class or group, are set aside. Raises DataError where more than the
    fraction `max_rejected` is, or a class is left without a recording.
    """
    rejected: list[Rejected] = []
    keys = _fingerprints(recordings, Path(cache_dir), rejected)
    _reject_copies(keys, rejected)
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
    memo = json.loads(memo_path.read_bytes()) if memo_path.exists() else {}
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
        write_whole(memo_path, json.dumps(memo).encode())
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


def _reject_copies(keys: dict[Recording, str], rejected: list[Rejected]) -> None:
    """Sets aside recordings whose very bytes also lie in another class, as one label must be wrong,
    and all but the first (of data/validation, if there) that lie in another group, which could land
    on the other side of the split."""
    by_key: dict[str, list[Recording]] = {}
    for recording, key in keys.items():
        by_key.setdefault(key, []).append(recording)
    for same in by_key.values():
        kept = max(same, key=lambda recording: recording.validation)
        for recording in same:
            other = next((r for r in same if r.label != recording.label), None)
            if other is not None:
                reason = f"the same file is also {other.name}: keep it in one class"
            elif recording.group != kept.group:
                reason = f"the same file is also {kept.name}, in another group: keep one"
            else:
                continue
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

    In order, so that the same recordings always give the same store.
    """
    waiting = deque(pending)
    results: dict[str, dict | str] = {}
    for key, result in _decoded_as_ready(pending, spec, incoming, workers):
        results[key] = result
        while waiting and waiting[0] in results:
            first = waiting.popleft()
            yield first, results.pop(first)


def _decoded_as_ready(
    pending: dict[str, Recording], spec: FeatureSpec, incoming: Path, workers: int
) -> Iterator[tuple[str, dict | str]]:
    """(key, what was decoded or the reason why not).

    A file that kills its worker process takes the whole pool with it: what was being decoded is
    then decoded one at a time, and the culprit is rejected.
    """
    keys = deque(pending)
    while keys:
        suspects = yield from _run_pool(keys, pending, spec, incoming, workers)
        while suspects:
            for culprit in (yield from _run_pool(suspects, pending, spec, incoming, 1)):
                yield culprit, "the decoder crashed on it"


def _run_pool(
    keys: deque[str],
    pending: dict[str, Recording],
    spec: FeatureSpec,
    incoming: Path,
    workers: int,
) -> Generator[tuple[str, dict | str], None, deque[str]]:
    """Takes keys off the queue and yields their results, until all are done or a worker dies.

    Returns the keys that the pool had then, which a pool of one worker has one at a time.
    """
    limit = 1 if workers == 1 else 2 * workers  # so that none waits while results are stored
    running: dict[Future, str] = {}
    pool = ProcessPoolExecutor(workers, LightContext(), initializer=_ignore_interrupt)
    try:
        while keys or running:
            while keys and len(running) < limit:
                path = pending[keys[0]].path
                running[pool.submit(_decode, path, spec, incoming / keys[0])] = keys[0]
                keys.popleft()
            wait(running, return_when=FIRST_COMPLETED)
            for future in [future for future in running if future.done()]:
                result = future.result()
                yield running.pop(future), result
    except BrokenProcessPool:
        pass
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return deque(running.values())


def _decode(path: Path, spec: FeatureSpec, target: Path) -> dict | str:
    """Writes `target`.frames and .mfcc, returns their sizes, or the reason why it can't be used."""
    frames_path = target.with_suffix(".frames")
    num_frames, rows, heard = 0, [], False
    try:
        with open(frames_path, "wb") as file:
            for block in read_features(path, spec):
                file.write(block.frames.data)
                num_frames += len(block.frames)
                if block.mfcc is not None:
                    rows.append(block.mfcc)
                heard = heard or block.heard
        check_length(num_frames, spec)
    except MediaError as error:
        frames_path.unlink(missing_ok=True)
        return str(error)
    if heard:
        # Not np.save, whose error on a full disk does not say that the disk is full.
        target.with_suffix(".mfcc").write_bytes(np.concatenate(rows).data)
    return {"num_frames": num_frames, "has_sound": heard, "aspect_ratio": block.aspect_ratio}


def _move_into_store(store: FeatureStore, key: str, incoming: Path, result: dict) -> None:
    frames_path = (incoming / key).with_suffix(".frames")
    mfcc_path = (incoming / key).with_suffix(".mfcc")
    shape = (result["num_frames"], *store.columns["frames"].row_shape)
    frames = np.memmap(frames_path, "uint8", "r", shape=shape)
    arrays = {"frames": (frames[i : i + 512] for i in range(0, len(frames), 512))}
    if result["has_sound"]:
        mfcc = np.fromfile(mfcc_path, "float16").reshape(-1, *store.columns["mfcc"].row_shape)
        arrays["mfcc"] = iter([mfcc])
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
    lost = {_class_folder(r) for r in recordings} - {_class_folder(r) for r in keys}
    if lost:
        raise DataError(f"no recording of {', '.join(sorted(lost))} can be used; {example}")


def _class_folder(recording: Recording) -> str:
    return recording.group.rpartition("/")[0]  # "ads" or "validation/ads"


def _ignore_interrupt() -> None:
    """Ctrl-C is the parent's to handle: workers finish or are cancelled by it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
