"""Services: what all parts of the page share, made once."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator

from web.corrections import Corrections
from web.jobs import Jobs
from web.label_jobs import Labelling
from web.library import Library
from web.listing import Listing
from web.model_in_use import ModelInUse
from web.proxies import Proxies
from web.reception import Reception
from web.review_queue import ReviewQueue
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
        self.library = Library(settings)
        self.timelines = Timelines(settings, self.model)
        self.corrections = Corrections(settings, self.library, self.timelines)
        self.queue = ReviewQueue(self.library, self.timelines, self.corrections)
        self.worker = Worker()  # of the jobs; a process, so that no recording can end the page
        self.guests = Worker()  # of what is shown and not kept, which need not wait for the jobs
        self.reception = Reception(settings.uploads.path, settings.max_upload_bytes)
        self.labelling = Labelling(self)
        self.listing = Listing(self)
        self.proxies = Proxies(self)
        self.stopping = False
        self._is_started = False
        self._stop_calls: list[Callable[[], None]] = []  # of streams
        self._closers: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self.at_stop(self.library.close)
        self.at_stop(self.listing.close)

    def start(self) -> None:
        """Does nothing the second time. Raises UserError where another page has the same cache."""
        if self._is_started:
            return
        self._is_started = True
        self.jobs.start()
        self.reception.clear()

    def stop_streams(self) -> None:
        """Ends answers that never end by themselves; from any thread, or a signal's handler."""
        self.stopping = True
        for call in list(self._stop_calls):
            call()

    def stop(self) -> None:
        self.stop_streams()
        self.jobs.stop()
        self.worker.close()
        self.guests.close()
        for close in reversed(self._closers):
            close()

    def at_stop(self, close: Callable[[], None]) -> None:
        """Calls it when the page has stopped, the last one first."""
        self._closers.append(close)

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
