"""MongoDB store: embedded clips on a server that several machines share."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
import pymongo
from bson import Binary
from pymongo import errors

from search.clip_store import ClipStore, ClipStoreError, EmbeddedClip, vector_bytes

DATABASE, COLLECTION = "video_search", "clips"  # the database where the URL names none
PAGE_CLIPS, PAGE_DIGESTS = 256, 20_000  # read at a time: 3 MB of vectors
PUT_CLIPS = 256  # written at a time
IDS_AT_ONCE = 1000
ATTEMPTS, FIRST_WAIT_SECONDS = 5, 0.5  # of what a lost connection ended; twice as long each time
# What the URL says of these counts more. A server that is there answers the first in a moment.
OPTIONS = {
    "serverSelectionTimeoutMS": 10_000,
    "connectTimeoutMS": 10_000,
    "socketTimeoutMS": 60_000,
    "w": "majority",
    "appName": "ad-game-classifier",
}
UNAUTHORIZED, WRONG_PASSWORD, DUPLICATE = 13, 18, 11000  # the server's codes
INDEXES = (
    ("model_version", "_id", "digest"),
    ("recording", "model_version", "_id", "digest"),
    ("label", "model_version", "_id", "digest"),
)

T = TypeVar("T")


class MongoClipStore(ClipStore):
    """Clips as documents of one collection, their vectors as little-endian float32 bytes.

    A connection that is lost is made again and the work repeated, which does no harm: clips are
    replaced by their ids. Each clip is there whole or not at all; of one `put`, some may be.
    """

    def __init__(self, url: str, *, username: str | None = None, password: str | None = None):
        host = url.partition("://")[2].rpartition("@")[2]
        self.name = f"MongoDB at {re.split('[/?]', host)[0]}"  # no user, no password
        given = {k: v for k, v in OPTIONS.items() if not re.search(rf"[?&]{k}=", url, re.I)}
        if username:
            given |= {"username": username, "password": password or ""}
        try:
            self._client = pymongo.MongoClient(url, **given)
            self._clips = self._client.get_default_database(DATABASE)[COLLECTION]
        except (errors.PyMongoError, ValueError, TypeError) as error:
            # Without pymongo's words: they may quote a part of the password.
            raise ClipStoreError(
                f"MONGODB_URL is no address of a MongoDB server ({type(error).__name__}): write "
                "mongodb://host:27017/name, user and password in MONGODB_USERNAME and "
                "MONGODB_PASSWORD"
            ) from None
        self._wait_seconds = self._client.options.server_selection_timeout
        try:
            for fields in INDEXES:
                self._tried(lambda keys=[(f, 1) for f in fields]: self._clips.create_index(keys))
        except BaseException:
            self._client.close()
            raise

    def put(self, clips: Iterable[EmbeddedClip]) -> int:
        count, clips = 0, iter(clips)
        while some := list(islice(clips, PUT_CLIPS)):
            writes = [pymongo.ReplaceOne({"_id": c.id}, _document(c), upsert=True) for c in some]
            self._tried(lambda writes=writes: self._clips.bulk_write(writes, ordered=False))
            count += len(some)
        return count

    def get_many(self, ids: Iterable[str]) -> dict[str, EmbeddedClip]:
        ids, found = iter(ids), {}
        while some := list(islice(ids, PAGE_CLIPS)):
            query = {"_id": {"$in": some}}
            documents = self._tried(lambda query=query: list(self._clips.find(query)))
            found.update((document["_id"], _clip(document)) for document in documents)
        return found

    def find(
        self,
        *,
        label: str | None = None,
        recording: str | None = None,
        model_version: str | None = None,
        vectors: bool = True,
    ) -> Iterator[EmbeddedClip]:
        query = _query(label=label, recording=recording, model_version=model_version)
        fields, size = (None, PAGE_CLIPS) if vectors else ({"vector": False}, PAGE_DIGESTS)
        yield from map(_clip, self._pages(query, fields, size))

    def digests(
        self,
        *,
        label: str | None = None,
        recording: str | None = None,
        model_version: str | None = None,
    ) -> dict[str, str]:
        query = _query(label=label, recording=recording, model_version=model_version)
        documents = self._pages(query, {"digest": True}, PAGE_DIGESTS)
        return {document["_id"]: document["digest"] for document in documents}

    def recordings(self, *, model_version: str | None = None) -> dict[str, str]:
        both = {"recording": "$recording", "key": "$recording_key"}
        steps = [{"$match": _query(model_version=model_version)}, {"$group": {"_id": both}}]
        found = self._tried(lambda: list(self._clips.aggregate(steps)))
        return dict(sorted((row["_id"]["recording"], row["_id"]["key"]) for row in found))

    def models(self) -> dict[str, int]:
        steps = [{"$group": {"_id": "$model_version", "clips": {"$sum": 1}}}]
        found = self._tried(lambda: list(self._clips.aggregate(steps)))
        return dict(sorted((row["_id"], row["clips"]) for row in found))

    def delete(
        self,
        *,
        ids: Sequence[str] | None = None,
        label: str | None = None,
        recording: str | None = None,
        model_version: str | None = None,
    ) -> int:
        query = _query(label=label, recording=recording, model_version=model_version)
        if ids is None and not query:
            raise ValueError("delete() of everything: name ids, a label, a recording or a model")
        queries = [query]
        if ids is not None:
            starts = range(0, len(ids), IDS_AT_ONCE)
            queries = [{**query, "_id": {"$in": list(ids[s : s + IDS_AT_ONCE])}} for s in starts]
        return sum(
            self._tried(lambda one=one: self._clips.delete_many(one)).deleted_count
            for one in queries
        )

    def close(self) -> None:
        self._client.close()

    def _pages(self, query: dict, fields: dict[str, bool] | None, size: int) -> Iterator[dict]:
        """Documents sorted by id, each page asked for by itself: a lost connection costs one."""
        last = ""
        while True:
            after = {**query, "_id": {"$gt": last}}
            page = self._tried(
                lambda after=after: list(
                    self._clips.find(after, fields, batch_size=size).sort("_id", 1).limit(size)
                )
            )
            yield from page
            if len(page) < size:
                return
            last = page[-1]["_id"]

    def _tried(self, work: Callable[[], T]) -> T:
        """What `work` returns, tried again where the connection was lost."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return work()
            except errors.PyMongoError as error:
                if attempt == ATTEMPTS or not _may_pass(error):
                    raise ClipStoreError(f"{self.name} {self._describe(error)}") from error
            time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")

    def _describe(self, error: errors.PyMongoError) -> str:
        """What went wrong, and the cure."""
        code = getattr(error, "code", None)
        if code == WRONG_PASSWORD:
            return (
                "refuses the user or the password: check MONGODB_USERNAME and MONGODB_PASSWORD; "
                "a user of another database needs ?authSource=admin in MONGODB_URL"
            )
        if code == UNAUTHORIZED:
            return (
                f"does not let this user read and write {self._clips.full_name}: set "
                "MONGODB_USERNAME and MONGODB_PASSWORD, or give the user the role readWrite"
            )
        if isinstance(error, errors.ServerSelectionTimeoutError):
            return (
                f"does not answer within {self._wait_seconds:g} s: start it, check MONGODB_URL, or "
                "unset that to use the file in the cache folder"
            )
        if isinstance(error, errors.ConnectionFailure):
            return (
                "breaks off the connection again and again: what was stored is kept, and the same "
                "command goes on from there"
            )
        reason = str(error).partition("\n")[0].partition(", full error")[0]
        return f"refuses that ({reason}): what was stored is kept"


