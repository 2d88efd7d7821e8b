"""Holdings: recordings of a source with their features, whether anybody labelled them or not."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from utils.errors import UserError
from utils.features import FeatureSpec
from utils.labels import Span
from utils.preparation import CONTENT_HASHES, prepare_recordings
from utils.prepared_set import PreparedSet, open_feature_store
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


def prepare_holdings(
    source: Source,
    spec: FeatureSpec,
    cache_dir: Path,
    *,
    classes: Collection[str] = (),
    workers: int = 0,
    say: Callable[[str], None],
) -> Holdings:
    """All videos of a source, decoded where that was not done before.

    They have the labels of a data folder, those of `classes` where there are any; where it is no
    data folder none has a label. Raises DataError where there is no video.
    """
    videos = find_videos(source)
    if not videos:
        raise DataError(
            f"{source.name} has no video ({' '.join(VIDEO_SUFFIXES)}): name a folder with some"
        )
    labelled: dict[str, Recording] = {}
    try:
        labelled = {found.name: found for found in find_recordings(source, say=lambda line: None)}
    except UserError as error:
        say(f"labels are not used: {error}")
    # In one group and of no class: copies are kept, and any number may be unreadable.
    plain = {replace(video, group=""): video for video in videos}
    with contextlib.redirect_stdout(sys.stderr):  # standard output is the answer's
        prepared = prepare_recordings(
            list(plain), source, spec, cache_dir, workers=workers, max_rejected=1.0
        )
    prefix = f"{place_of(source.name, source.is_remote)}/"
    keys = {}
    for recording, key in prepared.keys.items():
        named = labelled.get(recording.name, plain[recording])
        spans = tuple(span for span in named.spans if not classes or span.label in classes)
        keys[replace(named, name=prefix + named.name, spans=spans)] = key
    rejected = tuple((prefix + item.recording.name, item.reason) for item in prepared.rejected)
    return Holdings(replace(prepared, keys=keys), rejected, prefix)


def is_feature_store(folder: Path) -> bool:
    return read_spec(folder) is not None


def read_holdings(folder: Path, spec: FeatureSpec, *, classes: Collection[str] = ()) -> Holdings:
    """All recordings of a feature store, `<cache>/features/<id>`; reads no recording.

    Their names are those they were last seen under, or else their keys; the folder they lie in is
    the label where it is one of `classes`. Raises UserError where the features are of another kind.
    """
    folder = Path(folder).resolve()
    cache_dir = folder.parent.parent
    store = open_feature_store(cache_dir, spec)
    if store.folder.resolve() != folder:
        raise UserError(
            f"{folder} holds features of another kind than the model is fed with ({spec.id}): "
            "name the folder of the recordings, or the --checkpoint that goes with it"
        )
    names = _names_by_hash(cache_dir / CONTENT_HASHES)
    keys = {}
    for key in store:
        place, name = names.get(key[:HASH_DIGITS], ("", key))
        label = PurePosixPath(name).parts[0]
        spans = (Span(0.0, float("inf"), label),) if label in classes else ()
        group = "/".join(name.split("/")[:2])
        keys[Recording(f"{place}{name}", (name,), spans, group, False)] = key
    if not keys:
        raise DataError(f"{folder} holds no recording: run prepare_data.py first")
    return Holdings(PreparedSet(store, spec, keys, []), (), "")


def place_of(text: str, is_remote: bool = False) -> str:
    """The same name for the same folder or file, however it was written."""
    if is_remote:
        return text.rstrip("/")
    path = os.path.abspath(text)
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _names_by_hash(path: Path) -> dict[str, tuple[str, str]]:
    """(place, name in it) of each video whose content was read; what was seen last counts."""
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return {
        digest: (f"{place_of(place, '://' in place)}/", name)
        for place, files in known.items()
        for name, (_, digest) in files.items()
        if is_video(name)
    }
