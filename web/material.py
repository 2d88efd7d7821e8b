"""Material: what a training would learn from, the data folder and what a person corrected."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from search.names import place_of
from utils.audio import find_sound_file
from utils.errors import UserError
from utils.file_list import FileList
from utils.files import stamp_file, write_whole
from utils.labels import LABEL_SUFFIXES
from utils.preparation import content_hashes
from utils.recordings import (
    LABELLED_FOLDER,
    Recording,
    class_names,
    find_recordings,
    is_video,
)
from utils.sources import Folder
from web.corrections import Corrections
from web.settings import Settings

LIST = "recordings.txt"  # always the same: what is known of files is known by its name
BESIDE = (*LABEL_SUFFIXES, ".wav")  # what a training reads beside a video


@dataclass(frozen=True)
class Material:
    """The files of a training by their names in a data folder, and what is in them.

    `classes` has recordings and groups by class. `why` says why nothing can be learned from that,
    None where it can.
    """

    data_dir: str | None  # that is this already, where one is; else a list is to be written
    files: dict[str, Path]
    corrected: tuple[str, ...]  # ids
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    why: str | None = None
    has_demo: bool = False

    @property
    def digest(self) -> str:
        """16 hex digits of all contents: of label files themselves, of others by size and date."""
        rows = []
        for name, path in sorted(self.files.items()):
            with contextlib.suppress(OSError):
                is_label = name.lower().endswith(LABEL_SUFFIXES)
                known = path.read_bytes().hex() if is_label else stamp_file(path)
                rows.append([name, known])
        return hashlib.sha256(json.dumps([self.data_dir, rows]).encode()).hexdigest()[:16]

    def to_api(self) -> dict:
        return {
            "corrected_recordings": list(self.corrected),
            "data": {"classes": self.classes, "demo": self.has_demo},
            "can": self.why is None,
            "why": self.why,
        }

    def write_list(self, path: Path, settings: Settings) -> None:
        """Writes a list of files that a training takes as its data folder.

        What is known of the files by where they lie is known by it then: none is read only to learn
        that it was prepared before.
        """
        rows = (f"{file}\t{PurePosixPath(name).parent}\n" for name, file in self.files.items())
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(rows).encode())
        known: dict[str, list] = {}
        for folder in {settings.data_dir, *(folder.path for folder in settings.folders)}:
            there = content_hashes(settings.cache_dir, Folder(folder)).known()
            known.update({os.path.join(folder, name): found for name, found in there.items()})
        listed = content_hashes(settings.cache_dir, FileList(path))
        for name, file in self.files.items():
            stamp, digest = known.get(str(file), (None, None))
            with contextlib.suppress(OSError):
                if stamp == stamp_file(file):
                    listed.learn(name, stamp, digest)
        listed.save()


def gather(settings: Settings, corrections: Corrections) -> Material:
    """What is there now: data/ as it is, and the corrected recordings with their label files.

    The made demo set steps in for data/ where that is empty and corrections alone do not suffice.
    """
    corrected = [(r, label) for r, label in corrections.all() if r.editable]
    own = dict(_files_below(settings.data_dir))
    material = _joined(settings, own, corrected)
    demo = settings.cache_dir / "demo"
    if material.why is None or any(map(is_video, own)) or not _is_demo(demo):
        return material
    return _joined(settings, dict(_files_below(demo)), corrected, demo)


def _joined(
    settings: Settings, own: dict[str, Path], corrected: list[tuple], demo: Path | None = None
) -> Material:
    """Files of a data folder, and beside them those of corrected recordings of other folders."""
    files, is_more = dict(own), False
    for recording, label in corrected:
        name = _name_in_data(settings.data_dir, recording.path) if demo is None else None
        if name is not None and label.parent == recording.path.parent:
            continue  # it trains as it is
        is_more = True
        folder = PurePosixPath(name).parent if name else f"{LABELLED_FOLDER}/{recording.id}"
        stem = f"{folder}/{recording.path.stem}"
        for suffix in LABEL_SUFFIXES:
            files.pop(f"{stem}{suffix}", None)
        files[f"{folder}/{recording.path.name}"] = recording.path
        files[f"{stem}{label.suffix}"] = label
        if sound := find_sound_file(recording.path):
            files.setdefault(f"{folder}/{sound.name}", sound)
    files = {name: path for name, path in files.items() if _is_listable(name, path)}
    ids = tuple(recording.id for recording, _ in corrected)
    folder = demo or settings.data_dir
    data_dir = None if is_more else place_of(str(folder))
    try:
        found = find_recordings(_Listing(place_of(str(folder)), files), say=lambda line: None)
        classes = _count(found)
        why = _objection(settings, found, ids)
    except UserError as error:
        classes, why = {}, str(error)
    except OSError as error:
        classes, why = {}, f"{error.filename} can't be read ({error.strerror}): mend its mode"
    return Material(data_dir, files, ids, classes, why, demo is not None)


def _objection(settings: Settings, found: list[Recording], corrected: tuple) -> str | None:
    """Why a training could not begin, in one line with the cure."""
    data = settings.data_dir.name
    if not found:
        return (
            f"there is nothing to learn from: put videos into {data}/ads and {data}/games, or "
            "correct two recordings"
        )
    held_out = {label for r in found if r.validation for label in r.labels}
    for label in class_names(found):
        groups = {r.group for r in found if label in r.labels and not r.validation}
        if not held_out and len(groups) < 2:
            return (
                f"{label} is in one source only, and what is learned from one must be judged on "
                f"another: correct one more recording with {label}, or put videos of it into "
                f"{data}/{label}"
            )
        if held_out and (label not in held_out or not groups):
            side = f"{data}/validation" if groups else data
            return f"{side} shows no {label}: put some there, or remove {data}/validation"
    return None


def _count(found: list[Recording]) -> dict[str, dict[str, int]]:
    classes: dict[str, dict[str, set]] = {}
    for recording in found:
        for label in recording.labels:
            both = classes.setdefault(label, {"recordings": set(), "groups": set()})
            both["recordings"].add(recording.name)
            both["groups"].add(recording.group)
    return {
        label: {name: len(values) for name, values in classes[label].items()}
        for label in sorted(classes)
    }


class _Listing:
    """Files by name, as a source has them, before they are listed in a file."""

    def __init__(self, name: str, files: dict[str, Path]):
        self.name = name
        self._files = files

    def list_files(self) -> list[str]:
        return sorted(self._files)

    def read_bytes(self, name: str) -> bytes:
        return self._files[name].read_bytes()


def _files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """What a training reads of a data folder; nothing where there is none."""
    if folder.is_dir():
        for name in Folder(folder).list_files():
            if "/" in name and (is_video(name) or name.lower().endswith(BESIDE)):
                yield name, folder / name


def _name_in_data(data_dir: Path, path: Path) -> str | None:
    """Where a recording lies in the data folder, if its label file counts there."""
    if not path.is_relative_to(data_dir):
        return None
    name = path.relative_to(data_dir)
    return name.as_posix() if LABELLED_FOLDER in name.parts[:-1][:2] else None


def _is_listable(name: str, path: Path) -> bool:
    """Whether a line of a list can name it."""
    line = str(path)
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    is_plain = line == line.strip() and not any(mark in line for mark in ("\t", "\r", "\n", "://"))
    return is_plain and not any(part.startswith((".", "~")) for part in name.split("/"))


def _is_demo(folder: Path) -> bool:
    from utils.demo_data import is_demo_set  # it draws, with OpenCV, which takes seconds to import

    return folder.is_dir() and is_demo_set(folder)
