"""Label jobs: recordings labelled in the background, through the scripts' own ledger."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from timeline.labelled import Labelled
from timeline.tables import to_json
from utils.errors import UserError
from utils.threads import num_threads
from web.jobs import Cancelled, Handle, Job
from web.library import Recording
from web.model_in_use import KnownModel

if TYPE_CHECKING:
    from web.services import Services

KIND = "label"


class Labelling:
    """Labels recordings, one at a time, in a process that no recording can take the page with."""

    def __init__(self, services: "Services"):
        self._services = services
        services.jobs.kind(KIND, self._run, lane="compute")

    def submit(self, recording: Recording, *, quick: bool = False, again: bool = False) -> Job:
        """The job that labels it. Raises NoModel, TooManyJobs."""
        self._services.model.known()  # says at once where there is none
        arguments = {"recording": recording.id, "quick": quick, "again": again}
        title = f"Label {recording.name}"
        return self._services.jobs.submit(KIND, arguments, title=title, recording=recording.id)

    def classify(self, path: Path, name: str, check: Callable[[], None]) -> dict:
        """What a file shows that is in no folder; nothing of it is kept. Raises MediaError."""
        model = self._services.model.known()
        labelled = self._services.guests.run(
            label_file, path, *self._how(model, False), check=check
        )
        timeline = replace(labelled.timeline, recording=name)
        return {**model.overall(labelled), "timeline": json.loads(to_json(timeline))}

    def _run(self, handle: Handle, arguments: dict) -> dict:
        services, quick = self._services, arguments["quick"]
        recording = services.library.find(arguments["recording"])
        model = services.model.known()
        ledger = model.ledger(services.settings.labelled_dir, quick=quick)
        found = None if arguments["again"] else ledger.find(recording.path)
        if found is None:
            handle.report(0.0, "starting")

            def tell(done: tuple[float, float]) -> None:
                with contextlib.suppress(Cancelled):  # it is `check` that ends the process
                    handle.report(done[0] / max(done[1], 1e-9), "reading the recording")

            how = {"progress": tell, "check": handle.check}
            found = services.worker.run(label_file, recording.path, *self._how(model, quick), **how)
            ledger.add(recording.path, found)
        timeline = found.timeline
        return {
            "label": model.overall(found)["label"],
            "breaks": len(timeline.breaks),
            "ads_seconds": round(sum(segment.seconds for segment in timeline.breaks), 3),
            "duration_seconds": round(timeline.duration_seconds, 3),
        }

    def _how(self, model: KnownModel, quick: bool) -> tuple[Path, str, bool, int, Path]:
        cache_dir = self._services.settings.cache_dir
        return model.path, model.identity["sha256"], quick, num_threads(), cache_dir


def label_file(
    path: Path,
    checkpoint: Path,
    sha256: str,
    quick: bool,
    threads: int,
    cache_dir: Path,
    report: Callable[[object], None],
) -> Labelled:
    """What a checkpoint says of a recording, in a process that keeps the model for the next one.

    Raises MediaError, and UserError where the file of the checkpoint is another one by now.
    """
    global _kept
    wanted = checkpoint, sha256, quick, threads, cache_dir
    if _kept is None or _kept[0] != wanted:
        _kept = wanted, _load(*wanted)
    return _kept[1].label(path, lambda *done: report(done))


_kept: tuple[tuple, object] | None = None  # the labeller of a worker process, which starts slowly


def _load(checkpoint: Path, sha256: str, quick: bool, threads: int, cache_dir: Path) -> object:
    from timeline.classifier import Classifier
    from timeline.labelled import Method
    from timeline.labelling import Labeller
    from training.recipe import read_recipe
    from training.thresholds import read_thresholds
    from utils.memory import return_freed_memory

    def read() -> object:
        import torch

        from training.checkpoint import load_checkpoint
        from training.device import choose_device

        torch.set_num_threads(threads)  # worker processes have one each, and this one is alone
        return load_checkpoint(checkpoint, choose_device())

    return_freed_memory()
    recipe = read_recipe(checkpoint)
    classifier = Classifier.open(checkpoint, recipe, read, cache_dir)
    if thresholds := read_thresholds(recipe):
        classifier = replace(classifier, thresholds=thresholds.values())
    if classifier.identity["sha256"] != sha256:
        raise UserError("another model came to be in use meanwhile: label the recording again")
    return Labeller(classifier, Method(quick=quick), threads=threads)
