"""Fetching: files of a place far away, in folders that are gone when they were used."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

FETCHED = "fetched"  # where files are fetched to, below the cache folder
SPARE_BYTES = 4 << 30  # left for features while others are at work
LOOK_SECONDS = 1.0  # between two looks at the disk


class Place(Protocol):
    """Files that have to be fetched; what is not said here is as in `Source`."""

    name: str
    is_remote: bool

    def list_files(self) -> list[str]: ...

    def read_bytes(self, name: str) -> bytes: ...

    def place(self, name: str) -> str: ...

    def stamp(self, name: str) -> list[int | str]: ...

    def size_bytes(self, name: str) -> int:
        """What `download` will write."""

    def download(self, name: str, path: Path, on_bytes: Callable[[int], None]) -> None:
        """Writes the file to `path`, or makes a link to it there.

        Calls `on_bytes` often, from any thread, and ends with what that raises.
        """


class Stopped(Exception):
    """The fetching was ended from another thread."""


class Fetching:
    """A source of a place that files have to be fetched from."""

    def __init__(self, place: Place, work_dir: str | Path):
        self._place = place
        self._work_dir = Path(work_dir)
        self.name = place.name
        self.is_remote = place.is_remote
        self._stopped = False

    def list_files(self) -> list[str]:
        return self._place.list_files()

    def read_bytes(self, name: str) -> bytes:
        return self._place.read_bytes(name)

    def place(self, name: str) -> str:
        return self._place.place(name)

    def stamp(self, name: str) -> list[int | str]:
        return self._place.stamp(name)

    @contextlib.contextmanager
    def fetch(self, names: Sequence[str]) -> Iterator[Path]:
        """Waits for room on the disk, as long as other fetched files are in use in this process."""
        size_bytes = sum(map(self._place.size_bytes, names))
        room = _Room(self._work_dir, size_bytes, self._go_on)
        with room, _folder_of_our_own(self._work_dir) as folder:
            for name in names:
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                self._place.download(name, path, self._go_on)
            room.filled()
            yield folder

    def stop(self) -> None:
        """Ends the fetches that are under way in other threads, in a second or so, for good."""
        self._stopped = True

    def _go_on(self, _: int = 0) -> None:
        if self._stopped:
            raise Stopped


class _Room:
    """Bytes of the disk that a fetch may fill."""

    changed = threading.Condition()
    in_use = 0  # fetches of this process, until their files are deleted
    promised_bytes = 0  # to those that are still downloading

    def __init__(self, work_dir: Path, size_bytes: int, go_on: Callable[[], None]):
        self._work_dir = work_dir
        self._size_bytes = self._promised = size_bytes
        self._go_on = go_on  # raises what ends the waiting

    def __enter__(self) -> "_Room":
        self._work_dir.mkdir(parents=True, exist_ok=True)
        with _Room.changed:
            while not self._is_there():
                self._go_on()
                _Room.changed.wait(LOOK_SECONDS)
            _Room.in_use += 1
            _Room.promised_bytes += self._promised
        return self

    def filled(self) -> None:
        """The bytes are on the disk."""
        with _Room.changed:
            _Room.promised_bytes -= self._promised
            self._promised = 0

    def __exit__(self, *_) -> None:
        self.filled()
        with _Room.changed:
            _Room.in_use -= 1
            _Room.changed.notify_all()

    def _is_there(self) -> bool:
        free_bytes = shutil.disk_usage(self._work_dir).free - _Room.promised_bytes
        if _Room.in_use:
            return self._size_bytes + SPARE_BYTES <= free_bytes
        if self._size_bytes <= free_bytes:
            return True
        raise OSError(
            errno.ENOSPC,
            f"{self._size_bytes / 1e9:.1f} GB are to be fetched, and there is room for "
            f"{free_bytes / 1e9:.1f}",
            str(self._work_dir),
        )


@contextlib.contextmanager
def _folder_of_our_own(work_dir: Path) -> Iterator[Path]:
    """A new folder, deleted at the exit; one that a killed process left is deleted here.

    A lock on the folder tells these apart, as the system takes it off a process that ends.
    """
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
