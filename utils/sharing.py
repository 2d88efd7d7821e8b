"""Sharing: one prepared store that several machines fill, by way of a place they all reach."""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from utils.content_hashes import ContentHashes
from utils.errors import UserError
from utils.feature_store import FeatureStore
from utils.features import FeatureSpec
from utils.preparation import content_hashes, prepare_recordings
from utils.prepared_set import SPEC, PreparedSet, open_feature_store
from utils.recordings import Recording
from utils.rejects import MEMORY, Rejects
from utils.sources import Source

FINGERPRINTS = "fingerprints.json"
PUT_SECONDS = 600  # work of so many seconds is lost with the machine


class SharedStores(Protocol):
    """Stores at a place that all machines reach, by the names of their folders."""

    name: str

    def get(self, folder: Path) -> None:
        """Brings a folder here in step."""

    def put(self, folder: Path, names: Sequence[str]) -> None:
        """Brings the store there in step with these files."""

    def update(self, name: str, change: Callable[[dict], dict]) -> dict:
        """Replaces a JSON object by `change(it)` and returns that; nobody's change is lost."""


def prepare_shared(
    recordings: list[Recording],
    source: Source,
    spec: FeatureSpec,
    cache_dir: str | Path,
    *,
    shared: SharedStores,
    retry_rejected: bool = False,
    **options,
) -> PreparedSet:
    """What `prepare_recordings` returns, where others may have prepared a part and may go on.

    What they did is got first, so that nothing is fetched or decoded twice; what is prepared here
    is put there every PUT_SECONDS and at the end.
    """
    sharing = _Sharing(recordings, source, spec, cache_dir, shared)
    sharing.get(with_rejects=not retry_rejected)

    def prepare() -> PreparedSet:
        return prepare_recordings(
            recordings,
            source,
            spec,
            cache_dir,
            retry_rejected=retry_rejected,
            after_each=sharing.put_now_and_then,
            **options,
        )

    try:
        prepared = prepare()
    except (UserError, KeyboardInterrupt):
        # Too many recordings are bad, or it is stopped, as where a spot instance is taken back:
        # what is done is worth keeping.
        sharing.put(retry_rejected)
        raise
    sharing.put(retry_rejected)
    return prepared


class _Sharing:
    """The store of one FeatureSpec, and what is known of the files it was made from."""

    def __init__(
        self,
        recordings: Iterable[Recording],
        source: Source,
        spec: FeatureSpec,
        cache_dir: str | Path,
        shared: SharedStores,
    ):
        self._files = [name for recording in recordings for name in recording.files]
        self._source = source
        self._spec = spec
        self._cache_dir = cache_dir
        self._shared = shared
        self._put_at = time.monotonic()

    def get(self, *, with_rejects: bool) -> None:
        store = self._store()
        with store.all_locked():
            self._shared.get(store.folder)
        if self._source.is_remote:  # elsewhere, "data" is another folder
            hashes = self._hashes()
            theirs = self._shared.update(FINGERPRINTS, dict).get(self._source.name, {})
            for name, (stamp, digest) in self._current(theirs).items():
                hashes.learn(name, stamp, digest)
            hashes.save()
        if with_rejects:
            Rejects(store.folder).learn(self._shared.update(self._memory(store), dict))

    def put_now_and_then(self) -> None:
        """Call it when nobody writes the store: this process, which could, does not."""
        if time.monotonic() - self._put_at > PUT_SECONDS:
            self._put_store(self._store())
            self._put_memories(self._store(), forget_rejects=False)
            self._put_at = time.monotonic()

    def put(self, forget_rejects: bool) -> None:
        """`forget_rejects`: those that are not rejected here, where all were tried again."""
        store = self._store()
        with store.all_locked():
            self._put_store(store)
        self._put_memories(store, forget_rejects=forget_rejects)

    def _put_store(self, store: FeatureStore) -> None:
        names = store.files()
        if names:
            self._shared.put(store.folder, [SPEC, *names])

    def _put_memories(self, store: FeatureStore, *, forget_rejects: bool) -> None:
        reasons = Rejects(store.folder).reasons()
        self._shared.update(
            self._memory(store), lambda theirs: reasons if forget_rejects else {**theirs, **reasons}
        )
        if self._source.is_remote:
            mine = self._current(self._hashes().known())
            place = self._source.name
            self._shared.update(
                FINGERPRINTS, lambda theirs: {**theirs, place: {**theirs.get(place, {}), **mine}}
            )

    def _current(self, known: dict[str, list]) -> dict[str, list]:
        """What is known of the files as they are now, `[stamp, hash]` by name."""
        current = {}
        for name in self._files:
            with contextlib.suppress(FileNotFoundError):
                if name in known and known[name][0] == self._source.stamp(name):
                    current[name] = known[name]
        return current

    def _store(self) -> FeatureStore:
        return open_feature_store(self._cache_dir, self._spec)

    def _hashes(self) -> ContentHashes:
        return content_hashes(self._cache_dir, self._source)

    def _memory(self, store: FeatureStore) -> str:
        return f"{store.folder.name}/{MEMORY}"
