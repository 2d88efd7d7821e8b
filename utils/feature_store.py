"""Feature store: arrays of many recordings in a few large memory-mapped .npy shards."""

import contextlib
import fcntl
import json
import mmap
import os
import re
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.files import write_whole

SHARD_BYTES = 1 << 30
HEADER_BYTES = 128  # numpy pads a version 1.0 header to this, with room for any number of rows
COPY_BYTES = 1 << 22  # read at a time where shards are checked or copied
LOCAL_WRITER = "main"


class StoreError(UserError):
    """The store can't be written or is not one of ours."""


@dataclass(frozen=True)
class Column:
    """One kind of array in the store: rows of one dtype and shape."""

    dtype: str
    row_shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return int(np.dtype(self.dtype).itemsize * np.prod(self.row_shape, dtype=np.int64))


@dataclass(frozen=True)
class _Entry:
    """What an index line says of a recording, and the line itself."""

    writer: str
    line: bytes
    info: dict
    rows: dict[str, list[int]]  # by column: [shard, start, stop)
    sums: dict[str, int]  # by column: CRC-32 of the rows' bytes


class FeatureStore:
    """Arrays by recording key and column name.

        folder/
            index-main.jsonl          a line per recording: key, info, {column: [shard, start,
                                      stop]} and {column: CRC-32 of these rows}
            frames-main-00000.npy     rows of many recordings, one after another
            mfcc-main-00000.npy

    The index is the truth: rows that no line points to are left-overs, of an interrupted write (the
    next one goes over them) or of recordings that were forgotten (`compact` gives them back).

    Each writer, such as a machine of a cluster, has files of its own, so that several may fill one
    folder; a reader sees them as one store. One process is a writer at a time (`writing`), any
    number reads.
    """

    def __init__(self, folder: str | Path, columns: dict[str, Column]):
        self.folder = Path(folder)
        self.columns = columns
        self._entries: dict[str, _Entry] = {}
        self._shards: dict[Path, np.memmap] = {}
        self._writer: str | None = None
        self._index_bytes: dict[str, int] = {}  # by writer, up to the last whole line
        self._ends: dict[tuple[str, str], tuple[int, int]] = {}  # by writer and column: shard, row
        self.refresh()

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        """The keys, by writer and in the order they were added."""
        return iter(list(self._entries))

    def info(self, key: str) -> dict:
        """What `add` was given beside the arrays."""
        return self._entries[key].info

    def num_rows(self, key: str, column: str) -> int:
        """0 where the recording has no such array."""
        _, start, stop = self._entries[key].rows.get(column, (0, 0, 0))
        return stop - start

    def get(self, key: str, column: str) -> np.ndarray | None:
        """(rows, *row_shape) read-only view of the shard, or None where the recording has none."""
        entry = self._entries[key]
        if column not in entry.rows:
            return None
        shard, start, stop = entry.rows[column]
        path = self._shard_path(column, entry.writer, shard)
        mapped = self._shards.get(path)
        if mapped is None or len(mapped) < stop:
            kind = self.columns[column]
            rows = _rows_in(path, kind)
            if rows < stop:
                raise StoreError(
                    f"{path} is cut short: run prepare_data.py --verify, or remove the folder "
                    f"{self.folder}, and the next run makes what is missing"
                )
            mapped = np.memmap(path, kind.dtype, "r", HEADER_BYTES, (rows, *kind.row_shape))
            self._shards[path] = mapped
        return mapped[start:stop]

    def refresh(self) -> None:
        """Reads the indexes of all writers again. Raises StoreError where one is damaged."""
        self._entries.clear()
        self._shards.clear()  # a shard's name may have been given to a new file
        self._ends.clear()
        self._index_bytes.clear()
        for writer in self._writers():
            self._read_index(writer)

    def release(self) -> None:
        """Gives back the memory of the pages that were read; the system may keep them cached."""
        for mapped in self._shards.values():
            mapped._mmap.madvise(mmap.MADV_DONTNEED)

    @contextlib.contextmanager
    def writing(self, writer: str = LOCAL_WRITER) -> Iterator["FeatureStore"]:
        """The store, open for `add`. Raises StoreError while another process is this writer."""
        if not re.fullmatch(r"[A-Za-z0-9_.]+", writer):  # a dash ends the name in those of files
            raise ValueError(f"{writer!r} is not a writer's name: letters, digits, _ and . only")
        with self._locked("lock", fcntl.LOCK_SH), self._locked(f"lock-{writer}"):
            self.refresh()
            self._writer = writer
            try:
                yield self
            finally:
                self._writer = None

    def add(self, key: str, arrays: dict[str, Iterable[np.ndarray]], info: dict) -> None:
        """Appends one recording; `arrays` gives blocks of rows by column.

        The recording is in the store once its index line is on the disk, and not before.
        """
        writer = self._writer
        if writer is None:
            raise RuntimeError("add() outside `with store.writing():`")
        added = {column: self._append(column, blocks) for column, blocks in arrays.items()}
        line = {
            "key": key,
            "info": info,
            "rows": {column: rows for column, (rows, _) in added.items()},
            "sums": {column: total for column, (_, total) in added.items()},
        }
        text = json.dumps(line, sort_keys=True).encode() + b"\n"
        with open(self._index_path(writer), "ab") as index:
            index.truncate(self._index_bytes.get(writer, 0))  # drops an interrupted write's half
            index.write(text)
            index.flush()
            os.fsync(index.fileno())
        self._remember(writer, text)

    def damaged(self, keys: Iterable[str]) -> Iterator[tuple[str, str | None]]:
        """Each key with what is wrong with its bytes on the disk, None where they are right."""
        for key in keys:
            entry = self._entries[key]
            reasons = (self._damage(entry, column) for column in entry.rows)
            yield key, next(filter(None, reasons), None)

    def forget(self, keys: Collection[str]) -> None:
        """Takes recordings out of the index; their rows stay until `compact`.

        Raises StoreError while anyone writes the store.
        """
        with self.all_locked():
            for writer in self._writers():
                kept = [e for k, e in self._of_writer(writer) if k not in keys]
                self._write_index(writer, [entry.line for entry in kept])
            self.refresh()

    @contextlib.contextmanager
    def all_locked(self) -> Iterator[None]:
        """While nobody can write the store. Raises StoreError where anyone does."""
        with self._locked("lock"):
            yield

    def files(self) -> list[str]:
        """Names of the files in the folder that are the store."""
        indexes = map(self._index_path, self._writers())
        return sorted(path.name for path in (*indexes, *self._shard_paths()))

    def size_bytes(self, key: str) -> int:
        """Of all rows of a recording."""
        rows = self._entries[key].rows
        return sum(self.num_rows(key, name) * self.columns[name].row_bytes for name in rows)

    def unused_bytes(self) -> int:
        """Size of the rows that no recording owns, which `compact` gives back."""
        used = {}
        for entry in self._entries.values():
            for column, (shard, start, stop) in entry.rows.items():
                path = self._shard_path(column, entry.writer, shard)
                row_bytes = self.columns[column].row_bytes
                used[path] = used.get(path, HEADER_BYTES) + (stop - start) * row_bytes
        return sum(max(0, p.stat().st_size - used.get(p, 0)) for p in self._shard_paths())

    def compact(self) -> None:
        """Rewrites the shards that hold rows no recording owns, one by one, and removes the rest.

        Whatever ends it, every recording stays readable: the index points at the old rows until
        the new ones are on the disk. Raises StoreError while anyone writes the store.
        """
        with self.all_locked():
            self.refresh()
            for writer in self._writers():
                # Without the lines of recordings that an earlier writer has too.
                self._write_index(writer, [entry.line for _, entry in self._of_writer(writer)])
                for column in self.columns:
                    for shard in self._shards_of(writer, column):
                        self._compact_shard(writer, column, shard)
            self.refresh()

    def _append(self, column: str, blocks: Iterable[np.ndarray]) -> tuple[list[int], int]:
        """([shard, start, stop), CRC-32) of rows written behind the last ones in use."""
        kind = self.columns[column]
        shard, start = self._ends.get((self._writer, column), (0, 0))
        if start * kind.row_bytes >= SHARD_BYTES:
            shard, start = shard + 1, 0
        path = self._shard_path(column, self._writer, shard)
        stop, total = start, 0
        with open(path, "r+b" if path.exists() else "w+b") as file:
            file.seek(HEADER_BYTES + start * kind.row_bytes)
            for block in blocks:
                rows = np.ascontiguousarray(block, kind.dtype)
                if rows.shape[1:] != kind.row_shape:
                    raise ValueError(f"{column} has rows of {kind.row_shape}, not {rows.shape[1:]}")
                total = zlib.crc32(rows.data.cast("B"), total) if len(rows) else total
                file.write(rows.data)
                stop += len(rows)
            _finish_shard(file, kind, stop)
        return [shard, start, stop], total

    def _damage(self, entry: _Entry, column: str) -> str | None:
        kind = self.columns[column]
        shard, start, stop = entry.rows[column]
        path = self._shard_path(column, entry.writer, shard)
        total, left = 0, (stop - start) * kind.row_bytes
        try:
            with open(path, "rb") as file:  # not mapped: a failing disk would kill the process
                file.seek(HEADER_BYTES + start * kind.row_bytes)
                while left and (data := file.read(min(left, COPY_BYTES))):
                    total = zlib.crc32(data, total)
                    left -= len(data)
        except OSError as error:
            return f"{path.name} can't be read: {error.strerror}"
        if left:
            return f"{path.name} is cut short"
        return (
            None if total == entry.sums[column] else f"{path.name} holds other bytes than written"
        )

    def _compact_shard(self, writer: str, column: str, shard: int) -> None:
        path = self._shard_path(column, writer, shard)
        kind = self.columns[column]
        owners = [
            (key, entry)
            for key, entry in self._of_writer(writer)
            if column in entry.rows and entry.rows[column][0] == shard
        ]
        used = sum(stop - start for _, e in owners for _, start, stop in [e.rows[column]])
        if owners and used == _rows_in(path, kind):
            return
        if owners:
            new = max(self._shards_of(writer, column)) + 1
            lines = {key: entry.line for key, entry in self._of_writer(writer)}
            with open(path, "rb") as old, open(self._shard_path(column, writer, new), "wb") as file:
                file.seek(HEADER_BYTES)
                row = 0
                for key, entry in owners:
                    _, start, stop = entry.rows[column]
                    old.seek(HEADER_BYTES + start * kind.row_bytes)
                    _copy(old, file, (stop - start) * kind.row_bytes)
                    line = json.loads(entry.line)
                    line["rows"][column] = [new, row, row + stop - start]
                    lines[key] = json.dumps(line, sort_keys=True).encode() + b"\n"
                    row += stop - start
                _finish_shard(file, kind, row)
            self._write_index(writer, lines.values())
            self.refresh()
        path.unlink()

    def _of_writer(self, writer: str) -> list[tuple[str, _Entry]]:
        return [(key, entry) for key, entry in self._entries.items() if entry.writer == writer]

    def _shard_path(self, column: str, writer: str, shard: int) -> Path:
        return self.folder / f"{column}-{writer}-{shard:05d}.npy"

    def _shard_paths(self) -> Iterator[Path]:
        for column in self.columns:
            yield from sorted(self.folder.glob(f"{column}-*-?????.npy"))

    def _shards_of(self, writer: str, column: str) -> list[int]:
        paths = self.folder.glob(f"{column}-{writer}-?????.npy")
        return sorted(int(path.stem[-5:]) for path in paths)

    def _index_path(self, writer: str) -> Path:
        return self.folder / f"index-{writer}.jsonl"

    def _writers(self) -> list[str]:
        return sorted(path.stem[len("index-") :] for path in self.folder.glob("index-*.jsonl"))

    def _write_index(self, writer: str, lines: Iterable[bytes]) -> None:
        write_whole(self._index_path(writer), b"".join(lines))

    def _read_index(self, writer: str) -> None:
        path = self._index_path(writer)
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                self._remember(writer, line)
            except (ValueError, KeyError, TypeError) as error:
                raise StoreError(
                    f"{path} is damaged: remove the folder {self.folder}, "
                    "and the next run prepares it again"
                ) from error

    def _remember(self, writer: str, text: bytes) -> None:
        line = json.loads(text)
        entry = _Entry(writer, text, line["info"], line["rows"], line["sums"])
        # Two machines may have prepared one recording: either's rows are right.
        self._entries.setdefault(line["key"], entry)
        for column, (shard, _, stop) in entry.rows.items():
            end = self._ends.get((writer, column), (0, 0))
            self._ends[writer, column] = max(end, (shard, stop))
        self._index_bytes[writer] = self._index_bytes.get(writer, 0) + len(text)

    @contextlib.contextmanager
    def _locked(self, name: str, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / name, "w") as lock:
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(
                    f"{self.folder} is being written by another run: wait for it, "
                    "or pass another --cache-dir"
                ) from error
            yield


def _rows_in(path: Path, kind: Column) -> int:
    """Whole rows that a shard has bytes for; 0 where it is missing."""
    with contextlib.suppress(FileNotFoundError):
        return max(0, path.stat().st_size - HEADER_BYTES) // kind.row_bytes
    return 0


def _copy(source, target, size_bytes: int) -> None:
    while size_bytes:
        data = source.read(min(size_bytes, COPY_BYTES))
        if not data:
            raise StoreError(f"{source.name} is cut short: run --verify first")
        target.write(data)
        size_bytes -= len(data)


def _finish_shard(file, kind: Column, rows: int) -> None:
    """Ends a shard behind its last row and writes the header that makes it a .npy file."""
    file.truncate(HEADER_BYTES + rows * kind.row_bytes)
    file.seek(0)
    np.lib.format.write_array_header_1_0(
        file,
        {
            "descr": np.dtype(kind.dtype).str,
            "fortran_order": False,
            "shape": (rows, *kind.row_shape),
        },
    )
    if file.tell() != HEADER_BYTES:
        raise RuntimeError(f"numpy wrote a header of {file.tell()} bytes")
    file.flush()
    os.fsync(file.fileno())
