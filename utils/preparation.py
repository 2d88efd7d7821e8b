"""Preparation: recordings decoded once into the feature store, bad ones set aside."""

import contextlib
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from tqdm import tqdm

from utils.cluster import prepare_on_cluster
from utils.content_hashes import ContentHashes
from utils.decoding import DISK_FULL, Decoded, Decoder, Outcome, unreadable
from utils.feature_store import FeatureStore, StoreError
from utils.features import FeatureSpec
from utils.incoming import INCOMING, add_to_store, drop_unfinished
from utils.prepared_set import PreparedSet, Rejected, open_feature_store, write_spec
from utils.processes import WorkerPool
from utils.progress import Progress, ProgressBar
from utils.recordings import VALIDATION_FOLDER, DataError, Recording
from utils.rejects import Rejects, write_list
from utils.sources import Source

CONTENT_HASHES = "fingerprints.json"  # in the cache folder, of all sources
AHEAD = 2  # recordings or parts that are fetched and waiting, beside one for each worker
LOOK_SECONDS = 0.2  # between two looks at what got ready


def prepare_recordings(
    recordings: list[Recording],
    source: Source,
    spec: FeatureSpec,
    cache_dir: str | Path,
    *,
    workers: int,
    max_rejected: float,
    price_per_hour: float | None = None,
    retry_rejected: bool = False,
    after_each: Callable[[], None] = lambda: None,
    cluster: str | None = None,
    watch: Callable[[Progress], None] | None = None,
) -> PreparedSet:
    """Decodes what the store does not hold yet, one process per core, with a progress bar.

    A recording is known by the content of its files, not by name or date. Unreadable ones, and
    copies of a file in another class or group, are set aside and listed in rejected.csv beside the
    store. `after_each` is called when a recording is in the store and nothing is being written to
    it. `cluster` is the address of a Ray cluster to do it on, as `prepare_on_cluster` takes it.
    Without one, `watch` takes the place of the bar: it is told a few times a second how far this
    is, and what it raises ends it.
    Whatever ends this, the next call goes on with the parts that are not finished. Raises
    DataError where more than the fraction `max_rejected` is set aside, or a class is left without
    a recording, and StoreError where another run is preparing.
    """
    hashes = content_hashes(cache_dir, source)
    store = open_feature_store(cache_dir, spec)
    rejects = Rejects(store.folder)
    if retry_rejected:
        rejects.keep(())
    outcomes = {
        recording: known_outcome(recording, source, hashes, store, rejects)
        for recording in recordings
    }
    pending = [recording for recording, outcome in outcomes.items() if outcome is None]
    if pending:
        with store.writing(), _full_disk_named(store.folder):
            write_spec(store, spec)
            progress = Progress(
                {recording.name: hashes.size_bytes(recording.files[0]) for recording in pending},
                prepared_seconds=sum(
                    store.num_rows(outcome.key, "frames") / spec.fps
                    for outcome in outcomes.values()
                    if outcome is not None and outcome.reason is None
                ),
                price_per_hour=price_per_hour,
            )
            if cluster is None:
                preparation = _Preparation(store, spec, rejects, progress, watch)
                workers = workers or os.cpu_count() or 1
                outcomes.update(preparation.run(pending, source, hashes, workers, after_each))
            else:
                outcomes.update(
                    prepare_on_cluster(
                        pending,
                        source,
                        store,
                        spec,
                        address=cluster,
                        workers=workers,
                        hashes=hashes,
                        rejects=rejects,
                        progress=progress,
                    )
                )
            if watch is None:
                tqdm.write(progress.summary())
    return _settle(outcomes, store, spec, max_rejected)


def content_hashes(cache_dir: str | Path, source: Source) -> ContentHashes:
    return ContentHashes(Path(cache_dir, CONTENT_HASHES), source)


def known_outcome(
    recording: Recording,
    source: Source,
    hashes: ContentHashes,
    store: FeatureStore,
    rejects: Rejects,
) -> Outcome | None:
    """What became of a recording in an earlier run; None where it is to be read."""
    try:
        digests = hashes.find(recording.files, hashes.stamps(recording.files))
    except OSError as error:
        return Outcome(None, unreadable(error, source))
    key = None if None in digests else "".join(digests)
    reason = rejects.get(key)
    return Outcome(key, reason) if reason or key in store else None


