"""Ledger: what was labelled before, how, and which files were written of it."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from timeline.classifier import Classifier
from timeline.labelled import Labelled, Method
from timeline.tables import TimelineError, from_json, to_json
from utils.errors import UserError
from utils.files import stamp_file, write_whole

VERSION = 3  # raise it when the same model and method give other timelines


class ExistingFileError(UserError):
    """A file that is in the way, and was not written here."""


@dataclass(frozen=True)
class Ledger:
    """A folder with a file for each recording that was labelled, whatever came of it since.

    So a second run over an archive does what is new, and a file that a person wrote or changed is
    told from one that was written here.
    """

    folder: Path
    way: str  # digest of the model and the method

    @classmethod
    def of(cls, folder: Path, classifier: Classifier, method: Method) -> "Ledger":
        told = [VERSION, dict(classifier.identity), dict(classifier.thresholds)]
        told += [method.quick, repr(method.durations), repr(method.policy)]
        return cls(folder, hashlib.sha256(json.dumps(told).encode()).hexdigest())

    def find(self, recording: Path) -> Labelled | None:
        """What came of a recording that has not changed, labelled in the same way."""
        entry = self._read(recording)
        if entry.get("way") != self.way or entry.get("stamp") != stamp_file(recording):
            return None
        try:
            timeline = from_json(recording.name, entry["timeline"].encode())
        except TimelineError:
            return None
        curve = np.array(entry["break_per_mille"], np.float32) / 1000
        return Labelled(timeline, tuple(entry["overall"]), curve, entry["hop_seconds"])

    def add(self, recording: Path, labelled: Labelled) -> None:
        files = self._read(recording).get("files", {})
        entry = {
            "recording": str(recording.absolute()),
            "stamp": stamp_file(recording),
            "way": self.way,
            "timeline": to_json(labelled.timeline),
            "overall": labelled.overall,
            "hop_seconds": labelled.hop_seconds,
            "break_per_mille": np.round(1000 * labelled.break_probabilities).astype(int).tolist(),
            "files": files,
        }
        self._write(recording, entry)

    def write(
        self, recording: Path, contents: Iterable[tuple[Path, bytes]], overwrite: bool
    ) -> int:
        """Writes files of a recording, and returns how many of them were not so already.

        Raises ExistingFileError before anything is written, where one is there that is not as it
        was written here last, and is not to be overwritten.
        """
        entry = self._read(recording)
        known = entry.setdefault("files", {})
        changed = []
        for path, content in contents:
            there = path.read_bytes() if path.exists() else None
            if there == content:
                continue
            if there is not None and not overwrite and known.get(_name(path)) != _digest(there):
                raise ExistingFileError(
                    f"{path} is there and was not written here, or was changed since: remove it, "
                    "write elsewhere with --out FOLDER, or replace it with --overwrite"
                )
            changed.append((path, content))
        for path, content in changed:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
            known[_name(path)] = _digest(content)
        if changed:
            self._write(recording, entry)
        return len(changed)

    def _read(self, recording: Path) -> dict:
        try:
            return json.loads(self.place(recording).read_bytes())
        except (FileNotFoundError, ValueError):  # none yet, or damaged: labelled anew
            return {}

    def _write(self, recording: Path, entry: dict) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.place(recording), json.dumps(entry).encode())

    def place(self, recording: Path) -> Path:
        """The file about a recording, whether it is there or not."""
        return self.folder / f"{_digest(_name(recording).encode())[:32]}.json"


def _name(path: Path) -> str:
    return str(path.absolute())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
