"""Jobs over HTTP: what is done in the background, as a list and as it happens."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from web.errors import TooMany
from web.jobs import Job
from web.services import Services

COMMENT_SECONDS = 15.0  # between two signs of life: proxies cut a silent connection
MAX_WATCHERS = 100


def router(services: Services) -> APIRouter:
    api = APIRouter(prefix="/api/jobs", tags=["jobs"])
    jobs, watchers = services.jobs, Watchers(services)

    @api.get("")
    def list_jobs() -> dict:
        """What is queued and running, and the last that ended, the newest first."""
        return {"jobs": [job.to_api() for job in jobs.all()]}

    @api.get("/events", response_class=StreamingResponse)
    async def watch_jobs() -> StreamingResponse:
        """Server-sent events `job`: all that are known, then each when it changes."""
        return StreamingResponse(
            watchers.events(),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @api.get("/{job_id}")
    def find_job(job_id: str) -> dict:
        return jobs.find(job_id).to_api()

    @api.delete("/{job_id}")
    def cancel_job(job_id: str) -> dict:
        """The job, which is cancelled, or is soon where it runs."""
        return jobs.cancel(job_id).to_api()

    return api


class Watchers:
    """Those who follow the jobs, up to MAX_WATCHERS."""

    def __init__(self, services: Services):
        self._services = services
        self._count = 0

    def events(self) -> AsyncIterator[str]:
        """The text of the stream. Raises TooMany at once."""
        if self._count >= MAX_WATCHERS:
            raise TooMany(f"{MAX_WATCHERS} pages follow the jobs already: close some")
        return self._events()

    async def _events(self) -> AsyncIterator[str]:
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        waiting: dict[str, Job] = {}  # the newest of each: a slow reader misses steps, not ends

        def take(job: Job) -> None:
            waiting[job.id] = job
            changed.set()

        def tell(job: Job) -> None:  # in a thread of the jobs
            with contextlib.suppress(RuntimeError):  # the loop has ended, and we with it
                loop.call_soon_threadsafe(take, job)

        self._count += 1
        try:
            with self._services.jobs.listening(tell), self._services.on_stop(loop, changed.set):
                for job in reversed(self._services.jobs.all()):
                    waiting.setdefault(job.id, job)
                yield ": jobs\n\n"
                while not self._services.stopping:
                    while waiting:
                        job = waiting.pop(next(iter(waiting)))
                        yield f"event: job\ndata: {json.dumps(job.to_api())}\n\n"
                    try:
                        await asyncio.wait_for(changed.wait(), COMMENT_SECONDS)
                        changed.clear()
                    except TimeoutError:
                        yield ": still here\n\n"
        finally:
            self._count -= 1
