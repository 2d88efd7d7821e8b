"""Upkeep: what the stores of a cache folder hold, whether it is sound, and what can go."""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.feature_store import FeatureStore
from utils.features import FeatureSpec
from utils.incoming import INCOMING
from utils.preparation import content_hashes, known_outcome
from utils.prepared_set import SPEC, open_feature_store, store_columns
from utils.recordings import Recording
from utils.rejects import Rejects
from utils.sources import Source


@dataclass(frozen=True)
class StoreStatus:
    """One folder below `cache_dir/features`; the counts are None where its spec is unreadable."""

    folder: Path
    spec: FeatureSpec | None
    recordings: int | None
    seconds: float | None
    rejected: int
    size_bytes: int


@dataclass(frozen=True)
class SourceStatus:
    """The recordings of a source, by what became of them under one FeatureSpec."""

    prepared: dict[Recording, str]  # with their keys
    rejected: dict[Recording, str]  # with the reasons
    pending: list[Recording]
    unknown: int  # of the pending, those whose content is not known yet


@dataclass(frozen=True)
class PrunePlan:
    """What no recording of a source needs."""

    store: FeatureStore
    keys: list[str]  # recordings of the store
    store_bytes: int  # of them, and of rows that nothing owns
    others: list[StoreStatus]  # stores of other FeatureSpecs
    incoming_bytes: int  # left by a preparation that was stopped

    @property
    def size_bytes(self) -> int:
        return self.store_bytes + self.incoming_bytes + sum(s.size_bytes for s in self.others)


def store_statuses(cache_dir: str | Path) -> list[StoreStatus]:
    """All stores of features, by name."""
    folders = sorted(path for path in Path(cache_dir, "features").glob("*") if path.is_dir())
    return [_status_of(folder) for folder in folders]


def source_status(
    recordings: list[Recording], source: Source, spec: FeatureSpec, cache_dir: str | Path
) -> SourceStatus:
    """What became of each recording; reads no recording."""
    hashes = content_hashes(cache_dir, source)
    store = open_feature_store(cache_dir, spec)
    rejects = Rejects(store.folder)
    status = SourceStatus({}, {}, [], 0)
    unknown = 0
    for recording in recordings:
        outcome = known_outcome(recording, source, hashes, store, rejects)
        if outcome is None:
            status.pending.append(recording)
            unknown += None in hashes.find(recording.files, hashes.stamps(recording.files))
        elif outcome.reason:
            status.rejected[recording] = outcome.reason
        else:
            status.prepared[recording] = outcome.key
    return SourceStatus(status.prepared, status.rejected, status.pending, unknown)


def damaged_recordings(store: FeatureStore) -> Iterator[tuple[str, str | None, int]]:
    """Each key of a store with what is wrong with its bytes or None, and the number of bytes."""
    for key, reason in store.damaged(store):
        yield key, reason, store.size_bytes(key)


def plan_prune(
    recordings: Iterable[Recording],
    source: Source,
    spec: FeatureSpec,
    cache_dir: str | Path,
) -> PrunePlan:
    """What `prune` would remove. All contents of the source must be known (`SourceStatus.unknown`):
    a file that was only renamed is still needed."""
    store = open_feature_store(cache_dir, spec)
    wanted = _wanted_keys(recordings, source, cache_dir)
    keys = [key for key in store if key not in wanted]
    incoming = store.folder / INCOMING
    return PrunePlan(
        store,
        keys,
        store.unused_bytes() + sum(map(store.size_bytes, keys)),
        [status for status in store_statuses(cache_dir) if status.folder != store.folder],
        _size_of(incoming),
    )


def prune(
    plan: PrunePlan, recordings: list[Recording], source: Source, cache_dir: str | Path
) -> None:
    """Removes what the plan names. Raises StoreError for a store that is being written."""
    for status in plan.others:
        with FeatureStore(status.folder, {}).all_locked():
            shutil.rmtree(status.folder)
    if plan.store.folder.exists():
        with plan.store.all_locked():
            shutil.rmtree(plan.store.folder / INCOMING, ignore_errors=True)
        plan.store.forget(plan.keys)
        plan.store.compact()
        Rejects(plan.store.folder).keep(_wanted_keys(recordings, source, cache_dir))
    names = [name for recording in recordings for name in recording.files]
    content_hashes(cache_dir, source).forget_others(names)


def read_spec(folder: Path) -> FeatureSpec | None:
    """The FeatureSpec that a store says it is of."""
    try:
        return FeatureSpec.from_dict(json.loads((folder / SPEC).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _status_of(folder: Path) -> StoreStatus:
    spec = read_spec(folder)
    rejected, size_bytes = len(Rejects(folder)), _size_of(folder)
    if spec is None:
        return StoreStatus(folder, None, None, None, rejected, size_bytes)
    store = FeatureStore(folder, store_columns(spec))
    seconds = sum(store.num_rows(key, "frames") for key in store) / spec.fps
    return StoreStatus(folder, spec, len(store), seconds, rejected, size_bytes)


def _wanted_keys(
    recordings: Iterable[Recording], source: Source, cache_dir: str | Path
) -> set[str]:
    hashes = content_hashes(cache_dir, source)
    keys = set()
    for recording in recordings:
        try:
            digests = hashes.find(recording.files, hashes.stamps(recording.files))
        except FileNotFoundError:
            continue
        if None not in digests:
            keys.add("".join(digests))
    return keys


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
