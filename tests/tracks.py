"""Made tracks: what a model might say about a recording whose timeline is known.

Pieces of a stretch (spots, scenes) have a level of their own, as sources have: some are misjudged
from end to end. Around it the logits wander, and windows average them.
"""

from collections.abc import Collection, Sequence

import numpy as np

from timeline.scoring import ScoredRecording
from utils.labels import Span

HOP_SECONDS = 0.25
WINDOWS_SECONDS = (10.0, 4.0)
CLASSES = ("ads", "games")
PIECE_SECONDS = (10.0, 35.0)
LEVEL, LEVEL_SPREAD = 3.0, 1.0  # of a piece's logit
WANDER, WANDER_SECONDS = 0.8, 2.0


def make_track(
    plan: Sequence[tuple[str, float]],
    rng: np.random.Generator,
    *,
    wrong: Collection[tuple[float, float]] = (),
    wrong_part: float = 0.0,
    classes: Sequence[str] = CLASSES,
) -> tuple[ScoredRecording, list[Span]]:
    """Scores and truth of stretches (label, seconds) one after another.

    `wrong` are [start, end) seconds that look like another class, and `wrong_part` is the chance
    of a piece to do so from end to end.
    """
    spans, start = [], 0.0
    for label, seconds in plan:
        spans.append(Span(start, start + seconds, label))
        start += seconds
    count = round(start / HOP_SECONDS)
    logits = np.zeros((count, len(classes)))
    for span in spans:
        own = classes.index(span.label)
        at = span.start_seconds
        while at < span.end_seconds:
            end = min(at + rng.uniform(*PIECE_SECONDS), span.end_seconds)
            shown = (own + 1) % len(classes) if rng.random() < wrong_part else own
            rows = slice(round(at / HOP_SECONDS), round(end / HOP_SECONDS))
            logits[rows, shown] += rng.normal(LEVEL, LEVEL_SPREAD)
            at = end
    for first, last in wrong:
        rows = slice(round(first / HOP_SECONDS), round(last / HOP_SECONDS))
        logits[rows] = np.roll(logits[rows], 1, axis=1)
    logits += _wander(rng, logits.shape)
    return score_logits(logits), spans


def score_logits(logits: np.ndarray) -> ScoredRecording:
    """What windows say that average logits (N, C), one for each hop."""
    count = len(logits)
    sums = np.concatenate([np.zeros((1, logits.shape[1])), logits.cumsum(axis=0)])
    tracks = []
    for seconds in WINDOWS_SECONDS:
        half = round(seconds / HOP_SECONDS / 2)
        first = np.maximum(np.arange(count) - half, 0)
        stop = np.minimum(np.arange(count) + half + 1, count)
        mean = (sums[stop] - sums[first]) / (stop - first)[:, None]
        odds = np.exp(mean - mean.max(axis=1, keepdims=True))
        tracks.append(odds / odds.sum(axis=1, keepdims=True))
    return ScoredRecording(
        HOP_SECONDS,
        WINDOWS_SECONDS,
        np.stack(tracks).astype(np.float32),
        duration_seconds=count * HOP_SECONDS,
        has_sound=True,
        frame_rate=25.0,
    )


def _wander(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Noise that forgets itself within WANDER_SECONDS."""
    width = round(WANDER_SECONDS / HOP_SECONDS)
    noise = rng.normal(size=(shape[0] + width - 1, shape[1]))
    kernel = np.ones(width) / np.sqrt(width)
    columns = [np.convolve(noise[:, column], kernel, "valid") for column in range(shape[1])]
    return WANDER * np.stack(columns, axis=1)
