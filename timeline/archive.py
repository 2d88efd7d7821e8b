"""Archive: the recordings that files, folders and patterns name, and their places."""

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.recordings import VIDEO_SUFFIXES, list_videos


@dataclass(frozen=True)
class Item:
    """A recording, and its place below what was named."""

    path: Path
    relative: Path


def expand(names: list[str]) -> Iterator[Item]:
    """The videos that files, folders and patterns name. Raises UserError where one names none."""
    for name in names:
        matches = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
        found = [item for match in map(Path, matches) for item in _videos_of(match)]
        if not found:
            raise UserError(
                f"{name} is no file, no folder with videos ({' '.join(VIDEO_SUFFIXES)}) "
                "and matches none: check the path"
            )
        yield from found


def _videos_of(path: Path) -> Iterator[Item]:
    if path.is_dir():
        yield from (Item(video, video.relative_to(path)) for video in list_videos(path))
    else:
        yield Item(path, Path(path.name))


def refuse_shared(wanted: Mapping[Path, Sequence[Path]]) -> None:
    """Raises UserError where two recordings would be written to the same file."""
    owners: dict[Path, Path] = {}
    for recording, paths in wanted.items():
        for path in paths:
            other = owners.setdefault(path, recording)
            if other != recording:
                raise UserError(
                    f"{path} would be written for {other} and for {recording}: rename one, or "
                    "label them one after the other with different --out"
                )