class _Preparation:
    """Recordings on their way into one store: decoded in any order, added in theirs.

    In order, so that the same recordings give the same store, whatever the number of workers and
    wherever an earlier run was ended.
    """

    def __init__(
        self,
        store: FeatureStore,
        spec: FeatureSpec,
        rejects: Rejects,
        progress: Progress,
        watch: Callable[[Progress], None] | None,
    ):
        self._store = store
        self._spec = spec
        self._rejects = rejects
        self._progress = progress
        self._watch = watch
        self._incoming = store.folder / INCOMING
        self._lock = threading.Lock()
        self._claims: dict[str, Recording] = {}  # of several with the same bytes, who decodes them
        self._futures: dict[Recording, Future[Decoded]] = {}

    def run(
        self,
        pending: list[Recording],
        source: Source,
        hashes: ContentHashes,
        workers: int,
        after_each: Callable[[], None],
    ) -> dict[Recording, Outcome]:
        drop_unfinished(self._incoming)
        outcomes = {}
        coming, waiting = deque(pending), deque()
        bar = ProgressBar(self._progress) if self._watch is None else None
        show = bar.show if bar else partial(self._watch, self._progress)
        pool = WorkerPool(workers)
        threads = ThreadPoolExecutor(workers + AHEAD, "recording")
        decoder = Decoder(
            source,
            self._spec,
            pool,
            hashes=hashes,
            incoming=self._incoming,
            progress=self._progress,
        )
        try:
            while coming or waiting:
                while coming and self._tasks_left(waiting, decoder) < workers + AHEAD:
                    recording = coming.popleft()
                    claim = partial(self._claim, recording)
                    self._futures[recording] = threads.submit(decoder.decode, recording, claim)
                    waiting.append(recording)
                while waiting and (decoded := self._decoded(waiting[0])) is not None:
                    recording = waiting.popleft()
                    outcomes[recording] = self._add(recording, decoded)
                    after_each()
                show()
                hashes.save(now=False)
                busy = [self._futures[r] for r in waiting if not self._futures[r].done()]
                wait(busy, LOOK_SECONDS, FIRST_COMPLETED)
            shutil.rmtree(self._incoming, ignore_errors=True)  # parts that no recording has now
        except BaseException:
            source.stop()  # or Ctrl-C would wait for downloads of many gigabytes
            raise
        finally:
            pool.close()
            threads.shutdown(cancel_futures=True)
            hashes.save()
            if bar:
                bar.close()
        return outcomes

    def _tasks_left(self, recordings: Iterable[Recording], decoder: Decoder) -> int:
        return sum(decoder.tasks_left(r) for r in recordings if not self._futures[r].done())

    def _claim(self, recording: Recording, key: str) -> bool:
        """Whether this recording's content is its to decode."""
        with self._lock:
            if key in self._store or self._rejects.get(key):
                return False
            return self._claims.setdefault(key, recording) is recording

    def _decoded(self, recording: Recording) -> Decoded | None:
        """What came of a recording, or of its copy that was read first; None before that."""
        future = self._futures[recording]
        if not future.done():
            return None
        decoded = future.result()
        owner = self._claims.get(decoded.key, recording)
        if owner is recording:
            return decoded
        return self._futures[owner].result() if self._futures[owner].done() else None

    def _add(self, recording: Recording, decoded: Decoded) -> Outcome:
        """Brings features into the store, or remembers why there are none."""
        key, reason = decoded.key, decoded.reason or self._rejects.get(decoded.key)
        if reason is None and key not in self._store:
            add_to_store(self._store, key, decoded.parts)
        if decoded.lasting and self._rejects.get(key) is None:
            self._rejects.add(key, reason)
        if key is not None:
            shutil.rmtree(self._incoming / key, ignore_errors=True)
        seconds = 0.0 if reason else self._store.num_rows(key, "frames") / self._spec.fps
        self._progress.ended(recording.name, seconds)
        return Outcome(key, reason)


def _settle(
    outcomes: dict[Recording, Outcome], store: FeatureStore, spec: FeatureSpec, max_rejected: float
) -> PreparedSet:
    """The set of what can be used. Raises DataError where that is too little."""
    keys = {r: outcome.key for r, outcome in outcomes.items() if outcome.reason is None}
    rejected = [Rejected(r, outcome.reason) for r, outcome in outcomes.items() if outcome.reason]
    _reject_copies(keys, rejected)
    rejected.sort(key=lambda item: item.recording)
    if store.folder.exists():
        write_list(store.folder, [(item.recording.name, item.reason) for item in rejected])
    _refuse_too_many(outcomes, keys, rejected, max_rejected)
    return PreparedSet(store, spec, keys, rejected)


def _reject_copies(keys: dict[Recording, str], rejected: list[Rejected]) -> None:
    """Sets aside recordings whose very bytes are also labelled otherwise, as one must be wrong,
    and all but the first (of data/validation, if there) that lie in another group, which could land
    on the other side of the split."""
    by_key: dict[str, list[Recording]] = {}
    for recording, key in keys.items():
        by_key.setdefault(key, []).append(recording)
    for same in by_key.values():
        kept = max(same, key=lambda recording: recording.validation)
        for recording in same:
            other = next((r for r in same if r.spans != recording.spans), None)
            if other is not None:
                reason = f"the same file is also {other.name}, labelled otherwise: keep one"
            elif recording.group != kept.group:
                reason = f"the same file is also {kept.name}, in another group: keep one"
            else:
                continue
            rejected.append(Rejected(recording, reason))
            del keys[recording]


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
    lost = _sides(recordings) - _sides(keys)
    if lost:
        raise DataError(f"no recording of {', '.join(sorted(lost))} can be used; {example}")


def _sides(recordings: Iterable[Recording]) -> set[str]:
    """For example `ads` and `validation/ads`."""
    return {
        f"{VALIDATION_FOLDER}/" * recording.validation + label
        for recording in recordings
        for label in recording.labels
    }


@contextlib.contextmanager
def _full_disk_named(folder: Path) -> Iterator[None]:
    """Turns a full disk, wherever it was noticed, into one line with the cure."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise StoreError(
            f"the disk of {folder} is full: free some space, or pass another --cache-dir; "
            "what was prepared is kept, and the same command goes on from there"
        ) from error
