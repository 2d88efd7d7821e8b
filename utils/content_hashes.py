"""Content hashes: what files are known by, remembered so that unchanged ones are not read again."""

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from utils.files import write_whole
from utils.sources import Source

BLOCK_BYTES = 1 << 22
SAVE_SECONDS = 5.0  # hashes of so many seconds are lost when the process is killed


class ContentHashes:
    """The hashes of a source's files by name and stamp, kept in a JSON file.

    `{"source": {"name": [stamp, hash]}}`: the file serves several sources, and several machines
    where their source is the same.
    """

    def __init__(self, path: Path, source: Source):
        self._path = path
        self._source = source
        # "data" is another folder wherever one is.
        self._place = source.name if source.is_remote else os.path.abspath(source.name)
        self._known: dict[str, list] = self._read().get(self._place, {})
        self._new: dict[str, list] = {}
        self._lock = threading.Lock()  # learned in threads, saved in another
        self._saved = time.monotonic()

    def stamps(self, names: Sequence[str]) -> list[list]:
        """What the source says of files now. Raises OSError for one that is gone."""
        return [self._source.stamp(name) for name in names]

    def size_bytes(self, name: str) -> int:
        """What the stamp says, 0 where it is not known."""
        with contextlib.suppress(OSError):
            return next((part for part in self._source.stamp(name) if isinstance(part, int)), 0)
        return 0

    def find(self, names: Sequence[str], stamps: list[list]) -> list[str | None]:
        """The hash of each file that had this stamp before."""
        known = [self._known.get(name, (None, None)) for name in names]
        return [
            digest if s == stamp else None for (s, digest), stamp in zip(known, stamps, strict=True)
        ]

    def known(self) -> dict[str, list]:
        """[stamp, hash] by name."""
        return dict(self._known)

    def learn(self, name: str, stamp: list, digest: str) -> None:
        with self._lock:
            self._known[name] = self._new[name] = [stamp, digest]

    def take_new(self) -> dict[str, list]:
        """[stamp, hash] by name of what was learned here, for another to learn and save."""
        with self._lock:
            new, self._new = self._new, {}
        return new

    def save(self, *, now: bool = True) -> None:
        """Writes what was learned; with `now=False` only every few seconds."""
        with self._lock:
            if not self._new or not (now or time.monotonic() - self._saved > SAVE_SECONDS):
                return
            everything = self._read()  # another run may have added to it
            everything.setdefault(self._place, {}).update(self._new)
            self._new.clear()
            self._saved = time.monotonic()
        self._write(everything)

    def forget_others(self, names: Sequence[str]) -> int:
        """Drops the files of this source that are not among `names`; returns how many."""
        everything = self._read()
        known = everything.get(self._place, {})
        kept = {name: known[name] for name in names if name in known}
        if len(kept) < len(known):
            self._write({**everything, self._place: kept})
        return len(known) - len(kept)

    def _read(self) -> dict[str, dict[str, list]]:
        try:
            found = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):  # a damaged one costs reading the files again
            return {}
        return found if all(isinstance(files, dict) for files in found.values()) else {}

    def _write(self, everything: dict) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, json.dumps(everything, sort_keys=True).encode())


def hash_file(path: Path, report: Callable[[object], None]) -> str:
    """32 hex digits of the file's bytes."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            report(len(block))
    return digest.hexdigest()
