"""Disk cache: files that can be made again, up to so many bytes, the longest unused going first."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from utils.files import write_whole

PRUNED_PART = 0.9  # of the bytes that may stay, so that not every new file looks at all the others


class DiskCache:
    """A folder of files by name, which has no slash. When a file was used is its time of access."""

    def __init__(self, folder: Path, max_bytes: int):
        self.folder = folder
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._size_bytes: int | None = None  # of all files, None before anybody looked

    def find(self, name: str) -> Path | None:
        """The file, which counts as used now; None where it is not there."""
        path = self.folder / name
        try:
            modified = path.stat().st_mtime_ns  # stays: players tell by it whether a file changed
        except OSError:
            return None
        with contextlib.suppress(OSError):  # one that was just removed, or of another user
            os.utime(path, ns=(time.time_ns(), modified))
        return path

    def read(self, name: str) -> bytes | None:
        path = self.find(name)
        with contextlib.suppress(OSError):
            return None if path is None else path.read_bytes()
        return None

    def write(self, name: str, data: bytes) -> None:
        """Keeps a small file. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / name, data)
        self.added(len(data))

    def added(self, size_bytes: int, *, keep: Path | None = None) -> list[Path]:
        """Is told of a file that was put there; returns those that were removed to make room."""
        with self._lock:
            if self._size_bytes is not None:
                self._size_bytes += size_bytes
                if self._size_bytes <= self.max_bytes:
                    return []
            return self._prune(keep)

    def remove(self, wanted: Callable[[str], bool]) -> None:
        """Removes the files with such names, partial ones included."""
        for path, _, _ in self._files():
            if wanted(path.name):
                with contextlib.suppress(OSError):
                    path.unlink()
        with self._lock:
            self._size_bytes = None

    def _prune(self, keep: Path | None) -> list[Path]:
        files = sorted(self._files(), key=lambda file: file[2])
        self._size_bytes = sum(size for _, size, _ in files)
        if self._size_bytes <= self.max_bytes:
            return []
        removed = []
        for path, size, _ in files:
            if self._size_bytes <= PRUNED_PART * self.max_bytes:
                break
            if path == keep:
                continue
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
                self._size_bytes -= size
        return removed

    def _files(self) -> list[tuple[Path, int, float]]:
        """Each file with its size and the time of its last use."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    found.append((Path(entry.path), status.st_size, status.st_atime))
        return found
