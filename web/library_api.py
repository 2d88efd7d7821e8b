"""Recordings over HTTP: the list, and all that is known of one."""

import json
import os

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from timeline.labelled import Labelled
from timeline.tables import to_json
from web.library import Recording
from web.services import Services


def router(services: Services) -> APIRouter:
    """The routes of recordings."""
    api = APIRouter(prefix="/api/recordings", tags=["recordings"])
    library, listing = services.library, services.listing

    @api.get("")
    def recordings() -> JSONResponse:
        """Every recording of the folders; lengths of new ones come a little later."""
        found = library.all()
        folders = [
            {
                "name": folder.name,
                "recordings": sum(recording.folder == folder.name for recording in found),
                "writable": os.access(folder.path, os.W_OK),
            }
            for folder in services.settings.folders
        ]
        # At once, as FastAPI's own way of a thousand lines takes a tenth of a second.
        return JSONResponse(
            {
                "recordings": listing.lines(found),
                "folders": folders,
                "notes": list(library.notes),
            }
        )

    @api.get("/{id}")
    def recording(id: str) -> JSONResponse:
        """One of them, with its timeline and what people said it shows."""
        found = library.looked(library.find(id))
        labelled = services.timelines.find(found)
        [line] = listing.lines([found])
        return JSONResponse(line | _more(services, found, labelled))

    return api


def _more(services: Services, recording: Recording, labelled: Labelled | None) -> dict:
    corrections, info = services.corrections, recording.probe
    correction = corrections.read(recording) if recording.editable else None
    found = corrections.found_labels(recording) if recording.editable else None
    said = labelled and json.loads(to_json(labelled.timeline))
    return {
        "frame_rate": info and info.frame_rate,
        "height": info and info.height,
        "width": info and info.width,
        "has_sound": info and info.has_audio,
        "zero_seconds": info and info.zero_seconds,
        "classes": list(corrections.labels(recording)),
        "damage": said["damage"] if said else [],
        "timeline": said,
        "corrections": correction and correction.to_dict(),
        "found_labels": found and found.to_dict(),
        "media": services.proxies.media(recording),
    }
