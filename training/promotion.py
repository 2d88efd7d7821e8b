"""Promotion: whether a challenger takes over from the champion, judged on the same test clips."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from training.evaluation import ClipScores

DRAWS = 2000
LEVEL = 0.99  # a worse model must not pass in fifty tries, and 0.95 lets one in forty pass
SEED = 0  # of the draws: the same scores are always judged alike
MIN_GROUPS = 3  # of each class, below which nothing says how far a number may be off


@dataclass(frozen=True)
class Rules:
    """What a challenger must do, in parts of 1: balanced accuracy, and recall of each class."""

    min_gain: float
    max_class_loss: float


@dataclass(frozen=True)
class Decision:
    """Whether the challenger is promoted, why, and the numbers behind it.

    `gain` is its balanced accuracy less the champion's, or less that of always answering with one
    class where there is no champion; `gain_low` to `gain_high` is how far that may be off, None
    where a class has too few test groups to say.
    """

    promote: bool
    reason: str  # one line
    gain: float
    gain_low: float | None
    gain_high: float | None
    challenger: dict[str, float]  # balanced_accuracy, and recall_<class> of each
    champion: dict[str, float] | None  # None for the floor
    clips: int
    groups: int

    def to_dict(self) -> dict:
        return asdict(self)


def decide(
    challenger: ClipScores, champion: ClipScores | None, classes: Sequence[str], rules: Rules
) -> Decision:
    """The decision on these scores of the same clips; columns of both are `classes`.

    A challenger is promoted where its gain is `min_gain` or more, the whole interval of the gain
    lies on its side, and no class is recognised less often by more than `max_class_loss`. The
    interval is a paired bootstrap over groups: clips of one source resemble each other, and both
    models meet the same ones. Without a champion the floor is the answer that is always the same,
    whose balanced accuracy is 1 / classes. Raises ValueError where the clips are not the same.
    """
    _check_same_clips(challenger, champion)
    own = _recalls(challenger)
    others = None if champion is None else _recalls(champion)
    losses = {} if others is None else {index: others[index] - own[index] for index in own}
    differences = _right(challenger) - (0.0 if champion is None else _right(champion))
    floor = 1 / len(own) if champion is None else 0.0
    gain = float(_balanced(differences, challenger.labels, np.ones(len(challenger)))) - floor
    interval, groups_of_class = _interval(challenger, differences, gain, floor)
    reason = _objection(gain, interval, losses, groups_of_class, classes, rules)
    low, high = interval or (None, None)
    return Decision(
        promote=reason is None,
        reason=reason or f"{_say_gain(gain, interval)}, on {_say_clips(challenger)}",
        gain=gain,
        gain_low=low,
        gain_high=high,
        challenger=_named(own, classes),
        champion=None if others is None else _named(others, classes),
        clips=len(challenger),
        groups=len(set(challenger.groups)),
    )


def _check_same_clips(challenger: ClipScores, champion: ClipScores | None) -> None:
    if not len(challenger):
        raise ValueError("there is no test clip: nothing can be judged")
    if champion is None:
        return
    spans = [
        list(zip(s.recordings, s.start_seconds.tolist(), s.labels.tolist(), strict=True))
        for s in (challenger, champion)
    ]
    if spans[0] != spans[1]:
        raise ValueError("challenger and champion were scored on different clips: score them anew")


def _draw_groups(scores: ClipScores) -> tuple[np.ndarray, dict[int, int]]:
    """How often each clip is in each of DRAWS samples (DRAWS, N), and groups by class.

    Whole groups are drawn, among those that show the same classes. Groups that are alone in what
    they show are drawn from together: alone they would never vary.
    """
    labels_of: dict[str, set[int]] = {}
    for group, label in zip(scores.groups, scores.labels.tolist(), strict=True):
        labels_of.setdefault(group, set()).add(label)
    groups = sorted(labels_of)
    strata: dict[tuple[int, ...], list[int]] = {}
    for place, group in enumerate(groups):
        strata.setdefault(tuple(sorted(labels_of[group])), []).append(place)
    several = [members for members in strata.values() if len(members) > 1]
    alone = [members[0] for members in strata.values() if len(members) == 1]
    if len(alone) > 1 or not several:
        several.append(alone)
    elif alone:
        max(several, key=len).append(alone[0])
    rng = np.random.default_rng(SEED)
    counts = np.zeros((DRAWS, len(groups)))
    for members in several:
        even = np.full(len(members), 1 / len(members))
        counts[:, members] = rng.multinomial(len(members), even, DRAWS)
    place_of = {group: place for place, group in enumerate(groups)}
    of_class = {
        label: sum(label in labels for labels in labels_of.values())
        for label in sorted(set(scores.labels.tolist()))
    }
    return counts[:, [place_of[group] for group in scores.groups]], of_class


def _right(scores: ClipScores) -> np.ndarray:
    """(N,) 1.0 for each clip that is answered rightly, else 0.0."""
    return (scores.logits.argmax(axis=1) == scores.labels).astype(np.float64)


def _recalls(scores: ClipScores) -> dict[int, float]:
    """By class that has clips."""
    right = _right(scores)
    return {
        label: float(right[scores.labels == label].mean())
        for label in sorted(set(scores.labels.tolist()))
    }


def _balanced(values: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(...,) mean over classes of the mean value of their clips, each counted `counts` (..., N)
    times; a class that none is left of has no part.
    """
    with np.errstate(invalid="ignore"):
        means = [
            (counts[..., labels == label] @ values[labels == label])
            / counts[..., labels == label].sum(axis=-1)
            for label in np.unique(labels)
        ]
    return np.nanmean(means, axis=0)


