"""Ranged file: an answer with a file, or the range of it that a player asks for."""

import os
import re
import stat
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path

import anyio
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

CHUNK_BYTES = 256 << 10
READERS = 16  # threads that read for all answers together: a slow disk does not stop the rest
ONE_RANGE = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.I | re.A)
MAX_DIGITS = 19  # of a byte's number

_limiter: anyio.CapacityLimiter | None = None


class RangedFile(Response):
    """A file of any size, whole or one range of it (RFC 9110, section 14), read as it is taken.

    The file is open before the first byte is sent, so a player gets what it asked for even while
    the file is replaced or removed. Opening raises OSError. An answer ends early where the file
    was cut short meanwhile, and the reading where the client left. Several ranges at once, which
    no player asks for, are answered with the whole file, as the RFC allows.
    """

    def __init__(self, path: Path, media_type: str, headers: dict[str, str] | None = None):
        self._file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(self._file)
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(f"{path} is no file")
        except BaseException:
            os.close(self._file)
            raise
        self._size = status.st_size
        self._modified = int(status.st_mtime)
        self.etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"'
        self.status_code = 200
        self.background = None
        self.body = b""
        self._own = {
            "accept-ranges": "bytes",
            "content-type": media_type,
            "etag": self.etag,
            "last-modified": formatdate(self._modified, usegmt=True),
            # Asked for again before every use: with the tag that costs next to nothing.
            "cache-control": "private, no-cache",
            **(headers or {}),
        }
        self.init_headers(self._own)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = self._answer(Headers(scope=scope))
            for name, value in answer.headers.items():
                self.headers[name] = value
            self.headers["content-length"] = str(answer.length)
            self.status_code = answer.status
            await send(
                {
                    "type": "http.response.start",
                    "status": answer.status,
                    "headers": self.raw_headers,
                }
            )
            if scope["method"] == "HEAD" or not answer.length:
                await send({"type": "http.response.body", "body": b""})
                return
            async with anyio.create_task_group() as group:

                async def stop_with_client() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    group.cancel_scope.cancel()

                group.start_soon(stop_with_client)
                await self._send(answer.start, answer.start + answer.length, send)
                group.cancel_scope.cancel()
        finally:
            os.close(self._file)

    def _answer(self, asked: Headers) -> "_Answer":
        if self._is_known(asked):
            return _Answer(304, 0, 0, {})
        found = _range_of(asked.get("range"), self._size) if self._may_be_part(asked) else None
        if found is None:
            return _Answer(200, 0, self._size, {})
        start, end = found
        if start >= end:
            return _Answer(416, 0, 0, {"content-range": f"bytes */{self._size}"})
        told = {"content-range": f"bytes {start}-{end - 1}/{self._size}"}
        return _Answer(206, start, end - start, told)

    def _is_known(self, asked: Headers) -> bool:
        tags = asked.get("if-none-match")
        if tags is None:
            return False
        return tags.strip() == "*" or self.etag in [
            t.strip().removeprefix("W/") for t in tags.split(",")
        ]

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
        global _limiter
        _limiter = _limiter or anyio.CapacityLimiter(READERS)
        while start < end:
            size = min(CHUNK_BYTES, end - start)
            chunk = await anyio.to_thread.run_sync(
                os.pread, self._file, size, start, limiter=_limiter
            )
            start += len(chunk)
            if not chunk:
                return  # it was cut short: the server closes the connection, and the player asks again
            await send({"type": "http.response.body", "body": chunk, "more_body": start < end})


@dataclass(frozen=True)
class _Answer:
    """A status, the bytes that go with it, and what headers say of them."""

    status: int
    start: int
    length: int
    headers: dict[str, str]


def _range_of(header: str | None, size: int) -> tuple[int, int] | None:
    """[start, end) of a Range header, empty where the file has none of it, None for all of it."""
    found = ONE_RANGE.fullmatch(header) if header else None
    if found is None or not any(found.groups()):
        return None
    first, last = (int(number[:MAX_DIGITS]) if number else None for number in found.groups())
    if first is None:
        return max(0, size - last), size if last else 0
    if last is not None and last < first:
        return None  # not valid, and to be passed over
    return first, size if last is None else min(size, last + 1)
