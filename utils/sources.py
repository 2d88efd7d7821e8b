"""Sources: where recordings lie, as names of files that can be listed, stamped and fetched."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from utils.errors import UserError
from utils.fetching import Fetching, Place
from utils.file_list import FileList
from utils.files import stamp_file
from utils.urls import show_url


class SourceError(UserError):
    """A source that is not there or can't be read."""


class Source(Protocol):
    """Files below one place, known by their names there: forward slashes, no leading one.

    Where one file alone can't be had, a remote source raises FileNotFoundError, and another
    OSError where nothing can; both say in `strerror` what to do.
    """

    name: str  # as the user wrote it, for messages
    is_remote: bool  # whether `fetch` downloads

    def list_files(self) -> list[str]:
        """All names, sorted, hidden ones left out; an empty folder is a name ending in a slash.

        Raises SourceError where there is no such place, OSError for a folder that can't be read.
        """

    def read_bytes(self, name: str) -> bytes:
        """The content of a small file."""

    def place(self, name: str) -> str:
        """Where the file lies, as a list of files would say it: an absolute path or an address."""

    def stamp(self, name: str) -> list[int | str]:
        """JSON that changes whenever the content may have changed; costs no download.

        Of a file that was replaced meanwhile, `fetch` takes what is there now; what was fetched is
        what the stamp from before says only if the one from after is the same.
        """

    def fetch(self, names: Sequence[str]) -> AbstractContextManager[Path]:
        """A folder in which `names` lie at their places; downloads are deleted at the exit."""

    def stop(self) -> None:
        """Ends what `fetch` is doing in other threads; this source fetches no more."""


def open_source(
    text: str, work_dir: str | Path, s3_folder: Callable[[str], Place] | None = None
) -> Source:
    """The source that `text` names: s3://bucket/prefix, a list of files, or a folder.

    What is fetched lies below `work_dir` for as long as it is used. `s3_folder` makes the place of
    an S3 address. Raises SourceError for a text that can't be one of these.
    """
    scheme = text.partition(":")[0] if "://" in text else ""
    if text.startswith("s3:"):
        if s3_folder is None:
            raise SourceError(f"{text} is on S3, which is not read here: pass a folder")
        return Fetching(s3_folder(text), work_dir)
    if scheme in ("http", "https"):
        raise SourceError(f"{show_url(text)} is one URL: write URLs into a text file, one a line")
    if scheme:
        raise SourceError(f"{text} can't be read: pass a folder, a list of files or s3://...")
    if os.path.isfile(text):
        return Fetching(FileList(text, s3_folder), work_dir)
    if text.endswith(".txt"):
        raise SourceError(f"there is no list {text}: write it, a path or URL a line")
    return Folder(text)


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

    def place(self, name: str) -> str:
        return os.path.abspath(self._path / name)

    def stamp(self, name: str) -> list[int | str]:
        return stamp_file(self._path / name)

    @contextlib.contextmanager
    def fetch(self, names: Sequence[str]) -> Iterator[Path]:
        yield self._path

    def stop(self) -> None:
        pass

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
