"""Pages for tests: the app over made folders, and a client that asks as a browser here would."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fastapi.testclient import TestClient

from tests.steady import wait_until
from web.app import create_app
from web.settings import Settings

ADDRESS = "http://127.0.0.1:8000"


def make_settings(folder: Path, *folders: Path, **more: object) -> Settings:
    """Settings with everything in `folder`: data, cache and runs."""
    places = {name: folder / name for name in ("data", "cache", "runs")}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    how = {f"{name}_dir": place for name, place in places.items()}
    return Settings.of(folders, **{**how, **more})


@contextlib.contextmanager
def open_page(settings: Settings, **how: object) -> Iterator[TestClient]:
    """A client of the app, started; `client.app.state.services` is what it shares."""
    with TestClient(create_app(settings), base_url=ADDRESS, **how) as client:
        yield client


def wait_for(client: TestClient, job: dict, seconds: float = 60) -> dict:
    """The job when it has ended."""
    found = dict(job)

    def has_ended() -> bool:
        found.update(client.get(f"/api/jobs/{job['id']}").json())
        return found["state"] not in ("queued", "running")

    wait_until(has_ended, seconds, what=lambda: f"the end of {found}")
    return found
