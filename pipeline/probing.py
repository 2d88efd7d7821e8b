"""Probing: a look at the first picture of each video, before any is decoded."""

import os
from collections.abc import Callable
from concurrent.futures import as_completed

from tqdm import tqdm

from utils.media import MediaError
from utils.processes import WorkerLost, WorkerPool
from utils.video import probe


def probe_videos(paths: dict[str, str]) -> tuple[dict[str, float], dict[str, str]]:
    """By name: the lengths in seconds that files of this machine state, and why others have none.

    In processes of their own: a file that crashes the decoder is one that can't be read.
    """
    seconds: dict[str, float] = {}
    unreadable: dict[str, str] = {}
    with WorkerPool(os.cpu_count() or 1) as pool:
        asked = {pool.submit(_probe, path): name for name, path in paths.items()}
        done = tqdm(as_completed(asked), "look at videos", len(asked), leave=False, delay=2)
        for future in done:
            name = asked[future]
            try:
                seconds[name] = future.result()
            except (MediaError, WorkerLost, OSError) as error:
                unreadable[name] = str(error).splitlines()[0]
    return dict(sorted(seconds.items())), dict(sorted(unreadable.items()))


def _probe(path: str, report: Callable[[object], None]) -> float:
    return probe(path).duration_seconds
