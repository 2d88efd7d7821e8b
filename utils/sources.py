"""Sources: where recordings lie, as names of files that can be listed, stamped and fetched."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from utils.errors import UserError


class SourceError(UserError):
    """A source that is not there or can't be read."""


class Source(Protocol):
    """Files below one place, known by their names there: forward slashes, no leading one."""

    name: str  # as the user wrote it, for messages
    is_remote: bool  # whether `fetch` downloads

    def list_files(self) -> list[str]:
        """All names, sorted, hidden ones left out; an empty folder is a name ending in a slash.

        Raises SourceError where there is no such place, OSError for a folder that can't be read.
        """

    def read_bytes(self, name: str) -> bytes:
        """The content of a small file."""

    def stamp(self, name: str) -> list[int | str]:
        """JSON that changes whenever the content may have changed; costs no download."""

    def fetch(self, names: Sequence[str]) -> AbstractContextManager[Path]:
        """A folder in which `names` lie at their places; downloads are deleted at the exit."""


class Folder:
    """A folder of this machine. Links to folders are followed; it is only read."""

    is_remote = False

    def __init__(self, path: str | Path):
        self.name = str(path)
        self._path = Path(path)

    def list_files(self) -> list[str]:
        if not self._path.is_dir():
            raise SourceError(
                f"{self.name} is not a folder: make {self.name}/ads and {self.name}/games "
                "and put videos there, or pass --data-dir"
            )
        return sorted(self._walk())

    def read_bytes(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def stamp(self, name: str) -> list[int | str]:
        # A tool that restores the old time of a file it changed can't set back the ctime.
        status = (self._path / name).stat()
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]

    @contextlib.contextmanager
    def fetch(self, names: Sequence[str]) -> Iterator[Path]:
        yield self._path

    def _walk(self) -> Iterator[str]:
        # A folder is listed once below each folder at the top, so that links can't loop, and one
        # that two classes link to is still seen, and refused, in both.
        root = os.path.realpath(self._path)
        seen: set[tuple[str, str]] = set()
        for parent, folders, files in os.walk(self._path, onerror=_raise, followlinks=True):
            inside = Path(parent).relative_to(self._path)
            place = ("".join(inside.parts[:1]), os.path.realpath(parent))
            if place in seen or (inside.parts and place[1] == root):
                folders.clear()
                continue
            seen.add(place)
            folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
            shown = [file for file in files if not file.startswith(".")]
            yield from ((inside / file).as_posix() for file in shown)
            if not folders and not shown and inside.parts:
                yield f"{inside.as_posix()}/"


def _raise(error: OSError) -> None:
    raise error
