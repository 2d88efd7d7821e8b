"""Embeddings: a vector for each clip of a recording, by any of the models."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np

from search.clip_store import ClipStore, EmbeddedClip, clip_id
from search.names import storable
from utils.clips import cut_spans
from utils.feature_store import FeatureStore
from utils.features import FeatureSpec
from utils.prepared_set import PreparedSet
from utils.recordings import Recording

CLIP_SECONDS, HOP_SECONDS = 10.0, 5.0
VERSION_DIGITS = 16
NO_VECTOR = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Changes:
    """What bringing a store up to date did, in clips."""

    embedded: int = 0
    relabelled: int = 0  # or in another group: their vectors stayed
    kept: int = 0
    deleted: int = 0

    def __add__(self, other: "Changes") -> "Changes":
        return Changes(
            self.embedded + other.embedded,
            self.relabelled + other.relabelled,
            self.kept + other.kept,
            self.deleted + other.deleted,
        )


class Embedder(Protocol):
    """What makes vectors of clips by one model: `ClipEmbedder` or `KeptEmbedder`."""

    spec: FeatureSpec
    version: str  # of the model: vectors of two are never compared

    def embed(
        self,
        frames: np.ndarray,
        mfcc: np.ndarray | None,
        spans: Iterable[tuple[float, float]],
        *,
        report: Callable[[int], None] = lambda frames: None,
    ) -> np.ndarray:
        """(N, D) float32 of length 1, of spans in seconds, each with a frame at least.

        `frames` (T, H, W, 3) and `mfcc` (M, n_mfcc) are those of the recording from its beginning,
        None without sound. `report` is told how many more frames are done.
        """


def model_version(path: Path) -> str:
    """The first 16 hex digits of a checkpoint file's SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:VERSION_DIGITS]


def plan_clips(
    prepared: PreparedSet,
    version: str,
    *,
    clip_seconds: float = CLIP_SECONDS,
    hop_seconds: float = HOP_SECONDS,
    name_of: Callable[[Recording], str] = lambda recording: recording.name,
) -> Iterator[EmbeddedClip]:
    """The clips of all recordings, recording by recording, their vectors yet to be made.

    All of a recording is cut, labelled or not. A clip has the label of the span that its middle
    lies in, None where nothing is said of that.
    """
    for recording, key in sorted(prepared.keys.items()):
        name = storable(name_of(recording))
        for start, end in cut_spans(prepared.seconds(recording), clip_seconds, hop_seconds):
            yield EmbeddedClip(
                clip_id(name, key, start, end, version),
                name,
                key,
                start,
                end,
                _label_at(recording, (start + end) / 2),
                storable(recording.group),
                version,
                NO_VECTOR,
            )


def embed_clips(
    embedder: Embedder,
    features: FeatureStore,
    planned: Iterable[EmbeddedClip],
    *,
    report: Callable[[int], None] = lambda frames: None,
) -> Iterator[EmbeddedClip]:
    """The same clips with their vectors; those of one recording must follow each other."""
    for key, clips in groupby(planned, key=lambda clip: clip.recording_key):
        clips = list(clips)
        spans = [(clip.start_seconds, clip.end_seconds) for clip in clips]
        arrays = features.get(key, "frames"), features.get(key, "mfcc")
        vectors = embedder.embed(*arrays, spans, report=report)
        for clip, vector in zip(clips, vectors, strict=True):
            yield replace(clip, vector=vector)


def store_clips(
    store: ClipStore,
    embedder: Embedder,
    features: FeatureStore,
    planned: Iterable[EmbeddedClip],
    *,
    report: Callable[[int], None] = lambda frames: None,
) -> Changes:
    """Brings what a store holds of some recordings, by this model, to the clips that are planned.

    Recordings whose clips are all there are not embedded again; where only a label or group is
    another, that is all that is written. What else is there of them goes. Each recording is put in
    one piece: whatever ends this, calling it again goes on from there. `report` is told how many
    more frames are done.
    """
    changes = Changes()
    for recording, clips in groupby(planned, key=lambda clip: clip.recording):
        clips = {clip.id: clip for clip in clips}
        known = store.digests(recording=recording, model_version=embedder.version)
        missing = [clip for id, clip in clips.items() if id not in known]
        changed = [
            id for id, clip in clips.items() if id in known and not clip.same_values(known[id])
        ]
        odd = [id for id in known if id not in clips]
        if missing:
            store.put(embed_clips(embedder, features, missing, report=report))
        else:
            report(features.num_rows(next(iter(clips.values())).recording_key, "frames"))
        if changed:
            found = store.get_many(changed)
            store.put(replace(clips[id], vector=found[id].vector) for id in changed)
        if odd:
            store.delete(ids=odd)
        kept = len(clips) - len(missing) - len(changed)
        changes += Changes(len(missing), len(changed), kept, len(odd))
    return changes


def _label_at(recording: Recording, seconds: float) -> str | None:
    for span in recording.spans:
        if span.start_seconds <= seconds < span.end_seconds:
            return span.label
    return None
