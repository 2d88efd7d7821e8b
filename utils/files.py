"""Files: written whole or not at all, and told apart without being read."""

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Writes beside `path`, then takes its place; on failure the old file stays as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def stamp_file(path: Path) -> list[int]:
    """JSON that changes whenever the content may have changed."""
    return stamp_of(path.stat())


def stamp_of(status: os.stat_result) -> list[int]:
    """The same of a file whose status is known."""
    # A tool that restores the old time of a file it changed can't set back the ctime.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
