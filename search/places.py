"""Places: the stretches of recordings that are most like what was asked for."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from search.clip_store import ClipStore, EmbeddedClip
from search.vector_index import Hit, VectorIndex

FIRST_HITS = 8  # clips asked for, for each wanted place: of one place several are alike
BETTER_PART = 0.5  # of the question's clips must be alike: an airing may be cut to half its length


@dataclass(frozen=True)
class Place:
    """A stretch of a recording, and how alike it is: a cosine where it is `similar`, and where the
    picture or the sound is the same, the part of the fingerprints' bits that agree."""

    recording: str
    recording_key: str
    start_seconds: float
    end_seconds: float
    label: str | None
    score: float
    by: str = "similar"  # or "picture", "sound"


def find_places(
    index: VectorIndex,
    store: ClipStore,
    vectors: np.ndarray,
    spans: Sequence[tuple[float, float]],
    k: int,
    *,
    label: str | None = None,
    without: Collection[str] = (),
) -> list[Place]:
    """The `k` places most like a question of (Q, D) vectors, whose clips lie at `spans` in it.

    Ten answers are ten places: clips that overlap are one, and places do not overlap. A place is as
    alike as the better half of the question's clips are to it, so that neither a black end nor a
    spot that was cut short hides it. `without` are ids of clips that are no answer.
    """
    among = None
    if label is not None:
        among = store.digests(label=label, model_version=index.model_version).keys()
    without = set(without)
    most = len(index) if among is None else len(among)
    num_hits = min(most, FIRST_HITS * k)
    while True:
        # Left out afterwards, as they are few: to name all others takes longer than to search.
        rows = index.query(vectors, num_hits + len(without), among=among)
        hits = [[hit for hit in row if hit.id not in without][:num_hits] for row in rows]
        found = _gather(hits, store, spans)
        if len(found) >= k or num_hits >= most:
            break
        num_hits = min(most, 4 * num_hits)
    # A clip of the question that found nothing there is at most as alike as its last hit.
    floors = [row[-1].similarity if row else 0.0 for row in hits]
    places = [one.place(floors) for one in found]
    return sorted(places, key=lambda p: (-p.score, p.recording, p.start_seconds))[:k]


@dataclass
class _Found:
    """A place in the making: clips that lie in a recording as the question's lie in it."""

    best: EmbeddedClip
    zero_seconds: float  # where the question would begin, by the best clip
    start_seconds: float
    end_seconds: float
    similarities: dict[int, float] = field(default_factory=dict)  # by clip of the question

    def overlaps(self, start_seconds: float, end_seconds: float) -> bool:
        return start_seconds < self.end_seconds and self.start_seconds < end_seconds

    def goes_on_with(self, clip: EmbeddedClip, zero_seconds: float) -> bool:
        """Whether the clip lies where the question goes on, give or take a clip's length."""
        return abs(zero_seconds - self.zero_seconds) < clip.end_seconds - clip.start_seconds

    def take(self, clip: EmbeddedClip, number: int, similarity: float) -> None:
        if number not in self.similarities:
            self.similarities[number] = similarity
            self.start_seconds, self.end_seconds = self.with_clip(clip)

    def with_clip(self, clip: EmbeddedClip) -> tuple[float, float]:
        """Start and end in seconds, had it the clip."""
        start = min(self.start_seconds, clip.start_seconds)
        return start, max(self.end_seconds, clip.end_seconds)

    def place(self, floors: Sequence[float]) -> Place:
        all_clips = [self.similarities.get(number, floor) for number, floor in enumerate(floors)]
        better = sorted(all_clips, reverse=True)[: math.ceil(BETTER_PART * len(all_clips))]
        clip = self.best
        return Place(
            clip.recording,
            clip.recording_key,
            self.start_seconds,
            self.end_seconds,
            clip.label,
            float(np.mean(better)),
        )


def _gather(
    hits: list[list[Hit]], store: ClipStore, spans: Sequence[tuple[float, float]]
) -> list[_Found]:
    """The places of all hits, that of the most similar clip first."""
    clips = store.get_many({hit.id for row in hits for hit in row})
    ranked = sorted(
        (-hit.similarity, hit.id, number)
        for number, row in enumerate(hits)
        for hit in row
        if hit.id in clips  # else it was deleted this moment
    )
    places: list[_Found] = []
    by_recording: dict[str, list[_Found]] = {}
    for distance, id, number in ranked:
        clip = clips[id]
        zero = clip.start_seconds - spans[number][0]
        there = by_recording.setdefault(clip.recording, [])
        fits = next((place for place in there if place.goes_on_with(clip, zero)), None)
        span = fits.with_clip(clip) if fits else (clip.start_seconds, clip.end_seconds)
        if any(place.overlaps(*span) for place in there if place is not fits):
            continue
        if fits is None:
            fits = _Found(clip, zero, *span)
            there.append(fits)
            places.append(fits)
        fits.take(clip, number, -distance)
    return places
