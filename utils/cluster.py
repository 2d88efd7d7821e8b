"""Cluster: recordings prepared by Ray on many machines, which share one store folder."""

import contextlib
import os
import re
import shutil
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from utils.content_hashes import ContentHashes
from utils.decoding import Decoded, Decoder, Outcome
from utils.errors import UserError
from utils.feature_store import FeatureStore, StoreError
from utils.features import FeatureSpec
from utils.incoming import INCOMING, add_to_store, drop_unfinished
from utils.prepared_set import open_feature_store
from utils.processes import WorkerLost, WorkerPool
from utils.progress import Progress, ProgressBar
from utils.recordings import Recording
from utils.rejects import Rejects
from utils.sources import Source

PACKAGES = ("utils", "cloud")  # of ours, that a node needs
MAX_LOSSES = 3  # workers that a recording may cost before it is taken to be the reason
MAX_WRITERS = 1000  # of one node, ever at a time
LOOK_SECONDS = 0.5
CONNECT_SECONDS = 10.0


class ClusterError(UserError):
    """Ray is not installed, or can't be reached."""


class Preparer:
    """A worker of the cluster: decodes one recording at a time into files of its own.

    It is a writer of the store as long as it lives; what it was when it died is given to the next.
    """

    def __init__(self, folder: str, cache_dir: str, source: Source, spec: FeatureSpec):
        os.chdir(folder)  # paths are the driver's
        self._store = open_feature_store(cache_dir, spec)
        self._stack = contextlib.ExitStack()
        writer = self._stack.enter_context(_free_writer(self._store))
        self._hashes = ContentHashes(Path(cache_dir, "fingerprints.json"), source)
        incoming = self._store.folder / INCOMING / writer
        drop_unfinished(incoming)
        self._decoder = Decoder(
            source,
            spec,
            self._stack.enter_context(WorkerPool(1)),
            hashes=self._hashes,
            incoming=incoming,
            progress=Progress({}),  # the driver counts
        )

    def ready(self) -> None:
        """Returns when this worker can be given work."""

    def prepare(self, recording: Recording) -> tuple[Decoded, dict[str, list]]:
        """What came of a recording, its features being in the store, and new content hashes."""
        decoded = self._decoder.decode(recording, self._claim)
        if decoded.parts:
            add_to_store(self._store, decoded.key, decoded.parts)
        outcome = Decoded(decoded.key, [], decoded.reason, decoded.lasting)
        return outcome, self._hashes.take_new()

    def _claim(self, key: str) -> bool:
        self._store.refresh()  # a worker that was lost may have added it before
        return key not in self._store


def prepare_on_cluster(
    pending: list[Recording],
    source: Source,
    store: FeatureStore,
    spec: FeatureSpec,
    *,
    address: str,
    workers: int,
    hashes: ContentHashes,
    rejects: Rejects,
    progress: Progress,
) -> dict[Recording, Outcome]:
    """What became of each recording, prepared by workers on the nodes of a Ray cluster.

    `address` is that of a cluster, "" for RAY_ADDRESS or else one on this machine. `workers` is
    their number, 0 for one per core of the cluster. The folders must be the same on all nodes. A
    recording whose worker is lost is given to another. Raises ClusterError.
    """
    cache_dir = store.folder.parent.parent
    with _connected(address, PACKAGES) as ray:
        crew = _Crew(ray, workers, os.getcwd(), str(cache_dir), source, spec)
        bar = ProgressBar(progress)
        outcomes: dict[Recording, Outcome] = {}
        try:
            for recording, decoded, learned in crew.work(pending, bar.show):
                for name, (stamp, digest) in learned.items():
                    hashes.learn(name, stamp, digest)
                hashes.save(now=False)
                if decoded.lasting:
                    rejects.add(decoded.key, decoded.reason)
                seconds = 0.0
                if decoded.reason is None:
                    store.refresh()
                    seconds = store.num_rows(decoded.key, "frames") / spec.fps
                    progress.decoded(recording.name, seconds)
                progress.ended(recording.name, seconds)
                outcomes[recording] = Outcome(decoded.key, decoded.reason)
            shutil.rmtree(store.folder / INCOMING, ignore_errors=True)
        finally:
            crew.dismiss()
            hashes.save()
            bar.close()
    return outcomes


def map_on_cluster(
    function: Callable,
    items: Sequence,
    common: object,
    *,
    address: str,
    packages: Sequence[str] = PACKAGES,
) -> Iterator[tuple]:
    """(item, `function(item, common)`) as they get ready on the nodes of a Ray cluster.

    `common` is sent to each node once. In the place of the result stands WorkerLost where workers
    were lost with an item time and again. `address` and folders are as for `prepare_on_cluster`;
    `packages` of ours are sent along. Raises ClusterError, and what the function raised.
    """
    with _connected(address, packages) as ray:
        task = ray.remote(num_cpus=1, max_retries=MAX_LOSSES - 1)(_in_folder)
        folder, shared = os.getcwd(), ray.put(common)
        coming, running = deque(items), {}
        ahead = 2 * int(ray.cluster_resources().get("CPU", 1))
        try:
            while coming or running:
                while coming and len(running) < ahead:
                    item = coming.popleft()
                    running[task.remote(folder, function, item, shared)] = item
                for reference in ray.wait(list(running), timeout=LOOK_SECONDS)[0]:
                    yield running.pop(reference), _taken(ray, reference)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _in_folder(folder: str, function: Callable, item: object, common: object) -> object:
    os.chdir(folder)  # paths are the driver's
    return function(item, common)


