"""Comparison: how far a timeline is from the truth, in seconds, breaks and edges."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from timeline.timeline import Segment
from utils.labels import BREAK_LABEL, Span

OVERLAPS = (0.3, 0.5, 0.7)  # intersection over union from which a segment counts as found
# Edges are measured where segments overlap by the least of these: that hides least.
EDGE_OVERLAP = min(OVERLAPS)
# So near the end of what is labelled, there is no edge: label files and pictures round times.
BORDER_SECONDS = 0.5
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Match:
    """What of something was found: precision and recall are nan where there is nothing."""

    right: float
    found: float
    true: float

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else math.nan

    @property
    def recall(self) -> float:
        return self.right / self.true if self.true else math.nan

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.found + self.true) if self.found + self.true else math.nan

    def __add__(self, other: "Match") -> "Match":
        return Match(self.right + other.right, self.found + other.found, self.true + other.true)


@dataclass(frozen=True)
class LabelComparison:
    """How one class was found. Edge errors are found minus true, in seconds: late is positive."""

    seconds: Match
    segments: Mapping[float, Match]  # by overlap, of OVERLAPS
    start_errors: tuple[float, ...]
    end_errors: tuple[float, ...]

    def edge_error(self, percentile: float) -> float:
        """Seconds between found and true edges, without the sign; nan where none was found."""
        return _percentile([abs(e) for e in self.start_errors + self.end_errors], percentile)

    def __add__(self, other: "LabelComparison") -> "LabelComparison":
        return LabelComparison(
            self.seconds + other.seconds,
            {overlap: self.segments[overlap] + other.segments[overlap] for overlap in OVERLAPS},
            self.start_errors + other.start_errors,
            self.end_errors + other.end_errors,
        )


@dataclass(frozen=True)
class Comparison:
    """Timelines against the truth, over those parts of recordings that the truth labels."""

    seconds: Mapping[tuple[str, str], float]  # by true label and found label
    labels: Mapping[str, LabelComparison]  # BREAK_LABEL always, and all that there are

    @property
    def breaks(self) -> LabelComparison:
        return self.labels[BREAK_LABEL]

    @property
    def game_seconds_lost(self) -> float:
        """Seconds of anything but ads that are called ads."""
        return self.breaks.seconds.found - self.breaks.seconds.right

    @property
    def ad_seconds_kept(self) -> float:
        """Seconds of ads that are called anything else."""
        return self.breaks.seconds.true - self.breaks.seconds.right

    @property
    def game_seconds_lost_per_hour(self) -> float:
        """Of an hour of what is not ads, as MAX_GAME_LOSS counts; nan where there is none."""
        return _hourly(self.game_seconds_lost, self._total - self.breaks.seconds.true)

    @property
    def ad_seconds_kept_per_hour(self) -> float:
        """Of an hour of ads; nan where there is none."""
        return _hourly(self.ad_seconds_kept, self.breaks.seconds.true)

    def __add__(self, other: "Comparison") -> "Comparison":
        labels = {
            name: self.labels.get(name, _NOTHING) + other.labels.get(name, _NOTHING)
            for name in {**self.labels, **other.labels}
        }
        return Comparison(Counter(self.seconds) + Counter(other.seconds), labels)

    def to_dict(self) -> dict[str, float | None]:
        """JSON values by figure name; None where there is nothing to measure."""
        breaks = self.breaks
        figures = {
            "ad_second_f1": breaks.seconds.f1,
            "ad_second_precision": breaks.seconds.precision,
            "ad_second_recall": breaks.seconds.recall,
        }
        for overlap, match in breaks.segments.items():
            figures[f"break_f1_iou{overlap * 100:.0f}"] = match.f1
            figures[f"break_precision_iou{overlap * 100:.0f}"] = match.precision
            figures[f"break_recall_iou{overlap * 100:.0f}"] = match.recall
        figures |= {
            "edge_median_seconds": breaks.edge_error(50),
            "edge_p90_seconds": breaks.edge_error(90),
            "entering_median_late_seconds": _percentile(breaks.start_errors, 50),
            "leaving_median_late_seconds": _percentile(breaks.end_errors, 50),
            "game_seconds_lost": self.game_seconds_lost,
            "game_seconds_lost_per_hour": self.game_seconds_lost_per_hour,
            "ad_seconds_kept": self.ad_seconds_kept,
            "ad_seconds_kept_per_hour": self.ad_seconds_kept_per_hour,
            "breaks": breaks.segments[EDGE_OVERLAP].true,
            "breaks_found": breaks.segments[EDGE_OVERLAP].found,
            "seconds": self._total,
        }
        return {name: None if math.isnan(value) else value for name, value in figures.items()}

    @property
    def _total(self) -> float:
        return sum(self.seconds.values())


def compare(
    found: Sequence[Span | Segment], truth: Sequence[Span | Segment], duration_seconds: float
) -> Comparison:
    """What of the truth, within [0, duration_seconds), `found` says. Both are in order, disjoint.

    What the truth leaves out is not compared. What `found` leaves out is found as "". Add the
    comparisons of several recordings up to pool them.
    """
    found, truth = _cut(found, duration_seconds), _cut(truth, duration_seconds)
    seconds = _confusion(found, truth)
    names = {BREAK_LABEL, *(name for pair in seconds for name in pair if name)}
    labelled = [(s.start_seconds, s.end_seconds) for s in _joined(truth, None)]
    labels = {}
    for name in sorted(names):
        true = [(s.start_seconds, s.end_seconds) for s in _joined(truth, name)]
        said = _within([(s.start_seconds, s.end_seconds) for s in _joined(found, name)], labelled)
        pairs = _match(true, said, EDGE_OVERLAP)
        labels[name] = LabelComparison(
            Match(
                seconds[name, name],
                sum(value for (_, said_label), value in seconds.items() if said_label == name),
                sum(value for (true_label, _), value in seconds.items() if true_label == name),
            ),
            {o: Match(len(_match(true, said, o)), len(said), len(true)) for o in OVERLAPS},
            _edge_errors(pairs, 0, [start for start, _ in labelled]),
            _edge_errors(pairs, 1, [end for _, end in labelled]),
        )
    return Comparison(seconds, labels)


def comparison_table(comparison: Comparison) -> str:
    """What people read of a comparison, several lines."""
    breaks = comparison.breaks
    lines = [
        f"game called ad  {_clock(comparison.game_seconds_lost)}"
        f"{_per_hour(comparison.game_seconds_lost_per_hour, 'of game')}",
        f"ad called game  {_clock(comparison.ad_seconds_kept)}"
        f"{_per_hour(comparison.ad_seconds_kept_per_hour, 'of ads')}",
        f"{'':<22}{'precision':>10}{'recall':>10}{'F1':>10}",
    ]
    for name, label in comparison.labels.items():
        lines.append(_row(f"seconds of {name}", label.seconds))
    for name, label in comparison.labels.items():
        if name == BREAK_LABEL or len(comparison.labels) > 2:
            what = "breaks" if name == BREAK_LABEL else name
            for overlap, match in label.segments.items():
                counts = f"   {match.right:.0f} of {match.true:.0f}, {match.found:.0f} found"
                lines.append(_row(f"{what}, IoU {overlap:g}", match) + counts)
    if breaks.start_errors + breaks.end_errors:
        lines.append(f"{'':<22}{'median':>10}{'90 % within':>14}")
        lines.append(_edge_row("edges", [abs(e) for e in breaks.start_errors + breaks.end_errors]))
        for name, errors in (("entering", breaks.start_errors), ("leaving", breaks.end_errors)):
            if errors:
                late = sum(e > 0 for e in errors)
                said = f"   {late} late, {sum(e < 0 for e in errors)} early"
                lines.append(_edge_row(f"  {name} a break", [abs(e) for e in errors]) + said)
    return "\n".join(lines)


_Interval = tuple[float, float]
_NOTHING = LabelComparison(Match(0, 0, 0), {o: Match(0, 0, 0) for o in OVERLAPS}, (), ())


def _cut(spans: Iterable[Span | Segment], duration_seconds: float) -> list[Span]:
    cut = (Span(s.start_seconds, min(s.end_seconds, duration_seconds), s.label) for s in spans)
    return sorted(span for span in cut if span.end_seconds > span.start_seconds)


def _confusion(found: list[Span], truth: list[Span]) -> Counter:
    """Seconds by true label and found label."""
    edges = {edge for s in [*found, *truth] for edge in (s.start_seconds, s.end_seconds)}
    seconds: Counter = Counter()
    for start, end in pairwise(sorted(edges)):
        true_label = _label_at(truth, start)
        if true_label:
            seconds[true_label, _label_at(found, start)] += end - start
    return seconds


def _label_at(spans: list[Span], seconds: float) -> str:
    index = bisect_right(spans, seconds, key=lambda span: span.start_seconds) - 1
    return spans[index].label if index >= 0 and seconds < spans[index].end_seconds else ""


def _joined(spans: list[Span], label: str | None) -> list[Span]:
    """Those of a label, or of any for None, touching ones made one."""
    joined: list[Span] = []
    for span in (s for s in spans if label in (None, s.label)):
        if joined and joined[-1].end_seconds == span.start_seconds:
            joined[-1] = Span(joined[-1].start_seconds, span.end_seconds, span.label)
        else:
            joined.append(span)
    return joined


def _within(spans: list[_Interval], parts: list[_Interval]) -> list[_Interval]:
    """The spans' intersections with the parts of a recording that the truth labels."""
    common = ((max(s[0], p[0]), min(s[1], p[1])) for s in spans for p in parts)
    return [(start, end) for start, end in common if start < end]


