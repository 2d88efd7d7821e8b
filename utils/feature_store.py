"""Feature store: arrays of many recordings in a few large memory-mapped .npy shards."""

import contextlib
import fcntl
import json
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import UserError

SHARD_BYTES = 1 << 30
HEADER_BYTES = 128  # numpy pads a version 1.0 header to this, with room for any number of rows


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


class FeatureStore:
    """Arrays by recording key and column name.

        folder/
            index.jsonl          a line per recording: key, info, {column: [shard, start, stop]}
            frames-00000.npy     rows of many recordings, one after another
            mfcc-00000.npy

    The index is the truth: rows that no line points to are left-overs of an interrupted write and
    are overwritten by the next one. One process writes at a time (`writing`), any number reads.
    """

    def __init__(self, folder: str | Path, columns: dict[str, Column]):
        self.folder = Path(folder)
        self.columns = columns
        self._entries: dict[str, dict] = {}
        self._shards: dict[Path, np.memmap] = {}
        self._writing = False
        self._index_bytes = 0
        self._ends: dict[str, tuple[int, int]] = {}  # (shard, row) behind the last row in use
        self._read_index()

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def info(self, key: str) -> dict:
        """What `add` was given beside the arrays."""
        return self._entries[key]["info"]

    def num_rows(self, key: str, column: str) -> int:
        """0 where the recording has no such array."""
        _, start, stop = self._entries[key]["rows"].get(column, (0, 0, 0))
        return stop - start

    def get(self, key: str, column: str) -> np.ndarray | None:
        """(rows, *row_shape) read-only view of the shard, or None where the recording has none."""
        if column not in self._entries[key]["rows"]:
            return None
        shard, start, stop = self._entries[key]["rows"][column]
        path = self._shard_path(column, shard)
        mapped = self._shards.get(path)
        if mapped is None or len(mapped) < stop:
            kind = self.columns[column]
            rows = (path.stat().st_size - HEADER_BYTES) // kind.row_bytes
            if rows < stop:
                raise StoreError(f"{path} is cut short: {self._cure()}")
            mapped = np.memmap(path, kind.dtype, "r", HEADER_BYTES, (rows, *kind.row_shape))
            self._shards[path] = mapped
        return mapped[start:stop]

    def release(self) -> None:
        """Gives back the memory of the pages that were read; the system may keep them cached."""
        for mapped in self._shards.values():
            mapped._mmap.madvise(mmap.MADV_DONTNEED)

    @contextlib.contextmanager
    def writing(self) -> Iterator["FeatureStore"]:
        """The store, open for `add`. Raises StoreError while another process writes it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(
                    f"{self.folder} is being written by another run: wait for it, "
                    "or pass another --cache-dir"
                ) from error
            self._read_index()
            self._writing = True
            try:
                yield self
            finally:
                self._writing = False

    def add(self, key: str, arrays: dict[str, Iterator[np.ndarray]], info: dict) -> None:
        """Appends one recording; `arrays` gives blocks of rows by column.

        The recording is in the store once its index line is on the disk, and not before.
        """
        if not self._writing:
            raise RuntimeError("add() outside `with store.writing():`")
        rows = {column: self._append(column, blocks) for column, blocks in arrays.items()}
        entry = {"key": key, "info": info, "rows": rows}
        line = json.dumps(entry, sort_keys=True).encode() + b"\n"
        with open(self.folder / "index.jsonl", "ab") as index:
            index.truncate(self._index_bytes)  # drops the half line of an interrupted write
            index.write(line)
            index.flush()
            os.fsync(index.fileno())
        self._index_bytes += len(line)
        self._remember(entry)

    def _append(self, column: str, blocks: Iterator[np.ndarray]) -> list[int]:
        kind = self.columns[column]
        shard, start = self._ends.get(column, (0, 0))
        if start * kind.row_bytes >= SHARD_BYTES:
            shard, start = shard + 1, 0
        path = self._shard_path(column, shard)
        stop = start
        with open(path, "r+b" if path.exists() else "w+b") as file:
            file.seek(HEADER_BYTES + start * kind.row_bytes)
            for block in blocks:
                file.write(np.ascontiguousarray(block, kind.dtype).data)
                stop += len(block)
            file.truncate(HEADER_BYTES + stop * kind.row_bytes)
            file.seek(0)
            np.lib.format.write_array_header_1_0(
                file,
                {
                    "descr": np.dtype(kind.dtype).str,
                    "fortran_order": False,
                    "shape": (stop, *kind.row_shape),
                },
            )
            if file.tell() != HEADER_BYTES:
                raise RuntimeError(f"numpy wrote a header of {file.tell()} bytes")
            file.flush()
            os.fsync(file.fileno())
        return [shard, start, stop]

    def _remember(self, entry: dict) -> None:
        self._entries[entry["key"]] = entry
        for column, (shard, _, stop) in entry["rows"].items():
            self._ends[column] = max(self._ends.get(column, (0, 0)), (shard, stop))

    def _shard_path(self, column: str, shard: int) -> Path:
        return self.folder / f"{column}-{shard:05d}.npy"

    def _read_index(self) -> None:
        path = self.folder / "index.jsonl"
        self._entries.clear()
        self._ends.clear()
        self._index_bytes = 0
        if not path.exists():
            return
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise StoreError(f"{path} is damaged: {self._cure()}") from error
            self._remember(entry)
            self._index_bytes += len(line)

    def _cure(self) -> str:
        return f"remove the folder {self.folder}, and the next run prepares it again"
