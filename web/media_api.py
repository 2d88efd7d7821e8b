"""Media over HTTP: what is seen and heard of a recording, in ranges, pictures and numbers."""

import os
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from utils.media import MediaError
from web.cuts import MAX_SECONDS, Cuts
from web.errors import NotFound
from web.levels import Levels
from web.library import Recording
from web.ranged_file import RangedFile
from web.services import Services
from web.thumbnails import Thumbnails

MAX_TIME = 1e6  # seconds; eleven days
HEIGHTS = (24, 360)  # of a thumbnail
DAY = 86_400

Time = Annotated[float, Query(ge=0, le=MAX_TIME, allow_inf_nan=False)]


def router(services: Services) -> APIRouter:
    """The routes of media below /api/recordings."""
    api = APIRouter(prefix="/api/recordings/{id}", tags=["media"])
    library = services.library
    proxies, levels = services.proxies, Levels(services)
    thumbnails = Thumbnails(services, proxies)
    cuts = Cuts(services, proxies)

    def readable(id: str) -> Recording:
        """The recording, looked into. Raises NotFound, MediaError."""
        recording = library.looked(library.find(id))
        if recording.error:
            raise MediaError(f"{recording.name} can't be read: {recording.error}")
        return recording

    @api.head("/media", include_in_schema=False)
    @api.get("/media", response_class=Response)
    def media(id: str) -> Response:
        """The file as it is, or the range of it that is asked for."""
        recording = readable(id)
        return RangedFile(Path(os.path.realpath(recording.path)), recording.look.tracks.media_type)

    @api.head("/proxy", include_in_schema=False)
    @api.get("/proxy", response_class=Response)
    def proxy(id: str) -> Response:
        """What a browser plays instead of the file, if that was made; it starts with time zero."""
        path = proxies.find(library.find(id))
        if path is None:
            raise NotFound("there is no proxy of it: make one with POST", kind="no_proxy")
        return RangedFile(path, "video/mp4")

    @api.post("/proxy", status_code=202)
    def make_proxy(id: str) -> dict:
        """The job that makes a proxy, of a recording that browsers don't play as it is."""
        return proxies.start(library.find(id)).to_api()

    @api.get("/levels", responses={202: {"description": "a job that finds them out"}})
    def loudness(id: str) -> Response:
        """Decibels of full scale, of each hop from the first picture on; none without sound."""
        recording = readable(id)
        known = levels.find(recording)
        if known is None:
            return JSONResponse({"job": levels.start(recording).to_api()}, 202)
        return Response(known, media_type="application/json")

    @api.get("/cuts")
    async def shot_cuts(id: str, start: Time, end: Time) -> dict:
        """Cuts, dissolves and black in [start, end), of 120 seconds at most."""
        if not start < end <= start + MAX_SECONDS:
            line = f"start and end are {start:g} and {end:g}: ask for up to {MAX_SECONDS:g} seconds"
            raise HTTPException(422, {"error": line, "kind": "bad_request"})
        return {"cuts": await cuts.find(await run_in_threadpool(readable, id), start, end)}

    @api.get("/thumbnail", response_class=Response)
    async def thumbnail(
        id: str,
        request: Request,
        seconds: Time = 0.0,
        height: Annotated[int, Query(ge=HEIGHTS[0], le=HEIGHTS[1])] = 72,
    ) -> Response:
        """A JPEG of the last key picture at or before a time."""

        async def is_wanted() -> bool:
            return not await request.is_disconnected()

        recording = await run_in_threadpool(readable, id)
        data = await thumbnails.jpeg(recording, seconds, height, is_wanted)
        headers = {"Cache-Control": f"private, max-age={DAY}"}
        return Response(data, media_type="image/jpeg", headers=headers)

    return api
