"""Curves of a run: losses and metrics over the epochs, the machine's use over time."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from training.charts import Axis, Series, axis_over, line_chart

MOST_POINTS = 240  # a chart is some 360 units wide inside its axes: more cannot be seen
LOSSES = {"train_loss": "training", "val_loss": "validation"}
RATES = {
    "train_accuracy": "accuracy, training",
    "val_accuracy": "accuracy, validation",
    "val_balanced_accuracy": "balanced accuracy, validation",
    "val_auc": "AUC, validation",
}


def epoch_charts(epochs: Sequence[dict]) -> dict[str, Markup] | None:
    """Returns the charts "loss" and "rates" over the lines of metrics.jsonl; None without any.

    Epochs count on through the phases, and each phase is marked where it starts.
    """
    if not epochs:
        return None
    count = range(1, len(epochs) + 1)
    phases = [line.get("phase", "") for line in epochs]
    marks = [(i, phases[i - 1]) for i in count if i == 1 or phases[i - 1] != phases[i - 2]]
    x = axis_over("epoch", count, low=1, whole=True)
    losses = [Series(name, count, [e.get(key) for e in epochs]) for key, name in LOSSES.items()]
    rates = [Series(name, count, [e.get(key) for e in epochs]) for key, name in RATES.items()]
    loss_axis = axis_over("loss", [value for line in losses for value in line.y], low=0)
    lowest = axis_over("", [value for line in rates for value in line.y]).low
    rate_axis = Axis("metric", min(math.floor(lowest * 10) / 10, 0.9), 1.0)
    return {
        "loss": line_chart("Loss per epoch", losses, x, loss_axis, marks=marks),
        "rates": line_chart("Metrics per epoch", rates, x, rate_axis, marks=marks),
    }


def learning_chart(curve: dict) -> Markup | None:
    """Returns AUC and balanced accuracy over the groups learned from; None without a curve."""
    points = curve.get("points", [])
    if not points:
        return None
    groups = [point["groups"] for point in points]
    lines = []
    for key, name in (("auc", "AUC"), ("balanced_accuracy", "balanced accuracy")):
        intervals = [point[f"{key}_interval"] for point in points]
        lines.append(Series(name, groups, [point[key] for point in points], intervals))
    lows = [interval[0] for line in lines for interval in line.intervals if interval]
    lowest = min([*lows, *(value for line in lines for value in line.y if value is not None)])
    x = axis_over("groups learned from", groups, low=0, whole=True)
    y = Axis("metric", math.floor(min(lowest, 0.9) * 10) / 10, 1.0)
    return line_chart("Metrics over the groups learned from", lines, x, y)


def wait_fraction(epochs: Sequence[dict], metrics: dict) -> float | None:
    """Returns the share of training time spent waiting for data, [0, 1]; None if not measured."""
    if metrics.get("wait_fraction") is not None:
        return metrics["wait_fraction"]
    spent = [(e.get("seconds"), e.get("wait_fraction")) for e in epochs]
    spent = [(seconds, wait) for seconds, wait in spent if seconds and wait is not None]
    total = sum(seconds for seconds, _ in spent)
    return sum(seconds * wait for seconds, wait in spent) / total if total else None


def machine_use(lines: Sequence[dict]) -> dict[str, list]:
    """Returns "charts" [(name, SVG)] and "figures" [(name, number, unit)] of a monitor's lines.

    What was never read, a GPU where there is none, is left out. Several GPUs appear as their mean.
    """
    if not lines:
        return {"charts": [], "figures": []}
    columns = {
        "processor": _column(lines, "cpu_percent"),
        "memory": _column(lines, "memory_bytes") / 1e9,
        "machine": _column(lines, "memory_percent"),
        "read": _column(lines, "read_bytes_per_second") / 1e6,
        "written": _column(lines, "write_bytes_per_second") / 1e6,
        "gpu": _gpu_column(lines, "utilization_percent"),
        "gpu memory": _gpu_column(lines, "memory_bytes") / 1e9,
        "watts": _gpu_column(lines, "power_watts"),
        "celsius": _gpu_column(lines, "temperature_celsius"),
    }
    figures = [
        ("Processor, mean", _mean(columns["processor"]), "%"),
        ("Memory of the training, highest", _highest(columns["memory"]), "GB"),
        ("Memory of the machine, highest", _highest(columns["machine"]), "%"),
        ("GPU, mean", _mean(columns["gpu"]), "%"),
        ("GPU memory, highest", _highest(columns["gpu memory"]), "GB"),
        ("GPU power, mean", _mean(columns["watts"]), "W"),
        ("GPU temperature, highest", _highest(columns["celsius"]), "°C"),
    ]
    seconds = _column(lines, "seconds")
    panels = {
        "Processor and GPU": ("percent", {"processor": "processor", "gpu": "GPU"}),
        "Memory": ("GB", {"memory": "training", "gpu memory": "GPU"}),
        "Storage": ("MB per second", {"read": "read", "written": "written"}),
    }
    charts = []
    for name, (label, wanted) in panels.items():
        series = {title: columns[key] for key, title in wanted.items() if _any(columns[key])}
        if series:
            title = name if len(series) > 1 or name != "Processor and GPU" else "Processor"
            charts.append((title, _time_chart(title, label, seconds, series)))
    return {"charts": charts, "figures": [figure for figure in figures if figure[1] is not None]}


def _time_chart(
    name: str, label: str, seconds: np.ndarray, columns: dict[str, np.ndarray]
) -> Markup:
    longest = float(seconds.max())
    unit, divisor = ("seconds", 1) if longest < 300 else ("minutes", 60)
    if longest > 3 * 3600:
        unit, divisor = "hours", 3600
    # Means of neighbours: single samples of an hour would be a smear.
    parts = np.array_split(np.arange(len(seconds)), min(len(seconds), MOST_POINTS))
    x = [_mean(seconds[part] / divisor) for part in parts]
    series = [Series(key, x, [_mean(y[part]) for part in parts]) for key, y in columns.items()]
    y = axis_over(label, [value for line in series for value in line.y], low=0)
    y = Axis(label, 0, 100) if label == "percent" else y
    return line_chart(f"{name} over time", series, axis_over(unit, x, low=0), y)


def _column(lines: Sequence[dict], name: str) -> np.ndarray:
    return np.array([_number(line.get(name)) for line in lines])


def _gpu_column(lines: Sequence[dict], name: str) -> np.ndarray:
    """Returns the mean over the GPUs, nan where none was read."""
    rows = [np.array([_number(g.get(name)) for g in line.get("gpus") or []]) for line in lines]
    return np.array([_number(_mean(row)) for row in rows])


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _any(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).any())


def _mean(values: np.ndarray) -> float | None:
    return float(values[np.isfinite(values)].mean()) if _any(values) else None


def _highest(values: np.ndarray) -> float | None:
    return float(values[np.isfinite(values)].max()) if _any(values) else None
