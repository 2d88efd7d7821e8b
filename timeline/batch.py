"""Batch: many recordings labelled at once, by processes of this machine or on a cluster."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from timeline.classifier import Classifier
from timeline.labelled import Labelled, Method
from timeline.labelling import Labeller, OnProgress
from utils.cluster import map_on_cluster
from utils.media import MediaError
from utils.processes import WorkerLost, WorkerPool

PACKAGES = ("models", "timeline", "utils", "cloud")  # of ours, that a node of a cluster needs
STALL_SECONDS = 120.0  # of processor time without a sign of life: a process starts torch first
LOOK_SECONDS = 0.2  # between two looks at what got ready

Outcome = Labelled | MediaError
Report = Callable[[Path, float, float], None]  # recording, seconds done, of how many


def label_recordings(
    paths: Sequence[Path], classifier: Classifier, method: Method, *, jobs: int, report: Report
) -> Iterator[tuple[Path, Outcome]]:
    """What came of each recording, as they get ready; with one job in order, in this process.

    A recording that can't be read, or that crashes the decoder in a process of its own, gives the
    MediaError that says so.
    """
    if jobs == 1:
        labeller = Labeller(classifier, method)
        for path in paths:
            yield path, _outcome(labeller, path, lambda *done, path=path: report(path, *done))
        return
    coming, running = deque(paths), {}
    with WorkerPool(jobs, stall_seconds=STALL_SECONDS) as pool:
        while coming or running:
            while coming and len(running) < jobs:
                path = coming.popleft()
                tell = lambda done, path=path: report(path, *done)  # noqa: E731 - bound to a path
                future = pool.submit(label_in_worker, path, classifier, method, progress=tell)
                running[future] = path
            for future in wait(running, LOOK_SECONDS, FIRST_COMPLETED).done:
                yield running.pop(future), _result(future)


def label_on_cluster(
    paths: Sequence[Path], classifier: Classifier, method: Method, *, address: str
) -> Iterator[tuple[Path, Outcome]]:
    """The same by the machines of a Ray cluster that share the folders. Raises ClusterError."""
    for path, found in map_on_cluster(
        label_on_node, paths, (classifier, method), address=address, packages=PACKAGES
    ):
        yield path, MediaError(str(found)) if isinstance(found, WorkerLost) else found


def label_in_worker(
    path: Path, classifier: Classifier, method: Method, report: Callable[[object], None]
) -> Outcome:
    """What came of a recording, in a process that labels several, one after the other."""
    global _labeller
    if _labeller is None or _labeller[0] != classifier.identity:
        _labeller = dict(classifier.identity), Labeller(classifier, method)
    return _outcome(_labeller[1], path, lambda *done: report(done))


def label_on_node(path: Path, common: tuple[Classifier, Method]) -> Outcome:
    return label_in_worker(path, *common, lambda _: None)


_labeller: tuple[dict, Labeller] | None = None  # that of a worker process, which starts slowly


def _outcome(labeller: Labeller, path: Path, on_progress: OnProgress) -> Outcome:
    try:
        return labeller.label(path, on_progress)
    except MediaError as error:
        return error


def _result(future: Future) -> Outcome:
    try:
        return future.result()
    except WorkerLost as error:
        return MediaError(str(error))
