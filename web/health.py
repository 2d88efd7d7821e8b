"""Health: whether the page is up, with which model and folders."""

import os

from fastapi import APIRouter

from training.recipe import CheckpointError
from web.jobs import QUEUED, RUNNING
from web.model_in_use import NoModel
from web.services import Services


def router(services: Services) -> APIRouter:
    api = APIRouter(prefix="/api", tags=["health"])

    @api.get("/health")
    def health() -> dict:
        """That the page is up, the model in use, what is under way, and the folders it shows."""
        states = [job.state for job in services.jobs.open()]
        recordings = services.library.all()
        counts: dict[str, int] = {}
        for recording in recordings:
            counts[recording.folder] = counts.get(recording.folder, 0) + 1
        notes, model = list(services.library.notes), None
        try:
            model = services.model.known()
        except NoModel:
            pass
        except CheckpointError as error:  # damaged, or of another version
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