def _interval(
    scores: ClipScores, values: np.ndarray, gain: float, floor: float
) -> tuple[tuple[float, float] | None, dict[int, int]]:
    """The LEVEL interval of the gain, and how many groups each class has.

    None for fewer than MIN_GROUPS of a class. Plain percentiles of so few groups are too narrow.
    Expanded ones (Hesterberg, arXiv 1411.5279, section 5.3) make them as wide as Student's t says;
    of three groups, that is all that was drawn. Where groups happen to agree, it is still as wide
    as their clips alone would make it.
    """
    from scipy.stats import norm, t  # here: it takes a second to import

    counts, groups_of_class = _draw_groups(scores)
    groups = min(groups_of_class.values())
    if groups < MIN_GROUPS:
        return None, groups_of_class
    spread = np.sqrt(groups / (groups - 1)) * t.ppf((1 + LEVEL) / 2, groups - 1)
    tail = float(norm.cdf(-spread))
    gains = _balanced(values, scores.labels, counts) - floor
    low, high = np.nanquantile(gains, [tail, 1 - tail])
    parts = [values[scores.labels == label] for label in groups_of_class]
    variance = sum(part.var() / len(part) for part in parts) / len(parts) ** 2
    margin = float(norm.ppf((1 + LEVEL) / 2) * np.sqrt(variance))
    return (min(float(low), gain - margin), max(float(high), gain + margin)), groups_of_class


def _objection(
    gain: float,
    interval: tuple[float, float] | None,
    losses: dict[int, float],
    groups_of_class: dict[int, int],
    classes: Sequence[str],
    rules: Rules,
) -> str | None:
    """Why the challenger is not promoted, in one line; None where it is."""
    said = _say_gain(gain, interval)
    if gain < rules.min_gain:
        return f"{said}, where {rules.min_gain:.3f} or more is asked (MIN_GAIN)"
    if interval is None:
        few = min(groups_of_class, key=groups_of_class.get)
        return (
            f"{said}, but {classes[few]} has {groups_of_class[few]} test groups, which can't tell "
            "that from chance: add recordings of other sources"
        )
    if interval[0] <= 0:
        return f"{said}, which may be chance: more test groups would tell"
    worst = max(losses, key=losses.get, default=None)
    if worst is not None and losses[worst] > rules.max_class_loss:
        return (
            f"{said}, but {classes[worst]} is recognised {losses[worst]:.3f} less often, where "
            f"{rules.max_class_loss:.3f} is allowed (MAX_CLASS_LOSS)"
        )
    return None


def _say_gain(gain: float, interval: tuple[float, float] | None) -> str:
    """For example `better by 0.042 (0.011 to 0.080)`."""
    spread = "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
    return f"{'better' if gain >= 0 else 'worse'} by {abs(gain):.3f}{spread}"


def _say_clips(scores: ClipScores) -> str:
    return f"{len(scores)} test clips of {len(set(scores.groups))} groups"


def _named(recalls: dict[int, float], classes: Sequence[str]) -> dict[str, float]:
    balanced = float(np.mean(list(recalls.values())))
    named = {f"recall_{classes[index]}": value for index, value in recalls.items()}
    return {"balanced_accuracy": balanced, **named}
