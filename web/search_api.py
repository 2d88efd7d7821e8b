"""Search over HTTP: the state of the index, what is like a range, and one label for all of it."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from web.everywhere import Everywhere, Stretch
from web.finding import KIND, Finding
from web.services import Services

Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]
Id = Annotated[str, Field(max_length=64)]
Label = Annotated[str, Field(min_length=1, max_length=200)]
MAX_PLACES = 10_000


class Question(BaseModel):
    """A range of a recording, how many similar places are wanted, and of which label."""

    recording: Id
    start_seconds: Seconds
    end_seconds: Seconds
    k: Annotated[int, Field(ge=1, le=200)] = 10
    label: Label | None = None
    same: bool = True


class PlaceBody(BaseModel):
    """A place, as an answer has it."""

    recording: Id
    start_seconds: Seconds
    end_seconds: Seconds


class LabelBody(BaseModel):
    """What all these places show."""

    label: Label
    places: Annotated[list[PlaceBody], Field(min_length=1, max_length=MAX_PLACES)]


def router(services: Services) -> APIRouter:
    """The routes below /api/search; the job of the index."""
    api = APIRouter(prefix="/api/search", tags=["search"])
    everywhere = Everywhere(services.library, services.corrections, services.timelines)
    finding = Finding(services.settings, services.library, services.model, everywhere.label_at)
    # Not beside a training, which reads recordings into the same feature store.
    services.jobs.kind(KIND, finding.update, lane="train", resumable=True)

    @api.get("")
    def state() -> dict:
        return finding.state()

    @api.post("/index", status_code=202)
    def index() -> dict:
        return services.jobs.submit(KIND, {}, title="Index all recordings").to_api()

    @api.post("")
    def search(body: Question) -> dict:
        recording = services.library.find(body.recording)
        how = {"k": body.k, "label": body.label, "same": body.same}
        same, similar = finding.find(recording, body.start_seconds, body.end_seconds, **how)
        return {
            "same": [found.to_api() for found in same],
            "similar": [found.to_api() for found in similar],
        }

    @api.post("/label")
    def label(body: LabelBody) -> dict:
        places = [Stretch(p.recording, p.start_seconds, p.end_seconds) for p in body.places]
        changed, refused = everywhere.put(body.label, places)
        return {
            "changed": [asdict(item) for item in changed],
            "refused": [asdict(item) for item in refused],
        }

    return api
