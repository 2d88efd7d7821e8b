"""Scoring: a recording to class probabilities over time."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from timeline.coarse import Starts, embed_coarsely
from timeline.dense import DenseScorer, EmbeddedBlock, tile_windows
from timeline.network import Network, Trunk
from timeline.reading import KeptEmbeddings, Reading, embed_recording, scoring_spec
from timeline.resemblance import Resemblance
from timeline.timeline import Damage
from utils.features import FeatureSpec, check_length
from utils.video import probe


@dataclass(frozen=True)
class ScoredRecording:
    """What a model says about a recording over time, in seconds since its first picture.

    Row k of a window is about [c - window / 2, c + window / 2), c = (k + 0.5) * hop, cut at both
    ends of the recording: the probabilities that the network gives to that span as a clip.
    """

    hop_seconds: float
    window_seconds: tuple[float, ...]
    probabilities: np.ndarray  # (W, N, C) float32, calibrated, by window, row and class
    duration_seconds: float
    has_sound: bool
    frame_rate: float  # average pictures a second
    zero_seconds: float = 0.0  # from where players start to count to the first picture
    damage: tuple[Damage, ...] = ()
    tile_probabilities: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    gains: np.ndarray | float = 0.0  # (N, C) for the logits of each row, of `Resemblance`

    @property
    def overall(self) -> np.ndarray:
        """(C,) mean probabilities of the tiles, each counted by its length."""
        starts, ends, rows = zip(*self.tiles(), strict=True)
        return (np.array(ends) - np.array(starts)) @ np.array(rows) / self.duration_seconds

    def tiles(self) -> list[tuple[float, float, np.ndarray]]:
        """Windows of the first length side by side: start, end in seconds, probabilities (C,)."""
        spans = tile_windows(self.duration_seconds, self.window_seconds[0])
        rows = self.tile_probabilities
        return [(a, b, row) for (a, b), row in zip(spans, rows, strict=True)]


def score_recording(
    path: Path,
    network: Network,
    spec: FeatureSpec,
    *,
    clip_seconds: float,
    temperature: float,
    quick: Callable[[ScoredRecording], Starts] | None = None,
    embeddings: Path | None = None,
    on_progress: Callable[[float, float], None] | None = None,
) -> ScoredRecording:
    """The probabilities of a recording over time, read in one pass.

    Decoding and network run side by side, with as many threads as its trunk has. With `quick` key
    pictures are decoded, and the others only near the segments' edges and doubts: it says where the
    segments of a scored recording start, and the places of their classes. In the folder
    `embeddings` is kept what the trunk says: scoring again, with other heads too, takes seconds.
    `on_progress` is told how many seconds are done, and of how many, as far as known. Raises
    MediaError where the file can't be read.
    """
    path = Path(path)
    info = probe(path)
    trunk = network.trunk
    reading = Reading(path, scoring_spec(spec, info.duration_seconds), spec.fps, info)
    scale = {"clip_seconds": clip_seconds, "temperature": temperature}

    def report(seconds: float) -> None:
        if on_progress is not None:
            on_progress(seconds, max(seconds, info.duration_seconds))

    def score(
        blocks: Iterable[EmbeddedBlock], tell: Callable[[float], None], **hop: float
    ) -> ScoredRecording:
        scorer = DenseScorer(network, reading.spec, **scale, **hop)
        resemblance = Resemblance(reading.spec)
        for block in blocks:
            scorer.add(block)
            resemblance.add(block)
            tell(scorer.seconds)
        check_length(scorer.num_frames, reading.spec)
        duration_seconds = reading.duration_seconds(scorer.num_frames)
        probabilities, tiles = scorer.finish(duration_seconds)
        return ScoredRecording(
            scorer.hop_seconds,
            scorer.window_seconds,
            probabilities,
            duration_seconds,
            scorer.has_sound,
            frame_rate=info.frame_rate,
            zero_seconds=info.zero_seconds,
            damage=reading.damage.records,
            tile_probabilities=tiles,
            gains=resemblance.gains(probabilities, scorer.hop_seconds),
        )

    def coarse() -> Iterator[EmbeddedBlock] | None:
        def judge(block: EmbeddedBlock, hop_seconds: float) -> tuple[np.ndarray, Starts]:
            found = score([block], lambda _: None, hop_seconds=hop_seconds)
            return found.probabilities[0], quick(found)

        return embed_coarsely(reading, trunk, judge, report)

    blocks = _blocks(reading, trunk, embeddings, coarse if quick else None)
    with network.at_work(), contextlib.closing(blocks):
        return score(blocks, report)


def _blocks(
    reading: Reading,
    trunk: Trunk,
    folder: Path | None,
    coarse: Callable[[], Iterator[EmbeddedBlock] | None] | None,
) -> Iterator[EmbeddedBlock]:
    """Yields a recording's blocks: kept ones, else key pictures first if wanted, else all of it."""
    kept = None if folder is None else KeptEmbeddings(folder, trunk)
    place = kept and kept.path_of(reading)
    found = kept and kept.read(place, reading)
    if found is None and coarse is not None:
        found = coarse()  # is not kept: it is not all of the recording
    if found is None:
        blocks = embed_recording(reading, trunk)
        found = blocks if kept is None else kept.write(place, reading, blocks)
    yield from found
