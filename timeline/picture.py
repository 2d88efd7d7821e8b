"""Picture of two timelines, one above the other: what is true and what was found, as SVG."""

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise

import numpy as np

from timeline.timeline import Segment
from utils.labels import BREAK_LABEL, REST_LABEL, Span

# Wide enough to tell breaks apart, narrow enough that text can be read where it fills a phone.
WIDTH, MARGIN = 420, 10
BAND_HEIGHT, STRIP_HEIGHT, CURVE_HEIGHT = 26, 8, 48
LEAST_WIDTH = 1.2  # of what is drawn, however short it is
TICK_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
MOST_TICKS = 7
OTHER_COLOURS = 4  # --c2 ... --c5, again from the first where there are more classes

STYLE = """
:root { color-scheme: light dark; }
svg.timelines { --ink: #1c2126; --soft: #59626c; --line: #dcdad4; --bare: #eceae5;
  --wrong: #b3122f; --c0: #2670ad; --c1: #e08a2c; --c2: #3c7f4b;
  --c3: #8152ad; --c4: #1f8287; --c5: #8a6d3b; }
@media (prefers-color-scheme: dark) {
  svg.timelines { --ink: #e7e9eb; --soft: #a6aeb7; --line: #353b42; --bare: #262b31;
    --wrong: #ff7b8e; --c0: #4b92cc; --c1: #f0a552; --c2: #74bd84;
    --c3: #b793dd; --c4: #5dbdc2; --c5: #c9ab74; }
}
svg.timelines { display: block; width: 100%; max-width: 60rem; height: auto;
  font: 12.5px system-ui, "Segoe UI", Roboto, Arial, "Liberation Sans", sans-serif; }
svg.timelines text { fill: var(--soft); } svg.timelines text.row { fill: var(--ink); }
svg.timelines .mid { text-anchor: middle; } svg.timelines .end { text-anchor: end; }
svg.timelines .bare { fill: var(--bare); } svg.timelines .wrong { fill: var(--wrong); }
svg.timelines .unsure { fill-opacity: 0.5; }
svg.timelines .grid { stroke: var(--line); } svg.timelines .axis { stroke: var(--soft); }
svg.timelines .curve { fill: none; stroke: var(--c1); stroke-width: 1.4; stroke-linejoin: round; }
"""


def draw_timelines(
    found: Sequence[Segment | Span],
    truth: Sequence[Span],
    duration_seconds: float,
    *,
    ad_probabilities: np.ndarray | None = None,
    hop_seconds: float = math.nan,
) -> str:
    """Returns an SVG: the truth, where they differ, what was found, and how probable ads are.

    `truth` may be empty; it and the differences are then left out.

    It can stand alone as a file or within a page, and follows the reader's light or dark colours.
    `ad_probabilities` (N,) are those at (k + 0.5) * hop_seconds; without them there is no curve.
    """
    scale = _Scale(duration_seconds)
    classes = [REST_LABEL, BREAK_LABEL]
    classes += sorted({span.label for span in (*truth, *found)} - set(classes))
    body: list[str] = []
    y = 14
    if truth:
        body.append(_text(MARGIN, y, "truth", "row"))
        y += 6
        body += _band(truth, classes, scale, y)
        y += BAND_HEIGHT + 2
        body += _differences(found, truth, scale, y)
        y += STRIP_HEIGHT + 2
    body += _band(found, classes, scale, y)
    y += BAND_HEIGHT + 15
    body.append(_text(MARGIN, y, "found", "row"))
    if ad_probabilities is not None:
        y += 13
        body += _curve(ad_probabilities, hop_seconds, scale, y)
        y += CURVE_HEIGHT
    body += _axis(scale, y + 7)
    y += 45
    entries = [(name, f'style="fill:{_colour(name, classes)}"') for name in classes]
    entries += [("differs", 'class="wrong"')] if truth else []
    if any(getattr(span, "unsure", False) for span in found):
        paint = _colour(BREAK_LABEL, classes)
        entries.append(("unsure", f'class="unsure" style="fill:{paint}"'))
    legend, rows = _legend(entries, y)
    height = y + 18 * (rows - 1) + 8
    told = f"Timeline of {_clock(duration_seconds)}"
    return (
        f'<svg class="timelines" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label="{told}"><style>{STYLE}</style>{"".join(body + legend)}</svg>\n'
    )


class _Scale:
    """Seconds to the x of the picture."""

    def __init__(self, duration_seconds: float):
        self.duration_seconds = max(duration_seconds, 1e-3)

    def __call__(self, seconds: float) -> float:
        inside = min(max(seconds / self.duration_seconds, 0.0), 1.0)
        return round(MARGIN + inside * (WIDTH - 2 * MARGIN), 1)

    def rect(self, start_seconds: float, end_seconds: float, y: float, height: float) -> str:
        """Attributes of a box that can be seen however short the time is."""
        left, right = self(start_seconds), self(end_seconds)
        width = round(max(right - left, LEAST_WIDTH), 1)
        return f'x="{left}" y="{y}" width="{width}" height="{height}"'


