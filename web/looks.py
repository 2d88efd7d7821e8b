"""Looks: what recordings are, found out once for each content and remembered."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from utils.files import write_whole
from utils.media import MediaError
from utils.playback import Tracks, look_into
from utils.video import VideoInfo
from web.readers import Readers

AT_ONCE = 2  # recordings looked into in the background
REST_SECONDS = 0.3  # before the first, as the page is just being opened
SAVE_SECONDS = 5.0  # from one saving of what was found to the next, while there is more
VERSION = 1  # raise it when a look into a recording tells more
LOG = logging.getLogger("web")


class Recording(Protocol):
    """As web.library finds it."""

    id: str
    path: Path
    stamp: tuple[int, ...]


@dataclass(frozen=True)
class Look:
    """What a look into a recording told: what it is, or in one line why it can't be read."""

    video: VideoInfo | None = None
    tracks: Tracks | None = None
    error: str | None = None


class Looks:
    """What looking into recordings told, by their content; looks into more in threads of its own.

    Kept in a file, which may be lost at any time.
    """

    def __init__(self, file: Path, readers: Readers):
        self._file = file
        self._readers = readers
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
        with self._changed:  # the background need not look into it, too
            self._wanted.pop(recording.id, None)
            self._busy.add(recording.id)
        look = self._look_into(recording.path)
        with self._changed:
            self._load()[recording.id] = (list(recording.stamp), look)
            self._is_saved = False
            self._busy.discard(recording.id)
        return look

    def want(self, recordings: list[Recording]) -> None:
        with self._changed:
            self._wanted = {r.id: r for r in recordings if r.id not in self._busy}
            if self._wanted and not self._threads and not self._is_closed:
                for _ in range(AT_ONCE):
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
        time.sleep(REST_SECONDS)
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

    def _look_into(self, path: Path) -> Look:
        try:
            return Look(*self._readers.run(look_into, path))
        except (MediaError, OSError) as error:
            return Look(error=_one_line(error))
        except Exception as error:  # of no file so far; the others are to be seen all the same
            LOG.exception("looking into %s failed", path)
            return Look(error=f"can't be read ({type(error).__name__}: {_one_line(error)})")

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
            LOG.warning("what was found in recordings can't be kept in %s: %s", self._file, error)


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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
