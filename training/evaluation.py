"""Evaluation of scored clips: calibration, metrics, curves, and the predictions file.

scikit-learn and scipy.optimize are imported where they are used: they take 1.6 seconds, and a
training should begin before it is judged.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import log_softmax, logsumexp

from utils.files import write_whole

TEMPERATURE_RANGE = (0.25, 10.0)
RELIABILITY_BINS = 15  # as in Guo et al. 2017, so that ECE compares with published numbers
POSITIVE_CLASS = "ads"  # the class a two-class curve is about, where there is one of that name
CLIP_COLUMNS = ("recording", "label", "group", "start_seconds", "end_seconds")


@dataclass(frozen=True)
class ClipScores:
    """N scored clips: what a model said about each, and what each really is.

    Logits are raw (uncalibrated); recordings are paths relative to the data folder.
    Raises ValueError when lengths differ, a label is no column or a logit is not finite.
    """

    logits: np.ndarray  # (N, C) float32
    labels: np.ndarray  # (N,) int64
    recordings: list[str]
    groups: list[str]
    start_seconds: np.ndarray  # (N,) float64
    end_seconds: np.ndarray  # (N,) float64

    def __post_init__(self) -> None:
        if self.logits.ndim != 2:
            raise ValueError(f"logits has shape {self.logits.shape}: give (clips, classes)")
        count, classes = self.logits.shape
        for name in ("labels", "recordings", "groups", "start_seconds", "end_seconds"):
            if len(getattr(self, name)) != count:
                found = len(getattr(self, name))
                raise ValueError(f"{name} has {found} entries for {count} rows of logits")
        low, high = (self.labels.min(), self.labels.max()) if count else (0, 0)
        if low < 0 or high >= max(classes, 1):
            raise ValueError(f"labels run from {low} to {high}: accepted are 0 to {classes - 1}")
        broken = int((~np.isfinite(self.logits)).any(axis=1).sum())
        if broken:
            raise ValueError(
                f"{broken} of {count} clips have logits that are not finite: the training "
                "diverged, lower LEARNING_RATE"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, indices: np.ndarray) -> "ClipScores":
        """The clips at these indices."""
        return ClipScores(
            self.logits[indices],
            self.labels[indices],
            [self.recordings[index] for index in indices],
            [self.groups[index] for index in indices],
            self.start_seconds[indices],
            self.end_seconds[indices],
        )


@dataclass(frozen=True)
class GroupResult:
    """How the clips of one group fared."""

    group: str
    labels: tuple[str, ...]
    clips: int
    accuracy: float
    true_probability: float  # mean calibrated probability of the true class


@dataclass(frozen=True)
class ReliabilityBin:
    """Clips whose confidence lies in [lower, upper); the last bin includes 1."""

    lower: float
    upper: float
    clips: int
    confidence: float  # mean over the clips, nan without any
    accuracy: float


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Returns probabilities (N, C) float64, rows summing to 1, of logits / temperature."""
    return np.exp(log_softmax(logits.astype(np.float64) / temperature, axis=1))


def margins(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Returns log-odds (N, C) of each class against the rest.

    They order clips as probabilities do, without the ties of probabilities that round to 1.
    """
    scaled = logits.astype(np.float64) / temperature
    margins = np.zeros_like(scaled)
    for index in range(scaled.shape[1] if scaled.shape[1] > 1 else 0):
        margins[:, index] = scaled[:, index] - logsumexp(np.delete(scaled, index, axis=1), axis=1)
    return margins


def judged_classes(classes: Sequence[str]) -> list[int]:
    """Indices of the classes a ranking is judged by: of two, one says it all."""
    if len(classes) == 2:
        return [list(classes).index(POSITIVE_CLASS) if POSITIVE_CLASS in classes else 0]
    return list(range(len(classes)))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature that minimises the NLL, within TEMPERATURE_RANGE; 1 for no clips.

    Temperature scaling is Guo et al. 2017 (arXiv 1706.04599). The targets are smoothed in the
    spirit of Platt 1999, as if one clip more had been wrong, 1 / (N + 2) in all: where every clip
    is right, plain NLL has no minimum and would claim certainty from a handful of clips.
    """
    from scipy.optimize import minimize_scalar

    count, classes = logits.shape
    if count == 0 or classes < 2:
        return 1.0
    wrong = 1.0 / (count + 2)
    targets = np.where(np.arange(classes) == labels[:, None], 1 - wrong, wrong / (classes - 1))
    scores = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        log_probabilities = log_softmax(scores / np.exp(log_temperature), axis=1)
        return -float((targets * log_probabilities).sum(axis=1).mean())

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURE_RANGE), method="bounded")
    return float(np.exp(found.x))


