"""Recordings: the video files of a source, with what they show and their group."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from utils.errors import UserError
from utils.sources import VALIDATION_FOLDER, Folder, Source

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".ts", ".avi", ".webm", ".mpg")
RESERVED_FOLDERS = (VALIDATION_FOLDER, "recordings")  # not classes


class DataError(UserError):
    """The data folder can't be trained on as it is."""


@dataclass(frozen=True, order=True)
class Span:
    """What [start_seconds, end_seconds) of a recording shows."""

    start_seconds: float
    end_seconds: float  # math.inf is the end of the recording
    label: str


@dataclass(frozen=True, order=True)
class Recording:
    """One labelled video file.

    `group` names what must stay on one side of a split: the sub-folder of the class folder, or the
    file itself where it lies directly in the class folder. `spans` are in order and disjoint; what
    they leave out is not labelled.
    """

    name: str  # of the video in the source
    files: tuple[str, ...]  # the video, and its sound where that is a file of its own
    spans: tuple[Span, ...]
    group: str
    validation: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes it shows, in alphabetical order."""
        return tuple(sorted({span.label for span in self.spans}))


def find_recordings(source: Source) -> list[Recording]:
    """All videos in `<class>/` and `validation/<class>/` of a source, sorted by name.

    Returns [] where there is no video at all. Raises DataError for a class folder without a video
    and a validation class that training does not have, SourceError for a missing source.
    """
    names = source.list_files()
    known = set(names)
    recordings = [
        _recording_of_class(name, known) for name in names if is_video(name) and _class_folder(name)
    ]
    if recordings:
        folders = {folder for name in names if (folder := _class_folder(name))}
        _refuse_empty_classes(folders, recordings, source.name)
        _refuse_unknown_classes(recordings, source.name)
    return sorted(recordings)


def class_names(recordings: list[Recording]) -> list[str]:
    """The classes in alphabetical order, which is the order of the model's outputs.

    Raises DataError for fewer than two.
    """
    classes = sorted({label for recording in recordings for label in recording.labels})
    if len(classes) < 2:
        found = f"one class only ({classes[0]})" if classes else "no class"
        raise DataError(
            f"found {found}: a classifier needs at least two folders "
            "with videos, for example data/ads and data/games"
        )
    return classes


def is_video(name: str) -> bool:
    return name.lower().endswith(VIDEO_SUFFIXES)


def list_videos(folder: Path) -> Iterator[Path]:
    """Videos below `folder` at any depth, sorted; links to folders are followed, loops are not.

    Raises OSError for a folder that can't be read.
    """
    yield from (folder / name for name in Folder(folder).list_files() if is_video(name))


def describe_recordings(recordings: list[Recording]) -> str:
    """For example `ads: 12 recordings in 4 groups · games: 30 recordings in 9 groups`."""
    pairs = [(label, recording) for recording in recordings for label in recording.labels]
    counts = Counter(label for label, _ in pairs)
    groups = Counter(label for label, _ in {(label, r.group) for label, r in pairs})
    return " · ".join(
        f"{label}: {count} recording{'s' * (count != 1)} "
        f"in {groups[label]} group{'s' * (groups[label] != 1)}"
        for label, count in sorted(counts.items())
    )


def _class_folder(name: str) -> str | None:
    """`ads` or `validation/ads`, None for what lies in no class folder."""
    parts = name.split("/")
    depth = 2 if parts[0] == VALIDATION_FOLDER else 1
    if len(parts) <= depth or parts[depth - 1] in RESERVED_FOLDERS:
        return None
    return "/".join(parts[:depth])


def _recording_of_class(name: str, known: set[str]) -> Recording:
    folder = _class_folder(name)
    side, _, label = folder.rpartition("/")
    # The side is part of the id: data/validation is held out by the user, whatever its names.
    group = "/".join(name.split("/")[: folder.count("/") + 2])
    spans = (Span(0.0, math.inf, label),)
    return Recording(name, _files_of(name, known), spans, group, validation=bool(side))


def _files_of(name: str, known: set[str]) -> tuple[str, ...]:
    """The video, and the sound file that `utils.audio.find_audio` would find for it."""
    video = PurePosixPath(name)
    sound = f"{video.stem}.wav"
    folder = video.parent
    for candidate in (folder / sound, folder / "audio" / sound, folder.parent / "audio" / sound):
        if str(candidate) in known:
            return name, str(candidate)
    return (name,)


def _refuse_empty_classes(
    folders: Iterable[str], recordings: list[Recording], source_name: str
) -> None:
    used = {_class_folder(recording.name) for recording in recordings}
    for folder in sorted(set(folders) - used):
        raise DataError(
            f"{source_name}/{folder} has no video ({' '.join(VIDEO_SUFFIXES)}): "
            "put recordings there, remove the folder, or pass --data-dir"
        )


def _refuse_unknown_classes(recordings: list[Recording], source_name: str) -> None:
    sides: dict[bool, set[str]] = {False: set(), True: set()}
    for recording in recordings:
        sides[recording.validation].update(recording.labels)
    unknown = sorted(sides[True] - sides[False])
    if unknown:
        raise DataError(
            f"{source_name}/{VALIDATION_FOLDER} has the class {', '.join(unknown)}, which "
            f"{source_name} does not have: name its folders like those of training"
        )
