"""Finder: the recordings of a clip store as one model sees them, and what is alike in them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from search.airings import Airing, find_airings, group_spots, keep_sounds, sharpen
from search.clip_store import ClipStore, EmbeddedClip
from search.model import SearchModel
from search.places import Place, find_places
from search.stretch import Stretch, stored_stretch
from search.vector_index import VectorIndex, open_index
from utils.duplicates import find_duplicates
from utils.errors import UserError
from utils.feature_store import FeatureStore
from utils.features import FeatureSpec
from utils.prepared_set import open_feature_store

SEARCH = "search"  # folder in the cache: an index for each model, and what repeats
THUMBNAIL_HEIGHT, NUM_THUMBNAILS = 96, 4  # pixels, pictures


@dataclass(frozen=True)
class Answer:
    """Where the same ran, in the order of recordings and times, and what is similar, best first."""

    same: tuple[Place, ...]
    similar: tuple[Place, ...]


@dataclass(frozen=True)
class Runs:
    """A spot, and all places where it ran."""

    seconds: float
    label: str | None
    places: tuple[Place, ...]


class Finder:
    """Answers with places; `features` are those on this machine, which hold the fingerprints.

    In `cache_dir` is kept what is found out about recordings on the way.
    """

    def __init__(
        self,
        store: ClipStore,
        index: VectorIndex,
        features: FeatureStore,
        spec: FeatureSpec,
        cache_dir: Path,
    ):
        self._cache_dir = cache_dir
        self._store = store
        self._index = index
        self._features = features
        self._spec = spec
        self._keys = store.recordings(model_version=index.model_version)  # by name
        names: dict[str, list[str]] = {}
        for name, key in self._keys.items():
            names.setdefault(key, []).append(name)
        self._names = names  # by key
        self._clips: dict[str, list[EmbeddedClip]] = {}  # by recording

    @classmethod
    def open(cls, store: ClipStore, model: SearchModel, cache_dir: Path) -> "Finder":
        """Of the clips of a model, as the store is now. Raises UserError where it holds none."""
        version, spec = model.version, model.spec
        index = open_index(store, index_folder(cache_dir, version), model_version=version)
        if not len(index):
            others = ", ".join(store.models()) or "none"
            raise UserError(
                f"{store.name} has no clip of model {version} (of others: {others}): "
                "python search_clips.py index FOLDER first, or pass the --checkpoint of one of "
                "those"
            )
        return cls(store, index, open_feature_store(cache_dir, spec), spec, cache_dir / SEARCH)

    @property
    def index_note(self) -> str:
        """Why the index is not of the kind that was asked for; "" as a rule."""
        return self._index.note

    def key_of(self, recording: str) -> str | None:
        """Of a recording's content, where it is indexed and its features are here."""
        key = self._keys.get(recording)
        return key if key in self._features else None

    @property
    def keys(self) -> list[str]:
        """Of the recordings whose features are here."""
        return [key for key in self._names if key in self._features]

    @property
    def num_without_features(self) -> int:
        """Recordings that only similar clips can be looked for in."""
        return sum(len(names) for key, names in self._names.items() if key not in self._features)

    def answer(
        self,
        model: SearchModel,
        asked: Stretch,
        name: str,
        k: int,
        *,
        label: str | None = None,
        same: bool = True,
        report: Callable[[int], None] = lambda recordings: None,
    ) -> Answer:
        """What is like a stretch of the recording `name`, which is no answer itself.

        Where the `same` is wanted, what is only similar lies elsewhere.
        """
        spans = asked.spans(model.clip_seconds, model.hop_seconds)
        vectors = model.embedder.embed(asked.frames, asked.mfcc, spans)
        itself = name, asked.start_seconds, asked.end_seconds
        found = self.same(asked, label=label, report=report) if same else []
        places = tuple(place for place in found if not _overlap(place, itself))
        elsewhere = [itself, *((p.recording, p.start_seconds, p.end_seconds) for p in places)]
        similar = self.similar(vectors, spans, k, label=label, elsewhere=elsewhere)
        return Answer(places, tuple(similar))

    def stretch(self, key: str, start_seconds: float, end_seconds: float) -> Stretch:
        """A stretch of a recording whose features are here: nothing is decoded."""
        return stored_stretch(self._features, key, self._spec, start_seconds, end_seconds)

    def similar(
        self,
        vectors: np.ndarray,
        spans: Sequence[tuple[float, float]],
        k: int,
        *,
        label: str | None = None,
        elsewhere: Iterable[tuple[str, float, float]] = (),
    ) -> list[Place]:
        """The `k` places most like a question, as `find_places` says.

        None overlaps a stretch of a recording that is in `elsewhere`.
        """
        without = {id for stretch in elsewhere for id in self._clips_in(*stretch)}
        return find_places(
            self._index, self._store, vectors, spans, k, label=label, without=without
        )

    def same(
        self,
        asked: Stretch,
        *,
        label: str | None = None,
        report: Callable[[int], None] = lambda recordings: None,
    ) -> list[Place]:
        """Where the same spot ran, by its fingerprints, in the order of recordings and times."""
        airings = find_airings(
            asked.frames,
            asked.mfcc,
            self._features,
            self._spec,
            self.keys,
            kept_in=self._sounds,
            report=report,
        )
        places = [place for airing in airings for place in self._places(airing)]
        return list(_in_order(p for p in places if label in (None, p.label)))

    def make_ready(self, *, report: Callable[[int], None] = lambda recordings: None) -> None:
        """Makes what the first question for the `same` would make, a third of a second an hour."""
        keep_sounds(self._features, self.keys, self._sounds, report=report)

    def spots(self, *, label: str | None = None) -> list[Runs]:
        """All that ran more than once, the most often run first."""
        self._cache_dir.mkdir(parents=True, exist_ok=True)
        found = find_duplicates(self._features, self._spec, self.keys, self._cache_dir)
        runs = []
        repeats = sharpen(found.repeats, self._features, self._spec, kept_in=self._sounds)
        for spot in group_spots(repeats):
            places = [place for airing in spot.airings for place in self._places(airing)]
            labels = [place.label for place in places if place.label is not None]
            said = max(sorted(set(labels)), key=labels.count) if labels else None
            if label in (None, said):
                runs.append(Runs(spot.seconds, said, _in_order(places)))
        return runs

    def thumbnails(self, key: str, start_seconds: float, end_seconds: float) -> np.ndarray:
        """(n, h, w, 3) uint8 RGB: a few frames of a stretch; none where there are no features."""
        if key not in self._features:
            return np.zeros((0, THUMBNAIL_HEIGHT, 1, 3), np.uint8)
        frames = self._features.get(key, "frames")
        frames = frames[self._spec.frame_span(start_seconds, end_seconds)]
        return small_pictures(frames, self._features.info(key)["aspect_ratio"])

    @property
    def _sounds(self) -> Path:
        return self._cache_dir / f"sounds-{self._spec.id}"

    def _places(self, airing: Airing) -> list[Place]:
        """An airing in each recording of that content."""
        span = airing.start_seconds, airing.end_seconds
        return [
            Place(name, airing.key, *span, label, airing.likeness, airing.by)
            for name in self._names[airing.key]
            for label in [self._label_at(name, sum(span) / 2)]
        ]

    def _label_at(self, recording: str, seconds: float) -> str | None:
        """That of the clip whose middle is nearest."""
        clips = self._clips_of(recording)
        return min(clips, key=lambda c: abs(c.start_seconds + c.end_seconds - 2 * seconds)).label

    def _clips_in(self, recording: str, start_seconds: float, end_seconds: float) -> list[str]:
        return [
            clip.id
            for clip in self._clips_of(recording)
            if clip.start_seconds < end_seconds and start_seconds < clip.end_seconds
        ]

    def _clips_of(self, recording: str) -> list[EmbeddedClip]:
        """Without their vectors."""
        if recording not in self._clips:
            version = self._index.model_version
            found = self._store.find(recording=recording, model_version=version, vectors=False)
            self._clips[recording] = list(found)
        return self._clips[recording]


def index_folder(cache_dir: Path, version: str) -> Path:
    """Where the index of a model lies."""
    return Path(cache_dir, SEARCH, version)


def small_pictures(frames: np.ndarray, aspect_ratio: float) -> np.ndarray:
    """(n, h, w, 3) uint8 RGB: a few of (T, H, W, 3) frames, in the proportions of the picture."""
    width = max(1, round(THUMBNAIL_HEIGHT * aspect_ratio))
    if len(frames) == 0:
        return np.zeros((0, THUMBNAIL_HEIGHT, width, 3), np.uint8)
    rows = np.unique(np.linspace(0, len(frames) - 1, NUM_THUMBNAILS).round().astype(int))
    size = (width, THUMBNAIL_HEIGHT)
    return np.stack([np.asarray(Image.fromarray(frames[row]).resize(size)) for row in rows])


def _overlap(place: Place, stretch: tuple[str, float, float]) -> bool:
    recording, start, end = stretch
    return place.recording == recording and place.start_seconds < end and start < place.end_seconds


def _in_order(places: Iterable[Place]) -> tuple[Place, ...]:
    return tuple(sorted(places, key=lambda place: (place.recording, place.start_seconds)))
