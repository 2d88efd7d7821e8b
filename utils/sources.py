"""Sources: where recordings lie, as names of files that can be listed, stamped and fetched."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote, urlsplit

from utils.errors import UserError
from utils.urls import download_url, read_url, show_url, stamp_url

FETCHED = "fetched"  # where files are fetched to, below the cache folder
VALIDATION_FOLDER = "validation"


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

    def stamp(self, name: str) -> list[int | str]:
        """JSON that changes whenever the content may have changed; costs no download.

        Of a file that was replaced meanwhile, `fetch` takes what is there now; what was fetched is
        what the stamp from before says only if the one from after is the same.
        """

    def fetch(self, names: Sequence[str]) -> AbstractContextManager[Path]:
        """A folder in which `names` lie at their places; downloads are deleted at the exit."""


class Place(Protocol):
    """What `Fetching` makes a source of."""

    name: str
    is_remote: bool

    def list_files(self) -> list[str]: ...

    def read_bytes(self, name: str) -> bytes: ...

    def stamp(self, name: str) -> list[int | str]: ...

    def download(self, name: str, path: Path) -> None:
        """Writes the file to `path`, or makes a link to it there."""


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
        return Fetching(FileList(text), work_dir)
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

    def stamp(self, name: str) -> list[int | str]:
        return _stamp_file(self._path / name)

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


class FileList:
    """The paths and URLs in a text file, one a line; `#` begins a line that says nothing.

    Each line puts its file where it would lie in a data folder, as `<folder>/<file name>`. The
    folder is what stands behind a tab (`ads`, `ads/channel5`, `validation/ads`, `recordings`), or
    else the folder that the file is in: `/mnt/a/ads/x.mp4` is `ads/x.mp4`, and
    `/mnt/a/validation/ads/x.mp4` is `validation/ads/x.mp4`. Relative paths begin at the list.
    """

    def __init__(self, path: str | Path):
        self.name = str(path)
        self._places: dict[str, str] = {}
        lines: dict[str, int] = {}
        for number, line in enumerate(_read_lines(Path(path)), 1):
            if not line.strip() or line.startswith("#"):
                continue
            place, _, folder = line.partition("\t")
            where = f"{self.name}, line {number}"
            name = _name_in_list(place.strip(), folder.strip(), where)
            if name in lines:
                raise SourceError(
                    f"{where} and line {lines[name]} are both {name}: give one of them another "
                    f"folder, behind a tab, such as {name.rpartition('/')[0]}/more"
                )
            lines[name] = number
            self._places[name] = place.strip()
        self.is_remote = any(map(_is_url, self._places.values()))

    def list_files(self) -> list[str]:
        return sorted(self._places)

    def read_bytes(self, name: str) -> bytes:
        place = self._places[name]
        return read_url(place) if _is_url(place) else self._path(name).read_bytes()

    def stamp(self, name: str) -> list[int | str]:
        place = self._places[name]
        if _is_url(place):
            return [show_url(place), *stamp_url(place)]
        return _stamp_file(self._path(name))

    def download(self, name: str, path: Path) -> None:
        place = self._places[name]
        if _is_url(place):
            download_url(place, path)
        else:
            path.symlink_to(self._path(name))

    def _path(self, name: str) -> Path:
        path = Path(os.path.abspath(self.name)).parent / Path(self._places[name]).expanduser()
        if not path.exists():
            line = self._places[name]
            cure = "put a tab before the folder" if " " in line else "correct the line"
            raise FileNotFoundError(errno.ENOENT, f"is not there: {cure}", str(path))
        return path


class Fetching:
    """A source of a place that files have to be fetched from."""

    def __init__(self, place: Place, work_dir: str | Path):
        self._place = place
        self._work_dir = Path(work_dir)
        self.name = place.name
        self.is_remote = place.is_remote

    def list_files(self) -> list[str]:
        return self._place.list_files()

    def read_bytes(self, name: str) -> bytes:
        return self._place.read_bytes(name)

    def stamp(self, name: str) -> list[int | str]:
        return self._place.stamp(name)

    @contextlib.contextmanager
    def fetch(self, names: Sequence[str]) -> Iterator[Path]:
        with _folder_of_our_own(self._work_dir) as folder:
            for name in names:
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                self._place.download(name, path)
            yield folder


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path} is not a text file: pass a folder, or a list with a path or URL a line"
        ) from error


def _is_url(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _name_in_list(place: str, folder: str, where: str) -> str:
    if "://" in place and not _is_url(place):
        raise SourceError(f"{where}: {place} can't be read, http://, https:// and paths can")
    if _is_url(place):
        parts = urlsplit(place)
        if "@" in parts.netloc:
            raise SourceError(f"{where} has a password in its URL: use a signed URL")
        path = PurePosixPath(unquote(parts.path))
    else:
        path = PurePosixPath(place)
    if not folder:
        depth = 3 if VALIDATION_FOLDER in path.parts[-3:-2] else 2
        folder = "/".join(path.parts[-depth:-1])
    name = f"{folder.strip('/')}/{path.name}"
    if not all(part and not part.startswith((".", "~")) for part in name.split("/")):
        raise SourceError(
            f"{where}: {show_url(place)} does not say which class it is: "
            "write its folder behind a tab, for example ads"
        )
    return name


@contextlib.contextmanager
def _folder_of_our_own(work_dir: Path) -> Iterator[Path]:
    """A new folder, deleted at the exit; one that a killed process left is deleted here.

    A lock on the folder tells these apart, as the system takes it off a process that ends.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    for left in work_dir.glob(f"{FETCHED}-*"):
        with _locked(left) as is_ours:
            if is_ours:
                shutil.rmtree(left, ignore_errors=True)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{FETCHED}-", dir=work_dir))
        with _locked(folder) as is_ours:
            if not is_ours:  # taken for left-over between these two lines
                continue
            try:
                yield folder
                return
            finally:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether the folder is there and nobody else holds it; it is held until the exit."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield folder.exists()
    finally:
        os.close(number)


def _stamp_file(path: Path) -> list[int | str]:
    status = path.stat()
    # A tool that restores the old time of a file it changed can't set back the ctime.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _raise(error: OSError) -> None:
    raise error
