"""Thresholds: from which probability on a class is said, chosen for a stated aim.

One class is kept: the game, which is what a recording is when nothing else is sure enough. Each
other class is said where its probability reaches its own threshold. With two classes that is the
usual threshold of a binary classifier.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import expit

from training.evaluation import POSITIVE_CLASS, ClipScores, margins, softmax
from training.intervals import GroupDraws, Interval, rate_interval
from utils.config import Config

KEPT_CLASS = "games"
SECONDS_PER_HOUR = 3600.0
JUDGING_PARTS = 10  # the groups are judged in so many parts, by thresholds the others chose


@dataclass(frozen=True)
class Aim:
    """What thresholds are for; one of the two is given.

    `max_game_loss` is seconds of the kept class that are called one other class, per hour of it;
    `min_recall` is the part of each other class that must be found, [0, 1].
    """

    max_game_loss: float | None = None
    min_recall: float | None = None

    @classmethod
    def of(cls, config: Config) -> "Aim | None":
        """The aim that the constants state, or None."""
        if config.max_game_loss is None and config.min_recall is None:
            return None
        return cls(config.max_game_loss, config.min_recall)

    def describe(self, kept: str) -> str:
        if self.max_game_loss is not None:
            return f"at most {self.max_game_loss:g} s of {kept} lost an hour"
        return f"at least {self.min_recall:.0%} found"

    def is_missed(self, row: "Threshold") -> bool:
        """Whether what was measured falls short of the aim."""
        if self.max_game_loss is not None:
            return row.game_loss is not None and row.game_loss > self.max_game_loss
        return row.recall is not None and row.recall < self.min_recall


@dataclass(frozen=True)
class Threshold:
    """From which probability a class is said, and what that was measured to cost.

    Recall is a part of the class's time; loss is seconds of the kept class called so, per hour of
    it. Both were measured on groups that had no part in choosing, None where there was no clip.
    """

    name: str
    value: float
    recall: float | None
    recall_interval: Interval | None
    game_loss: float | None
    game_loss_interval: Interval | None


@dataclass(frozen=True)
class Thresholds:
    """How probabilities become labels; it travels in the checkpoint."""

    aim: Aim
    kept: str
    thresholds: tuple[Threshold, ...]

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Thresholds":
        """Raises KeyError or TypeError for the fields of another version."""
        rows = tuple(Threshold(**_tuples(row)) for row in values["thresholds"])
        return cls(Aim(**values["aim"]), values["kept"], rows)

    def values(self) -> dict[str, float]:
        """From where each class but the kept one is said."""
        return {threshold.name: threshold.value for threshold in self.thresholds}

    def decide(self, probabilities: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        """(N,) int64 class indices for probabilities (N, C)."""
        return decide(probabilities, classes, self.values())

    def sentences(self) -> list[str]:
        """The aim, then a line for each class: from where on it is said, and what that costs."""
        lines = [
            f"labels are chosen for {self.aim.describe(self.kept)}; in doubt it is {self.kept}"
        ]
        lines += [_sentence(threshold, self.kept) for threshold in self.thresholds]
        missed = [row.name for row in self.thresholds if self.aim.is_missed(row)]
        if missed:
            lines.append(
                f"on groups that had no part in choosing, {' and '.join(missed)} missed the aim: "
                "expect what was measured, not what was aimed at"
            )
        return lines

    def metrics(self) -> dict[str, float | None]:
        """Flat keys for metrics.json: threshold_<class>, threshold_recall_<class>_low, ..."""
        found = {}
        for row in self.thresholds:
            found[f"threshold_{row.name}"] = row.value
            for key in ("recall", "game_loss"):
                low, high = getattr(row, f"{key}_interval") or (None, None)
                found[f"threshold_{key}_{row.name}"] = getattr(row, key)
                found[f"threshold_{key}_{row.name}_low"] = low
                found[f"threshold_{key}_{row.name}_high"] = high
        return found


def decide(
    probabilities: np.ndarray, classes: Sequence[str], values: dict[str, float]
) -> np.ndarray:
    """(N,) int64: the most probable class of those that reach their value, else the kept one.

    `values` has all classes but the kept one. Without any, the most probable class is said.
    """
    if not values:
        return probabilities.argmax(axis=1)
    limits = np.array([values.get(name, np.inf) for name in classes])
    said = np.where(probabilities >= limits, probabilities, -1.0)
    kept = next(index for index, name in enumerate(classes) if name not in values)
    return np.where(said.max(axis=1) >= 0, said.argmax(axis=1), kept)


def choose_thresholds(
    scores: ClipScores, classes: Sequence[str], temperature: float, aim: Aim
) -> Thresholds:
    """Thresholds that meet the aim on scores of groups the network never saw.

    What they cost is measured on groups that had no part in the choice either: the groups are
    judged in JUDGING_PARTS, each by thresholds chosen on the others. So the cost may miss the aim,
    and that is what it will do on new recordings.
    """
    kept = kept_class(scores, classes)
    values = _choose(scores, classes, temperature, aim, kept)
    said = np.zeros(len(scores), np.int64)
    for part, others in _parts(scores):
        chosen = _choose(scores.only(others), classes, temperature, aim, kept)
        said[part] = decide(softmax(scores.logits[part], temperature), classes, chosen)
    draws, seconds = GroupDraws.of(scores), scores.end_seconds - scores.start_seconds
    kept_seconds = seconds * (scores.labels == classes.index(kept))
    rows = []
    for name, value in values.items():
        index = classes.index(name)
        own = seconds * (scores.labels == index)
        recall = _rate(draws, scores, own * (said == index), own)
        loss = _rate(draws, scores, kept_seconds * (said == index), kept_seconds)
        hourly = loss[1] and (loss[1][0] * SECONDS_PER_HOUR, loss[1][1] * SECONDS_PER_HOUR)
        game_loss = None if loss[0] is None else loss[0] * SECONDS_PER_HOUR
        rows.append(Threshold(name, value, *recall, game_loss, hourly))
    return Thresholds(aim, kept, tuple(rows))


def read_thresholds(recipe: dict) -> Thresholds | None:
    """The thresholds in a checkpoint's recipe; None where the most probable class is said."""
    return Thresholds.from_dict(recipe["thresholds"]) if recipe.get("thresholds") else None


