"""Corrections over HTTP: saved, taken back, and the queue of what to review first."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from web.corrections import MAX_PARTS
from web.services import Services

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SegmentBody(BaseModel):
    """What a stretch shows; null for none of the classes."""

    start_seconds: Seconds
    end_seconds: Seconds
    label: Annotated[str, Field(min_length=1, max_length=200)] | None


class CorrectionsBody(BaseModel):
    """All segments of a recording, in order, and the revision that they were made from."""

    segments: Annotated[list[SegmentBody], Field(max_length=MAX_PARTS)]
    revision: str | None = None
    overwrite: bool = False


def router(services: Services) -> APIRouter:
    """The routes below /api that correct."""
    api = APIRouter(prefix="/api", tags=["corrections"])

    @api.put("/recordings/{id}/corrections")
    def save_corrections(id: str, body: CorrectionsBody) -> dict:
        recording = services.library.find(id)
        rows = [segment.model_dump() for segment in body.segments]
        how = {"revision": body.revision, "overwrite": body.overwrite}
        saved = services.corrections.write(recording, rows, **how)
        told = saved.to_dict()
        return {name: told[name] for name in ("revision", "saved_at", "place")} | {
            "corrections": told
        }

    @api.delete("/recordings/{id}/corrections")
    def remove_corrections(id: str, revision: str | None = None) -> dict:
        services.corrections.remove(services.library.find(id), revision)
        return {"corrections": None}

    @api.get("/queue")
    def queue(limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> dict:
        items = services.queue.items()
        return {
            "items": [item.to_dict() for item in items[:limit]],
            "total_expected_wrong_seconds": round(
                sum(item.expected_wrong_seconds for item in items), 1
            ),
        }

    return api
