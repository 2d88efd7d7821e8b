"""Corrections: what a person says a recording shows, as a label file that trains as it is."""

import errno
import hashlib
import json
import math
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from timeline.formats import format_timeline, read_spans
from timeline.tables import DECIMALS, from_json, to_json
from timeline.timeline import Segment, Timeline
from utils.errors import UserError
from utils.files import stamp_file, write_whole
from utils.labels import BREAK_LABEL, LABEL_SUFFIXES, REST_LABEL, LabelError
from utils.recordings import RESERVED_FOLDERS
from web.library import Library, Recording
from web.settings import Settings
from web.timelines import Timelines

SUFFIX = ".json"
MARK = "corrections"  # the field that says a file is ours
BESIDE, IN_CACHE = "beside", "cache"
SLACK_SECONDS = 0.5  # behind the end, by which a player's length may differ from the decoder's
MAX_PARTS = 20_000
MAX_FILE_BYTES = 16 << 20
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_CLASSES = ("audio", "video")  # folders that hold parts of recordings


class BadSegments(UserError):
    """Segments that no recording can have."""

    kind, status = "bad_segments", 422


class CorrectionConflict(UserError):
    """Something else is where the corrections go: `unknown_file` or `changed_elsewhere`."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class NotEditable(UserError):
    """A training clip, whose folder says what it shows."""

    kind = "training_clip"


@dataclass(frozen=True)
class Part:
    """What a person says [start_seconds, end_seconds) shows; None for neither of the classes."""

    start_seconds: float
    end_seconds: float
    label: str | None

    def to_dict(self) -> dict[str, object]:
        return {
            "start_seconds": self.start_seconds,
            "end_seconds": self.end_seconds,
            "label": self.label,
        }


@dataclass(frozen=True)
class Correction:
    """A saved correction. `parts` are in order and cover the recording; `timeline` has the named.

    `revision` is a digest of the file: one that somebody changed by hand has another.
    """

    parts: tuple[Part, ...]
    timeline: Timeline
    revision: str
    saved_at: str
    place: str  # BESIDE or IN_CACHE
    path: Path

    def to_dict(self) -> dict[str, object]:
        """What the page is told."""
        return {
            "segments": [part.to_dict() for part in self.parts],
            "revision": self.revision,
            "saved_at": self.saved_at,
            "place": self.place,
        }


@dataclass(frozen=True)
class FoundLabels:
    """A label file that lay beside the recording and is not ours; without parts, and why."""

    file: str
    parts: tuple[Part, ...] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, object]:
        segments = [part.to_dict() for part in self.parts]
        return {"file": self.file, "segments": segments, "error": self.error}


class Corrections:
    """The corrections of all recordings, beside them or, in folders for reading, in the cache.

    What it makes of recordings is kept in memory as long as their files stay as they are.
    """

    def __init__(self, settings: Settings, library: Library, timelines: Timelines):
        self._settings = settings
        self._library = library
        self._timelines = timelines
        self._lock = threading.Lock()  # held from looking at a file to writing it
        # By recording and file: game.ts and game.mp4 have one file between them.
        self._known: dict[tuple[str, Path], tuple[list[int], Correction | None]] = {}

    def read(self, recording: Recording) -> Correction | None:
        """What was saved last; None where nothing was, or not by us. Costs two looks at files."""
        return self._read_file(recording, self._beside(recording), BESIDE) or self._read_file(
            recording, self._in_cache(recording), IN_CACHE
        )

    def all(self) -> list[tuple[Recording, Path]]:
        """Each corrected recording with its label file, which has the same stem."""
        found = ((recording, self.read(recording)) for recording in self._library.all())
        return [(recording, correction.path) for recording, correction in found if correction]

    def write(
        self,
        recording: Recording,
        segments: Iterable[Mapping[str, object]],
        *,
        revision: str | None,
        overwrite: bool = False,
    ) -> Correction:
        """Saves segments, each with COLUMNS; what they leave out is not labelled.

        `revision` is the one that was seen last, None for none. Raises BadSegments, NotEditable,
        CorrectionConflict: `changed_elsewhere` where another one is there, `unknown_file` where the
        label file beside the recording is not ours and not to be overwritten (where it is, a copy
        stays in the cache).
        """
        self._refuse_clip(recording)
        base = self._base(recording)
        parts = self._checked(recording, segments, base.duration_seconds)
        with self._lock:
            self._refuse_changed(recording, revision)
            path, place = self._target(recording, overwrite)
            saved_at = datetime.now(UTC).isoformat(timespec="seconds")
            content = _document(parts, base, saved_at)
            try:
                write_whole(path, content)
            except OSError as error:
                if place == IN_CACHE or error.errno not in NOT_WRITABLE:
                    raise
                path, place = self._make_place(recording), IN_CACHE
                write_whole(path, content)
            if place == BESIDE:
                self._in_cache(recording).unlink(missing_ok=True)
            correction = self._read_file(recording, path, place)
        assert correction is not None, f"{path} was written and can't be read"
        return correction

    def remove(self, recording: Recording, revision: str | None) -> None:
        """Goes back to the model's. Raises CorrectionConflict as `write` does, OSError."""
        with self._lock:
            self._refuse_changed(recording, revision)
            correction = self.read(recording)
            if correction is not None:
                correction.path.unlink()
                self._known.pop((recording.id, correction.path), None)

    def found_labels(self, recording: Recording) -> FoundLabels | None:
        """The first label file beside a recording that training would read and that is not ours.

        Nor is an .edl that says to the byte what the model says: it was written from that.
        """
        beside = (recording.path.with_suffix(suffix) for suffix in LABEL_SUFFIXES)
        path = next((p for p in beside if os.path.lexists(p) and p != recording.path), None)
        if path is None or self._read_file(recording, path, BESIDE):
            return None
        try:
            data = _read_small(path, self._folder(recording))
        except (LabelError, OSError) as error:
            return FoundLabels(path.name, error=_reason(error))
        base = self._base(recording)
        if base.segments and path.suffix == ".edl" and data == format_timeline(base, "edl"):
            return None
        how = {"zero_seconds": base.zero_seconds, "frame_rate": base.frame_rate}
        try:
            duration_seconds = base.duration_seconds or math.inf
            spans = read_spans(path.name, data, duration_seconds=duration_seconds, **how)
        except LabelError as error:
            return FoundLabels(path.name, error=str(error))
        rows = [Part(s.start_seconds, s.end_seconds, s.label) for s in spans]
        rows = [part for part in rows if part.end_seconds < math.inf]
        return FoundLabels(path.name, covered(rows, base.duration_seconds))

    def labels(self, recording: Recording) -> tuple[str, ...]:
        """What a segment may be called: the model's classes, ads and games, and class folders.

        Where no folder is a class, label files name the classes: then those of this recording, too.
        """
        labelled = self._timelines.find(recording)
        names = [*(labelled.timeline.classes if labelled else ()), BREAK_LABEL, REST_LABEL]
        folders = self._class_folders()
        if not folders:
            said = [self.read(recording), self.found_labels(recording)]
            names += [part.label for found in said if found for part in found.parts if part.label]
        return tuple(dict.fromkeys([*names, *folders]))

    def _class_folders(self) -> list[str]:
        if not self._settings.data_dir.is_dir():
            return []
        with os.scandir(self._settings.data_dir) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
        none = (*RESERVED_FOLDERS, *NO_CLASSES)
        return [name for name in names if not name.startswith(".") and name not in none]

    def _base(self, recording: Recording) -> Timeline:
        """The model's timeline, or one without segments and as long as the file says."""
        if labelled := self._timelines.find(recording):
            return replace(labelled.timeline, recording=recording.path.name)
        info = self._library.looked(recording).probe
        if info is None:  # it can't be read here, but a person may have seen it elsewhere
            return Timeline(recording.path.name, 0.0, 0.0, (), ())
        return Timeline(
            recording.path.name,
            max(0.0, info.duration_seconds),
            info.frame_rate,
            (),
            (),
            has_sound=info.has_audio,
            zero_seconds=info.zero_seconds,
        )

    def _checked(
        self,
        recording: Recording,
        segments: Iterable[Mapping[str, object]],
        duration_seconds: float,
    ) -> tuple[Part, ...]:
        """The parts that segments make, in order, over the whole recording. Raises BadSegments."""
        known = self.labels(recording)
        parts = [_part(number, segment) for number, segment in enumerate(segments, 1)]
        if len(parts) > MAX_PARTS:
            raise BadSegments(f"{len(parts)} segments are too many: send up to {MAX_PARTS}")
        _refuse_disorder(parts)
        for number, part in enumerate(parts, 1):
            if part.label is not None and part.label not in known:
                raise BadSegments(
                    f"segment {number} is {part.label!r}: choose from {', '.join(known)}, or null "
                    "for what is none of them"
                )
        if parts and 0 < duration_seconds < parts[-1].end_seconds - SLACK_SECONDS:
            raise BadSegments(
                f"segment {len(parts)} ends at {parts[-1].end_seconds:g} s and the recording at "
                f"{duration_seconds:g} s: let it end there"
            )
        if all(part.label is None for part in parts):
            raise BadSegments(
                "no segment has a label: name at least one, or remove the corrections"
            )
        return covered(parts, duration_seconds)

    def _refuse_clip(self, recording: Recording) -> None:
        if not recording.editable:
            raise NotEditable(
                f"{recording.name} is a training clip, which its folder names: move it into "
                f"{self._settings.data_dir.name}/recordings to correct parts of it"
            )

    def _refuse_changed(self, recording: Recording, revision: str | None) -> None:
        current = self.read(recording)
        if (current.revision if current else None) != revision:
            when = f"saved {current.saved_at}" if current else "removed"
            raise CorrectionConflict(
                "changed_elsewhere",
                f"the corrections of {recording.name} were {when} from elsewhere: "
                "load them, or save yours over them",
            )

    def _target(self, recording: Recording, overwrite: bool) -> tuple[Path, str]:
        """Where to write. Raises CorrectionConflict for a file of somebody else."""
        path = self._beside(recording)
        if not os.access(path.parent, os.W_OK) or path.is_dir():
            return self._make_place(recording), IN_CACHE
        if os.path.lexists(path) and not self._read_file(recording, path, BESIDE):
            if not overwrite:
                raise CorrectionConflict(
                    "unknown_file",
                    f"{path.name} is beside the recording and was not written here: "
                    "replace it (a copy is kept), or move it away",
                )
            if path.is_file() and not path.is_symlink():  # a link may lead anywhere
                kept = self._make_place(recording).with_name(f"replaced-{path.name}")
                write_whole(kept, path.read_bytes())
        return path, BESIDE

    def _beside(self, recording: Recording) -> Path:
        # As text: a list asks this of a thousand, of which pathlib makes a tenth of a second.
        return Path(os.path.splitext(recording.path)[0] + SUFFIX)

    def _in_cache(self, recording: Recording) -> Path:
        stem = os.path.splitext(os.path.basename(recording.path))[0]
        return Path(f"{self._settings.cache_dir}/corrections/{recording.id}/{stem}{SUFFIX}")

    def _make_place(self, recording: Recording) -> Path:
        path = self._in_cache(recording)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _folder(self, recording: Recording) -> Path:
        """The configured folder, out of which nothing is read."""
        folders = {folder.name: folder.path for folder in self._settings.folders}
        return folders.get(recording.folder, recording.path.parent)

    def _read_file(self, recording: Recording, path: Path, place: str) -> Correction | None:
        """What we wrote into a file, of the same recording; None for any other."""
        key = recording.id, path
        try:
            stamp = stamp_file(path)
        except OSError:
            self._known.pop(key, None)
            return None
        known = self._known.get(key)
        if known is None or known[0] != stamp:
            folder = self._folder(recording) if place == BESIDE else path.parent
            known = self._known[key] = stamp, _correction(recording, path, place, folder)
        return known[1]


