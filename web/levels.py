"""Levels: how loud recordings are over time, found out once and kept."""

import json

from utils.loudness import HOP_SECONDS, read_loudness
from web.disk_cache import DiskCache
from web.jobs import Handle, Job
from web.library import Recording
from web.services import Services
from web.workers import Worker

KIND = "levels"
MAX_BYTES = 1 << 30  # of all; three hours take 0.2 MB


class Levels:
    """The levels in the cache, as the JSON that the page is sent."""

    def __init__(self, services: Services):
        self._services = services
        self._cache = DiskCache(services.settings.review_dir / "levels", MAX_BYTES)
        services.jobs.kind(KIND, self._make, lane="media", resumable=True)

    def find(self, recording: Recording) -> bytes | None:
        """`{"hop_seconds": …, "decibels": […]}`, None where nobody has listened yet."""
        return self._cache.read(_name(recording))

    def start(self, recording: Recording) -> Job:
        title = f"Measure how loud {recording.name} is"
        arguments = {"recording": recording.id, "version": recording.version}
        return self._services.jobs.submit(KIND, arguments, title=title, recording=recording.id)

    def _make(self, handle: Handle, arguments: dict) -> dict:
        library = self._services.library
        recording = library.looked(library.find(arguments["recording"]))
        total_seconds = recording.probe.duration_seconds if recording.probe else 0.0
        worker = Worker()  # a process of its own, which can be ended at any point

        def report(seconds: float) -> None:
            handle.report(min(1.0, seconds / max(total_seconds, seconds)), "listening")

        try:
            decibels = worker.run(
                read_loudness, recording.path, progress=report, check=handle.check
            )
        finally:
            worker.close()
        told = {"hop_seconds": HOP_SECONDS, "decibels": decibels}
        self._cache.write(_name(recording), json.dumps(told, separators=(",", ":")).encode())
        return {"seconds": len(decibels) * HOP_SECONDS}


def _name(recording: Recording) -> str:
    return f"{recording.version}.json"
