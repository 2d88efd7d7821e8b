"""Services: what all parts of the page share, made once."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec

from web.jobs import Jobs
from web.model_in_use import ModelInUse
from web.settings import Settings
from web.timelines import Timelines
from web.workers import Worker


class Services:
    """Settings, recordings, jobs, the model, timelines, corrections.

    Making them reads no recording and starts nothing; `start` and `stop` are the app's.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.jobs = Jobs(settings.review_dir / "jobs", settings.max_jobs)
        self.model = ModelInUse(settings)
        self.labeller = Worker()  # of the jobs; a process, so that no recording can end the page
        self.guests = Worker()  # of what is uploaded, which need not wait for the jobs
        self.timelines = Timelines(settings, self.model)
        self.library = _made("web.library", "Library", settings)
        self.corrections = _made(
            "web.corrections", "Corrections", settings, self.library, self.timelines
        )
        self.stopping = False
        self._stop_calls: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def start(self) -> None:
        """Raises UserError where another page works in the same cache."""
        self.settings.uploads.path.mkdir(parents=True, exist_ok=True)
        self.jobs.start()

    def stop_streams(self) -> None:
        """Ends answers that never end by themselves; from any thread, or a signal's handler."""
        self.stopping = True
        for call in list(self._stop_calls):
            call()

    def stop(self) -> None:
        self.stop_streams()
        self.jobs.stop()
        self.labeller.close()
        self.guests.close()
        if self.library:
            self.library.close()

    @contextlib.contextmanager
    def on_stop(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> Iterator[None]:
        """Calls it in the loop when the page stops."""

        def stop() -> None:
            loop.call_soon_threadsafe(call)

        with self._lock:
            self._stop_calls.append(stop)
        try:
            yield
        finally:
            with self._lock:
                self._stop_calls.remove(stop)


def _made(module: str, name: str, *arguments: object) -> object:
    """What another part owns, or None as long as it is not there."""
    return getattr(import_module(module), name)(*arguments) if find_spec(module) else None
