"""Timelines: what the model said of recordings, from the ledger that the scripts write, too."""

import threading
from collections import OrderedDict
from pathlib import Path

from timeline.labelled import Labelled
from utils.files import stamp_file
from web.library import Recording
from web.model_in_use import ModelInUse
from web.settings import Settings

Version = tuple[str | int, ...]
KEPT_BYTES = 64 << 20  # of curves in memory: those of some 400 recordings of 3 hours


class Timelines:
    """Reads what was labelled by the model in use, by this page or by label_recording.py."""

    def __init__(self, settings: Settings, model: ModelInUse):
        self._folder = settings.labelled_dir
        self._model = model
        self._lock = threading.Lock()
        self._found: OrderedDict[Path, tuple[Version, Labelled | None]] = OrderedDict()
        self._held_bytes = 0

    def version(self, recording: Recording) -> Version | None:
        """Changes with all that a timeline depends on; None where none was ever made.

        Costs two looks at files.
        """
        model = self._model.find()
        if model is None:
            return None
        ledger = model.ledger(self._folder, quick=False)
        try:
            place = ledger.place(recording.path)
            return (ledger.way, *stamp_file(place), *stamp_file(recording.path))
        except OSError:
            return None

    def find(self, recording: Recording) -> Labelled | None:
        """What the model in use said of it as it is now; None where it did not yet.

        The same object as before, where nothing changed.
        """
        model, version = self._model.find(), self.version(recording)
        if model is None or version is None:
            return None
        with self._lock:
            known = self._found.get(recording.path)
            if known and known[0] == version:
                self._found.move_to_end(recording.path)
                return known[1]
        ledgers = (model.ledger(self._folder, quick=quick) for quick in (False, True))
        found = (ledger.find(recording.path) for ledger in ledgers)
        labelled = next((found for found in found if found is not None), None)
        self._keep(recording.path, version, labelled)
        return labelled

    def is_outdated(self, recording: Recording) -> bool:
        """Whether it was labelled, but by another model, or as another file."""
        return self.version(recording) is not None and self.find(recording) is None

    def _keep(self, path: Path, version: Version, labelled: Labelled | None) -> None:
        """Remembers a timeline, and forgets those that were asked for longest ago."""
        with self._lock:
            _, before = self._found.pop(path, (None, None))
            self._found[path] = version, labelled
            self._held_bytes += _size_bytes(labelled) - _size_bytes(before)
            while self._held_bytes > KEPT_BYTES:
                _, (_, forgotten) = self._found.popitem(last=False)
                self._held_bytes -= _size_bytes(forgotten)


def _size_bytes(labelled: Labelled | None) -> int:
    return labelled.break_probabilities.nbytes if labelled else 0