def evaluate_scores(
    scores: ClipScores, classes: Sequence[str], temperature: float
) -> dict[str, object]:
    """Returns flat metrics at the given temperature; None where a number is undefined.

    Keys: accuracy, balanced_accuracy (mean recall of the classes present), auc (two classes: of
    POSITIVE_CLASS or the first; more: macro one-vs-rest), ece (15 bins), nll, clips, groups,
    confusion (rows: truth, columns: said), and per class precision_, recall_, f1_ and
    average_precision_<class>. Raises ValueError when there is no clip.
    """
    from sklearn.metrics import average_precision_score

    _check(scores, classes)
    count = len(scores)
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (scores.labels, scores.logits.argmax(axis=1)), 1)
    hits, present, said = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    bins = reliability_bins(scores, temperature)
    metrics = {
        "accuracy": float(hits.sum() / count),
        "balanced_accuracy": float(np.mean((hits / np.maximum(present, 1))[present > 0])),
        "auc": _auc(scores, classes, temperature),
        "ece": sum(b.clips * abs(b.confidence - b.accuracy) for b in bins if b.clips) / count,
        "nll": -float(true_log_probability(scores, temperature).mean()),
        "clips": count,
        "groups": len(set(scores.groups)),
        "confusion": confusion.tolist(),
    }
    odds = margins(scores.logits, temperature)
    for index, name in enumerate(classes):
        truth = scores.labels == index
        metrics[f"precision_{name}"] = _ratio(hits[index], said[index])
        metrics[f"recall_{name}"] = _ratio(hits[index], present[index])
        metrics[f"f1_{name}"] = _ratio(2 * hits[index], said[index] + present[index])
        metrics[f"average_precision_{name}"] = (
            float(average_precision_score(truth, odds[:, index])) if truth.any() else None
        )
    return metrics


def true_log_probability(scores: ClipScores, temperature: float) -> np.ndarray:
    """(N,) log of the calibrated probability of what each clip really is."""
    log_probabilities = log_softmax(scores.logits.astype(np.float64) / temperature, axis=1)
    return log_probabilities[np.arange(len(scores)), scores.labels]


def group_results(
    scores: ClipScores, classes: Sequence[str], temperature: float
) -> list[GroupResult]:
    """Returns one row per group, the worst first."""
    _check(scores, classes)
    right, true_probability = _right(scores), _true_probability(scores, temperature)
    groups = np.array(scores.groups, dtype=object)
    rows = []
    for group in sorted(set(scores.groups)):
        member = groups == group
        rows.append(
            GroupResult(
                group=group,
                labels=tuple(classes[index] for index in np.unique(scores.labels[member])),
                clips=int(member.sum()),
                accuracy=float(right[member].mean()),
                true_probability=float(true_probability[member].mean()),
            )
        )
    return sorted(rows, key=lambda row: (row.accuracy, row.true_probability))


def accuracy_without_one_group(scores: ClipScores) -> tuple[float, float] | None:
    """Returns (lowest, highest) accuracy when any one group is left out; None for one group.

    With a handful of groups this says more about chance than an interval over clips, which
    would take the clips of one source for independent.
    """
    right, groups = _right(scores), np.array(scores.groups, dtype=object)
    names = set(scores.groups)
    if len(names) < 2:
        return None
    accuracies = [float(right[groups != name].mean()) for name in names]
    return min(accuracies), max(accuracies)


def most_wrong(scores: ClipScores, temperature: float, count: int = 10) -> np.ndarray:
    """Returns indices (up to count,) int64 of clips, the lowest probability of the truth first."""
    return np.argsort(_true_probability(scores, temperature), kind="stable")[:count]


