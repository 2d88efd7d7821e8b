"""Coarse to fine: key pictures first, all pictures only where segments begin or are in doubt."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from timeline.dense import EmbeddedBlock
from timeline.network import Trunk
from timeline.reading import Reading, embed_parts, embed_recording
from utils.damage import DamageLog
from utils.features import FeatureSpec
from utils.media import MediaError
from utils.parts import parts_around
from utils.video import first_grid_index

HOP_SECONDS = 1.0  # of the coarse scores
# All pictures are decoded this near to each edge, and where the label of a segment is no more
# probable than SURE on average over DOUBT_SECONDS; then the segments are found anew, until nothing
# is left to decode. On six planted recordings of sources left out, a break every minute or two, all
# 25 edges were then those of the full pass, with 24 to 70 % of the recordings decoded.
EDGE_SECONDS, DOUBT_SECONDS, SURE = 10.0, 10.0, 0.5
MERGED_SECONDS = 5.0  # between spans that are decoded as one: key pictures lie further apart
LONGEST_SECONDS = 120.0  # of a span: what is decoded waits for the span before it
MAX_KEY_SECONDS = 12.0  # key pictures further apart, on average, say too little
FINE_KINDS = ("unreadable", "picture size")  # damage that only all pictures show
MAX_FINE = 0.75  # of the recording; with more of it the full pass is sooner

Starts = Sequence[tuple[float, int]]  # seconds, and the place of the class that begins there
# Of a recording so far: probabilities (N, C), a row every so many seconds, and its segments.
Judge = Callable[[EmbeddedBlock, float], tuple[np.ndarray, Starts]]


def embed_coarsely(
    reading: Reading,
    trunk: Trunk,
    judge: Judge,
    on_progress: Callable[[float], None],
) -> Iterator[EmbeddedBlock] | None:
    """The blocks of a recording, made of key pictures but where segments begin or are in doubt.

    None where a full pass is better: key pictures are rare, doubts are many, timestamps jump, or
    the file can't be entered in the middle.
    """
    log = DamageLog()
    block = _embed_keys(replace(reading, damage=log), trunk, on_progress)
    seconds = len(block.embeddings) / reading.spec.fps
    jumps = any(record.kind == "jump" for record in log.records)
    if jumps or log.num_pictures < seconds / MAX_KEY_SECONDS:
        return None
    is_fine = np.zeros(math.ceil(seconds / HOP_SECONDS), bool)
    while True:
        new = _wanted(*judge(block, HOP_SECONDS)) & ~is_fine
        if not new.any():
            break
        if not is_fine.any() and new.mean() > MAX_FINE:
            return None
        # Later rounds have little left to do, and how many there will be is unknown.
        tell = (lambda _: None) if is_fine.any() else on_progress
        if not _refine(reading, trunk, _spans(new, seconds), block, tell):
            return None
        is_fine |= new
    reading.damage.restore(log.records, log.end_seconds)
    return iter([block])


def _embed_keys(
    reading: Reading, trunk: Trunk, on_progress: Callable[[float], None]
) -> EmbeddedBlock:
    """A recording of which every frame shows the nearest key picture."""
    keys = replace(reading, spec=replace(reading.spec, frames="keyframes"))
    blocks: list[EmbeddedBlock] = []
    num_frames = 0
    for block in embed_recording(keys, trunk):
        blocks.append(block)
        num_frames += len(block.embeddings)
        on_progress(num_frames / reading.spec.fps / 2)
    has_track = blocks[0].mfcc is not None
    return EmbeddedBlock(
        np.concatenate([block.embeddings for block in blocks]),
        np.concatenate([block.shown for block in blocks]),
        np.concatenate([block.mfcc for block in blocks]) if has_track else None,
        np.concatenate([block.sounding for block in blocks]),
    )


def _wanted(probabilities: np.ndarray, starts: Starts) -> np.ndarray:
    """(N,) bool: steps of HOP_SECONDS of which all pictures are wanted, by (N, C) probabilities."""
    times = (np.arange(len(probabilities)) + 0.5) * HOP_SECONDS
    places = np.searchsorted([start for start, _ in starts], times, side="right") - 1
    of_label = probabilities[
        np.arange(len(times)), np.array([label for _, label in starts])[places]
    ]
    count = min(len(times), round(DOUBT_SECONDS / HOP_SECONDS))
    sums = np.convolve(np.pad(of_label, count, mode="edge"), np.ones(count) / count, mode="same")
    wanted = np.zeros(len(times), bool)
    for middle in times[sums[count:-count] < SURE]:
        wanted |= abs(times - middle) < EDGE_SECONDS / 2
    for start, _ in starts[1:]:
        wanted |= abs(times - start) < EDGE_SECONDS
    return wanted


def _spans(wanted: np.ndarray, seconds: float) -> list[tuple[float, float]]:
    """Spans [start, end) in seconds around steps of HOP_SECONDS: near ones are one, if not long."""
    spans: list[tuple[float, float]] = []
    for step in np.flatnonzero(wanted):
        start, end = step * HOP_SECONDS, min(seconds, (step + 1) * HOP_SECONDS)
        is_near = spans and start <= spans[-1][1] + MERGED_SECONDS
        if is_near and end <= spans[-1][0] + LONGEST_SECONDS:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def _refine(
    reading: Reading,
    trunk: Trunk,
    spans: list[tuple[float, float]],
    block: EmbeddedBlock,
    on_progress: Callable[[float], None],
) -> bool:
    """Puts what all pictures of the spans say into the block; False where that can't be read."""
    spec: FeatureSpec = reading.spec
    num_frames = len(block.embeddings)
    wanted = sum(end - start for start, end in spans) * spec.fps
    done = 0
    fine = replace(reading, damage=DamageLog())
    # Bars of long recordings are found stretch by stretch.
    crop_bars = spec.crop_bars and not reading.is_long
    try:
        found = parts_around(reading.path, replace(spec, crop_bars=crop_bars), spans)
        if len(found) < len(spans):
            return False
        parts = [(part, first_grid_index(seconds, spec.fps)) for part, seconds in found]
        for row, new in embed_parts(fine, trunk, parts):
            stop = min(num_frames, row + len(new.embeddings))
            block.embeddings[row:stop] = new.embeddings[: stop - row]
            block.shown[row:stop] = new.shown[: stop - row]
            done += stop - row
            on_progress(num_frames / spec.fps * (0.5 + 0.5 * min(1.0, done / wanted)))
    except MediaError:
        return False
    records = [record for record in fine.damage.records if record.kind in FINE_KINDS]
    reading.damage.restore(records, None)
    return True
