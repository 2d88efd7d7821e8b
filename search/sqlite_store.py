"""SQLite store: embedded clips in one file of this machine."""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from search.clip_store import ClipStore, ClipStoreError, EmbeddedClip, vector_bytes

VERSION = 1  # of the tables
APPLICATION_ID = 0x41644743  # "AdGC", in the file's header
WAIT_SECONDS = 30.0  # for another process that writes
ROWS = 500  # read or named in one statement
COLUMNS = (
    "id",
    "recording",
    "recording_key",
    "start_seconds",
    "end_seconds",
    "label",
    "clip_group",
    "model_version",
    "digest",
    "vector",
)
# The vector comes last, and what is listed is all in indexes: vectors are not read on the way.
TABLES = f"""
CREATE TABLE clips (
    id TEXT PRIMARY KEY,
    recording TEXT NOT NULL,
    recording_key TEXT NOT NULL,
    start_seconds REAL NOT NULL,
    end_seconds REAL NOT NULL,
    label TEXT,
    clip_group TEXT NOT NULL,
    model_version TEXT NOT NULL,
    digest TEXT NOT NULL,
    vector BLOB NOT NULL
);
CREATE INDEX clips_by_model ON clips (model_version, id, digest);
CREATE INDEX clips_by_recording ON clips (recording, model_version, recording_key, id, digest);
CREATE INDEX clips_by_label ON clips (label, model_version, id, digest);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""


class SqliteClipStore(ClipStore):
    """Clips in a file, and beside it what SQLite has not written back yet (-wal, -shm).

    One `put` is one transaction: killed in the middle, none of its clips are there. Any number of
    processes read while one writes.
    """

    def __init__(self, path: Path):
        self.name = str(path)
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            # Threads may hand it to each other, one at a time, as those of the page do.
            how = {"isolation_level": None, "check_same_thread": False}
            self._db = sqlite3.connect(path, timeout=WAIT_SECONDS, **how)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def put(self, clips: Iterable[EmbeddedClip]) -> int:
        places = ", ".join("?" * len(COLUMNS))
        statement = f"INSERT OR REPLACE INTO clips ({', '.join(COLUMNS)}) VALUES ({places})"
        with self._errors(), self._transaction():
            return self._db.executemany(statement, map(_row, clips)).rowcount

    def get_many(self, ids: Iterable[str]) -> dict[str, EmbeddedClip]:
        ids, found = list(ids), {}
        with self._errors():
            for start in range(0, len(ids), ROWS):
                some = ids[start : start + ROWS]
                where = f"id IN ({', '.join('?' * len(some))})"
                rows = self._db.execute(f"{_SELECT} WHERE {where}", some)
                found.update((row[0], _clip(row)) for row in rows)
        return found

    def find(
        self,
        *,
        label: str | None = None,
        recording: str | None = None,
        model_version: str | None = None,
        vectors: bool = True,
    ) -> Iterator[EmbeddedClip]:
        where, values = _where(label=label, recording=recording, model_version=model_version)
        select = _SELECT if vectors else _SELECT_WITHOUT_VECTORS
        with self._errors():
            rows = self._db.execute(f"{select} {where} ORDER BY id", values)
            while some := rows.fetchmany(ROWS):
                yield from map(_clip, some)

    def digests(
        self,
        *,
        label: str | None = None,
        recording: str | None = None,
        model_version: str | None = None,
    ) -> dict[str, str]:
        where, values = _where(label=label, recording=recording, model_version=model_version)
        with self._errors():
            return dict(
                self._db.execute(f"SELECT id, digest FROM clips {where} ORDER BY id", values)
            )

    def recordings(self, *, model_version: str | None = None) -> dict[str, str]:
        where, values = _where(model_version=model_version)
        statement = f"SELECT DISTINCT recording, recording_key FROM clips {where} ORDER BY 1, 2"
        with self._errors():
            return dict(self._db.execute(statement, values))

    def models(self) -> dict[str, int]:
        statement = "SELECT model_version, count(*) FROM clips GROUP BY 1 ORDER BY 1"
        with self._errors():
            return dict(self._db.execute(statement))

    def delete(
        self,
        *,
        ids: Sequence[str] | None = None,
        label: str | None = None,
        recording: str | None = None,
        model_version: str | None = None,
    ) -> int:
        where, values = _where(label=label, recording=recording, model_version=model_version)
        if ids is None and not where:
            raise ValueError("delete() of everything: name ids, a label, a recording or a model")
        with self._errors(), self._transaction():
            if ids is None:
                return self._db.execute(f"DELETE FROM clips {where}", values).rowcount
            statement = f"DELETE FROM clips {where or 'WHERE 1'} AND id = ?"
            return self._db.executemany(statement, ((*values, id) for id in ids)).rowcount

    def close(self) -> None:
        self._db.close()

    def _prepare(self) -> None:
        """Makes the tables in a new file; refuses one of another program or version."""
        tables = self._num_tables()  # first: another process may be making them, with the two below
        application, version = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        if tables and application != APPLICATION_ID:
            raise ClipStoreError(f"{self.name} is a database of another program: name another file")
        if tables and version != VERSION:
            raise ClipStoreError(
                f"{self.name} is of another version (found {version}, this code reads {VERSION}): "
                "remove it, and index the recordings again"
            )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")  # consistent after a power cut, too
        if not tables:
            with self._transaction():
                if not self._num_tables():  # else another process was first
                    for statement in TABLES.split(";"):
                        self._db.execute(statement)

    def _num_tables(self) -> int:
        return self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns what SQLite says into one line with the cure."""
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # our mistake
        except sqlite3.Error as error:
            raise ClipStoreError(f"{self.name}: {error}: {_cure(error)}") from error


_SELECT = f"SELECT {', '.join(COLUMNS)} FROM clips"
_SELECT_WITHOUT_VECTORS = f"SELECT {', '.join(COLUMNS[:-1])}, x'' FROM clips"
_CURES = {
    sqlite3.SQLITE_BUSY: "another process writes it: wait for that to end",
    sqlite3.SQLITE_LOCKED: "another process writes it: wait for that to end",
    sqlite3.SQLITE_FULL: "the disk is full: free some space, and run the same command again",
    sqlite3.SQLITE_READONLY: "make it writable, or pass another --cache-dir",
    sqlite3.SQLITE_CANTOPEN: "make its folder writable, or pass another --cache-dir",
    sqlite3.SQLITE_NOTADB: "remove it, and index the recordings again",
    sqlite3.SQLITE_CORRUPT: "remove it, and index the recordings again",
}


def _cure(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extended part
    return _CURES.get(code, "check the disk, or pass another --cache-dir")


def _where(**filters: str | None) -> tuple[str, tuple[str, ...]]:
    given = {column: value for column, value in filters.items() if value is not None}
    words = " AND ".join(f"{column} = ?" for column in given)
    return (f"WHERE {words}" if words else ""), tuple(given.values())


def _row(clip: EmbeddedClip) -> tuple:
    return (
        clip.id,
        clip.recording,
        clip.recording_key,
        clip.start_seconds,
        clip.end_seconds,
        clip.label,
        clip.group,
        clip.model_version,
        clip.digest,
        vector_bytes(clip.vector),
    )


def _clip(row: tuple) -> EmbeddedClip:
    *values, _, vector = row
    return EmbeddedClip(*values, np.frombuffer(vector, "<f4"))
