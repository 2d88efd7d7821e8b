"""Coarse to fine: key pictures first, all pictures only where they leave a doubt."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from torch import nn

from models.runtime import TrunkRuntime
from timeline.dense import DenseScorer, EmbeddedBlock
from timeline.reading import Reading, embed_recording
from utils.damage import DamageLog
from utils.features import FeatureSpec
from utils.media import MediaError
from utils.parts import parts_around
from utils.video import first_grid_index

HOP_SECONDS = 1.0  # of the coarse scores
# A probability of the long window below this is a doubt. Of 41 changes of label in three planted
# recordings of sources left out, none lay outside what is then decoded, 38 to 72 % of these short
# recordings full of changes; with 0.7 one did, and the short window only added doubts.
SURE = 0.8
MARGIN_SECONDS = 9.0  # on both sides of a doubt: the long window, and where a key picture is taken
MAX_KEY_SECONDS = 12.0  # key pictures further apart, on average, say too little
FINE_KINDS = ("unreadable", "picture size")  # damage that only all pictures show
MAX_DOUBTFUL = 0.75  # of the recording; with more of it the full pass is sooner


def embed_coarsely(
    reading: Reading,
    trunk: TrunkRuntime,
    model: nn.Module,
    *,
    clip_seconds: float,
    temperature: float,
    on_progress: Callable[[float], None],
) -> Iterator[EmbeddedBlock] | None:
    """The blocks of a recording, made of key pictures but where those leave a doubt.

    None where a full pass is better: key pictures are rare, doubts are many, timestamps jump, or
    the file can't be entered in the middle.
    """
    log = DamageLog()
    coarse = replace(reading, spec=replace(reading.spec, frames="keyframes"), damage=log)
    scorer = DenseScorer(
        model,
        reading.spec,
        clip_seconds=clip_seconds,
        temperature=temperature,
        hop_seconds=HOP_SECONDS,
    )
    blocks = []
    for block in embed_recording(coarse, trunk):
        blocks.append(block)
        scorer.add(block)
        on_progress(scorer.seconds / 2)
    seconds = scorer.seconds
    jumps = any(record.kind == "jump" for record in log.records)
    if jumps or log.num_pictures < seconds / MAX_KEY_SECONDS:
        return None
    probabilities, _ = scorer.finish(seconds)
    spans = _doubts(probabilities, seconds)
    if sum(end - start for start, end in spans) > MAX_DOUBTFUL * seconds:
        return None
    embeddings = np.concatenate([block.embeddings for block in blocks])
    shown = np.concatenate([block.shown for block in blocks])
    if not _refine(reading, trunk, spans, embeddings, shown, on_progress):
        return None
    reading.damage.restore(log.records, log.end_seconds)
    has_track = blocks[0].mfcc is not None
    mfcc = np.concatenate([block.mfcc for block in blocks]) if has_track else None
    sounding = np.concatenate([block.sounding for block in blocks])
    return iter([EmbeddedBlock(embeddings, shown, mfcc, sounding)])


def _doubts(probabilities: np.ndarray, seconds: float) -> list[tuple[float, float]]:
    """Spans [start, end) around all that is not one class beyond doubt, from (W, N, C)."""
    doubtful = probabilities[0].max(axis=1) < SURE
    changes = np.flatnonzero(np.diff(probabilities[0].argmax(axis=1)))
    doubtful[changes] = doubtful[changes + 1] = True
    spans: list[tuple[float, float]] = []
    for row in np.flatnonzero(doubtful):
        start = max(0.0, row * HOP_SECONDS - MARGIN_SECONDS)
        end = min(seconds, (row + 1) * HOP_SECONDS + MARGIN_SECONDS)
        if spans and start <= spans[-1][1] + MARGIN_SECONDS:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def _refine(
    reading: Reading,
    trunk: TrunkRuntime,
    spans: list[tuple[float, float]],
    embeddings: np.ndarray,
    shown: np.ndarray,
    on_progress: Callable[[float], None],
) -> bool:
    """Puts what all pictures of the spans say into the arrays; False where that can't be read."""
    spec: FeatureSpec = reading.spec
    num_seconds = len(embeddings) / spec.fps
    wanted = sum(end - start for start, end in spans)
    done = 0
    try:
        parts = parts_around(reading.path, spec, spans)
        if len(parts) < len(spans):
            return False
        for part, start_seconds in parts:
            fine = replace(reading, damage=DamageLog())
            row = first_grid_index(start_seconds, spec.fps)
            for block in embed_recording(fine, trunk, part, first_frame=row, sound=False):
                stop = min(len(embeddings), row + len(block.embeddings))
                embeddings[row:stop] = block.embeddings[: stop - row]
                shown[row:stop] = block.shown[: stop - row]
                done += stop - row
                row = stop
                on_progress(num_seconds * (0.5 + 0.5 * min(1.0, done / spec.fps / wanted)))
            new = [record for record in fine.damage.records if record.kind in FINE_KINDS]
            reading.damage.restore(new, None)
    except MediaError:
        return False
    return True
