"""Thumbnails: small pictures of recordings, kept in memory and on the disk."""

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from utils.media import MediaError
from utils.previews import read_preview
from web.disk_cache import DiskCache
from web.library import Recording
from web.proxies import Proxies
from web.readers import reading
from web.services import Services

STEP_SECONDS = 0.5  # which times share a picture: key pictures are further apart in most files
MEMORY_BYTES, DISK_BYTES = 32 << 20, 512 << 20
LOG = logging.getLogger("web")


class Thumbnails:
    """Makes and keeps them; a picture takes some milliseconds in a file that is open already."""

    def __init__(self, services: Services, proxies: Proxies):
        self._readers = services.library.readers
        self._proxies = proxies
        self._memory = _Memory(MEMORY_BYTES)
        self._disk = DiskCache(services.settings.review_dir / "thumbnails", DISK_BYTES)

    async def jpeg(
        self,
        recording: Recording,
        seconds: float,
        height: int,
        is_wanted: Callable[[], Awaitable[bool]],
    ) -> bytes:
        """A JPEG of the last key picture at or before a time.

        Waits for its turn without a thread, and gives up where nobody wants it any more. Raises
        MediaError.
        """
        step = int(min(seconds, recording.probe.duration_seconds) / STEP_SECONDS)
        name = f"{recording.version}-{step}-{height}.jpg"
        data = self._memory.find(name) or await asyncio.to_thread(self._disk.read, name)
        if data is None:
            data = await self._make(recording, step * STEP_SECONDS, height, is_wanted)
            await asyncio.to_thread(self._keep, name, data)
        self._memory.add(name, data)
        return data

    async def _make(self, recording: Recording, seconds: float, height: int, is_wanted) -> bytes:
        # A proxy counts as the page does, whatever the timestamps, and is smaller to decode.
        path = await asyncio.to_thread(self._proxies.find, recording) or recording.path
        future = self._readers.submit(read_preview, path, seconds, height)
        waiting = asyncio.wrap_future(future)
        with reading():
            while True:
                done, _ = await asyncio.wait([waiting], timeout=0.5)
                if done:
                    return waiting.result()
                if not await is_wanted() and future.cancel():
                    raise MediaError("nobody waits for it")

    def _keep(self, name: str, data: bytes) -> None:
        try:
            self._disk.write(name, data)
        except OSError as error:
            LOG.warning("a thumbnail can't be kept: %s", error)


class _Memory:
    """What was used last, by name, up to so many bytes."""

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size_bytes = 0

    def find(self, name: str) -> bytes | None:
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def add(self, name: str, data: bytes) -> None:
        with self._lock:
            self._size_bytes += len(data) - len(self._kept.pop(name, b""))
            self._kept[name] = data
            while self._size_bytes > self._max_bytes:
                self._size_bytes -= len(self._kept.popitem(last=False)[1])
