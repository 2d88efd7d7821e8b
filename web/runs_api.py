"""Runs over HTTP: compared, promoted, rolled back, with their reports; and a new one."""

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from web.retraining import KIND, Retraining
from web.runs import Runs
from web.services import Services

# A report is a page of its own: it may show its pictures, and do nothing else.
REPORT_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'self'; "
        "sandbox"
    ),
    "X-Frame-Options": "SAMEORIGIN",
}
Value = bool | int | float | Annotated[str, Field(max_length=500)]


class PromoteBody(BaseModel):
    """Why, for the history."""

    reason: Annotated[str, Field(min_length=1, max_length=500)] = "promoted on the page"


class RollbackBody(BaseModel):
    """An earlier champion, by default the one before."""

    version: Annotated[str, Field(min_length=1, max_length=100)] | None = None


class RetrainBody(BaseModel):
    """Constants that are to be others than those of the model in use."""

    constants: Annotated[
        dict[str, Value | Annotated[list[int], Field(max_length=2)]], Field(max_length=100)
    ] = {}


def router(services: Services) -> APIRouter:
    """The routes of runs; the job that trains."""
    api = APIRouter(tags=["runs"])
    runs = Runs(services.settings, services.model)
    retraining = Retraining(services.settings, services.model, services.corrections)
    services.jobs.kind(KIND, retraining.run, lane="train", resumable=True)

    @api.get("/api/runs")
    def overview() -> dict:
        return runs.overview()

    @api.get("/runs/{name}/report", response_class=FileResponse)
    def report(name: str) -> FileResponse:
        return FileResponse(runs.report(name), media_type="text/html", headers=REPORT_HEADERS)

    @api.post("/api/runs/{name}/promote")
    def promote(name: str, body: PromoteBody | None = None) -> dict:
        return runs.promote(name, (body or PromoteBody()).reason).to_api()

    @api.post("/api/champion/rollback")
    def rollback(body: RollbackBody | None = None) -> dict:
        return runs.rollback(body and body.version).to_api()

    @api.get("/api/retrain")
    def material() -> dict:
        last = services.jobs.latest(KIND)
        return {**retraining.gather().to_api(), "last": last and last.to_api()}

    @api.post("/api/retrain", status_code=202)
    def retrain(body: RetrainBody | None = None) -> dict:
        constants = body.constants if body else {}
        retraining.check(constants)
        arguments = {"constants": constants}
        return services.jobs.submit(KIND, arguments, title="Retrain with corrections").to_api()

    return api
