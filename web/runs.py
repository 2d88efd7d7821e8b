"""Runs: the trainings and the registered models, side by side, and which of them is in use."""

import json
import math
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from training.child import is_finished
from training.registry import MODEL, Registry, Version, hash_file
from training.run_progress import RUNNING, RunProgress, read_progress, run_folders
from training.tracking import TrackingError, tracking_uri
from web.errors import Conflict, NotFound
from web.model_in_use import ModelInUse
from web.settings import Settings

REPORT = "report.html"
WATCHED = ("config.json", "metrics.json", "metrics.jsonl", "monitor.jsonl", REPORT)


@dataclass(frozen=True)
class Promoted:
    """The champion from now on; `note` says what could not be told to MLflow."""

    champion: str
    note: str | None

    def to_api(self) -> dict:
        return {"champion": self.champion, "note": self.note}


class Runs:
    """The runs below a folder; what has ended is read once."""

    def __init__(self, settings: Settings, model: ModelInUse):
        self._folder = Path(settings.runs_dir)
        self._model = model
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[list, dict]] = {}  # by folder: stamp, what is said

    def overview(self) -> dict:
        """The runs, newest first, the versions, the champion, and who was champion before."""
        registry = self._registry()
        versions, champion = registry.versions(), registry.champion
        version_of = {version.facts.get("run"): version.name for version in versions}
        known = self._model.find()
        used = known.path.parent if known else None
        used_run = next((v.facts.get("run") for v in versions if v.folder.resolve() == used), None)
        runs = []
        for folder in run_folders(self._folder):
            name = folder.name
            links = {
                "version": version_of.get(name),
                "in_use": used is not None and (folder == used or name == used_run),
            }
            runs.append({**self._describe(folder), **links})
        runs.sort(key=lambda run: (run["started_at"] or "", run["name"]), reverse=True)
        return {
            "runs": runs,
            "versions": [_describe_version(version, champion) for version in reversed(versions)],
            "champion": champion and champion.name,
            "history": [
                {"version": r.version, "after": r.after, "since": r.since, "why": r.why}
                for r in reversed(registry.history())
            ],
        }

    def report(self, name: str) -> Path:
        """The report of a run or version. Raises NotFound."""
        path = self._find(name) / REPORT
        if not path.is_file():
            raise NotFound(f"{name} has no report: it is written when a training ends well")
        return path

    def promote(self, name: str, reason: str) -> Promoted:
        """Makes a run's model, or a version, the champion. Raises NotFound, Conflict,
        RegistryError."""
        folder = self._find(name)
        registry, notes = self._registry(), []
        version = next((v for v in registry.versions() if v.name == name), None)
        if version is None:
            if not is_finished(folder):
                raise Conflict(f"{name} has not ended well: there is no model of it to promote")
            try:
                version = registry.add(folder, {})
            except TrackingError as error:
                notes.append(error)
                digest = hash_file(folder / MODEL)[:16]
                version = next(v for v in registry.versions() if v.id == digest)
        try:
            registry.promote(version, reason)
        except TrackingError as error:
            notes.append(error)
        return _promoted(version, notes)

    def rollback(self, name: str | None) -> Promoted:
        """Goes back to an earlier champion, by default the one before. Raises RegistryError."""
        registry = self._registry()
        try:
            return _promoted(registry.rollback(name), [])
        except TrackingError as error:
            return _promoted(registry.champion, [error])

    def _registry(self) -> Registry:
        # MLflow where it is used: by the variable, or by a pipeline or training that ran here.
        has_database = (self._folder / "mlflow.db").exists()
        return Registry(self._folder, tracking_uri(self._folder, has_database))

    def _find(self, name: str) -> Path:
        """The folder of a run or version; a path is never made of a name."""
        folders = {folder.name: folder for folder in run_folders(self._folder)}
        folders.update({v.name: v.folder for v in Registry(self._folder).versions()})
        if name not in folders:
            raise NotFound("there is no such run: it was removed, so load the list again")
        return folders[name]

    def _describe(self, folder: Path) -> dict:
        stamp = [_stamp(folder / name) for name in WATCHED]
        with self._lock:
            known, said = self._known.get(folder, (None, {}))
        if known == stamp and said["state"] != RUNNING:
            return said
        said = _describe_run(read_progress(folder))
        with self._lock:
            self._known[folder] = stamp, said
        return said


def _describe_run(run: RunProgress) -> dict:
    started = None
    if run.age_seconds is not None:
        moment = datetime.fromtimestamp(round(time.time() - run.age_seconds)).astimezone()
        started = moment.isoformat(timespec="seconds")
    return {
        "name": run.folder.name,
        "script": run.script,
        "state": run.state,
        "reason": run.reason,
        "epoch": run.epoch,
        "epochs": run.epochs,
        "phase": run.phase,
        "best": run.best,
        "started_at": started,
        "eta_seconds": run.eta_seconds,
        "metrics": read_metrics(run.folder),
        "has_report": (run.folder / REPORT).is_file(),
        "can_promote": is_finished(run.folder),
    }


def read_metrics(folder: Path) -> dict[str, float] | None:
    """The numbers of a run's metrics.json; None before it is judged."""
    try:
        values = json.loads((folder / "metrics.json").read_bytes())
    except (OSError, ValueError):
        return None
    numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _describe_version(version: Version, champion: Version | None) -> dict:
    return {
        "name": version.name,
        "number": version.number,
        "run": version.facts.get("run"),
        "added": version.facts.get("added"),
        "champion": version == champion,
    }


def _promoted(version: Version, notes: list[TrackingError]) -> Promoted:
    note = f"done here, and not in MLflow: {notes[-1]}" if notes else None
    return Promoted(version.name, note)


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