def confidence_bins(scores: ClipScores, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Confidence (N,) in the answers, and the index (N,) of the reliability bin of each."""
    confidence = softmax(scores.logits, temperature).max(axis=1)
    return confidence, np.minimum((confidence * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)


def reliability_bins(scores: ClipScores, temperature: float) -> list[ReliabilityBin]:
    """Returns RELIABILITY_BINS bins of equal width over the confidence in the answer, [0, 1]."""
    (confidence, place), right = confidence_bins(scores, temperature), _right(scores)
    bins = []
    for index in range(RELIABILITY_BINS):
        member = place == index
        clips = int(member.sum())
        bins.append(
            ReliabilityBin(
                lower=index / RELIABILITY_BINS,
                upper=(index + 1) / RELIABILITY_BINS,
                clips=clips,
                confidence=float(confidence[member].mean()) if clips else float("nan"),
                accuracy=float(right[member].mean()) if clips else float("nan"),
            )
        )
    return bins


def precision_recall_curves(
    scores: ClipScores, classes: Sequence[str], temperature: float
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns {class: (recall, precision)}, recall rising from 0 to 1, for classes with clips."""
    from sklearn.metrics import precision_recall_curve

    _check(scores, classes)
    odds = margins(scores.logits, temperature)
    curves = {}
    for index, name in enumerate(classes):
        truth = scores.labels == index
        if truth.any():
            precision, recall, _ = precision_recall_curve(truth, odds[:, index])
            curves[name] = (recall[::-1], precision[::-1])
    return curves


def write_predictions(
    path: Path, scores: ClipScores, classes: Sequence[str], temperature: float
) -> None:
    """Writes one row per clip: CLIP_COLUMNS, logit_<class>..., calibrated probability_<class>...

    The file appears whole or not at all.
    """
    probabilities = softmax(scores.logits, temperature)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    logit_columns = [f"logit_{name}" for name in classes]
    writer.writerow([*CLIP_COLUMNS, *logit_columns, *(f"probability_{name}" for name in classes)])
    for i in range(len(scores)):
        writer.writerow(
            [
                scores.recordings[i],
                classes[scores.labels[i]],
                scores.groups[i],
                f"{scores.start_seconds[i]:.3f}",
                f"{scores.end_seconds[i]:.3f}",
                *(f"{value:.9g}" for value in scores.logits[i]),  # float32 survives 9 digits
                *(f"{value:.6f}" for value in probabilities[i]),
            ]
        )
    # surrogateescape: a file name may hold bytes that are no UTF-8.
    write_whole(path, text.getvalue().encode(errors="surrogateescape"))


def read_predictions(path: Path) -> tuple[ClipScores, list[str]]:
    """Returns (scores, classes) of a file from write_predictions.

    Raises ValueError when the file is not one.
    """
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        classes = [name.removeprefix("logit_") for name in columns if name.startswith("logit_")]
        if not classes or not set(CLIP_COLUMNS) <= set(columns):
            raise ValueError(f"{path} is no predictions file: write it anew with write_predictions")
        rows = list(reader)
    logits = [[float(row[f"logit_{name}"]) for name in classes] for row in rows]
    scores = ClipScores(
        logits=np.array(logits, dtype=np.float32).reshape(len(rows), len(classes)),
        labels=np.array([classes.index(row["label"]) for row in rows], dtype=np.int64),
        recordings=[row["recording"] for row in rows],
        groups=[row["group"] for row in rows],
        start_seconds=np.array([float(row["start_seconds"]) for row in rows]),
        end_seconds=np.array([float(row["end_seconds"]) for row in rows]),
    )
    return scores, classes


def _check(scores: ClipScores, classes: Sequence[str]) -> None:
    if not len(scores):
        raise ValueError("there is no clip to evaluate: put recordings on the validation side")
    if scores.logits.shape[1] != len(classes):
        found = scores.logits.shape[1]
        raise ValueError(f"logits have {found} columns for {len(classes)} classes: give one each")


def _right(scores: ClipScores) -> np.ndarray:
    return scores.logits.argmax(axis=1) == scores.labels


def _true_probability(scores: ClipScores, temperature: float) -> np.ndarray:
    return np.exp(true_log_probability(scores, temperature))


def _auc(scores: ClipScores, classes: Sequence[str], temperature: float) -> float | None:
    from sklearn.metrics import roc_auc_score

    if len(np.unique(scores.labels)) < 2:
        return None
    odds = margins(scores.logits, temperature)
    truths = [(scores.labels == index, odds[:, index]) for index in judged_classes(classes)]
    return float(np.mean([roc_auc_score(truth, margin) for truth, margin in truths if truth.any()]))


def _ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
