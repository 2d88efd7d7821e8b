"""Uploads over HTTP: a recording brought to the page, or one shown to it and not kept."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request

from utils.media import MediaError
from utils.recordings import is_video
from utils.video import probe
from web.errors import ApiError, NotFound, TooMany
from web.reception import file_name, keep
from web.services import Services

CLASSIFIED_AT_ONCE = 2  # one is read, one waits
LOOK_SECONDS = 0.5  # between two looks whether whoever asked is still there
BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
Name = Annotated[str, Query(min_length=1, max_length=255, description="with its suffix")]


def router(services: Services) -> APIRouter:
    api = APIRouter(prefix="/api", tags=["uploads"])
    folder, reception = services.settings.uploads.path, services.reception
    classifying = 0

    @api.post("/uploads", status_code=201, openapi_extra=BODY)
    async def upload(name: Name, request: Request) -> dict:
        """Takes the body of the request, a video, into the folder `uploads`."""
        name = file_name(name)
        await run_sync(_refuse_full, services)
        async with reception.received(request) as path:
            await run_sync(_refuse_unreadable, services, path, name)
            place = await run_sync(keep, path, folder, name)
        services.library.refresh()
        return await run_sync(_describe, services, place)

    @api.post("/classify", openapi_extra=BODY)
    async def classify(name: Name, request: Request) -> dict:
        """What the body of the request, a video, shows when; nothing of it is kept."""
        nonlocal classifying
        name = file_name(name)
        await run_sync(services.model.known)
        if classifying >= CLASSIFIED_AT_ONCE:
            raise TooMany("others are being classified: try again in a minute")
        classifying += 1
        try:
            async with reception.received(request) as path:
                return await _classify(request, services, path, name)
        finally:
            classifying -= 1

    return api


async def _classify(request: Request, services: Services, path: Path, name: str) -> dict:
    """The answer, unless whoever asked leaves: then nobody reads on. Raises ApiError."""
    is_over = threading.Event()

    async def watch() -> None:
        while not services.stopping and not await request.is_disconnected():
            await asyncio.sleep(LOOK_SECONDS)
        is_over.set()

    def check() -> None:
        if is_over.is_set():
            raise ApiError("this was broken off: send it again", status=408)

    watching = asyncio.create_task(watch())
    try:
        return await run_sync(services.labelling.classify, path, name, check)
    except MediaError as error:
        raise _no_video(name, error) from None
    finally:
        watching.cancel()


def _refuse_unreadable(services: Services, path: Path, name: str) -> None:
    """Raises ApiError where no picture can be decoded."""
    try:
        services.library.readers.run(probe_file, path)
    except MediaError as error:
        raise _no_video(name, error) from None


def _no_video(name: str, error: MediaError) -> ApiError:
    return ApiError(f"{name} can't be read ({error}): send a video", status=415)


def probe_file(path: Path, report: Callable[[object], None]) -> None:
    """Decodes a picture, in a process that a file may crash. Raises MediaError."""
    probe(path)


def _refuse_full(services: Services) -> None:
    folder, most = services.settings.uploads.path, services.settings.max_uploads
    there = sum(is_video(path.name) for path in folder.iterdir())
    if there + services.reception.count >= most:
        raise TooMany(f"{folder} has {there} recordings, which is the most: remove some from it")


def _describe(services: Services, place: Path) -> dict:
    for recording in services.library.all():
        if recording.path == place:
            return services.listing.lines([services.library.looked(recording)])[0]
    raise NotFound(f"{place.name} was removed at once")
