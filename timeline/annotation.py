"""Annotation: a copy of a recording with its labels drawn onto the picture."""

from bisect import bisect_right
from pathlib import Path

from timeline.timeline import Segment, Timeline
from utils.labels import BREAK_LABEL
from utils.muxing import OnProgress, WrittenCopy, check_output
from utils.overlays import Block, StripPainter, Words
from utils.picture_index import read_index
from utils.splicing import Span, splice

# Okabe and Ito's colours, which all people can tell apart; black letters are readable on each.
BREAK_COLOUR = (230, 159, 0)
COLOURS = ((86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0))


def annotate(
    source: Path,
    timeline: Timeline,
    target: Path,
    *,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> WrittenCopy:
    """Writes a copy of a recording that shows what a timeline says, whole or not at all.

    A strip has the label and its confidence, the time since the first picture and a bar of the
    whole timeline; doubtful segments are striped. Pictures become H.264, sound is copied. Raises
    MuxError, MediaError.
    """
    check_output(target, [source], overwrite=overwrite)
    index = read_index(source)
    whole = Span(index.start, index.end, ())
    notes = splice(
        source,
        target,
        index,
        [whole],
        painter=painter_of(timeline),
        on_progress=on_progress,
    )
    return WrittenCopy(target, notes)


def painter_of(timeline: Timeline) -> StripPainter:
    """Returns what draws a timeline onto pictures."""
    colours = _colours(timeline)
    total_seconds = max(timeline.duration_seconds, 1e-3)
    starts = [segment.start_seconds for segment in timeline.segments]
    blocks = [
        Block(
            segment.start_seconds / total_seconds,
            min(1.0, segment.end_seconds / total_seconds),
            colours[segment.label],
            segment.unsure,
        )
        for segment in timeline.segments
    ]

    def words_at(seconds: float) -> Words:
        segment = timeline.segments[max(0, bisect_right(starts, seconds + 1e-6) - 1)]
        return Words(
            badge=_badge(segment),
            colour=colours[segment.label],
            words=f"{_clock(seconds)} / {_clock(total_seconds)}",
            position=min(1.0, seconds / total_seconds),
        )

    return StripPainter(blocks, words_at)


def _badge(segment: Segment) -> str:
    doubt = "?" if segment.unsure else ""
    return f"{segment.label.upper()}{doubt} {100 * segment.confidence:.0f}%"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds * 10) / 10, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{seconds:04.1f}"


def _colours(timeline: Timeline) -> dict[str, tuple[int, int, int]]:
    labels = {*timeline.classes, *(segment.label for segment in timeline.segments)}
    others = sorted(labels - {BREAK_LABEL}, key=lambda label: (label != timeline.kept, label))
    return {
        BREAK_LABEL: BREAK_COLOUR,
        **{label: COLOURS[number % len(COLOURS)] for number, label in enumerate(others)},
    }
