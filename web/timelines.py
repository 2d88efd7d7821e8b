"""Timelines: what the model said of recordings, from the ledger that the scripts write, too."""

import json
import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path

from timeline.labelled import Labelled
from timeline.ledger import Ledger
from utils.files import stamp_file, write_whole
from web.library import Recording
from web.model_in_use import KnownModel, ModelInUse
from web.review_queue import expected_wrong_seconds
from web.settings import Settings

SUMMARIES = "timelines.json"  # reading a thousand entries of the ledger takes seconds
SAVE_SECONDS = 5.0  # from one saving of summaries to the next, while there are more
KEPT_BYTES = 64 << 20  # of curves in memory: those of some 400 recordings of 3 hours


@dataclass(frozen=True)
class Summary:
    """A recording's timeline as the list of recordings shows it."""

    label: str
    ads_share: float  # of its time, 0 to 1
    breaks: int
    unsure: int  # segments
    expected_wrong_seconds: float


class Timelines:
    """Reads what was labelled by the model in use, by this page or by label_recording.py."""

    def __init__(self, settings: Settings, model: ModelInUse):
        self._folder = settings.labelled_dir
        self._file = settings.review_dir / SUMMARIES
        self._model = model
        self._lock = threading.Lock()
        self._found: OrderedDict[Path, tuple[list, Labelled | None]] = OrderedDict()
        self._summaries: dict[str, tuple[list, Summary | None]] | None = None
        self._saved_at = 0.0

    def find(self, recording: Recording) -> Labelled | None:
        """What the model in use said of it as it is now; None where it did not yet.

        The same object as before, where nothing changed.
        """
        model = self._model.find()
        stamp = model and self._stamp(model, recording)
        if not stamp:
            return None
        with self._lock:
            known = self._found.get(recording.path)
            if known and known[0] == stamp:
                self._found.move_to_end(recording.path)
                return known[1]
        found = (ledger.find(recording.path) for ledger in model.ledgers(self._folder))
        labelled = next((found for found in found if found is not None), None)
        with self._lock:
            self._found[recording.path] = stamp, labelled
            self._forget()
        return labelled

    def summary(self, recording: Recording) -> Summary | None:
        """The same in a line, which costs two looks at files where nothing changed."""
        model = self._model.find()
        stamp = model and self._stamp(model, recording)
        if not stamp:
            return None
        with self._lock:
            if self._summaries is None:
                self._summaries = _read(self._file)
            known = self._summaries.get(recording.id)
        if known is None or known[0] != stamp:
            labelled = self.find(recording)
            known = stamp, labelled and summarise(labelled, model)
            with self._lock:
                self._summaries[recording.id] = known
                if time.monotonic() - self._saved_at > SAVE_SECONDS:
                    self._save()
        return known[1]

    def ledger(self, model: KnownModel, *, quick: bool) -> Ledger:
        return model.ledgers(self._folder)[quick]

    def close(self) -> None:
        """Keeps the summaries for the next start."""
        with self._lock:
            if self._summaries is not None:
                self._save()

    def _stamp(self, model: KnownModel, recording: Recording) -> list | None:
        """Changes with all that a timeline depends on; None where nothing was labelled."""
        ledger = self.ledger(model, quick=False)
        try:
            place = ledger.place(recording.path)
            return [ledger.way, *stamp_file(place), *stamp_file(recording.path)]
        except OSError:
            return None

    def _forget(self) -> None:
        sizes = {p: x.break_probabilities.nbytes if x else 0 for p, (_, x) in self._found.items()}
        too_many = sum(sizes.values()) - KEPT_BYTES
        while too_many > 0:
            path, _ = self._found.popitem(last=False)
            too_many -= sizes[path]

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        rows = {
            id: [stamp, summary and asdict(summary)]
            for id, (stamp, summary) in self._summaries.items()
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._file, json.dumps(rows).encode())


def summarise(labelled: Labelled, model: KnownModel) -> Summary:
    timeline = labelled.timeline
    ads_seconds = sum(segment.seconds for segment in timeline.breaks)
    return Summary(
        model.overall(labelled)["label"],
        round(ads_seconds / max(timeline.duration_seconds, 1e-9), 4),
        len(timeline.breaks),
        sum(segment.unsure for segment in timeline.segments),
        round(sum(expected_wrong_seconds(labelled)), 2),
    )


def _read(file: Path) -> dict[str, tuple[list, Summary | None]]:
    """What was saved; nothing where it is not there, or damaged."""
    try:
        rows = json.loads(file.read_bytes())
        return {id: (stamp, row and Summary(**row)) for id, (stamp, row) in rows.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
