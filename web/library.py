"""Library: the recordings in the page's folders, by ids of which no path can be made."""

import hashlib
import json
import logging
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import UserError
from utils.files import stamp_of, write_whole
from utils.media import MediaError
from utils.playback import Tracks, read_tracks
from utils.recordings import class_of, is_video
from utils.video import VideoInfo, probe

if TYPE_CHECKING:
    from web.settings import Settings

LISTING_SECONDS = 3.0  # for which a listing is taken to be true
PROBES = 2  # recordings looked into at once
SAVE_SECONDS = 5.0  # from one saving of what was found to the next, while there is more
VERSION = 1  # raise it when a look into a recording tells more

log = logging.getLogger(__name__)


class NotFound(UserError):
    """Nothing by that id, or not any more."""


@dataclass(frozen=True)
class Look:
    """What a look into a recording told: what it is, or in one line why it can't be read."""

    video: VideoInfo | None = None
    tracks: Tracks | None = None
    error: str | None = None


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

    def __init__(self, settings: "Settings"):
        self._folders = settings.folders
        self._data_dir = Path(os.path.abspath(settings.data_dir))
        self._looks = _Looks(Path(settings.cache_dir, "review", "recordings.json"))
        self._lock = threading.Lock()
        self._listed_at = -LISTING_SECONDS
        self._recordings: dict[str, Recording] = {}
        self._notes: list[str] = []

    def all(self) -> list[Recording]:
        """Every recording, by folder and name; what nobody has looked into comes to be so."""
        found = [replace(r, look=self._looks.find(r)) for r in self._listing().values()]
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


class _Looks:
    """What looking into recordings told, by their content; looks into more in threads of its own.

    Kept in a file, which may be lost at any time.
    """

    def __init__(self, file: Path):
        self._file = file
        self._changed = threading.Condition()
        self._known: dict[str, tuple[list[int], Look]] | None = None
        self._wanted: dict[str, Recording] = {}
        self._busy: set[str] = set()
        self._threads: list[threading.Thread] = []
        self._saved_at = time.monotonic()
        self._is_saved = True
        self._is_closed = False

    def find(self, recording: Recording) -> Look | None:
        with self._changed:
            stamp, look = self._load().get(recording.id, (None, None))
        return look if stamp == list(recording.stamp) else None

    def take(self, recording: Recording) -> Look:
        look = _look_into(recording.path)
        with self._changed:
            self._load()[recording.id] = (list(recording.stamp), look)
            self._is_saved = False
        return look

    def want(self, recordings: list[Recording]) -> None:
        with self._changed:
            self._wanted = {r.id: r for r in recordings if r.id not in self._busy}
            if self._wanted and not self._threads and not self._is_closed:
                for _ in range(PROBES):
                    thread = threading.Thread(target=self._work, daemon=True, name="look")
                    self._threads.append(thread)
                    thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._wanted = {}
            self._changed.notify_all()
        self._save()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._wanted and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    return
                id = next(iter(self._wanted))
                recording = self._wanted.pop(id)
                self._busy.add(id)
            try:
                self.take(recording)
            finally:
                with self._changed:
                    self._busy.discard(id)
                    is_due = time.monotonic() - self._saved_at > SAVE_SECONDS
                    is_due = is_due or not (self._wanted or self._busy)
            if is_due:
                self._save()

    def _load(self) -> dict[str, tuple[list[int], Look]]:
        if self._known is None:
            self._known = dict(_read_looks(self._file))
        return self._known

    def _save(self) -> None:
        with self._changed:
            if self._is_saved or self._known is None:
                return
            self._is_saved, self._saved_at = True, time.monotonic()
            looks = {
                id: {"stamp": stamp, "video": asdict(look.video), "tracks": asdict(look.tracks)}
                for id, (stamp, look) in self._known.items()
                if look.error is None  # a server or a disk that failed may be back next time
            }
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, json.dumps({"version": VERSION, "looks": looks}).encode())
        except OSError as error:  # the next start looks again
            log.warning("what was found in recordings can't be kept in %s: %s", self._file, error)


def _look_into(path: Path) -> Look:
    try:
        return Look(probe(path), read_tracks(path))
    except (MediaError, OSError) as error:
        return Look(error=_one_line(error))
    except Exception as error:  # what no file made so far; the others are to be looked into too
        log.exception("a look into %s failed", path)
        return Look(error=f"can't be read ({type(error).__name__}: {_one_line(error)})")


def _read_looks(file: Path) -> Iterator[tuple[str, tuple[list[int], Look]]]:
    try:
        kept = json.loads(file.read_bytes())
        if kept["version"] != VERSION:
            return
        for id, entry in kept["looks"].items():
            look = Look(VideoInfo(**entry["video"]), Tracks(**entry["tracks"]))
            yield id, (entry["stamp"], look)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # none yet, or damaged


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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