def _match(
    true: list[_Interval], found: list[_Interval], overlap: float
) -> list[tuple[_Interval, _Interval]]:
    """The most pairs, each span in one at most, that overlap so far; of these, those that overlap
    most. Spans in order never need to be paired crosswise, so this is an alignment."""
    best = [[(0, 0.0, None)] * (len(found) + 1) for _ in range(len(true) + 1)]
    for i, a in enumerate(true):
        for j, b in enumerate(found):
            choices = [best[i][j + 1][:2] + ((i, j + 1),), best[i + 1][j][:2] + ((i + 1, j),)]
            common = min(a[1], b[1]) - max(a[0], b[0])
            share = common / (max(a[1], b[1]) - min(a[0], b[0]))
            if share >= overlap:
                count, total, _ = best[i][j]
                choices.append((count + 1, total + share, (i, j)))
            best[i + 1][j + 1] = max(choices, key=lambda choice: choice[:2])
    pairs, at = [], (len(true), len(found))
    while at[0] and at[1]:
        before = best[at[0]][at[1]][2]
        if before == (at[0] - 1, at[1] - 1):
            pairs.append((true[before[0]], found[before[1]]))
        at = before
    return pairs[::-1]


def _edge_errors(
    pairs: list[tuple[_Interval, _Interval]], side: int, borders: list[float]
) -> tuple[float, ...]:
    """Found minus true. An edge that is where the labelled part ends was not to be found."""

    def is_border(seconds: float) -> bool:
        return any(abs(seconds - border) <= BORDER_SECONDS for border in borders)

    edges = [(true[side], found[side]) for true, found in pairs]
    return tuple(
        found - true for true, found in edges if not (is_border(true) and is_border(found))
    )


def _percentile(values: Sequence[float], percentile: float) -> float:
    return float(np.percentile(values, percentile)) if len(values) else math.nan


def _hourly(seconds: float, total: float) -> float:
    return seconds / total * SECONDS_PER_HOUR if total else math.nan


def _row(name: str, match: Match) -> str:
    return f"{name:<22}" + "".join(
        f"{_part(v):>10}" for v in (match.precision, match.recall, match.f1)
    )


def _part(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _edge_row(name: str, errors: list[float]) -> str:
    return f"{name:<22}{_percentile(errors, 50):>8.2f} s{_percentile(errors, 90):>12.2f} s"


def _clock(seconds: float) -> str:
    return f"{seconds:8.1f} s"


def _per_hour(seconds: float, what: str) -> str:
    return "" if math.isnan(seconds) else f"   ({seconds:.1f} s an hour {what})"
