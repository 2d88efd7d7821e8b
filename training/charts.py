"""Charts of the report: inline SVG without scripts, coloured by the page's CSS variables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from training.evaluation import ReliabilityBin

# One viewBox for all: text then has the same size in every chart, at phone width too.
WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 22, 44
SERIES_COLOURS = 6  # --series-0 ... --series-5 in report.css; dashes tell further ones apart
MOST_DOTS = 30  # epochs are drawn as dots as well while they can be told apart


@dataclass(frozen=True)
class Series:
    """A named line; points whose y is None or not finite leave a gap.

    `intervals` are (low, high) of each point, drawn as upright bars; None draws none.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    intervals: Sequence[tuple[float, float] | None] = ()


@dataclass(frozen=True)
class Axis:
    """What an axis shows, from low to high."""

    label: str
    low: float
    high: float
    whole: bool = False  # ticks at whole numbers only, for epochs and clips


def axis_over(
    label: str, values: Sequence[float | None], *, low: float | None = None, whole: bool = False
) -> Axis:
    """Returns an axis that holds all finite values, starting at low where it is given."""
    known = [value for value in values if _finite(value)] or [0.0, 1.0]
    start, end = min(known) if low is None else low, max(known)
    if end <= start:
        start, end = (start, start + 1) if low is not None else (start - 0.5, start + 0.5)
    return Axis(label, start, end, whole)


def line_chart(
    description: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    marks: Sequence[tuple[float, str]] = (),
) -> Markup:
    """Returns an SVG of lines and its legend; marks are labelled vertical lines at an x."""
    body = _frame(x, y)
    for place, text in marks:
        left = _x(place, x)
        body.append(
            f'<line class="mark" x1="{left}" x2="{left}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        )
        body.append(f'<text class="mark" x="{left}" y="{TOP - 8}">{escape(text)}</text>')
    for index, line in enumerate(series):
        style = _stroke(index)
        points = [
            (_x(at, x), _y(value, y)) if _finite(value) else None
            for at, value in zip(line.x, line.y, strict=True)
        ]
        for at, interval in zip(line.x, line.intervals, strict=False):
            if interval is not None:
                ends = f'y1="{_y(interval[0], y)}" y2="{_y(interval[1], y)}"'
                body.append(f'<line class="gap" {style} x1="{_x(at, x)}" x2="{_x(at, x)}" {ends}/>')
        path = _path(points)
        if path:
            body.append(f'<path class="line" {style} d="{path}"/>')
        if x.whole and len(points) <= MOST_DOTS:
            fill = f'style="fill:var(--series-{index % SERIES_COLOURS})"'
            body += [f'<circle {fill} cx="{p[0]}" cy="{p[1]}" r="2.6"/>' for p in points if p]
    legend = ""
    if len(series) > 1:
        swatch = (
            '<svg viewBox="0 0 26 8" aria-hidden="true"><path class="line" {} d="M1,4H25"/></svg>'
        )
        items = [
            f"<li>{swatch.format(_stroke(index))}{escape(line.name)}</li>"
            for index, line in enumerate(series)
        ]
        legend = f'<ul class="legend">{"".join(items)}</ul>'
    return Markup(_svg(description, body) + legend)


def reliability_chart(description: str, bins: Sequence[ReliabilityBin]) -> Markup:
    """Returns an SVG with a dot per filled bin, its area by clips, tied to the diagonal."""
    x, y = Axis("confidence", 0, 1), Axis("share right", 0, 1)
    body = _frame(x, y)
    body.append(
        f'<line class="mark" x1="{_x(0, x)}" y1="{_y(0, y)}" x2="{_x(1, x)}" y2="{_y(1, y)}"/>'
    )
    filled = [b for b in bins if b.clips]
    for b in filled:
        left, ends = _x(b.confidence, x), (_y(b.confidence, y), _y(b.accuracy, y))
        body.append(f'<line class="gap" x1="{left}" x2="{left}" y1="{ends[0]}" y2="{ends[1]}"/>')
    for b in filled:
        radius = round(3 + 8 * math.sqrt(b.clips / max(b.clips for b in filled)), 1)
        place = f'cx="{_x(b.confidence, x)}" cy="{_y(b.accuracy, y)}" r="{radius}"'
        told = f"{b.clips} clips: said {b.confidence:.0%}, right {b.accuracy:.0%}"
        body.append(f'<circle class="bin" {place}><title>{told}</title></circle>')
    return Markup(_svg(description, body))


def _svg(description: str, body: list[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(description)}">{"".join(body)}</svg>'
    )


def _frame(x: Axis, y: Axis) -> list[str]:
    """Returns grid lines, tick labels and axis labels."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    body = []
    for value in _ticks(y, 5):
        top = _y(value, y)
        body.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{top}" y2="{top}"/>')
        body.append(f'<text class="end" x="{LEFT - 7}" y="{top + 4}">{value:g}</text>')
    for value in _ticks(x, 6):
        body.append(f'<text class="mid" x="{_x(value, x)}" y="{bottom + 17}">{value:g}</text>')
    body.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
    body.append(f'<text class="mid" x="{middle_x}" y="{HEIGHT - 7}">{escape(x.label)}</text>')
    turned = f'transform="rotate(-90 13 {middle_y})"'
    body.append(f'<text class="mid" x="13" y="{middle_y}" {turned}>{escape(y.label)}</text>')
    return body


def _ticks(axis: Axis, about: int) -> list[float]:
    """Returns round values in [low, high], some `about` of them."""
    rough = (axis.high - axis.low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    if axis.whole:
        step = max(1, math.ceil(step))
    first = math.ceil(axis.low / step - 1e-9)
    last = math.floor(axis.high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    parts, pen_down = [], False
    for point in points:
        if point:
            parts.append(f"{'L' if pen_down else 'M'}{point[0]},{point[1]}")
        pen_down = point is not None
    return "".join(parts)


def _stroke(index: int) -> str:
    dash = ("", "7 4", "2 4")[index // SERIES_COLOURS % 3]
    return (
        f'style="stroke:var(--series-{index % SERIES_COLOURS});stroke-dasharray:{dash or "none"}"'
    )


def _x(value: float, axis: Axis) -> float:
    return round(LEFT + (value - axis.low) / (axis.high - axis.low) * (WIDTH - LEFT - RIGHT), 1)


def _y(value: float, axis: Axis) -> float:
    inside = min(max((value - axis.low) / (axis.high - axis.low), 0.0), 1.0)
    return round(HEIGHT - BOTTOM - inside * (HEIGHT - BOTTOM - TOP), 1)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
