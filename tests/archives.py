"""A made archive: clips to learn from and recordings with a known truth, which a model gets wrong.

Talks in the studio move as spots do, and the first model, which has never seen one, calls them ads;
a person calls them games. One spot runs in two recordings.
"""

import shutil
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

import cost_optimized_train
from tests.media import write_video
from tests.trainings import KINDS, SMALL, flags, run_script, write_clip, write_clips, write_trunk
from utils.labels import Span

FRAME_RATE = 8
SIZE = (64, 96)
CLASSES = ("ads", "games")
LABELS = {"ads": "ads", "games": "games", "news": "games"}
TRAINING = {  # constants with which a training takes seconds
    **SMALL,
    "fine_tune_blocks": 0,
    "epochs": 8,
    "head_learning_rate": 0.01,
    "folds": 0,
}
SPOT = ("ads", 3, 15.0)  # the one that comes back


@dataclass(frozen=True)
class Made:
    """A recording: pieces of (kind, number, seconds), each with its own beginning."""

    name: str
    pieces: tuple[tuple[str, int, float], ...]

    @property
    def ends(self) -> list[float]:
        return list(accumulate(seconds for _, _, seconds in self.pieces))

    @property
    def truth(self) -> list[Span]:
        """What a careful person would say, neighbours of one label as one."""
        spans: list[Span] = []
        for (kind, _, seconds), end in zip(self.pieces, self.ends, strict=True):
            start, label = end - seconds, LABELS[kind]
            if spans and spans[-1].label == label:
                start = spans.pop().start_seconds
            spans.append(Span(start, end, label))
        return spans


# The first two are what the story is about; the third has five edges to correct.
FIRST = Made(
    "first.mp4", (("games", 1, 20), SPOT, ("games", 1, 20), ("news", 1, 20), ("games", 1, 20))
)
SECOND = Made(
    "second.mp4", (("games", 2, 20), ("news", 1, 20), ("games", 2, 30), SPOT, ("games", 2, 20))
)
THIRD = Made("third.mp4", tuple((("games", "ads")[k % 2], 4 + k % 2, 10.0) for k in range(6)))


@dataclass(frozen=True)
class Archive:
    """Folders as a person has them: `data`, `cache` and `runs`, with a trunk to train from."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def recordings(self) -> Path:
        return self.data / "recordings"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def trunk(self) -> Path:
        return self.folder / "trunk.safetensors"

    def copy(self, folder: Path) -> "Archive":
        """The same in a folder of its own, where it may be changed."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Archive(folder)

    def train(self) -> Path:
        """A run on what is in `data`."""
        words = flags(
            **TRAINING,
            data_dir=self.data,
            cache_dir=self.cache,
            runs_dir=self.runs,
            weights=self.trunk,
        )
        outcome = run_script(cost_optimized_train, *words)
        assert outcome.code == 0, outcome.err
        return (self.runs / "latest").resolve()

    def serve_options(self) -> list[object]:
        """Arguments of serve.py."""
        places = {"data_dir": self.data, "cache_dir": self.cache, "runs_dir": self.runs}
        return [self.data, *flags(**places, weights=self.trunk)]


def make_archive(folder: Path, recordings: Sequence[Made] = (FIRST, SECOND, THIRD)) -> Archive:
    """Writes the clips and the recordings, and trains a model on the clips."""
    archive = Archive(folder)
    write_clips(archive.data, range(5), CLASSES)
    for kind in CLASSES:  # held out by hand, so that corrected recordings are learned from
        for number in (7, 8):
            write_clip(archive.data / "validation" / kind / f"{number}.mp4", kind, number)
    write_trunk(archive.trunk)
    archive.train()
    archive.recordings.mkdir()
    for made in recordings:
        write_recording(archive.recordings / made.name, made)
    return archive


def write_recording(path: Path, made: Made) -> Path:
    draws = [KINDS[kind][0](number / 7) for kind, number, _ in made.pieces]
    pitches = [
        KINDS[kind][1] * (1 + number / 50)
        for kind, number, seconds in made.pieces
        for _ in range(round(seconds))
    ]
    ends = made.ends

    def draw(seconds: float, height: int, width: int) -> np.ndarray:
        piece = bisect_right(ends, seconds)
        return draws[piece](seconds - ([0.0, *ends][piece]), height, width)

    return write_video(
        path,
        seconds=ends[-1],
        fps=FRAME_RATE,
        size=SIZE,
        draw=draw,
        tone_hz=pitches,
        sample_rate=16000,
    )
