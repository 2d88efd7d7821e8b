"""Wording: answers as lines for people, and as cards of a page."""

from collections.abc import Sequence

from search.finder import Finder, Runs
from search.page import Card, Line
from search.places import Place

SEEN = {"picture": "same picture", "sound": "same sound", "similar": "similar"}


def how_often(count: int) -> str:
    times = {0: "nowhere", 1: "once"}.get(count, f"{count} times")
    return f"The same ran {times}{' elsewhere' * bool(count)}."


def how_similar(count: int) -> str:
    return (
        "Nothing is similar." if count == 0 else f"Similar places, the most alike first: {count}."
    )


def clock(seconds: float) -> str:
    """Such as 1:02:03.4 or 2:03.4."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def times(start_seconds: float, end_seconds: float) -> str:
    return f"{clock(start_seconds)} - {clock(end_seconds)}"


def place_lines(places: Sequence[Place]) -> list[str]:
    """A table; no line where there is no place."""
    rows = [("", "score", "found by", "label", "time", "recording")] + [
        (
            str(number),
            f"{place.score:.3f}",
            SEEN[place.by],
            place.label or "-",
            times(place.start_seconds, place.end_seconds),
            place.recording,
        )
        for number, place in enumerate(places, 1)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = (True, True, False, False, True, False)
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]


def spot_lines(runs: Sequence[Runs]) -> list[str]:
    lines = []
    for number, spot in enumerate(runs, 1):
        lines.append(
            f"{number}. {spot.label or 'unlabelled'}, {spot.seconds:.0f} s, "
            f"ran {len(spot.places)} times in "
            f"{len({place.recording for place in spot.places})} recordings"
        )
        lines += [
            f"    {times(place.start_seconds, place.end_seconds):>21}  {place.recording}"
            for place in spot.places
        ]
    return lines


def place_card(number: int, place: Place, finder: Finder) -> Card:
    span = place.start_seconds, place.end_seconds
    pictures = finder.thumbnails(place.recording_key, *span)
    lines = (Line(place.recording, times(*span)),)
    return Card(f"{number}. {SEEN[place.by]}", pictures, lines, place.label, place.score)


def spot_card(number: int, spot: Runs, finder: Finder) -> Card:
    first = spot.places[0]
    pictures = finder.thumbnails(first.recording_key, first.start_seconds, first.end_seconds)
    lines = tuple(
        Line(place.recording, times(place.start_seconds, place.end_seconds))
        for place in spot.places
    )
    title = f"{number}. {spot.seconds:.0f} s, ran {len(spot.places)} times"
    return Card(title, pictures, lines, spot.label)
