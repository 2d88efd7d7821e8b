"""App: the page and its HTTP API, put together."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from anyio.to_thread import current_default_thread_limiter
from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from web import (
    corrections_api,
    health,
    jobs_api,
    library_api,
    media_api,
    runs_api,
    search_api,
    timelines_api,
    uploads_api,
)
from web.access import Access
from web.errors import add_handlers
from web.services import Services
from web.settings import Settings

STATIC = Path(__file__).parent / "static"
THREADS = 100  # of requests that block: many only wait for a process that reads a recording
TITLE, VERSION = "Ad and game review", "1"
PARTS = (  # in the order of /docs
    health,
    library_api,
    media_api,
    timelines_api,
    corrections_api,
    uploads_api,
    jobs_api,
    search_api,
    runs_api,
)


def create_app(settings: Settings) -> FastAPI:
    """The app, which reads nothing and starts nothing before it is served."""
    services = Services(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        services.start()
        current_default_thread_limiter().total_tokens = THREADS
        try:
            yield
        finally:
            services.stop()

    # The pages that FastAPI makes for /docs load scripts from other hosts: we have our own.
    app = FastAPI(title=TITLE, version=VERSION, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.services = services
    for part in PARTS:
        app.include_router(part.router(services))
    app.include_router(_pages())
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_middleware(Access, settings=settings)
    add_handlers(app)
    return app


def _pages() -> APIRouter:
    pages = APIRouter(include_in_schema=False)

    @pages.get("/")
    def index() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @pages.get("/docs")
    def docs() -> FileResponse:
        return FileResponse(STATIC / "docs.html")

    return pages
