"""Learning curve: how good the network is on part of the groups, and whether more would help."""

from dataclasses import asdict, dataclass

import numpy as np
from tqdm import tqdm

from training.cross_validation import Retraining, Sides, draw_groups, join_scores
from training.evaluation import ClipScores, evaluate_scores
from training.intervals import GroupDraws, Interval, metric_draws
from training.scores import score_clips

SHARES = {0.1: 5, 0.25: 3, 0.5: 3, 1.0: 1}  # of the groups learned from: random draws of them
WORTH_IT = 0.005  # AUC that twice the groups must have brought for more to be called a help


@dataclass(frozen=True)
class Point:
    """The network after learning from `share` of the groups; means over the draws."""

    share: float
    groups: float  # learned from, mean over folds and draws
    auc: float | None
    auc_interval: Interval | None
    balanced_accuracy: float
    balanced_accuracy_interval: Interval | None


@dataclass(frozen=True)
class LearningCurve:
    """Points in the order of their shares, and what the last doubling of the groups brought."""

    points: list[Point]
    gain: float | None  # AUC of all groups less that of half
    gain_interval: Interval | None

    def to_dict(self) -> dict:
        return {**asdict(self), "sentence": self.sentence()}

    def sentence(self) -> str:
        """Whether more recordings would help, as far as this can tell."""
        if self.gain is None or self.gain_interval is None:
            return "There are too few groups to tell whether more recordings would help."
        low, high = self.gain_interval
        told = f"twice the groups moved AUC by {self.gain:+.3f} (95%: {low:+.3f} to {high:+.3f})"
        if low > 0 and self.gain >= WORTH_IT:
            return f"More recordings from new sources would most likely help: {told}."
        if high < WORTH_IT:
            return f"More recordings of this kind would hardly help: {told}."
        return f"Whether more recordings would help can't be told from these: {told}."


def learning_curve(retraining: Retraining, folds: list[Sides]) -> LearningCurve:
    """The curve of a finished training: each point judges the clips of all folds.

    A network for each share, draw and fold, so some 12 times what judging the folds costs; the
    smaller shares are drawn several times, as it matters which few groups they get.
    """
    classes = retraining.trainer.train_set.classes
    scored: dict[float, list[ClipScores]] = {}
    counts: dict[float, list[int]] = {share: [] for share in SHARES}
    rounds = [(share, draw) for share, draws in SHARES.items() for draw in range(draws)]
    for share, draw in tqdm(rounds, "learning curve", unit="draw", leave=False):
        parts = []
        for number, (train_clips, val_clips) in enumerate(folds):
            seed = retraining.trainer.config.seed + number
            subsets = list(draw_groups(train_clips, share, draw + 1, seed))
            model = retraining.train(subsets[draw])
            parts.append(score_clips(model, retraining.embedded(model, val_clips)))
            counts[share].append(len({clip.recording.group for clip in subsets[draw]}))
        scored.setdefault(share, []).append(join_scores(parts))
    groups = {share: float(np.mean(found)) for share, found in counts.items()}
    return summarize(scored, groups, classes)


def summarize(
    scored: dict[float, list[ClipScores]], groups: dict[float, float], classes: list[str]
) -> LearningCurve:
    """The curve of scores by share, one for each draw, all of the same clips in the same order."""
    draws = GroupDraws.of(next(iter(scored.values()))[0])
    points, auc_draws = [], {}
    for share, parts in scored.items():
        judged = [evaluate_scores(part, classes, 1.0) for part in parts]
        drawn = [metric_draws(draws, part, classes, 1.0) for part in parts]
        # The interval is over which groups judge and over which were learned from.
        mixed = {
            name: np.concatenate([part[name] for part in drawn])
            for name in ("auc", "balanced_accuracy")
        }
        auc_draws[share] = np.mean([part["auc"] for part in drawn], axis=0)
        points.append(
            Point(
                share,
                groups[share],
                _mean([part["auc"] for part in judged]),
                draws.interval(mixed["auc"]),
                _mean([part["balanced_accuracy"] for part in judged]),
                draws.interval(mixed["balanced_accuracy"]),
            )
        )
    half, full = (next((p for p in points if p.share == share), None) for share in (0.5, 1.0))
    if half is None or full is None or half.auc is None or half.groups == full.groups:
        return LearningCurve(points, None, None)
    # The same groups judge both, so what is hard in them cancels out.
    gain_interval = draws.interval(auc_draws[1.0] - auc_draws[0.5])
    return LearningCurve(points, full.auc - half.auc, gain_interval)


def _mean(values: list[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))
