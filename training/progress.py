"""Progress: where a training stands, and what stops it."""

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from utils.errors import UserError


class TrainingError(UserError):
    """The loss is no number any more, memory is too small, or the run can't be gone on with."""


@dataclass
class Progress:
    """Where a training stands: beside weights and optimizer, all that resuming needs.

    Random numbers are a function of the seed and the position, so no generator has a state to keep.
    """

    epoch: int = 0
    position: int = 0  # clips of this epoch that were trained on, in its order
    loss_sum: float = 0.0  # over this epoch's clips so far
    correct: int = 0
    epoch_seconds: float = 0.0
    wait_seconds: float = 0.0
    total_seconds: float = 0.0
    total_wait_seconds: float = 0.0
    best_loss: float = math.inf
    best_epoch: int = 0
    stale_epochs: int = 0
    micro_batch: int | None = None  # clips that fit the memory at once, where not all of a step do
    history: list[dict] = field(default_factory=list)

    def end_epoch(self) -> None:
        self.total_seconds += self.epoch_seconds
        self.total_wait_seconds += self.wait_seconds
        self.epoch, self.position = self.epoch + 1, 0
        self.loss_sum, self.correct = 0.0, 0
        self.epoch_seconds, self.wait_seconds = 0.0, 0.0


class Stop:
    """Whether the end of the training was asked for."""

    requested = False


@contextmanager
def stop_signal(*, patient: bool = False) -> Iterator[Stop]:
    """Ctrl-C and SIGTERM set `requested`; a second Ctrl-C ends the process at once.

    Not a `patient` one: torchrun passes on the Ctrl-C that the terminal gave every process.
    """
    stop = Stop()

    def request(number: int, frame: object) -> None:
        stop.requested = True
        if not patient:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = {s: signal.signal(s, request) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # signals belong to the main thread; elsewhere the caller stops us
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def epoch_line(row: dict) -> str:
    """One aligned line of a row of the history, for people."""
    auc = "  -  " if row["val_auc"] is None else f"{row['val_auc']:.3f}"
    return (
        f"{row['phase']:<12} {row['epoch']:>3}/{row['epochs']:<3} "
        f"train loss {row['train_loss']:.3f} acc {row['train_accuracy']:.3f} | "
        f"val loss {row['val_loss']:.3f} acc {row['val_accuracy']:.3f} "
        f"balanced {row['val_balanced_accuracy']:.3f} auc {auc} | "
        f"{row['seconds']:5.1f} s {row['clips_per_second']:6.0f} clips/s"
        f"{'  best' if row['best'] else ''}"
    )
