"""Local copy: what is known of the files of a folder that is kept in step with a shared store."""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cloud.s3 import PART_BYTES

STATE = ".shared.json"  # in the folder
LOCAL_WRITER = "main"  # in names of files here; there, it is the name of this machine


@dataclass(frozen=True)
class StoredFile:
    """The content of a file, as the manifest names it."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Digests:
    sha256: str
    etag: str  # as S3 makes it of a content that came in parts of PART_BYTES
    size_bytes: int


class LocalCopy:
    """What is known of the files of a folder, by their names there; kept in the folder."""

    def __init__(self, folder: Path, url: str):
        self.folder = folder
        self._url = url
        self._machine = uuid.uuid4().hex[:8]
        self._known: dict[str, tuple[list[int], Digests]] = {}
        self._bases: dict[str, dict[str, StoredFile]] = {}
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            state = json.loads((folder / STATE).read_bytes())
            self._machine = state["machine"]
            self._known = {
                name: (stamp, Digests(**digests))
                for name, (stamp, digests) in state["known"].items()
            }
            self._bases = {
                base: {name: StoredFile(**file) for name, file in files.items()}
                for base, files in state["bases"].items()
            }

    @property
    def base(self) -> dict[str, StoredFile]:
        """The files at `url` when the folder was last in step with them."""
        return self._bases.get(self._url, {})

    def keep_base(self, files: dict[str, StoredFile]) -> None:
        """Remembers that these files are at `url`, and here or an earlier state of those here."""
        self._bases[self._url] = {**self.base, **files}
        self._save()

    def name_there(self, name: str) -> str:
        return _rename(name, LOCAL_WRITER, self._machine)

    def path(self, name: str) -> Path:
        """The file here of a name there."""
        return self.folder / _rename(name, self._machine, LOCAL_WRITER)

    def files(self, names: Sequence[str]) -> dict[str, StoredFile]:
        """Reads the files that have changed, with a bar; all of them must be there."""
        stamps = {name: self._stamp(name) for name in names}
        new = [name for name in names if self._known.get(name, [None])[0] != stamps[name]]
        total = sum(stamps[name][0] for name in new)
        pool = concurrent.futures.ThreadPoolExecutor(2)  # hashlib lets go of the GIL
        with progress_bar("check the store", total) as on_bytes, pool:
            done = pool.map(lambda name: digest_file(self.path(name), on_bytes), new)
            for name, digests in zip(new, done, strict=True):
                self._known[name] = (stamps[name], digests)
        self._save()
        return {name: self.file(name) for name in names}

    def file(self, name: str) -> StoredFile:
        digests = self.digests(name)
        return StoredFile(digests.sha256, digests.size_bytes)

    def digests(self, name: str) -> Digests:
        return self._known[name][1]

    def remember(self, name: str, digests: Digests) -> None:
        self._known[name] = (self._stamp(name), digests)
        self._save()

    def _save(self) -> None:
        known = {name: (stamp, asdict(digests)) for name, (stamp, digests) in self._known.items()}
        bases = {
            base: {name: asdict(file) for name, file in files.items()}
            for base, files in self._bases.items()
        }
        state = {"machine": self._machine, "known": known, "bases": bases}
        partial = self.folder / f"{STATE}.partial"
        partial.write_text(json.dumps(state))
        os.replace(partial, self.folder / STATE)

    def _stamp(self, name: str) -> list[int]:
        status = self.path(name).stat()
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def digest_file(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> Digests:
    whole, parts, size_bytes = hashlib.sha256(), [], 0
    with open(path, "rb") as file:
        while block := file.read(PART_BYTES):
            whole.update(block)
            parts.append(hashlib.md5(block, usedforsecurity=False))
            size_bytes += len(block)
            on_bytes(len(block))
    if size_bytes < PART_BYTES:
        etag = (parts[0] if parts else hashlib.md5(usedforsecurity=False)).hexdigest()
    else:
        joined = b"".join(part.digest() for part in parts)
        etag = f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"
    return Digests(whole.hexdigest(), etag, size_bytes)


@contextlib.contextmanager
def progress_bar(what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """A bar for work of several threads."""
    from tqdm import tqdm

    lock = threading.Lock()
    with tqdm(total=total_bytes, desc=what, unit="B", unit_scale=True, leave=False, delay=1) as bar:

        def on_bytes(count: int) -> None:
            with lock:
                bar.update(count)

        yield on_bytes


def _rename(name: str, old: str, new: str) -> str:
    """`frames-main-00000.npy` and `index-main.jsonl` with another writer."""
    return re.sub(rf"^(\w+)-{re.escape(old)}(-\d+)?\.", rf"\1-{new}\2.", name)
