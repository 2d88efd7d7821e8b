"""Incoming: the features of one part of a recording, on their way into the store."""

import contextlib
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.feature_store import Column, FeatureStore
from utils.features import FeatureSpec, read_features
from utils.files import write_whole
from utils.fingerprints import hash_pictures
from utils.media import Part

INCOMING = "incoming"  # the folder of a store
DESCRIPTION = "part.json"
READ_BYTES = 1 << 22


@dataclass(frozen=True)
class PartFeatures:
    """A folder with a raw file of rows by column, whole."""

    folder: Path
    rows: dict[str, int]
    sums: dict[str, int]  # CRC-32 of each file
    heard: bool
    aspect_ratio: float


def part_folder(recording_folder: Path, part: Part) -> Path:
    """Where the features of a part lie: another way to cut the recording is another folder."""
    digest = hashlib.blake2b(repr(part).encode(), digest_size=4).hexdigest()
    return recording_folder / f"{part.index:05d}-{digest}"


def decode_part(
    path: Path, spec: FeatureSpec, part: Part, target: Path, report: Callable[[object], None]
) -> PartFeatures:
    """The features of a part, written to `target`, which appears with all of them or not at all.

    Reports the number of frames as they come. Raises MediaError, and SplitError where the recording
    must be decoded whole.
    """
    # Of its own for each process: one that outlives a killed run for a moment disturbs no other.
    growing = target.with_name(f".{target.name}.{os.getpid()}")
    growing.mkdir(parents=True)
    try:
        description = _write_columns(growing, path, spec, part, report)
        write_whole(growing / DESCRIPTION, json.dumps(description, sort_keys=True).encode())
        os.rename(growing, target)
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    return PartFeatures(folder=target, **description)


def find_part(target: Path) -> PartFeatures | None:
    """What `decode_part` left in `target` in an earlier run, None where it is not all there."""
    try:
        part = PartFeatures(folder=target, **json.loads((target / DESCRIPTION).read_bytes()))
        if all(_sum_of(target / column) == part.sums[column] for column in part.rows):
            return part
    except (OSError, ValueError, TypeError, KeyError):
        pass  # made anew
    shutil.rmtree(target, ignore_errors=True)
    return None


def read_rows(parts: list[PartFeatures], column: str, kind: Column) -> Iterator[np.ndarray]:
    """Blocks of a column's rows, of one part after another."""
    block_rows = max(1, READ_BYTES // kind.row_bytes)
    for part in parts:
        if part.rows[column]:
            shape = (part.rows[column], *kind.row_shape)
            rows = np.memmap(part.folder / column, kind.dtype, "r", shape=shape)
            yield from (rows[i : i + block_rows] for i in range(0, len(rows), block_rows))


def add_to_store(store: FeatureStore, key: str, parts: list[PartFeatures]) -> None:
    """Adds a recording to a store, and removes its parts."""
    columns = [name for name in store.columns if name != "mfcc" or any(p.heard for p in parts)]
    info = {
        "num_frames": sum(part.rows["frames"] for part in parts),
        "has_sound": "mfcc" in columns,
        "aspect_ratio": parts[0].aspect_ratio,
    }
    arrays = {name: read_rows(parts, name, store.columns[name]) for name in columns}
    store.add(key, arrays, info)
    shutil.rmtree(parts[0].folder.parent, ignore_errors=True)


def drop_unfinished(incoming: Path) -> None:
    """Removes what killed workers left."""
    for folder in incoming.glob("*/.*"):
        shutil.rmtree(folder, ignore_errors=True)


def _write_columns(
    folder: Path, path: Path, spec: FeatureSpec, part: Part, report: Callable[[object], None]
) -> dict:
    rows, sums = {}, {}
    heard, aspect_ratio = False, 0.0
    with contextlib.ExitStack() as stack:
        files = {}
        for block in read_features(path, spec, part):
            hashes = hash_pictures(block.frames)
            arrays = {"frames": block.frames, "picture_hashes": hashes, "mfcc": block.mfcc}
            for column, array in arrays.items():
                if column not in files:
                    files[column] = stack.enter_context(open(folder / column, "wb"))
                    rows[column] = sums[column] = 0
                if array is not None and len(array):
                    data = np.ascontiguousarray(array).data.cast("B")
                    files[column].write(data)
                    rows[column] += len(array)
                    sums[column] = zlib.crc32(data, sums[column])
            heard |= block.heard
            aspect_ratio = block.aspect_ratio
            report(len(block.frames))
    return {"rows": rows, "sums": sums, "heard": heard, "aspect_ratio": aspect_ratio}


def _sum_of(path: Path) -> int:
    total = 0
    with open(path, "rb") as file:
        while data := file.read(READ_BYTES):
            total = zlib.crc32(data, total)
    return total
