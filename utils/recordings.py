"""Recordings: the video files of the data folder, with their class and group."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".ts", ".avi", ".webm", ".mpg")
VALIDATION_FOLDER = "validation"
RESERVED_FOLDERS = (VALIDATION_FOLDER, "recordings")  # not classes


class DataError(UserError):
    """The data folder can't be trained on as it is."""


@dataclass(frozen=True, order=True)
class Recording:
    """One labelled video file.

    `group` names what must stay on one side of a split: the sub-folder of the class folder, or the
    file itself where it lies directly in the class folder.
    """

    name: str  # path below the data folder, with forward slashes
    path: Path
    label: str
    group: str
    validation: bool


def find_recordings(data_dir: str | Path) -> list[Recording]:
    """All videos below `data_dir/<class>/` and `data_dir/validation/<class>/`, sorted by name.

    Returns [] where there is no video at all. Raises DataError for a missing folder, a class
    folder without a video, and a validation class that training does not have.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise DataError(
            f"{data_dir} is not a folder: make {data_dir}/ads and {data_dir}/games "
            "and put videos there, or pass --data-dir"
        )
    training = _class_folders(data_dir)
    validation = _class_folders(data_dir / VALIDATION_FOLDER)
    recordings = [
        recording
        for folders, is_validation in ((training, False), (validation, True))
        for folder in folders
        for recording in _recordings_of_class(folder, data_dir, is_validation)
    ]
    if recordings:
        _refuse_empty_classes(training + validation, recordings)
        unknown = {f.name for f in validation} - {f.name for f in training}
        if unknown:
            raise DataError(
                f"{data_dir / VALIDATION_FOLDER} has the class {', '.join(sorted(unknown))}, which "
                f"{data_dir} does not have: name its folders like those of training"
            )
    return sorted(recordings)


def class_names(recordings: list[Recording]) -> list[str]:
    """The classes in alphabetical order, which is the order of the model's outputs.

    Raises DataError for fewer than two.
    """
    classes = sorted({recording.label for recording in recordings})
    if len(classes) < 2:
        found = f"one class only ({classes[0]})" if classes else "no class"
        raise DataError(
            f"found {found}: a classifier needs at least two folders "
            "with videos, for example data/ads and data/games"
        )
    return classes


def list_videos(folder: Path) -> Iterator[Path]:
    """Videos below `folder` at any depth, sorted; links to folders are followed, loops are not.

    Raises OSError for a folder that can't be read.
    """
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for file in sorted(files):
            if not file.startswith(".") and file.lower().endswith(VIDEO_SUFFIXES):
                yield Path(parent, file)


def describe_recordings(recordings: list[Recording]) -> str:
    """For example `ads: 12 recordings in 4 groups · games: 30 recordings in 9 groups`."""
    counts = Counter(recording.label for recording in recordings)
    groups = {(recording.label, recording.group) for recording in recordings}
    per_class = Counter(label for label, _ in groups)
    return " · ".join(
        f"{label}: {count} recording{'s' * (count != 1)} "
        f"in {per_class[label]} group{'s' * (per_class[label] != 1)}"
        for label, count in sorted(counts.items())
    )


def _raise(error: OSError) -> None:
    raise error


def _class_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.is_dir() and entry.name not in RESERVED_FOLDERS and not entry.name.startswith(".")
    )


def _recordings_of_class(folder: Path, data_dir: Path, validation: bool) -> Iterator[Recording]:
    for path in list_videos(folder):
        inside = path.relative_to(folder)
        # The side is part of the id: data/validation is held out by the user, whatever its names.
        side = f"{VALIDATION_FOLDER}/" if validation else ""
        group = f"{side}{folder.name}/{inside.parts[0]}"
        yield Recording(path.relative_to(data_dir).as_posix(), path, folder.name, group, validation)


def _refuse_empty_classes(folders: list[Path], recordings: list[Recording]) -> None:
    for folder in folders:
        if not any(folder in recording.path.parents for recording in recordings):
            raise DataError(
                f"{folder} has no video ({' '.join(VIDEO_SUFFIXES)}): "
                "put recordings there, remove the folder, or pass --data-dir"
            )
