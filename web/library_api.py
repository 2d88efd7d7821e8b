"""Recordings over HTTP: the list, and all that is known of one."""

import os

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from timeline.tables import to_json
from web.library import Recording
from web.overview import Overview
from web.proxies import Proxies
from web.services import Services


def router(services: Services) -> APIRouter:
    api = APIRouter(prefix="/api/recordings", tags=["recordings"])
    return api
