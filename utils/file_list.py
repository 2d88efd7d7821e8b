"""File list: the files that lines of a text name, as though they lay in a data folder."""

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote, urlsplit

from utils.errors import UserError
from utils.files import stamp_file
from utils.urls import Stamp, UrlFileError, download_url, read_url, show_url, stamp_url

VALIDATION_FOLDER = "validation"
CONNECTIONS = 8  # that ask for stamps at once


class ListError(UserError):
    """A line that does not say where a file is, or which class."""


class Bucket(Protocol):
    """Objects by key, as `cloud.s3.S3Folder` has them."""

    def read_bytes(self, name: str) -> bytes: ...

    def stamp(self, name: str) -> list[int | str]: ...

    def size_bytes(self, name: str) -> int: ...

    def download(self, name: str, path: Path, on_bytes: Callable[[int], None]) -> None: ...


class FileList:
    """The paths, URLs and S3 addresses in a text file, one a line; `#` begins one to pass over.

    Each line puts its file where it would lie in a data folder, as `<folder>/<file name>`. The
    folder is what stands behind a tab (`ads`, `ads/channel5`, `validation/ads`, `recordings`), or
    else the folder that the file is in: `/mnt/a/ads/x.mp4` is `ads/x.mp4`, and
    `/mnt/a/validation/ads/x.mp4` is `validation/ads/x.mp4`. Relative paths begin at the list.
    """

    def __init__(self, path: str | Path, s3_folder: Callable[[str], "Bucket"] | None = None):
        self.name = str(path)
        self._s3_folder = s3_folder
        self._buckets: dict[str, Bucket] = {}
        self._places: dict[str, str] = {}
        lines: dict[str, int] = {}
        for number, line in enumerate(_read_lines(Path(path)), 1):
            if not line.strip() or line.startswith("#"):
                continue
            place, _, folder = line.partition("\t")
            where = f"{self.name}, line {number}"
            name = _name_in_list(place.strip(), folder.strip(), where)
            if name in lines:
                raise ListError(
                    f"{where} and line {lines[name]} are both {name}: give one of them another "
                    f"folder, behind a tab, such as {name.rpartition('/')[0]}/more"
                )
            lines[name] = number
            self._places[name] = place.strip()
            if s3_folder is None and _is_s3(place):
                raise ListError(f"{where} is on S3, which is not read here: list files and URLs")
        self._stamps: dict[str, Stamp | UrlFileError] = {}  # of the URLs
        self.is_remote = any(_is_url(p) or _is_s3(p) for p in self._places.values())

    def list_files(self) -> list[str]:
        return sorted(self._places)

    def read_bytes(self, name: str) -> bytes:
        place = self._places[name]
        if _is_s3(place):
            bucket, key = self._bucket(place)
            return bucket.read_bytes(key)
        return read_url(place) if _is_url(place) else self._path(name).read_bytes()

    def place(self, name: str) -> str:
        """Where the file lies: an absolute path, or the address."""
        place = self._places[name]
        return place if _is_url(place) or _is_s3(place) else str(self._path(name))

    def stamp(self, name: str) -> list[int | str]:
        """Of a URL: as it was when first asked for, or when the file was last downloaded."""
        place = self._places[name]
        if _is_s3(place):
            bucket, key = self._bucket(place)
            return bucket.stamp(key)
        if not _is_url(place):
            return stamp_file(self._path(name))
        if name not in self._stamps:
            self._ask_for_stamps()
        if isinstance(stamp := self._stamps[name], UrlFileError):
            raise stamp
        return [show_url(place), *stamp]

    def size_bytes(self, name: str) -> int:
        place = self._places[name]
        if _is_s3(place):
            bucket, key = self._bucket(place)
            return bucket.size_bytes(key)
        return self.stamp(name)[1] if _is_url(place) else 0

    def download(
        self, name: str, path: Path, on_bytes: Callable[[int], None] = lambda _: None
    ) -> None:
        place = self._places[name]
        if _is_s3(place):
            bucket, key = self._bucket(place)
            bucket.download(key, path, on_bytes)
        elif _is_url(place):
            self._stamps[name] = download_url(place, path, on_bytes)
        else:
            path.symlink_to(self._path(name))

    def _ask_for_stamps(self) -> None:
        """For all at once, as a server may take a second for one."""

        def ask(name: str) -> None:
            try:
                self._stamps[name] = stamp_url(self._places[name])
            except UrlFileError as error:
                self._stamps[name] = error

        from tqdm import tqdm  # here, since check_setup.py runs where nothing is installed

        missing = [n for n, p in self._places.items() if _is_url(p) and n not in self._stamps]
        pool = ThreadPoolExecutor(CONNECTIONS)
        try:
            asked = pool.map(ask, missing)
            list(tqdm(asked, "ask servers", len(missing), unit="file", leave=False, delay=2))
        finally:
            pool.shutdown(cancel_futures=True)

    def _bucket(self, place: str) -> tuple["Bucket", str]:
        """The bucket of an S3 address, and the key in it."""
        bucket, _, key = place.removeprefix("s3://").partition("/")
        if bucket not in self._buckets:
            self._buckets[bucket] = self._s3_folder(f"s3://{bucket}")
        return self._buckets[bucket], key

    def _path(self, name: str) -> Path:
        path = Path(os.path.abspath(self.name)).parent / Path(self._places[name]).expanduser()
        if not path.exists():
            line = self._places[name]
            cure = "put a tab before the folder" if " " in line else "correct the line"
            raise FileNotFoundError(errno.ENOENT, f"is not there: {cure}", str(path))
        return path


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ListError(
            f"{path} is not a text file: pass a folder, or a list with a path or URL a line"
        ) from error


def _is_url(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _is_s3(place: str) -> bool:
    return place.startswith("s3://")


def _name_in_list(place: str, folder: str, where: str) -> str:
    if "://" in place and not _is_url(place) and not _is_s3(place):
        raise ListError(f"{where}: {place} can't be read, http://, https://, s3:// and paths can")
    if _is_url(place):
        parts = urlsplit(place)
        if "@" in parts.netloc:
            raise ListError(f"{where} has a password in its URL: use a signed URL")
        path = PurePosixPath(unquote(parts.path))
    else:
        path = PurePosixPath(place)
    if not folder:
        depth = 3 if VALIDATION_FOLDER in path.parts[-3:-2] else 2
        folder = "/".join(path.parts[-depth:-1])
    name = f"{folder.strip('/')}/{path.name}"
    if not all(part and not part.startswith((".", "~")) for part in name.split("/")):
        raise ListError(
            f"{where}: {show_url(place)} does not say which class it is: "
            "write its folder behind a tab, for example ads"
        )
    return name