def kept_class(scores: ClipScores, classes: Sequence[str]) -> str:
    """`games` where there is one; else the class with most time, the ads left out."""
    if KEPT_CLASS in classes:
        return KEPT_CLASS
    seconds = scores.end_seconds - scores.start_seconds
    others = [name for name in classes if name != POSITIVE_CLASS]
    return max(others, key=lambda name: seconds[scores.labels == classes.index(name)].sum())


def _choose(
    scores: ClipScores, classes: Sequence[str], temperature: float, aim: Aim, kept: str
) -> dict[str, float]:
    """The threshold of each class but the kept one."""
    odds, seconds = margins(scores.logits, temperature), scores.end_seconds - scores.start_seconds
    values = {}
    for index, name in enumerate(classes):
        if name == kept:
            continue
        if aim.max_game_loss is not None:
            guarded, part = (
                scores.labels == classes.index(kept),
                aim.max_game_loss / SECONDS_PER_HOUR,
            )
        else:
            guarded, part = scores.labels == index, aim.min_recall
        values[name] = float(expit(_cut(odds[:, index], guarded, seconds, part, aim)))
    return values


def _cut(
    odds: np.ndarray, guarded: np.ndarray, seconds: np.ndarray, part: float, aim: Aim
) -> float:
    """The cut, of candidates between neighbouring odds, at which guarded clips meet the aim.

    Loss: the lowest cut at which no more than `part` of their time lies above it.
    Recall: the highest at which no less than `part` does. Even odds where none is guarded.
    """
    if not guarded.any():
        return 0.0
    distinct, place = np.unique(odds, return_inverse=True)
    time = np.zeros(len(distinct))
    np.add.at(time, place, seconds * guarded)
    # One cut below each value, and one above all: [time above it, the cut itself].
    above = np.append(np.cumsum(time[::-1])[::-1], 0.0) / time.sum()
    middles = (distinct[1:] + distinct[:-1]) / 2
    cuts = np.concatenate([[distinct[0] - 1], middles, [distinct[-1] + 1]])
    if aim.max_game_loss is not None:
        return cuts[np.flatnonzero(above <= part + 1e-12)[0]]
    meeting = np.flatnonzero(above >= part - 1e-12)
    return cuts[meeting[-1]]


def _parts(scores: ClipScores) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(clips to judge, the others) as indices; the groups of each class are dealt out evenly."""
    rank: dict[str, int] = {}
    for label in range(scores.logits.shape[1]):
        own = {scores.groups[i] for i in np.flatnonzero(scores.labels == label)}
        for group in sorted(own):
            rank.setdefault(group, len(rank))
    parts = np.array([rank[group] % JUDGING_PARTS for group in scores.groups])
    for part in np.unique(parts):
        yield np.flatnonzero(parts == part), np.flatnonzero(parts != part)


def _rate(
    draws: GroupDraws, scores: ClipScores, events: np.ndarray, whole: np.ndarray
) -> tuple[float | None, Interval | None]:
    if not whole.any():
        return None, None
    return float(events.sum() / whole.sum()), rate_interval(draws, scores, events, whole)


def _sentence(row: Threshold, kept: str) -> str:
    """For example `ads from 0.930: finds 91% of ads (84 to 97%), loses 1.8 s of games an hour`."""
    recall, loss = "", ""
    if row.recall is not None:
        low, high = row.recall_interval or (None, None)
        spread = "" if low is None else f" ({100 * low:.0f} to {100 * high:.0f}%)"
        recall = f"finds {row.recall:.0%} of {row.name}{spread}"
    if row.game_loss is not None:
        low, high = row.game_loss_interval or (None, None)
        spread = "" if low is None else f" ({_seconds(low)} to {_seconds(high)})"
        loss = f"loses {_seconds(row.game_loss)} s of {kept} an hour{spread}"
    costs = ", ".join(part for part in (recall, loss) if part) or "was not judged"
    return f"{row.name} from {_figure(row.value)}: {costs}"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _figure(value: float) -> str:
    """A probability with as many digits as tell it from 1 (0.930, 0.99998)."""
    digits = 3
    while digits < 9 and value < 1 and round(value, digits) == 1:
        digits += 1
    return f"{value:.{digits}f}"


def _tuples(row: dict) -> dict:
    """JSON has no tuples: intervals come back as lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
