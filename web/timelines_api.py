"""Timelines over HTTP: recordings labelled, what came of it, and the files that players read."""

from typing import Annotated, Literal
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Body
from fastapi.responses import Response
from pydantic import BaseModel, Field

from timeline.formats import FORMATS, format_named, format_timeline, sidecar_path
from timeline.labelled import Labelled
from timeline.timeline import Timeline
from web.errors import NotFound
from web.library import Recording
from web.services import Services

ALL_UNLABELLED, ALL_OUTDATED = "all_unlabelled", "all_outdated"
MAX_RECORDINGS = 10_000  # named at once


class LabelWishes(BaseModel):
    """How to label."""

    quick: bool = False  # key pictures first
    again: bool = False  # also what was labelled before


class LabelMany(LabelWishes):
    """Which recordings to label."""

    recordings: (
        Literal["all_unlabelled", "all_outdated"]
        | Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=MAX_RECORDINGS)]
    )


def router(services: Services) -> APIRouter:
    api = APIRouter(prefix="/api", tags=["timelines"])
    labelling = services.labelling

    @api.post("/recordings/{id}/label", status_code=202)
    def label_recording(id: str, wishes: Annotated[LabelWishes | None, Body()] = None) -> dict:
        """The job that finds out what a recording shows when."""
        wishes = wishes or LabelWishes()
        recording = services.library.find(id)
        return labelling.submit(recording, quick=wishes.quick, again=wishes.again).to_api()

    @api.post("/label", status_code=202)
    def label_recordings(wishes: LabelMany) -> dict:
        """The jobs of several recordings, or of all that are not labelled and no training clips.

        Outdated are those that another model labelled, before a training or a promotion.
        """
        every = [recording for recording in services.library.all() if recording.editable]
        if wishes.recordings == ALL_UNLABELLED:
            chosen = [recording for recording in every if not services.timelines.find(recording)]
        elif wishes.recordings == ALL_OUTDATED:
            chosen = [recording for recording in every if services.timelines.is_outdated(recording)]
        else:
            chosen = [services.library.find(name) for name in wishes.recordings]
        how = {"quick": wishes.quick, "again": wishes.again}
        return {"jobs": [labelling.submit(recording, **how).to_api() for recording in chosen]}

    @api.get("/recordings/{id}/curve")
    def curve(id: str) -> dict:
        """The probability of ads over time, per mille; value k is about (k + 0.5) hops."""
        labelled = _labelled(services, services.library.find(id))
        values = np.rint(1000 * labelled.break_probabilities).astype(int).clip(0, 1000)
        return {"hop_seconds": labelled.hop_seconds, "values": values.tolist()}

    @api.get("/recordings/{id}/download", response_class=Response)
    def download(
        id: str, format: str = "edl", of: Literal["corrected", "model"] = "corrected"
    ) -> Response:
        """A timeline as a file of one of /api/formats; corrected, where it was."""
        recording = services.library.find(id)
        format_named(format)
        content = format_timeline(_timeline(services, recording, of == "corrected"), format)
        name = sidecar_path(recording.path, format).name
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "._- ") else "_" for c in name)
        named = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(_text(name), safe='')}"
        kind = "application/json" if format == "json" else "text/plain; charset=utf-8"
        return Response(content, media_type=kind, headers={"Content-Disposition": named})

    @api.get("/formats")
    def formats() -> dict:
        """The kinds of files that a timeline can be downloaded as."""
        return {
            "formats": [
                {"name": name, "suffix": form.suffix, "about": form.readers}
                for name, form in FORMATS.items()
            ]
        }

    return api


def _labelled(services: Services, recording: Recording) -> Labelled:
    labelled = services.timelines.find(recording)
    if labelled is None:
        raise NotFound(
            f"{recording.name} is not labelled by the model in use: label it first",
            kind="not_labelled",
        )
    return labelled


def _timeline(services: Services, recording: Recording, corrected: bool) -> Timeline:
    """The corrected one where it is wanted and there, else the model's. Raises NotFound."""
    correction = services.corrections.read(recording) if corrected else None
    if correction is None:
        return _labelled(services, recording).timeline
    return correction.timeline


def _text(name: str) -> str:
    """A file name without what is no UTF-8 in it."""
    return name.encode("utf-8", "replace").decode()
