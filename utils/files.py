"""Files: written whole or not at all, and told apart without being read."""

import contextlib
import fcntl
import glob
import os
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"  # ends the names of files that are not whole yet


def write_whole(path: Path, data: bytes) -> None:
    """Writes beside `path`, then takes its place; on failure the old file stays as it was."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields the path of an empty file beside `path`, which takes its place at the end.

    On failure the old file stays as it was, and nothing lies beside it. What killed processes have
    left there of the same file is deleted: the system takes their locks off.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"):
        _delete_if_left(left)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    descriptor = _create_locked(temporary)
    try:
        yield temporary
        os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    finally:
        os.close(descriptor)


def stamp_file(path: Path) -> list[int]:
    """JSON that changes whenever the content may have changed."""
    return stamp_of(path.stat())


def stamp_of(status: os.stat_result) -> list[int]:
    """The same of a file whose status is known."""
    # A tool that restores the old time of a file it changed can't set back the ctime.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _create_locked(path: Path) -> int:
    """A descriptor of the file, empty, with a lock on it where the disk has locks."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor  # else it was deleted as left over, between the two calls
        except FileNotFoundError:
            pass
        except OSError:
            return descriptor
        os.close(descriptor)


def _delete_if_left(path: Path) -> None:
    """Deletes a file unless a process that writes it has the lock, or can't have any."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
