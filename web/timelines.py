"""Timelines: what the model said of recordings, old and new, through the scripts' own ledger."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from timeline.labelled import Labelled
from utils.files import stamp_file
from web.model_in_use import KnownModel, ModelInUse
from web.settings import Settings


class Recording(Protocol):
    """As web.library finds it."""

    id: str
    name: str
    path: Path


@dataclass(frozen=True)
class Summary:
    """A recording's timeline in a line of the list."""

    label: str
    ads_share: float  # of its time, 0 to 1
    breaks: int
    unsure: int  # segments
    expected_wrong_seconds: float


class Timelines:
    """Reads what was labelled by the model in use, by this page or by label_recording.py."""

    def __init__(self, settings: Settings, model: ModelInUse):
        self._folder = settings.labelled_dir
        self._model = model
        self._summaries: dict[Path, tuple[list, Summary | None]] = {}
        self._lock = threading.Lock()

    def find(self, recording: Recording) -> Labelled | None:
        """What the model in use said of it, as it is now; None where it did not yet."""
        model = self._model.find()
        if model is None or not recording.path.is_file():
            return None
        ledgers = (model.ledger(self._folder, quick=quick) for quick in (False, True))
        found = (ledger.find(recording.path) for ledger in ledgers)
        return next((labelled for labelled in found if labelled is not None), None)

    def summary(self, recording: Recording) -> Summary | None:
        """The same in a line; cheap where nothing changed since the last time."""
        model = self._model.find()
        if model is None:
            return None
        place = model.ledger(self._folder, quick=False).place(recording.path)
        try:
            stamp = [model.identity["sha256"], *stamp_file(place), *stamp_file(recording.path)]
        except FileNotFoundError:
            return None
        with self._lock:
            known = self._summaries.get(recording.path)
        if known is None or known[0] != stamp:
            labelled = self.find(recording)
            known = stamp, labelled and summarise(labelled, model)
            with self._lock:
                self._summaries[recording.path] = known
        return known[1]


def summarise(labelled: Labelled, model: KnownModel) -> Summary:
    segments = labelled.timeline.segments
    ads_seconds = sum(segment.seconds for segment in labelled.timeline.breaks)
    return Summary(
        model.overall(labelled)["label"],
        round(ads_seconds / max(labelled.timeline.duration_seconds, 1e-9), 4),
        len(labelled.timeline.breaks),
        sum(segment.unsure for segment in segments),
        round(sum((1 - s.confidence) * s.seconds for s in segments), 2),
    )
