"""Health: whether the page is up, with which model and folders."""

import os

from fastapi import APIRouter

from utils.errors import UserError
from web.jobs import QUEUED, RUNNING
from web.services import Services


def router(services: Services) -> APIRouter:
    api = APIRouter(prefix="/api", tags=["health"])

    @api.get("/health")
    def health() -> dict:
        """That the page is up, the model in use, what is under way, and the folders it shows."""
        states = [job.state for job in services.jobs.open()]
        recordings = services.library.all() if services.library else []
        counts: dict[str, int] = {}
        for recording in recordings:
            counts[recording.folder] = counts.get(recording.folder, 0) + 1
        notes, model = list(getattr(services.library, "notes", ())), None
        try:
            model = services.model.find()
        except UserError as error:  # damaged, or of another version
            notes.append(str(error))
        return {
            "status": "ok",
            "model": model and model.to_api(),
            "jobs": {"running": states.count(RUNNING), "queued": states.count(QUEUED)},
            "folders": [
                {
                    "name": folder.name,
                    "recordings": counts.get(folder.name, 0),
                    "writable": os.access(folder.path, os.W_OK),
                }
                for folder in services.settings.folders
            ],
            "notes": notes,
        }

    return api
