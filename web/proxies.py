"""Proxies: what a browser plays instead of recordings that it can't, made once on demand."""

from pathlib import Path
from typing import TYPE_CHECKING

from utils.proxies import SUFFIX, write_proxy
from web.disk_cache import DiskCache
from web.errors import Conflict
from web.jobs import Handle, Job
from web.library import Recording
from web.workers import Worker

if TYPE_CHECKING:
    from web.services import Services

KIND = "proxy"
MAX_BYTES = 40 << 30  # of all of them
MAX_COPIED_PART = 0.25  # of that: what is larger becomes small instead of being copied


class Proxies:
    """The proxies in the cache; those that were not used for longest go when they are too many."""

    def __init__(self, services: "Services", max_bytes: int = MAX_BYTES):
        self._services = services
        self._cache = DiskCache(services.settings.review_dir / "proxies", max_bytes)
        services.jobs.kind(KIND, self._make, lane="media", resumable=True)

    def find(self, recording: Recording) -> Path | None:
        """The proxy of a recording as it is now, if there is one."""
        return self._cache.find(_name(recording))

    def media(self, recording: Recording) -> dict:
        """How a browser plays a recording, and what it has to add to the page's seconds."""
        base = f"/api/recordings/{recording.id}"
        tracks = recording.look and recording.look.tracks
        if tracks and tracks.plays:
            zero_seconds = max(0.0, tracks.start_seconds + recording.probe.zero_seconds)
            return {"kind": "direct", "url": f"{base}/media", "zero_seconds": zero_seconds}
        if self.find(recording) is not None:
            return {"kind": "proxy", "url": f"{base}/proxy", "zero_seconds": 0.0}
        return {"kind": "needs_proxy", "url": None, "zero_seconds": 0.0}

    def start(self, recording: Recording) -> Job:
        """The job that makes one. Raises Conflict where none is needed, or possible."""
        recording = self._services.library.looked(recording)
        if recording.error:
            raise Conflict(f"{recording.name} can't be read: {recording.error}", kind="unreadable")
        if recording.look.tracks.plays:
            raise Conflict(
                f"{recording.name} plays as it is: take its media instead", kind="plays_directly"
            )
        title = f"Make {recording.name} playable"
        arguments = {"recording": recording.id, "version": recording.version}
        return self._services.jobs.submit(KIND, arguments, title=title, recording=recording.id)

    def _make(self, handle: Handle, arguments: dict) -> dict:
        recording = self._services.library.find(arguments["recording"])
        if self.find(recording) is not None:
            return {"how": "there already", "removed": []}
        folder, name = self._cache.folder, _name(recording)
        folder.mkdir(parents=True, exist_ok=True)
        copied = round(self._cache.max_bytes * MAX_COPIED_PART)
        worker = Worker()  # a process of its own, which can be ended at any point
        try:
            how = worker.run(
                write_proxy,
                recording.path,
                folder / name,
                copied,
                progress=lambda part: handle.report(part, "making it playable"),
                check=handle.check,
            )
        finally:
            worker.close()
            # What an ended process left, and the proxies of what the file was before.
            self._cache.remove(lambda other: recording.id in other and other != name)
        removed = self._cache.added((folder / name).stat().st_size, keep=folder / name)
        return {"how": how, "removed": [path.name for path in removed]}


def _name(recording: Recording) -> str:
    return f"{recording.id}-{recording.version}{SUFFIX}"
