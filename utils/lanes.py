"""Lanes: parts of one recording read side by side, and given out in order."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import numpy as np

from utils.audio import SoundFile
from utils.damage import DamageLog
from utils.features import BLOCK_SECONDS, FeatureBlock, FeatureSpec, open_sound, read_features
from utils.media import Part

STEPS_AHEAD = 3  # blocks of sound that wait for the pictures

T = TypeVar("T")


def side_by_side(
    readings: Sequence[Callable[[], Iterator[T]]], lanes: int
) -> Iterator[tuple[int, T]]:
    """Yields all items of all readings, in order, each with the index of its reading.

    So many threads make them, a reading each, one reading ahead of what is needed; what one raises
    is raised in its place. No thread is left when this ends, or is closed.
    """
    stop = threading.Event()
    coming = iter(readings)
    begun: deque[SimpleQueue] = deque()

    def fill(reading: Callable[[], Iterator[T]], items: SimpleQueue) -> None:
        try:
            with contextlib.closing(reading()) as made:
                for item in made:
                    items.put((item, None))
                    if stop.is_set():
                        return
            items.put(None)
        except BaseException as error:  # handed to the consumer, which raises it
            items.put((None, error))

    def begin() -> None:
        reading = next(coming, None)
        if reading is not None:
            begun.append(SimpleQueue())
            pool.submit(fill, reading, begun[-1])

    with ThreadPoolExecutor(lanes, "lane") as pool:
        try:
            for _ in range(lanes + 1):
                begin()
            for index in range(len(readings)):
                items = begun.popleft()
                while (made := items.get()) is not None:
                    item, error = made
                    if error is not None:
                        raise error
                    yield index, item
                begin()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def read_in_lanes(
    path: Path,
    spec: FeatureSpec,
    parts: Sequence[Part],
    *,
    lanes: int,
    damage: DamageLog,
    bars_by_stretch: bool,
) -> Iterator[FeatureBlock]:
    """Yields what `read_features` does of a whole recording: the pictures of its parts, by a thread
    for each of some lanes, and the sound, in a pass of its own, by one more.

    Raises MediaError, and SplitError where the recording is to be read in one pass.
    """
    logs = [damage.of_part() for _ in (*parts, "sound")]
    readings = [
        partial(
            read_features,
            path,
            spec,
            part,
            damage=log,
            sound=False,
            bars_by_stretch=bars_by_stretch,
        )
        for part, log in zip(parts, logs, strict=False)
    ]
    num_frames = num_taken = 0
    with contextlib.ExitStack() as stack:
        sound = open_sound(path, spec, 0, stack, own_track=True, damage=logs[-1], beside_parts=True)
        rows = (
            None if sound is None else stack.enter_context(contextlib.closing(_Rows(sound, spec)))
        )
        blocks = stack.enter_context(contextlib.closing(side_by_side(readings, lanes)))
        for index, block in blocks:
            while num_taken < index:
                damage.take_over(logs[num_taken])
                num_taken += 1
            num_frames += len(block.frames)
            if rows is not None:
                mfcc = rows.take(spec.num_rows(num_frames))
                block = replace(block, mfcc=mfcc, heard=rows.heard)
            yield block
        if rows is not None:
            mfcc = rows.finish(spec.num_rows(num_frames))
            yield replace(block, frames=block.frames[:0], mfcc=mfcc, heard=rows.heard)
    for log in logs[num_taken:]:
        damage.take_over(log)


class _Rows:
    """MFCC rows of a sound that a thread reads ahead of the pictures."""

    def __init__(self, sound: SoundFile, spec: FeatureSpec):
        self.heard = False
        self._sound = sound
        self._step = spec.num_rows(round(BLOCK_SECONDS * spec.fps))
        self._num_wanted = self._num_given = 0
        self._rest = np.zeros((0, spec.mfcc.n_mfcc), np.float16)
        self._pool = ThreadPoolExecutor(1, "sound")
        self._coming = deque(self._order() for _ in range(STEPS_AHEAD))

    def take(self, num_rows: int) -> np.ndarray:
        """Returns (m, n_mfcc) float16: the first `num_rows` rows but those returned before, as far
        as there is sound."""
        parts = [self._rest]
        missing = num_rows - self._num_given - len(self._rest)
        while missing > 0 and self._coming:
            rows, self.heard = self._coming.popleft().result()
            if len(rows) == self._step:  # else the sound is over
                self._coming.append(self._order())
            parts.append(rows)
            missing -= len(rows)
        rows = np.concatenate(parts)
        rows, self._rest = np.split(rows, [num_rows - self._num_given])
        self._num_given += len(rows)
        return rows

    def finish(self, num_rows: int) -> np.ndarray:
        """Returns the same, with silence where the sound ends."""
        rows = self.take(num_rows)
        if self._num_given == num_rows:
            return rows
        rest = self._sound.finish(num_rows)
        self.heard = self._sound.heard
        return np.concatenate([rows, rest])

    def close(self) -> None:
        """Ends the thread, so that the file can be closed."""
        self._pool.shutdown(cancel_futures=True)

    def _order(self) -> Future:
        self._num_wanted += self._step
        return self._pool.submit(self._read, self._num_wanted)

    def _read(self, num_rows: int) -> tuple[np.ndarray, bool]:
        return self._sound.rows(num_rows), self._sound.heard
