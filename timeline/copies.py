"""Copies: a recording without its ads, with chapters, or with what was found drawn onto it."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from timeline.annotation import annotate
from timeline.cutting import cut, cut_path, plan_cut, write_chapters_into
from timeline.timeline import Timeline
from utils.muxing import OnProgress, WrittenCopy

CUTS = ("ads", "games")
CHAPTERS_FOLDER = "with-chapters"  # beside the recording, whose name the copy has


@dataclass(frozen=True)
class CopyWishes:
    """Which copies are wanted, and where: in `folder`, or beside the recording."""

    cut: str | None = None  # of CUTS
    cut_mode: str = "copy"
    chapters: bool = False
    annotated: Path | None = None
    folder: Path | None = None
    overwrite: bool = False


def write_copies(
    path: Path, timeline: Timeline, wishes: CopyWishes, *, say: Callable[[str], None]
) -> Iterator[Path]:
    """Writes them with a bar for each, and yields where; `say` gets what a person should know.

    Raises MuxError, MediaError.
    """
    how = {"overwrite": wishes.overwrite}
    if wishes.folder is not None:
        wishes.folder.mkdir(parents=True, exist_ok=True)
    if wishes.cut:
        target = cut_path(path, wishes.cut, wishes.folder)
        plan = plan_cut(path, timeline, drop=wishes.cut, mode=wishes.cut_mode, suffix=target.suffix)
        for line in plan.lines:
            say(line)
        with _bar("cut") as show:
            copy = cut(plan, target, on_progress=show, **how)
        yield from _done(copy, say)
    if wishes.chapters:
        folder = wishes.folder or path.parent / CHAPTERS_FOLDER
        folder.mkdir(exist_ok=True)
        with _bar("chapters") as show:
            copy = write_chapters_into(path, timeline, folder, on_progress=show, **how)
        yield from _done(copy, say)
    if wishes.annotated:
        with _bar("annotate") as show:
            copy = annotate(path, timeline, wishes.annotated, on_progress=show, **how)
        yield from _done(copy, say)


def _done(copy: WrittenCopy, say: Callable[[str], None]) -> Iterator[Path]:
    for note in copy.notes:
        say(note)
    yield copy.path


@contextlib.contextmanager
def _bar(what: str) -> Iterator[OnProgress]:
    """A bar of seconds of the recording, fed by (done, of how many)."""
    with tqdm(desc=what, unit="s", leave=False) as bar:

        def show(seconds: float, total_seconds: float) -> None:
            bar.total = round(total_seconds)
            bar.update(round(seconds) - bar.n)

        yield show
