"""Cuts: where the picture of a recording changes, found for the stretch that is looked at."""

import asyncio
import threading
from collections import OrderedDict

from timeline.transitions import read_transitions
from web.library import Recording
from web.proxies import Proxies
from web.readers import reading
from web.services import Services

BLOCK_SECONDS = 20.0  # found at a time, so that who scrolls on waits for what is new only
MAX_SECONDS = 120.0  # asked for at once
MAX_BLOCKS = 2000  # kept, eleven hours
AT_ONCE = 1  # blocks that are read: a reader stays free for thumbnails


class Cuts:
    """Finds them at the full frame rate, by reading every picture of a block, and keeps them."""

    def __init__(self, services: Services, proxies: Proxies):
        self._services = services
        self._proxies = proxies
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, int], list[dict]] = OrderedDict()

    async def find(self, recording: Recording, start: float, end: float) -> list[dict]:
        """Of each in [start, end), in order, seconds, kind and strength. Raises MediaError."""
        found = []
        for number in range(int(start / BLOCK_SECONDS), int(end / BLOCK_SECONDS) + 1):
            if number * BLOCK_SECONDS < end:
                found += await self._block(recording, number)
        return [cut for cut in found if start <= cut["seconds"] < end]

    async def _block(self, recording: Recording, number: int) -> list[dict]:
        key = recording.version, number
        async with self._turn:
            with self._lock:
                if key in self._known:
                    self._known.move_to_end(key)
                    return self._known[key]
            how = await asyncio.to_thread(self._how, recording)
            span = number * BLOCK_SECONDS, (number + 1) * BLOCK_SECONDS
            task = self._services.library.readers.submit(read_transitions, how[0], span, *how[1:])
            with reading():
                found = await asyncio.wrap_future(task)
        cuts = [
            {
                "seconds": round(transition.middle_seconds, 6),
                "kind": transition.kind,
                "strength": round(transition.ratio, 2),
            }
            for transition in found
        ]
        with self._lock:
            self._known[key] = cuts
            while len(self._known) > MAX_BLOCKS:
                self._known.popitem(last=False)
        return cuts

    def _how(self, recording: Recording) -> tuple:
        """The file to be read, and what is known of its times."""
        proxy = self._proxies.find(recording)
        if proxy is not None:
            return proxy, None, False
        labelled = self._services.timelines.find(recording)
        if labelled is None:
            return recording.path, None, False
        has_jumps = any(damage.kind == "jump" for damage in labelled.timeline.damage)
        return recording.path, labelled.timeline.duration_seconds, has_jumps
