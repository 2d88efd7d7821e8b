"""Clip store: embedded clips by id, in SQLite by default, in MongoDB where a URL says so."""

import hashlib
import json
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from utils.errors import UserError

FILE = "clips.sqlite"
MONGODB_SCHEMES = ("mongodb://", "mongodb+srv://")
ID_DIGITS = 32  # hex digits
VALUES_DIGITS = 16


class ClipStoreError(UserError):
    """The store can't be reached, read or written; the message has the cure, and no password."""


@dataclass(frozen=True, eq=False)
class EmbeddedClip:
    """The span [start_seconds, end_seconds) of a recording, and the vector a model makes of it."""

    id: str  # `clip_id`
    recording: str  # where it is to be found again: a path, or the name in its source
    recording_key: str  # its content, as the feature store knows it
    start_seconds: float
    end_seconds: float
    label: str | None  # None where nobody said
    group: str
    model_version: str
    vector: np.ndarray  # (D,) float32

    @cached_property
    def digest(self) -> str:
        """24 hex digits: of all that is known without the vector, then its CRC-32."""
        return f"{self._values_digest}{zlib.crc32(vector_bytes(self.vector)):08x}"

    def same_values(self, digest: str) -> bool:
        """Whether a stored clip's digest says that all but the vector is the same."""
        return digest.startswith(self._values_digest)

    @property
    def _values_digest(self) -> str:
        values = (self.recording, self.recording_key, self.start_seconds, self.end_seconds)
        return _hash((*values, self.label, self.group, self.model_version))[:VALUES_DIGITS]


def clip_id(
    recording: str,
    recording_key: str,
    start_seconds: float,
    end_seconds: float,
    model_version: str,
) -> str:
    """32 hex digits that are the same for the same span, content and model: putting it again
    replaces it."""
    values = (recording, recording_key, float(start_seconds), float(end_seconds), model_version)
    return _hash(values)[:ID_DIGITS]


def vector_bytes(vector: np.ndarray) -> bytes:
    """Little-endian float32, on every machine."""
    return np.ascontiguousarray(vector, "<f4").tobytes()


class ClipStore(ABC):
    """Embedded clips by id.

    Filters (`label`, `recording`, `model_version`) are joined by "and"; None lets everything
    through. All methods raise ClipStoreError where the store is gone, damaged, or not one of ours.
    """

    name: str  # for messages: no password in it

    @abstractmethod
    def put(self, clips: Iterable[EmbeddedClip]) -> int:
        """How many were written; one with the same id is replaced.

        Whatever ends this, each clip is there whole or not at all, and putting it again is safe.
        """

    @abstractmethod
    def get_many(self, ids: Iterable[str]) -> dict[str, EmbeddedClip]:
        """Those of the clips that are there, by id."""

    @abstractmethod
    def find(
        self,
        *,
        label: str | None = None,
        recording: str | None = None,
        model_version: str | None = None,
        vectors: bool = True,
    ) -> Iterator[EmbeddedClip]:
        """The clips that fit, sorted by id, with empty vectors if those are not wanted.

        The store is not to be changed meanwhile.
        """

    @abstractmethod
    def digests(
        self,
        *,
        label: str | None = None,
        recording: str | None = None,
        model_version: str | None = None,
    ) -> dict[str, str]:
        """The digests of the clips that fit by id, sorted by id; reads no vector."""

    @abstractmethod
    def recordings(self, *, model_version: str | None = None) -> dict[str, str]:
        """The keys of all recordings that have clips, by name, sorted."""

    @abstractmethod
    def models(self) -> dict[str, int]:
        """How many clips there are of each model version, sorted."""

    @abstractmethod
    def delete(
        self,
        *,
        ids: Sequence[str] | None = None,
        label: str | None = None,
        recording: str | None = None,
        model_version: str | None = None,
    ) -> int:
        """How many clips were deleted: those that fit, of `ids` where given.

        Raises ValueError without any filter.
        """

    @abstractmethod
    def close(self) -> None: ...

    def get(self, id: str) -> EmbeddedClip | None:
        return self.get_many([id]).get(id)

    def count(
        self,
        *,
        label: str | None = None,
        recording: str | None = None,
        model_version: str | None = None,
    ) -> int:
        return len(self.digests(label=label, recording=recording, model_version=model_version))

    def state(self, *, model_version: str | None = None) -> str:
        """16 hex digits that are the same for the same clips, wherever and in whatever order they
        were put."""
        return state_of(self.digests(model_version=model_version))

    def __enter__(self) -> "ClipStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def state_of(digests: dict[str, str]) -> str:
    """The state of a store with these digests by id."""
    return _hash(sorted(digests.items()))[:16]


def open_clip_store(url: str | None = None, *, cache_dir: str | Path = "cache") -> ClipStore:
    """The store of a mongodb:// URL or of an SQLite file.

    Without `url`, MONGODB_URL says where, and without that it is `cache_dir/clips.sqlite`.
    MONGODB_USERNAME and MONGODB_PASSWORD go with either URL. Raises ClipStoreError.
    """
    url = url or os.environ.get("MONGODB_URL") or ""
    if url.startswith(MONGODB_SCHEMES):
        from search.mongo_store import MongoClipStore

        return MongoClipStore(
            url,
            username=os.environ.get("MONGODB_USERNAME"),
            password=os.environ.get("MONGODB_PASSWORD"),
        )
    if "://" in url:
        raise ClipStoreError(
            f"a clip store can't be at {url.partition('://')[0]}://...: pass mongodb://host/name, "
            "or the path of an SQLite file"
        )
    from search.sqlite_store import SqliteClipStore

    return SqliteClipStore(Path(url) if url else Path(cache_dir, FILE))


def _hash(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
