"""Outputs: which files are written of a labelled recording, where, and with what in them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from timeline.formats import FORMATS, format_named, format_timeline, sidecar_path
from timeline.labelled import Labelled
from timeline.picture import draw_timelines
from utils.errors import UserError
from utils.labels import LABEL_SUFFIXES, Span

PICTURE, PICTURE_SUFFIX = "picture", ".timeline.svg"
NAMES = (*FORMATS, PICTURE)


@dataclass(frozen=True)
class Outputs:
    """The kinds of files that are wanted, of NAMES, and the folder for them.

    Without a folder they lie beside the recording, where players look. `labels_dir` is what
    training reads: a file that it would take for somebody's labels is not written there.
    """

    names: tuple[str, ...]
    folder: Path | None = None
    labels_dir: Path | None = None
    started_at: datetime | None = None  # of the recordings, for HLS

    @classmethod
    def of(cls, words: str, folder: Path | None, **how) -> "Outputs":
        """From names with commas between them. Raises UserError for one that is none."""
        names = tuple(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
        for name in names:
            if name != PICTURE:
                format_named(name)
        return cls(names, folder, **how)

    def paths(self, recording: Path, relative: Path) -> list[Path]:
        """Where the files of a recording go; `relative` is its place below what was asked for.

        Raises UserError where one would be taken for labels.
        """
        place = recording if self.folder is None else self.folder / relative
        paths = [
            place.with_suffix(PICTURE_SUFFIX) if name == PICTURE else sidecar_path(place, name)
            for name in self.names
        ]
        for path in paths:
            if self._is_label_file(path):
                raise UserError(
                    f"{path} would be read as a person's labels by the next training: write it "
                    "elsewhere with --out FOLDER"
                )
        return paths

    def contents(
        self, paths: Sequence[Path], labelled: Labelled, truth: Sequence[Span]
    ) -> Iterator[tuple[Path, bytes]]:
        """Each file with what belongs in it; `truth` may be empty and is for the picture."""
        timeline = labelled.timeline
        for name, path in zip(self.names, paths, strict=True):
            if name == PICTURE:
                svg = draw_timelines(
                    timeline.segments,
                    truth,
                    timeline.duration_seconds,
                    ad_probabilities=labelled.break_probabilities,
                    hop_seconds=labelled.hop_seconds,
                )
                yield path, svg.encode()
            else:
                yield path, format_timeline(timeline, name, started_at=self.started_at)

    def _is_label_file(self, path: Path) -> bool:
        if self.labels_dir is None or path.suffix not in LABEL_SUFFIXES:
            return False
        is_inside = self.labels_dir.resolve() in path.resolve().parents
        return is_inside and len(path.suffixes) == 1  # game.timeline.json is nobody's


def find_truth(place: Path, recording: Path) -> Path:
    """The truth file for a recording: `place` itself, or what is named like it in that folder.

    Raises UserError where there is none, or several.
    """
    if not place.exists():
        raise UserError(f"{place}, the truth, is not there: check the path")
    if not place.is_dir():
        return place
    suffixes = {*(form.suffix for form in FORMATS.values()), *LABEL_SUFFIXES}
    suffixes.remove(FORMATS["vlc"].suffix)
    found = [place / (recording.stem + suffix) for suffix in sorted(suffixes)]
    found = [path for path in found if path.is_file() and path != recording]
    if len(found) == 1:
        return found[0]
    what = f"has {' and '.join(path.name for path in found)}" if found else "has no file"
    raise UserError(
        f"{place} {what} for {recording.name}: put one there, named {recording.stem} and a suffix "
        f"such as .edl, .csv or .json"
    )
