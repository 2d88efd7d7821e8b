"""Decoding: a recording of a source, brought to the features of its parts on the disk."""

import contextlib
import errno
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from pathlib import Path

from utils.content_hashes import ContentHashes, hash_file
from utils.features import FeatureSpec, check_length
from utils.incoming import PartFeatures, decode_part, find_part, part_folder
from utils.media import MediaError, Part
from utils.parts import split_recording, whole_part
from utils.processes import WorkerLost, WorkerPool
from utils.progress import Progress
from utils.recordings import Recording
from utils.sources import Source
from utils.video import probe

CHANGED = "changed while it was read: the next run tries again"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Decoded:
    """The features of a recording, or the reason why there are none."""

    key: str | None  # from the bytes of its files; None where they could not be read
    parts: list[PartFeatures]  # none where there is a reason, or `claim` was refused
    reason: str | None = None
    lasting: bool = False  # whether the same bytes would give this reason again


@dataclass(frozen=True)
class Outcome:
    """What became of a recording: a key in the store, or a reason why not."""

    key: str | None
    reason: str | None = None


def unreadable(error: OSError, source: Source) -> str:
    """Why a recording's files can't be read; raises the error where others can't be, either."""
    of_one_file = isinstance(error, FileNotFoundError) or not source.is_remote
    if error.errno in DISK_FULL or not of_one_file:
        raise error
    return f"can't be read: {error.strerror}"


class Decoder:
    """Does what a recording needs, in worker processes; `decode` may run in several threads."""

    def __init__(
        self,
        source: Source,
        spec: FeatureSpec,
        pool: WorkerPool,
        *,
        hashes: ContentHashes,
        incoming: Path,
        progress: Progress,
    ):
        self._source = source
        self._spec = spec
        self._pool = pool
        self._hashes = hashes
        self._incoming = incoming
        self._progress = progress
        self._tasks_left: dict[str, int] = {}

    def tasks_left(self, recording: Recording) -> int:
        """Of a recording that is being decoded; 1 before its parts are known."""
        return self._tasks_left.get(recording.name, 1)

    def decode(self, recording: Recording, claim: Callable[[str], bool]) -> Decoded:
        """The features of a recording, in the folder `incoming/<key>`.

        `claim(key)` says whether this content is to be decoded now, as soon as it is known.
        What is wrong with the recording is the reason in the answer. Raises OSError for what is
        wrong with this machine, such as a full disk.
        """
        names = recording.files
        key = None
        with contextlib.ExitStack() as fetched:
            try:
                stamps = self._hashes.stamps(names)
                digests = self._hashes.find(names, stamps)
                if None not in digests:
                    key = "".join(digests)
                    if not claim(key):
                        return Decoded(key, [])
                folder = fetched.enter_context(self._source.fetch(names))
                if self._source.is_remote and self._hashes.stamps(names) != stamps:
                    if key is not None:
                        return Decoded(key, [], CHANGED)
                    stamps = self._hashes.stamps(names)  # those of what was fetched
                if key is None:
                    key = self._hash(names, stamps, folder)
                    if not claim(key):
                        return Decoded(key, [])
            except OSError as error:
                return Decoded(key, [], unreadable(error, self._source))
            except WorkerLost as error:  # while it was hashed: not for what it holds
                return Decoded(key, [], str(error))
            decoded = self._decode_file(folder / names[0], recording.name, key)
        return decoded if self._is_unchanged(names, stamps) else Decoded(key, [], CHANGED)

    def _hash(self, names: tuple[str, ...], stamps: list[list], folder: Path) -> str:
        digests = self._hashes.find(names, stamps)
        for index, (name, stamp) in enumerate(zip(names, stamps, strict=True)):
            if digests[index] is None:
                digests[index] = self._pool.submit(hash_file, folder / name).result()
                self._hashes.learn(name, stamp, digests[index])
        return "".join(digests)

    def _is_unchanged(self, names: tuple[str, ...], stamps: list[list]) -> bool:
        if self._source.is_remote:  # what was fetched is a copy
            return True
        try:
            return self._hashes.stamps(names) == stamps
        except OSError:
            return False

    def _decode_file(self, path: Path, name: str, key: str) -> Decoded:
        try:
            parts, seconds = self._pool.submit(open_recording, path, self._spec).result()
            self._progress.opened(name, seconds)
            try:
                features = self._decode_parts(path, name, key, parts)
            except (MediaError, WorkerLost):
                # A SplitError, or damage. Which part fails first is chance: the whole decides.
                if len(parts) == 1:
                    raise
                self._progress.restart(name)
                features = self._decode_parts(path, name, key, [whole_part()])
            check_length(sum(part.rows["frames"] for part in features), self._spec)
        except (MediaError, WorkerLost) as error:
            return Decoded(key, [], str(error), lasting=True)
        return Decoded(key, features)

    def _decode_parts(
        self, path: Path, name: str, key: str, parts: list[Part]
    ) -> list[PartFeatures]:
        """Features of all parts, those included that an earlier run left."""

        def progress(num_frames: int) -> None:
            self._progress.decoded(name, num_frames / self._spec.fps)

        targets = {part: part_folder(self._incoming / key, part) for part in parts}
        done = {part: find_part(target) for part, target in targets.items()}
        found_frames = sum(part.rows["frames"] for part in done.values() if part)
        self._progress.found(name, found_frames / self._spec.fps)
        futures = {
            part: self._pool.submit(
                decode_part, path, self._spec, part, targets[part], progress=progress
            )
            for part in parts
            if done[part] is None
        }
        waiting = set(futures.values())
        while waiting:
            self._tasks_left[name] = len(waiting)
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            errors = [error for future in finished if (error := future.exception())]
            if errors:
                for future in waiting:
                    future.cancel()
                wait(waiting)  # the file must stay until none reads it
                raise errors[0]
        return [done[part] or futures[part].result() for part in parts]


def open_recording(
    path: Path, spec: FeatureSpec, report: Callable[[object], None]
) -> tuple[list[Part], float]:
    """The parts of a recording and its length in seconds as the container says it."""
    return split_recording(path, spec), probe(path).duration_seconds
