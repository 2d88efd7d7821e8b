"""Report of a run: one self-contained HTML file from what lies in the run folder."""

import base64
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from training import charts
from training.charts import Axis, Series
from training.curves import epoch_charts, learning_chart, machine_use, wait_fraction
from training.evaluation import (
    ClipScores,
    evaluate_scores,
    group_results,
    most_wrong,
    precision_recall_curves,
    read_predictions,
    reliability_bins,
    softmax,
)
from training.monitor import read_monitor
from training.run_progress import read_json_lines
from training.thresholds import Thresholds
from training.verdict import verdict, warnings
from utils.files import write_whole

TEMPLATES = Path(__file__).with_name("templates")
THUMBNAIL_HEIGHT = 112

Thumbnails = Callable[[str, float, float], np.ndarray | None]


def write_report(run_dir: Path, *, thumbnails: Thumbnails) -> Path:
    """Returns the path of report.html, written whole or not at all from the run folder's files.

    thumbnails(recording, start_seconds, end_seconds) returns (T, H, W, 3) uint8 RGB, or None
    where there is no picture to show. Files that are not there yet leave their sections out.
    """
    config = _read_json(run_dir / "config.json")
    data = _read_json(run_dir / "data.json")
    metrics = _read_json(run_dir / "metrics.json")
    epochs = [line for line in read_json_lines(run_dir / "metrics.jsonl") if "epoch" in line]
    monitor = read_monitor(run_dir / "monitor.jsonl")
    scores, classes = None, data.get("classes", [])
    if metrics and (run_dir / "predictions.csv").exists():
        scores, classes = read_predictions(run_dir / "predictions.csv")
        scores = scores if len(scores) else None
    curve = _read_json(run_dir / "learning_curve.json")
    temperature = metrics.get("temperature") or 1.0
    if scores is not None:
        metrics = {**evaluate_scores(scores, classes, temperature), **metrics}
    context = {
        "run": run_dir.resolve().name,
        "heading": _heading(classes),
        "classes": classes,
        "config": config,
        "data": data,
        "metrics": metrics,
        "epochs": epochs,
        "verdict": verdict(metrics, scores, classes),
        "warnings": warnings(metrics, data, epochs, scores, classes),
        "comparison": _comparison(metrics, data.get("split")),
        "thresholds": _thresholds(run_dir),
        "learning": {"chart": learning_chart(curve), "sentence": curve.get("sentence")},
        "curves": epoch_charts(epochs),
        "machine": machine_use(monitor),
        "wait_fraction": wait_fraction(epochs, metrics),
        **_judged(scores, classes, temperature, thumbnails),
    }
    html = _environment().get_template("report.html.j2").render(context)
    path = run_dir / "report.html"
    # A file name may hold bytes that are no UTF-8; they show as "?".
    write_whole(path, html.encode("utf-8", errors="replace"))
    return path


def _heading(classes: Sequence[str]) -> str:
    if len(classes) == 2:
        return f"Telling {classes[0]} from {classes[1]}"
    return f"Telling apart {', '.join(classes)}" if classes else "Training report"


def _comparison(metrics: dict, split: str | None) -> list[dict]:
    """Returns rows of the same recipe judged in other ways, those that were measured."""
    place = "data/validation" if split == "data/validation" else "Held-out groups"
    senses = "picture and sound" if "sound_only_auc" in metrics else "picture"
    rows = [
        (f"{place}, {senses}", ""),
        (f"{place}, picture alone", "video_only_"),
        (f"{place}, sound alone (clips that have sound)", "sound_only_"),
        ("Random split (heads trained anew), the flattering number", "random_split_"),
    ]
    found = [
        {
            "name": name,
            **{
                key: metrics.get(prefix + key)
                for metric in ("auc", "balanced_accuracy")
                for key in (metric, f"{metric}_low", f"{metric}_high")
            },
        }
        for name, prefix in rows
    ]
    return [row for row in found if _known(row["auc"]) or _known(row["balanced_accuracy"])]


def _thresholds(run_dir: Path) -> dict | None:
    """Returns the aim of the thresholds and their cost in words; None without thresholds."""
    values = _read_json(run_dir / "thresholds.json")
    if not values:
        return None
    chosen = Thresholds.from_dict(values)
    lines = chosen.sentences()
    return {"aim": lines[0], "notes": lines[1:]}


def _judged(
    scores: ClipScores | None, classes: Sequence[str], temperature: float, thumbnails: Thumbnails
) -> dict[str, object]:
    """Returns what the scored clips show: curves, groups and the clips that went most wrong."""
    if scores is None:
        return {"reliability": None, "precision_recall": None, "groups": [], "wrong": []}
    curves = precision_recall_curves(scores, classes, temperature)
    return {
        "reliability": charts.reliability_chart(
            "Share of right answers against confidence, a dot per bin",
            reliability_bins(scores, temperature),
        ),
        "precision_recall": charts.line_chart(
            "Precision against recall of each class",
            [Series(name, recall, precision) for name, (recall, precision) in curves.items()],
            Axis("recall", 0, 1),
            Axis("precision", 0, 1),
        ),
        "groups": group_results(scores, classes, temperature),
        "wrong": _wrong_clips(scores, classes, temperature, thumbnails),
    }


def _wrong_clips(
    scores: ClipScores, classes: Sequence[str], temperature: float, thumbnails: Thumbnails
) -> list[dict]:
    probabilities = softmax(scores.logits, temperature)
    clips = []
    indices = most_wrong(scores, temperature)
    wrong = indices[scores.logits[indices].argmax(axis=1) != scores.labels[indices]]
    # Where none is wrong, those that came closest are worth a look.
    for index in wrong if len(wrong) else indices:
        said, truth = int(probabilities[index].argmax()), int(scores.labels[index])
        recording = scores.recordings[index]
        span = float(scores.start_seconds[index]), float(scores.end_seconds[index])
        clips.append(
            {
                "recording": recording,
                "start_seconds": span[0],
                "end_seconds": span[1],
                "truth": classes[truth],
                "said": classes[said],
                "right": said == truth,
                "confidence": float(probabilities[index, said]),
                "images": _encode(thumbnails(recording, *span)),
            }
        )
    return clips


def _encode(frames: np.ndarray | None) -> list[str]:
    """Returns JPEG data URLs of (T, H, W, 3) uint8 RGB frames, at most THUMBNAIL_HEIGHT high."""
    urls = []
    for frame in () if frames is None else frames:
        image = Image.fromarray(frame)
        if image.height > THUMBNAIL_HEIGHT:
            width = max(round(image.width * THUMBNAIL_HEIGHT / image.height), 1)
            image = image.resize((width, THUMBNAIL_HEIGHT))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
        urls.append("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())
    return urls


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # file and folder names are the user's: none may become markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{value:.1%}" if _known(value) else "n/a"
    environment.filters["score"] = lambda value: f"{value:.3f}" if _known(value) else "n/a"
    environment.globals["spread"] = _spread
    environment.filters["number"] = lambda value: f"{value:.3g}" if _known(value) else "n/a"
    environment.filters["ln"] = math.log
    environment.filters["clock"] = _clock
    return environment


def _spread(values: dict, name: str, form: str = "{:.3f}") -> str:
    """Returns `0.820 to 0.977`, how far a metric may be off; "" where that is not known."""
    low, high = values.get(f"{name}_low"), values.get(f"{name}_high")
    return f"{form.format(low)} to {form.format(high)}" if _known(low) and _known(high) else ""


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _clock(seconds: float | None) -> str:
    if not _known(seconds):
        return "n/a"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