def _band(
    spans: Sequence[Segment | Span], classes: list[str], scale: _Scale, y: float
) -> list[str]:
    body = [f'<rect class="bare" {scale.rect(0, scale.duration_seconds, y, BAND_HEIGHT)}/>']
    # Breaks last: a short one must not vanish under the game beside it.
    for span in sorted(spans, key=lambda span: span.label == BREAK_LABEL):
        end_seconds = min(span.end_seconds, scale.duration_seconds)
        unsure = ' class="unsure"' if getattr(span, "unsure", False) else ""
        body.append(
            f'<rect{unsure} style="fill:{_colour(span.label, classes)}" '
            f"{scale.rect(span.start_seconds, end_seconds, y, BAND_HEIGHT)}>"
            f"<title>{escape(_told(span, end_seconds))}</title></rect>"
        )
    return body


def _differences(
    found: Sequence[Segment | Span], truth: Sequence[Span], scale: _Scale, y: float
) -> list[str]:
    edges = {0.0, scale.duration_seconds}
    edges |= {e for s in (*found, *truth) for e in (s.start_seconds, s.end_seconds)}
    body = []
    for start, end in pairwise(sorted(e for e in edges if 0 <= e <= scale.duration_seconds)):
        true_label, found_label = _label_at(truth, start), _label_at(found, start)
        if true_label and true_label != found_label:
            told = (
                f"{_clock(start)} to {_clock(end)}: {true_label} called {found_label or 'nothing'}"
            )
            body.append(
                f'<rect class="wrong" {scale.rect(start, end, y, STRIP_HEIGHT)}>'
                f"<title>{escape(told)}, {end - start:.2f} s</title></rect>"
            )
    return body


def _curve(probabilities: np.ndarray, hop_seconds: float, scale: _Scale, y: float) -> list[str]:
    """A line with a point per pixel at most, the mean of what falls on it."""
    times = (np.arange(len(probabilities)) + 0.5) * hop_seconds
    columns = np.round([scale(time) for time in times]).astype(int)
    points = [
        f"{column},{y + CURVE_HEIGHT * (1 - probabilities[columns == column].mean()):.1f}"
        for column in np.unique(columns)
    ]
    body = []
    for value in (0.0, 0.5, 1.0):
        at = y + CURVE_HEIGHT * (1 - value)
        body.append(f'<line class="grid" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{at}" y2="{at}"/>')
    body.append(f'<path class="curve" d="M{" L".join(points)}"/>')
    body.append(_text(WIDTH - MARGIN, y - 4, "probability of ads", "end"))
    return body


def _axis(scale: _Scale, y: float) -> list[str]:
    fitting = (s for s in TICK_SECONDS if scale.duration_seconds / s <= MOST_TICKS)
    step = next(fitting, TICK_SECONDS[-1])
    body = [f'<line class="axis" x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y}" y2="{y}"/>']
    for seconds in np.arange(0, scale.duration_seconds, step):
        left = scale(seconds)
        body.append(f'<line class="axis" x1="{left}" x2="{left}" y1="{y}" y2="{y + 4}"/>')
        # The first and last must not run out of the picture.
        anchor = "mid" if 2 * MARGIN < left < WIDTH - 2 * MARGIN else ""
        anchor = "end" if left >= WIDTH - 2 * MARGIN else anchor
        body.append(_text(left if anchor else MARGIN, y + 17, _clock(float(seconds)), anchor))
    return body


def _legend(entries: list[tuple[str, str]], y: float) -> tuple[list[str], int]:
    """The boxes and their names, in as many rows as they take, and how many these are."""
    body, x, rows = [], MARGIN, 1
    for name, paint in entries:
        width = 32 + 6.8 * len(name)
        if x + width > WIDTH and x > MARGIN:
            x, y, rows = MARGIN, y + 18, rows + 1
        body.append(f'<rect {paint} x="{x}" y="{y - 9}" width="11" height="11"/>')
        body.append(_text(x + 16, y + 1, name, ""))
        x = round(x + width, 1)
    return body, rows


def _colour(label: str, classes: list[str]) -> str:
    index = classes.index(label)
    return f"var(--c{index if index < 2 else 2 + (index - 2) % OTHER_COLOURS})"


def _label_at(spans: Sequence[Segment | Span], seconds: float) -> str:
    return next((s.label for s in spans if s.start_seconds <= seconds < s.end_seconds), "")


def _told(span: Segment | Span, end_seconds: float) -> str:
    told = f"{span.label}, {_clock(span.start_seconds)} to {_clock(end_seconds)}"
    if isinstance(span, Segment):
        told += f", {span.confidence:.0%} sure"
        for edge, evidence in (("start", span.start_evidence), ("end", span.end_evidence)):
            told += f", {edge}: {' + '.join(evidence)}" if evidence else ""
    return told


def _text(x: float, y: float, text: str, kind: str) -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x}" y="{y}">{escape(text)}</text>'


def _clock(seconds: float) -> str:
    """For example `1:02:03` or `4:05`, and `4:05.2` where it is no whole second."""
    tenths = round(seconds * 10)
    whole, tenth = divmod(tenths, 10)
    hours, rest = divmod(whole, 3600)
    minutes, second = divmod(rest, 60)
    clock = f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"
    return f"{clock}.{tenth}" if tenth else clock