def _taken(ray, reference) -> object:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError:
        return WorkerLost(f"{MAX_LOSSES} workers of the cluster were lost with it")


class _Crew:
    """The workers of a cluster, replaced as they are lost."""

    def __init__(self, ray, workers: int, *arguments: object):
        self._ray = ray
        self._arguments = arguments
        self._preparer = ray.remote(num_cpus=1, max_restarts=0)(Preparer)
        count = workers or int(ray.cluster_resources().get("CPU", 1))
        self._starting = {}  # reference to `ready`: worker
        self._busy = {}  # reference to `prepare`: worker, recording
        self._idle: deque = deque()
        for _ in range(count):
            self._hire()

    def work(self, recordings: list[Recording], look) -> Iterator[tuple]:
        """(recording, what came of it, new hashes) as they get ready."""
        coming = deque(recordings)
        losses: dict[Recording, int] = {}
        while coming or self._busy:
            while coming and self._idle:
                worker, recording = self._idle.popleft(), coming.popleft()
                self._busy[worker.prepare.remote(recording)] = worker, recording
            references = [*self._starting, *self._busy]
            ready, _ = self._ray.wait(references, timeout=LOOK_SECONDS)
            for reference in ready:
                if reference in self._starting:
                    self._welcome(reference)
                    continue
                worker, recording = self._busy.pop(reference)
                try:
                    decoded, learned = self._ray.get(reference)
                except self._ray.exceptions.RayActorError:
                    self._hire()
                    losses[recording] = losses.get(recording, 0) + 1
                    if losses[recording] < MAX_LOSSES:
                        coming.appendleft(recording)
                        continue
                    reason = f"{MAX_LOSSES} workers of the cluster were lost with it"
                    decoded, learned = Decoded(None, [], reason), {}
                except self._ray.exceptions.RayTaskError as error:
                    raise error.cause from error  # a full disk is one for the driver, too
                else:
                    self._idle.append(worker)
                yield recording, decoded, learned
            look()

    def dismiss(self) -> None:
        """Ends all workers, and what they are doing."""
        busy = [worker for worker, _ in self._busy.values()]
        for worker in (*self._starting.values(), *busy, *self._idle):
            self._ray.kill(worker)

    def _hire(self) -> None:
        worker = self._preparer.remote(*self._arguments)
        self._starting[worker.ready.remote()] = worker

    def _welcome(self, reference) -> None:
        worker = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.ActorUnschedulableError as error:
            raise ClusterError(f"the cluster has no room for a worker: {error}") from error
        except self._ray.exceptions.RayActorError as error:
            if "creation task" in str(error) or not self._busy and not self._idle:
                raise ClusterError(
                    f"a worker of the cluster can't start: {_last_line(error)}"
                ) from error
            self._hire()  # its node went while it started
        else:
            self._idle.append(worker)


@contextlib.contextmanager
def _free_writer(store: FeatureStore) -> Iterator[str]:
    """The name under which this process may write: the first of this node that nobody uses."""
    node = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())
    for number in range(MAX_WRITERS):
        writer = f"{node}.{number}"
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(store.writing(writer))
            except StoreError:
                continue
            yield writer
            return
    raise StoreError(f"{store.folder} has {MAX_WRITERS} writers on {node}: end some of them")


@contextlib.contextmanager
def _connected(address: str, packages: Sequence[str]) -> Iterator:
    """The ray module, connected to a cluster. Raises ClusterError with the cure."""
    try:
        import ray
    except ImportError as error:
        raise ClusterError(
            "--ray needs Ray, which is not installed: run .venv/bin/python -m pip install ray"
        ) from error
    root = Path(__file__).resolve().parent.parent
    known = address or os.environ.get("RAY_ADDRESS")
    options = {"address": known} if known else {"include_dashboard": False}
    on_terminate = signal.getsignal(signal.SIGTERM)
    if not ray.is_initialized():
        try:
            _knock(known)
            ray.init(
                **options,
                runtime_env={"py_modules": [str(root / name) for name in packages]},
                logging_level="ERROR",
                log_to_driver=False,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ClusterError(
                f"the Ray cluster {known or 'on this machine'} can't be reached "
                f"({_last_line(error)}): start one with `ray start --head`, or correct the address"
            ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)  # Ray put its own there


def _knock(address: str | None) -> None:
    """Raises OSError at once where nobody answers, which Ray itself is minutes about."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.removeprefix("ray://"), int(port)), CONNECT_SECONDS).close()


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]
