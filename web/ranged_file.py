"""Ranged file: an answer with a file, or the range of it that a player asks for."""

import errno
import logging
import os
import re
import stat
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path

import anyio
from anyio.lowlevel import RunVar
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from web.errors import answer

CHUNK_BYTES = 256 << 10
READERS = 16  # threads that read for all answers together: a slow disk does not stop the rest
ONE_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.I | re.A)
OUR_ERRORS = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE)  # not the file's
LOG = logging.getLogger("web")

_readers: RunVar[anyio.CapacityLimiter] = RunVar("readers")  # of this event loop


class RangedFile(Response):
    """A file of any size, whole or one range of it (RFC 9110, section 14), read as it is taken.

    The file is open before the first byte is sent, so a player gets what it asked for even while
    the file is replaced or removed. Opening raises OSError. An answer ends early where the file
    was cut short meanwhile, and the reading where the client left. Several ranges at once, which
    no player asks for, are answered with the whole file, as the RFC allows.
    """

    def __init__(self, path: Path, media_type: str, headers: dict[str, str] | None = None):
        # Not buffered; where nobody comes to send it, it is closed with this object.
        self._file = open(path, "rb", buffering=0, opener=_open_file)  # noqa: SIM115
        status = os.fstat(self._file.fileno())
        self._size = status.st_size
        self._modified = int(status.st_mtime)
        self.etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"'
        self.status_code = 200
        self.background = None
        self.body = b""
        told = {
            "accept-ranges": "bytes",
            "content-type": media_type,
            "etag": self.etag,
            "last-modified": formatdate(self._modified, usegmt=True),
            # Asked for again before every use: with the tag that costs next to nothing.
            "cache-control": "private, no-cache",
            **(headers or {}),
        }
        self.init_headers(told)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            part = self._part(Headers(scope=scope))
            if part.status == 416:
                line = f"the file has {self._size} bytes: ask for a range within them"
                refusal = answer(416, line, "range")
                refusal.headers["content-range"] = f"bytes */{self._size}"
                await refusal(scope, receive, send)
                return
            self.headers["content-length"] = str(part.length)
            if part.status == 304:  # whose length would be that of the file
                del self.headers["content-length"]
            if part.status == 206:
                last = part.start + part.length - 1
                self.headers["content-range"] = f"bytes {part.start}-{last}/{self._size}"
            start = {"type": "http.response.start", "status": part.status}
            await send({**start, "headers": self.raw_headers})
            if scope["method"] == "HEAD" or not part.length:
                await send({"type": "http.response.body", "body": b""})
                return
            async with anyio.create_task_group() as group:

                async def stop_with_client() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    group.cancel_scope.cancel()

                group.start_soon(stop_with_client)
                await self._send(part.start, part.start + part.length, send)
                group.cancel_scope.cancel()
        finally:
            self._file.close()

    def _part(self, asked: Headers) -> "_Part":
        if self._is_known(asked):
            return _Part(304, 0, 0)
        found = _range_of(asked.get("range"), self._size) if self._may_be_part(asked) else None
        if found is None:
            return _Part(200, 0, self._size)
        start, end = found
        return _Part(206, start, end - start) if start < end else _Part(416, 0, 0)

    def _is_known(self, asked: Headers) -> bool:
        tags = [tag.strip().removeprefix("W/") for tag in asked.get("if-none-match", "").split(",")]
        return "*" in tags or self.etag in tags

    def _may_be_part(self, asked: Headers) -> bool:
        """Whether what the client has the rest of is still this file (If-Range)."""
        condition = asked.get("if-range")
        if condition is None:
            return True
        if condition.startswith(('"', "W/")):
            return condition == self.etag
        try:
            return int(parsedate_to_datetime(condition).timestamp()) == self._modified
        except (ValueError, TypeError, OverflowError):
            return False

    async def _send(self, start: int, end: int, send: Send) -> None:
        limiter = _readers.get(None)
        if limiter is None:
            _readers.set(limiter := anyio.CapacityLimiter(READERS))
        while start < end:
            size = min(CHUNK_BYTES, end - start)
            try:
                chunk = await anyio.to_thread.run_sync(
                    os.pread, self._file.fileno(), size, start, limiter=limiter
                )
            except OSError as error:  # of the disk, or of a server that went away
                LOG.warning("reading what a player asked for failed: %s", error)
                return
            start += len(chunk)
            if not chunk:
                return  # it was cut short: the connection is closed, and the player asks again
            await send({"type": "http.response.body", "body": chunk, "more_body": start < end})


@dataclass(frozen=True)
class _Part:
    """The status that a request comes to, and the bytes of the file that go with it."""

    status: int
    start: int
    length: int


def _open_file(path: str, flags: int) -> int:
    """What can't be opened, or is no file (a pipe would wait for ever), is as good as gone."""
    gone = FileNotFoundError(errno.ENOENT, "is no file", path)
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in OUR_ERRORS:
            raise
        raise gone from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise gone
    return descriptor


def _range_of(header: str | None, size: int) -> tuple[int, int] | None:
    """[start, end) of a Range header, empty where the file has none of it, None for all of it."""
    found = ONE_RANGE.fullmatch(header) if header else None
    if found is None or not any(found.groups()):
        return None
    first, last = (int(number) if number else None for number in found.groups())
    if first is None:
        return max(0, size - last), size if last else 0
    if last is not None and last < first:
        return None  # not valid, and to be passed over
    return first, size if last is None else min(size, last + 1)