def covered(parts: Sequence[Part], duration_seconds: float) -> tuple[Part, ...]:
    """Parts in order, with one without a label wherever they leave [0, duration_seconds) out.

    None ends later than that, but where the duration is 0, which is an unknown one.
    """
    found: list[Part] = []
    at = 0.0
    end_seconds = duration_seconds or max((part.end_seconds for part in parts), default=0.0)
    for part in parts:
        if at < part.start_seconds < end_seconds:
            found.append(Part(at, part.start_seconds, None))
        at = min(part.end_seconds, end_seconds)
        if part.start_seconds < at:
            found.append(replace(part, end_seconds=at))
    at = found[-1].end_seconds if found else 0.0
    if at < end_seconds:
        found.append(Part(at, end_seconds, None))
    return tuple(found)


def with_label(
    parts: Sequence[Part], start_seconds: float, end_seconds: float, label: str | None
) -> tuple[Part, ...]:
    """The parts with [start_seconds, end_seconds) called `label`; neighbours of it are joined."""
    found: list[Part] = []
    for part in parts:
        found.append(replace(part, end_seconds=min(part.end_seconds, start_seconds)))
        found.append(replace(part, start_seconds=max(part.start_seconds, end_seconds)))
    found.append(Part(start_seconds, end_seconds, label))
    joined: list[Part] = []
    for part in sorted(
        (part for part in found if part.start_seconds < part.end_seconds),
        key=lambda part: part.start_seconds,
    ):
        last = joined[-1] if joined else None
        touches_new = {part.start_seconds, part.end_seconds} & {start_seconds, end_seconds}
        is_same = last and last.label == part.label and last.end_seconds == part.start_seconds
        if is_same and touches_new:
            joined[-1] = replace(last, end_seconds=part.end_seconds)
        else:
            joined.append(part)
    return tuple(joined)


