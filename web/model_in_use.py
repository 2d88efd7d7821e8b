"""Model in use: which checkpoint labels, known without torch, and loaded once when needed."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from timeline.classifier import identify
from timeline.labelled import Labelled, Method
from timeline.ledger import Ledger
from training.recipe import CheckpointError, read_recipe
from training.registry import default_checkpoint
from training.thresholds import Thresholds, read_thresholds
from utils.files import stamp_file
from web.errors import ApiError
from web.settings import Settings

if TYPE_CHECKING:  # it takes seconds to import
    from timeline.classifier import Classifier


class NoModel(ApiError):
    """Nothing was trained yet."""

    status = 409

    def __init__(self) -> None:
        super().__init__("there is no model yet: train one on the Runs page", kind="no_model")


@dataclass(frozen=True)
class KnownModel:
    """What a checkpoint says of itself; as much as the ledger wants of a classifier."""

    path: Path  # the file itself, behind the links
    classes: tuple[str, ...]
    decisions: Thresholds | None
    identity: Mapping[str, object]

    @property
    def thresholds(self) -> dict[str, float]:
        return self.decisions.values() if self.decisions else {}

    @property
    def run(self) -> str:
        """The name of its run, or of its version where it is the champion."""
        return self.path.parent.name

    def ledger(self, folder: Path, *, quick: bool) -> Ledger:
        """Of what it labelled in the page's way, which is that of the script without options."""
        return Ledger(folder, self._ways[quick])

    @cached_property
    def _ways(self) -> tuple[str, str]:
        return tuple(Ledger.of(Path(), self, Method(quick=quick)).way for quick in (False, True))

    def overall(self, labelled: Labelled) -> dict:
        """One answer for all of a recording."""
        odds = np.array([labelled.overall])
        said = self.decisions.decide(odds, self.classes) if self.decisions else odds.argmax(axis=1)
        return {
            "label": self.classes[said[0]],
            "confidence": round(float(odds[0, said[0]]), 4),
            "probabilities": {
                name: round(p, 4) for name, p in zip(self.classes, labelled.overall, strict=True)
            },
        }

    def to_api(self) -> dict:
        name = self.identity["name"]
        return {"name": name, "run": self.run, "path": self.path.name, "classes": self.classes}


class InUse(KnownModel):
    """The same, with the network in this process."""

    @cached_property
    def checkpoint(self) -> object:
        """As training.checkpoint reads it, on the device that there is."""
        from training.checkpoint import load_checkpoint
        from training.device import choose_device

        return load_checkpoint(self.path, choose_device())

    @cached_property
    def classifier(self) -> "Classifier":
        from timeline.classifier import Classifier

        return Classifier.of(self.checkpoint, self.path, self.thresholds)


class ModelInUse:
    """The champion, else the latest training, or what --checkpoint names; always as it is now."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._lock = threading.Lock()
        self._stamp: list | None = None
        self._known: InUse | None = None

    def known(self) -> KnownModel:
        """What is known of it, in no time. Raises NoModel, CheckpointError."""
        return self._look()

    def current(self) -> InUse:
        """The model itself; the first call takes seconds. Raises NoModel, CheckpointError."""
        found = self._look()
        with self._lock:
            _ = found.classifier  # all of it, by one thread
        return found

    def find(self) -> KnownModel | None:
        """What is known of it, or None where there is none that can be used."""
        try:
            return self._look()
        except (NoModel, CheckpointError):
            return None

    def _look(self) -> InUse:
        path = self._settings.checkpoint or default_checkpoint(self._settings.runs_dir)
        try:
            path = path.resolve(strict=True)
            stamp = [str(path), *stamp_file(path)]
        except OSError:
            raise NoModel from None
        with self._lock:
            if self._stamp != stamp:
                self._known, self._stamp = _read(path), stamp
            return self._known


def _read(path: Path) -> InUse:
    recipe = read_recipe(path)
    try:
        classes, decisions = tuple(recipe["classes"]), read_thresholds(recipe)
        return InUse(path, classes, decisions, identify(path, recipe))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not fit this version of the code ({type(error).__name__}: {error}): "
            "train again, or use the version that wrote it"
        ) from error
