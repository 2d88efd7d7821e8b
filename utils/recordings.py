"""Recordings: the video files of a source, with what they show and their group."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from utils.errors import UserError
from utils.file_list import VALIDATION_FOLDER
from utils.labels import BREAK_LABEL, LABEL_SUFFIXES, REST_LABEL, LabelError, Span, parse_labels
from utils.sources import Folder, Source

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".ts", ".avi", ".webm", ".mpg")
LABELLED_FOLDER = "recordings"  # of whole recordings with a label file beside each
RESERVED_FOLDERS = (VALIDATION_FOLDER, LABELLED_FOLDER)  # not classes


class DataError(UserError):
    """The data folder can't be trained on as it is."""


@dataclass(frozen=True, order=True)
class Recording:
    """One labelled video file.

    `group` names what must stay on one side of a split: the sub-folder of the class folder (or of
    `recordings`), or the file itself where it lies directly in there. `spans` are in order and
    disjoint; what they leave out is not labelled.
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


def find_recordings(source: Source, say: Callable[[str], None] = print) -> list[Recording]:
    """All labelled videos of a source, sorted by name; [] where there is none.

    They lie in `<class>/`, or with a label file beside them in `recordings/`, or in the same
    folders below `validation/`. What is left out is said in a line each. Raises DataError for a
    class folder without a video, a class that should not be there or is in validation alone,
    LabelError for label files with mistakes, SourceError for a missing source.
    """
    names = source.list_files()
    known = set(names)
    labels = _read_labels(names, source, say)
    recordings = []
    for name in filter(is_video, names):
        folder = _top_folder(name)
        if folder is not None and _is_labelled(folder):
            spans = labels.get(name, ())
        else:
            spans = (Span(0.0, math.inf, PurePosixPath(folder).name),) if folder else ()
        if spans:
            validation = folder.startswith(f"{VALIDATION_FOLDER}/")
            files = _files_of(name, known)
            recordings.append(Recording(name, files, spans, _group_of(name, folder), validation))
    if recordings:
        folders = {folder for name in names if (folder := _top_folder(name))}
        class_folders = {folder for folder in folders if not _is_labelled(folder)}
        _refuse_empty_classes(class_folders, recordings, source.name)
        _refuse_unknown_classes(class_folders, recordings, source.name)
    return sorted(recordings)


def find_videos(source: Source) -> list[Recording]:
    """All videos of a source, sorted by name, as if nobody had labelled any."""
    names = source.list_files()
    known = set(names)
    return [
        Recording(name, _files_of(name, known), (), name, False) for name in names if is_video(name)
    ]


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


def class_of(name: str) -> str | None:
    """The class that the folder of a video in a data folder says, None where it says none: for
    whole recordings, and for what lies at the top."""
    folder = _top_folder(name)
    return None if folder is None or _is_labelled(folder) else PurePosixPath(folder).name


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


def _top_folder(name: str) -> str | None:
    """`ads`, `recordings`, `validation/ads` or the like; None for what lies in no such folder."""
    parts = name.split("/")
    depth = 2 if parts[0] == VALIDATION_FOLDER else 1
    if len(parts) <= depth or parts[depth - 1] == VALIDATION_FOLDER:
        return None
    return "/".join(parts[:depth])


def _is_labelled(folder: str) -> bool:
    return PurePosixPath(folder).name == LABELLED_FOLDER


def _group_of(name: str, folder: str) -> str:
    # The side is part of the id: data/validation is held out by the user, whatever its names.
    return "/".join(name.split("/")[: folder.count("/") + 2])


def _read_labels(
    names: list[str], source: Source, say: Callable[[str], None]
) -> dict[str, tuple[Span, ...]]:
    """The spans of each video in a folder `recordings` that has a label file beside it."""
    inside = [name for name in names if (folder := _top_folder(name)) and _is_labelled(folder)]
    files: dict[str, list[str]] = {}
    for name in inside:
        if name.lower().endswith(LABEL_SUFFIXES):
            files.setdefault(_stem(name), []).append(name)
    videos = [name for name in inside if is_video(name)]
    labels, mistakes, doubled = {}, [], []
    for name in videos:
        beside = sorted(files.get(_stem(name), ()), key=_rank)
        if len(beside) > 1:
            doubled.append(f"{name} has {' and '.join(PurePosixPath(n).name for n in beside)}")
        if beside:
            try:
                labels[name] = parse_labels(beside[0], source.read_bytes(beside[0]))
            except LabelError as error:
                mistakes.append(str(error))
    if mistakes:
        more = f" ({len(mistakes) - 1} more label files have mistakes)" * (len(mistakes) > 1)
        raise LabelError(f"{source.name}/{mistakes[0]}{more}")
    stems = {_stem(name) for name in videos}
    unlabelled = [name for name in videos if name not in labels]
    orphans = [name for stem, found in files.items() if stem not in stems for name in found]
    _say_all(doubled, f"with two label files ({', then '.join(LABEL_SUFFIXES)} counts)", say)
    _say_all(unlabelled, f"without labels ({' '.join(LABEL_SUFFIXES)}), not used", say)
    _say_all(orphans, "of labels without a video beside it, not used", say)
    return labels


def _say_all(found: list[str], what: str, say: Callable[[str], None]) -> None:
    if found:
        more = f" and {len(found) - 1} more" * (len(found) > 1)
        say(f"{LABELLED_FOLDER}: {len(found)} {what}: {found[0]}{more}")


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _rank(name: str) -> int:
    return LABEL_SUFFIXES.index(PurePosixPath(name).suffix.lower())


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
    class_folders: set[str], recordings: list[Recording], source_name: str
) -> None:
    shown = {
        f"{VALIDATION_FOLDER}/" * recording.validation + label
        for recording in recordings
        for label in recording.labels
    }
    for folder in sorted(class_folders - shown):
        raise DataError(
            f"{source_name}/{folder} has no video ({' '.join(VIDEO_SUFFIXES)}): "
            "put recordings there, remove the folder, or pass --data-dir"
        )


def _refuse_unknown_classes(
    class_folders: set[str], recordings: list[Recording], source_name: str
) -> None:
    """Refuses what is a class of validation alone, or of a label file where folders name classes.

    Without any class folder the classes are what label files name.
    """
    folders = {folder for folder in class_folders if "/" not in folder}
    classes = sorted(folders | {BREAK_LABEL, REST_LABEL})
    for recording in recordings if folders else []:
        odd = sorted(set(recording.labels) - set(classes))
        if odd and _is_labelled(_top_folder(recording.name)):
            raise DataError(
                f"{source_name}/{recording.name} is labelled {odd[0]!r}, which is no class "
                f"({', '.join(classes)}): correct that, or make the folder {source_name}/{odd[0]}"
            )
    sides: dict[bool, set[str]] = {False: set(), True: set()}
    for recording in recordings:
        sides[recording.validation].update(recording.labels)
    unknown = sorted(sides[True] - sides[False])
    if unknown:
        raise DataError(
            f"{source_name}/{VALIDATION_FOLDER} has the class {', '.join(unknown)}, which "
            f"{source_name} does not have: name its folders like those of training"
        )
