"""Reception: uploads on their way to the disk, bounded in size, number and patience."""

import asyncio
import contextlib
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from anyio.to_thread import run_sync
from starlette.requests import ClientDisconnect, Request

from utils.recordings import VIDEO_SUFFIXES, is_video
from web.access import said_length
from web.errors import INSUFFICIENT_STORAGE, ApiError, TooMany

AT_ONCE = 4  # uploads on their way; each has a file of up to the greatest size
PATIENCE_SECONDS = 60.0  # without a byte
PIECE_BYTES = 1 << 20  # written at a time
SPARE_BYTES = 1 << 30  # that the disk must have left behind an upload
MAX_NAME_BYTES = 200  # as UTF-8: file systems take 255, with what is added to tell two apart
PARTIAL = ".partial"


class Reception:
    """The way of request bodies to files in a folder, of which nothing stays that is not wanted."""

    def __init__(self, folder: Path, max_bytes: int):
        self._folder = folder
        self._max_bytes = max_bytes
        self._count = 0

    @property
    def count(self) -> int:
        """How many are on their way."""
        return self._count

    @contextlib.asynccontextmanager
    async def received(self, request: Request) -> AsyncIterator[Path]:
        """The file of a request's body, which is gone afterwards. Raises ApiError, OSError."""
        if self._count >= AT_ONCE:
            raise TooMany(f"{AT_ONCE} uploads are on their way: wait until one is there")
        self._refuse_length(said_length(request.headers))
        # Beside what it may become, so that this costs no copy.
        path = self._folder / f".{secrets.token_hex(8)}{PARTIAL}"
        self._count += 1
        try:
            await self._receive(request, path)
            yield path
        finally:
            self._count -= 1
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes what a process left that was killed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.glob(f".*{PARTIAL}"):
            path.unlink(missing_ok=True)

    async def _receive(self, request: Request, path: Path) -> None:
        size_bytes, pieces = 0, _pieces(request)
        with open(path, "xb", buffering=0) as file:
            async for piece in pieces:
                size_bytes += len(piece)
                if size_bytes > self._max_bytes:
                    raise self._too_large()
                await run_sync(_write, file, piece)
        if size_bytes == 0:
            raise ApiError("nothing was sent: send the file as the body of the request")

    def _refuse_length(self, expected: int) -> None:
        if expected > self._max_bytes:
            raise self._too_large()
        free = shutil.disk_usage(self._folder).free
        if free < expected + SPARE_BYTES:
            raise ApiError(
                f"the disk of the server has {free / 2**30:.1f} GB left: free some there",
                status=INSUFFICIENT_STORAGE,
            )

    def _too_large(self) -> ApiError:
        most = f"{self._max_bytes / 2**30:.3g} GB"
        return ApiError(
            f"the file is larger than {most}: start serve.py with --max-upload-gb, or put it into "
            "one of its folders",
            status=413,
        )


def file_name(given: str) -> str:
    """A name for an uploaded file, of the one it had: nothing in it leads anywhere.

    Raises ApiError where it is no name of a video.
    """
    if not is_video(given):
        raise ApiError(
            f"only videos are taken, and their names end in {', '.join(VIDEO_SUFFIXES)}", status=415
        )
    if re.search(r"[/\\\x00-\x1f\x7f:]", given) or given.startswith("."):
        raise ApiError("a name has no / \\ : in it and no dot before it: send the name alone")
    stem, suffix = os.path.splitext(given)
    stem = stem.encode("utf-8", "replace").decode().strip(" .")
    if not stem or len(given.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise ApiError(f"a name has from 1 to {MAX_NAME_BYTES} bytes: rename the file")
    return stem + suffix.lower()


def keep(path: Path, folder: Path, name: str) -> Path:
    """Gives a file its name in a folder, or the next free one like it; replaces nothing."""
    stem, suffix = os.path.splitext(name)
    number = 1
    while True:
        place = folder / (name if number == 1 else f"{stem} ({number}){suffix}")
        try:
            open(place, "xb").close()
        except FileExistsError:
            number += 1
        else:
            return path.replace(place)


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body in pieces that are worth a write. Raises ApiError for a sender that fell silent."""
    held, stream = bytearray(), request.stream()
    while True:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                chunk = await anext(stream, None)
        except TimeoutError:
            line = f"nothing came for {PATIENCE_SECONDS:g} seconds: send it again"
            raise ApiError(line, status=408) from None
        except ClientDisconnect:
            raise ApiError("the sender left before all was there", status=408) from None
        held += chunk or b""
        if len(held) >= PIECE_BYTES or (held and chunk is None):
            yield bytes(held)
            held.clear()
        if chunk is None:
            return


def _write(file: object, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[file.write(view) :]