def _may_pass(error: errors.PyMongoError) -> bool:
    """Whether trying again may help. Looking for a server has waited for long already."""
    if isinstance(error, errors.ServerSelectionTimeoutError):
        return False
    if isinstance(error, errors.BulkWriteError):  # another process put the same clip
        found = error.details.get("writeErrors", [])
        return bool(found) and all(one.get("code") == DUPLICATE for one in found)
    return isinstance(error, errors.ConnectionFailure)


def _query(**filters: str | None) -> dict[str, str]:
    return {field: value for field, value in filters.items() if value is not None}


def _document(clip: EmbeddedClip) -> dict:
    return {
        "_id": clip.id,
        "recording": clip.recording,
        "recording_key": clip.recording_key,
        "start_seconds": clip.start_seconds,
        "end_seconds": clip.end_seconds,
        "label": clip.label,
        "group": clip.group,
        "model_version": clip.model_version,
        "digest": clip.digest,
        "vector": Binary(vector_bytes(clip.vector)),
    }


def _clip(document: dict) -> EmbeddedClip:
    return EmbeddedClip(
        document["_id"],
        document["recording"],
        document["recording_key"],
        document["start_seconds"],
        document["end_seconds"],
        document["label"],
        document["group"],
        document["model_version"],
        np.frombuffer(document.get("vector", b""), "<f4"),
    )