def parts_of(timeline: Timeline) -> tuple[Part, ...]:
    """The segments of a timeline as parts."""
    rows = [
        Part(round(s.start_seconds, DECIMALS), round(s.end_seconds, DECIMALS), s.label)
        for s in timeline.segments
    ]
    return covered(rows, round(timeline.duration_seconds, DECIMALS))


def _part(number: int, segment: Mapping[str, object]) -> Part:
    try:
        start, end, label = (segment[name] for name in ("start_seconds", "end_seconds", "label"))
        start, end = round(float(start), DECIMALS), round(float(end), DECIMALS)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise BadSegments(
            f"segment {number} lacks start_seconds and end_seconds in numbers, or a label"
        ) from None
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
        raise BadSegments(
            f"segment {number} is from {start:g} to {end:g} s: let it start at 0 or later and end "
            "after that"
        )
    if label is not None and not isinstance(label, str):
        raise BadSegments(f"segment {number} has the label {label!r}: send text, or null")
    return Part(start, end, label)


def _refuse_disorder(parts: Sequence[Part]) -> None:
    for number, (part, following) in enumerate(pairwise(parts), 2):
        if following.start_seconds < part.end_seconds:
            raise BadSegments(
                f"segment {number} starts at {following.start_seconds:g} s, before the last one "
                f"ends ({part.end_seconds:g} s): put them in order, none over another"
            )


