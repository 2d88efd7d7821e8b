"""Holdings: recordings of a source with their features, whether anybody labelled them or not."""

import contextlib
import json
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from search.clip_store import ClipStore
from search.embeddings import Changes, plan_clips, store_clips
from search.model import SearchModel
from search.names import place_of, storable
from utils.errors import UserError
from utils.features import FeatureSpec
from utils.labels import Span
from utils.preparation import CONTENT_HASHES, prepare_recordings
from utils.prepared_set import PreparedSet, open_feature_store
from utils.progress import Progress
from utils.recordings import (
    VIDEO_SUFFIXES,
    DataError,
    Recording,
    find_recordings,
    find_videos,
    is_video,
)
from utils.sources import Source
from utils.upkeep import read_spec

HASH_DIGITS = 32  # of a file's content


@dataclass(frozen=True)
class Holdings:
    """Recordings named by where they are to be found again, and those that can't be read."""

    prepared: PreparedSet
    rejected: tuple[tuple[str, str], ...]  # name, reason
    prefix: str  # of all names; what has it and is not here any more is gone

    @property
    def num_frames(self) -> int:
        return sum(
            self.prepared.store.num_rows(key, "frames") for key in self.prepared.keys.values()
        )


def prepare_holdings(
    source: Source,
    spec: FeatureSpec,
    cache_dir: Path,
    *,
    classes: Collection[str] = (),
    workers: int = 0,
    say: Callable[[str], None],
    watch: Callable[[Progress], None] | None = None,
) -> Holdings:
    """All videos of a source, decoded where that was not done before.

    They have the labels of a data folder, those of `classes` where there are any; where it is no
    data folder none has a label. `watch` takes the place of the bar, as `prepare_recordings` says.
    Raises DataError where there is no video.
    """
    videos = find_videos(source)
    if not videos:
        raise DataError(
            f"{source.name} has no video ({' '.join(VIDEO_SUFFIXES)}): name a folder with some"
        )
    labelled = _labelled(lambda: source, say)
    # In one group and of no class: copies are kept, and any number may be unreadable.
    plain = {replace(video, group=""): video for video in videos}
    # Standard output is the answer's; a page has none, and threads that share it.
    quiet = contextlib.redirect_stdout(sys.stderr) if watch is None else contextlib.nullcontext()
    with quiet:
        prepared = prepare_recordings(
            list(plain), source, spec, cache_dir, workers=workers, max_rejected=1.0, watch=watch
        )
    prefix = f"{place_of(source.name, source.is_remote)}/"
    keys = {}
    for recording, key in prepared.keys.items():
        named = labelled.get(recording.name, plain[recording])
        keys[replace(named, name=prefix + named.name, spans=_known(named.spans, classes))] = key
    rejected = tuple((prefix + item.recording.name, item.reason) for item in prepared.rejected)
    return Holdings(replace(prepared, keys=keys), rejected, prefix)


def is_feature_store(folder: Path) -> bool:
    return read_spec(folder) is not None


def read_holdings(
    folder: Path,
    spec: FeatureSpec,
    *,
    classes: Collection[str] = (),
    open_place: Callable[[str], Source],
    say: Callable[[str], None],
) -> Holdings:
    """All recordings of a feature store, `<cache>/features/<id>`; reads no recording.

    Their names are those they have in the places where they were read, by `open_place`, and so are
    their labels. Where they are not there any more, it is a name from before, and the folder in it
    is the label if it is one of `classes`; without any name it is the key. Raises UserError where
    the features are of another kind.
    """
    folder = Path(folder).resolve()
    cache_dir = folder.parent.parent
    store = open_feature_store(cache_dir, spec)
    if store.folder.resolve() != folder:
        raise UserError(
            f"{folder} holds features of another kind than the model is fed with ({spec.id}): "
            "name the folder of the recordings, or the --checkpoint that goes with it"
        )
    seen = _names_by_hash(cache_dir / CONTENT_HASHES)
    places = sorted({place for names in seen.values() for place, _ in names})
    labelled = {place: _labelled(partial(open_place, place), say) for place in places}
    keys = {}
    for key in store:
        names = seen.get(key[:HASH_DIGITS], [("", key)])
        still_there = ((place, name) for place, name in names if name in labelled.get(place, ()))
        place, name = next(still_there, names[-1])
        label = PurePosixPath(name).parts[0]
        spans = (Span(0.0, float("inf"), label),) if label in classes else ()
        plain = Recording(name, (name,), spans, "/".join(name.split("/")[:2]), False)
        named = labelled.get(place, {}).get(name, plain)
        prefix = f"{place_of(place, '://' in place)}/" if place else ""
        keys[replace(named, name=prefix + name, spans=_known(named.spans, classes))] = key
    if not keys:
        raise DataError(f"{folder} holds no recording: run prepare_data.py first")
    return Holdings(PreparedSet(store, spec, keys, []), (), "")


def embed_holdings(
    store: ClipStore,
    model: SearchModel,
    holdings: Holdings,
    *,
    report: Callable[[int], None] = lambda frames: None,
) -> Changes:
    """Brings the store to what is held now: what is not there any more is deleted.

    `report` is told how many more frames are done; what it raises ends this, and the next call goes
    on with the recordings that are not in the store.
    """
    prepared = holdings.prepared
    planned = list(
        plan_clips(
            prepared,
            model.version,
            clip_seconds=model.clip_seconds,
            hop_seconds=model.hop_seconds,
        )
    )
    names = {clip.recording for clip in planned}
    changes = store_clips(store, model.embedder, prepared.store, planned, report=report)
    for name in store.recordings(model_version=model.version) if holdings.prefix else ():
        if name.startswith(storable(holdings.prefix)) and name not in names:
            deleted = store.delete(recording=name, model_version=model.version)
            changes += Changes(deleted=deleted)
    return changes


def _labelled(open_it: Callable[[], Source], say: Callable[[str], None]) -> dict[str, Recording]:
    """The recordings of a data folder that have a label, by name; none where they can't be had."""
    try:
        return {found.name: found for found in find_recordings(open_it(), say=lambda line: None)}
    except (UserError, OSError) as error:
        say(f"labels are not used: {error}")
        return {}


def _known(spans: tuple[Span, ...], classes: Collection[str]) -> tuple[Span, ...]:
    """Those of `classes`, all where there are none."""
    return tuple(span for span in spans if not classes or span.label in classes)


def _names_by_hash(path: Path) -> dict[str, list[tuple[str, str]]]:
    """(place, name in it) under which each video's content was ever read."""
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    names: dict[str, list[tuple[str, str]]] = {}
    for place, files in known.items():
        for name, (_, digest) in files.items():
            if is_video(name):
                names.setdefault(digest, []).append((place, name))
    return names
