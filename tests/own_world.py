"""A made AWS that the test's own process talks to, for tests of what only looks."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.aws import forget_clients
from cloud.s3 import forget_connection
from tests.aws_world import World


@contextlib.contextmanager
def own_world(folder: Path) -> Iterator[World]:
    """Clients are kept from test to test, and none tries again."""
    world = World(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**world.environment, "AWS_MAX_ATTEMPTS": "1"}.items():
            patch.setenv(name, value)
        forget()
        try:
            yield world
        finally:
            forget()
            world.close()


def forget() -> None:
    """Lets the next request look for credentials anew."""
    forget_clients()
    forget_connection()