def _document(parts: Sequence[Part], base: Timeline, saved_at: str) -> bytes:
    """A timeline in the schema of timeline.tables, as sure as a person is, and the mark."""
    segments = [Segment(p.start_seconds, p.end_seconds, p.label or "", 1.0) for p in parts]
    labels = [part.label for part in parts if part.label is not None]
    duration_seconds = base.duration_seconds or parts[-1].end_seconds
    said = replace(
        base,
        duration_seconds=duration_seconds,
        classes=tuple(dict.fromkeys([*base.classes, *sorted(labels)])),
        segments=tuple(segments),
    )
    document = json.loads(to_json(said))
    for segment in document["segments"]:
        segment["label"] = segment["label"] or None
    document[MARK] = {"by": "review page", "saved_at": saved_at}
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def _correction(recording: Recording, path: Path, place: str, folder: Path) -> Correction | None:
    try:
        data = _read_small(path, folder)
        document = json.loads(data)
        saved_at = str(document[MARK]["saved_at"])
        if document["recording"] != recording.path.name:
            return None  # of game.ts, where this is game.mp4
        rows = [
            _part(number, segment) for number, segment in enumerate(document["segments"], start=1)
        ]
        _refuse_disorder(rows)
        named = [s for s in document["segments"] if s["label"] is not None]
        text = json.dumps({**document, "segments": named}).encode()
        timeline = from_json(path.name, text)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, UserError):
        return None  # not ours, or no longer: it is never overwritten without asking
    parts = covered(rows, timeline.duration_seconds)
    revision = hashlib.sha256(data).hexdigest()[:16]
    return Correction(parts, timeline, revision, saved_at, place, path)


def _read_small(path: Path, folder: Path) -> bytes:
    """The content of a label file that really lies in a folder. Raises LabelError, OSError."""
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        raise LabelError(f"{path.name} is no file of its folder, and is not read: remove it")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise LabelError(f"{path.name} is too large for labels: remove it")
    return path.read_bytes()


def _reason(error: Exception) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
