"""Library: the recordings in the page's folders, by ids of which no path can be made."""

import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from utils.files import stamp_of
from utils.recordings import class_of, is_video
from utils.video import VideoInfo
from web.errors import NotFound
from web.looks import Look, Looks
from web.readers import Readers
from web.settings import UPLOADS, Settings

LISTING_SECONDS = 3.0  # for which a listing is taken to be true


@dataclass(frozen=True)
class Recording:
    """A video in one of the folders."""

    id: str  # 16 hexadecimal digits, of the folder's name and the file's in it
    folder: str
    name: str  # in the folder, with forward slashes; bytes that are no UTF-8 replaced
    path: Path
    stamp: tuple[int, ...]  # another one wherever the content may have changed
    size_bytes: int
    modified: float  # seconds since 1970
    label: str | None  # of a training clip: the class that its folder says
    look: Look | None = None  # None as long as nobody has looked

    @property
    def editable(self) -> bool:
        """Whether corrections can say what it shows."""
        return self.label is None

    @property
    def probe(self) -> VideoInfo | None:
        return None if self.look is None else self.look.video

    @property
    def error(self) -> str | None:
        return None if self.look is None else self.look.error

    @property
    def version(self) -> str:
        """Names the recording as its content is now: for what is kept about it."""
        return hashlib.sha256(f"{self.id} {self.stamp}".encode()).hexdigest()[:32]


class Library:
    """The recordings of the folders, found anew every few seconds, looked into in the background.

    A link that leads out of its folder is not followed: `notes` says so. What a look told is kept
    in `cache/review`, so the next start knows at once.
    """

    def __init__(self, settings: Settings):
        self._folders = settings.folders
        self._data_dir = Path(os.path.abspath(settings.data_dir))
        self.readers = Readers()  # of all that is read of recordings while somebody waits
        self._looks = Looks(settings.review_dir / "recordings.json", self.readers)
        self._lock = threading.Lock()
        self._listed_at = -LISTING_SECONDS
        self._recordings: dict[str, Recording] = {}
        self._notes: list[str] = []

    def all(self) -> list[Recording]:
        """Every recording, by folder and name; what nobody has looked into comes to be so."""
        listing = self._listing()
        for recording in [r for r in listing.values() if r.look is None]:
            if look := self._looks.find(recording):
                listing[recording.id] = replace(recording, look=look)
        found = list(listing.values())
        self._looks.want([recording for recording in found if recording.look is None])
        return found

    def find(self, id: str) -> Recording:
        """The recording as it is now. Raises NotFound."""
        recording = self._listing().get(id)
        if recording is None:
            self.refresh()
            recording = self._listing().get(id)
        try:
            if recording is None or not self._is_inside(recording):
                raise FileNotFoundError
            recording = _as_it_is(recording)
        except OSError:
            self.refresh()
            raise NotFound(
                "there is no such recording: it was moved or removed, so go back to the list"
            ) from None
        return replace(recording, look=self._looks.find(recording))

    def looked(self, recording: Recording) -> Recording:
        """The same recording looked into, now if nobody has: it has a probe or an error."""
        return recording if recording.look else replace(recording, look=self._looks.take(recording))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out of the last listing and why, each in a line with the cure."""
        self._listing()
        return tuple(self._notes)

    def refresh(self) -> None:
        """Has the folders listed again as soon as anybody asks, as after an upload."""
        self._listed_at = -LISTING_SECONDS

    def close(self) -> None:
        """Stops looking, and keeps what was found."""
        self._looks.close()
        self.readers.close()

    def _listing(self) -> dict[str, Recording]:
        with self._lock:
            if time.monotonic() - self._listed_at >= LISTING_SECONDS:
                self._notes = []
                seen: set[str] = set()
                self._recordings = {
                    recording.id: recording
                    for folder in self._folders
                    for recording in self._list(folder.name, Path(folder.path), seen)
                }
                self._listed_at = time.monotonic()
            return self._recordings

    def _list(self, folder: str, root: Path, seen: set[str]) -> list[Recording]:
        found, outside = [], []
        if folder == UPLOADS and not root.exists():  # nobody has uploaded anything
            return []
        for entry in _walk(root, outside, self._notes):
            try:
                status = entry.stat()
                real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            except OSError:  # gone, or a link that leads nowhere
                continue
            if not stat.S_ISREG(status.st_mode) or real in seen:
                continue
            seen.add(real)
            found.append(self._recording(folder, root, Path(entry.path), status))
        if outside:
            more = f" and {len(outside) - 1} more" * (len(outside) > 1)
            self._notes.append(
                f"{folder}: left out links to other places: {outside[0]}{more}; to have those, "
                "pass the folder they lead to to serve.py"
            )
        return sorted(found, key=lambda recording: recording.name)

    def _recording(self, folder: str, root: Path, path: Path, status: os.stat_result) -> Recording:
        name = path.relative_to(root).as_posix()
        digest = hashlib.sha256(os.fsencode(f"{folder}/{name}")).hexdigest()
        in_data = path.is_relative_to(self._data_dir)
        return Recording(
            id=digest[:16],
            folder=folder,
            name=_shown(name),
            path=path,
            stamp=tuple(stamp_of(status)),
            size_bytes=status.st_size,
            modified=status.st_mtime,
            label=class_of(path.relative_to(self._data_dir).as_posix()) if in_data else None,
        )

    def _is_inside(self, recording: Recording) -> bool:
        roots = {folder.name: folder.path for folder in self._folders}
        real = os.path.realpath(recording.path)
        return Path(real).is_relative_to(os.path.realpath(roots[recording.folder]))


def _walk(root: Path, outside: list[str], notes: list[str]) -> Iterator[os.DirEntry]:
    """Yields the videos below a folder, and takes down the links that lead out of it."""
    real_root = os.path.realpath(root)
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            notes.append(f"{folder} can't be listed ({error.strerror}): make it, or mend its mode")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                real = os.path.realpath(entry.path)
                is_shown = is_video(entry.name) or os.path.isdir(real)
                if is_shown and not Path(real).is_relative_to(real_root):
                    outside.append(_shown(Path(entry.path).relative_to(root).as_posix()))
                elif is_video(entry.name):
                    yield entry
            elif entry.is_dir():
                waiting.append(Path(entry.path))
            elif is_video(entry.name):
                yield entry


def _as_it_is(recording: Recording) -> Recording:
    status = os.stat(recording.path)
    stamp = tuple(stamp_of(status))
    if stamp == recording.stamp:
        return recording
    return replace(recording, stamp=stamp, size_bytes=status.st_size, modified=status.st_mtime)


def _shown(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")
