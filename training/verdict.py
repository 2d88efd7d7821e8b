"""Verdict of a run in plain words, and the warnings that belong beside it."""

import math
from collections.abc import Sequence

import numpy as np

from training.evaluation import ClipScores, accuracy_without_one_group

FEW_GROUPS, FEW_CLIPS = 5, 50  # fewer on the validation side gets a warning
IMBALANCE = 3.0  # times as many clips of one class as of another gets a warning


def verdict(metrics: dict, scores: ClipScores | None, classes: Sequence[str]) -> list[str]:
    """Returns what came out, in sentences for a person who never trained a network."""
    if scores is None:
        return ["This run has no scored clips yet."]
    groups = metrics["groups"]
    right = int((scores.logits.argmax(axis=1) == scores.labels).sum())
    source = f"{_count(groups, 'group')} of recordings it never saw in training"
    told = "all" if right == len(scores) else str(right)
    sentences = [
        f"Of {_count(len(scores), 'clip')} from {source}, {told} got the right label: "
        f"{_share(right / len(scores))}."
    ]
    recalls = {name: metrics.get(f"recall_{name}") for name in classes}
    known = sorted((name for name in classes if _known(recalls[name])), key=recalls.get)
    if len(known) == 2:
        told = " and ".join(f"{_share(recalls[name])} of {name}" for name in known[::-1])
        sentences.append(f"It recognises {told}.")
    elif len(known) > 2:
        best, worst = known[-1], known[0]
        sentences.append(
            f"It is best at {best} ({_share(recalls[best])} recognised) and weakest at {worst} "
            f"({_share(recalls[worst])})."
        )
    spread = accuracy_without_one_group(scores)
    if spread and spread[0] < spread[1]:
        sentences.append(
            f"Leave any one of these groups out, and the share of right labels lies between "
            f"{_share(spread[0])} and {_share(spread[1])}."
        )
    if metrics.get("cross_validated"):
        sentences.append(
            "Each group was judged by a network that had learned from the others alone; the "
            "network that is kept has learned from all of them."
        )
    else:
        sentences.append(
            "The best epoch and the calibration were chosen on these same clips, so on recordings "
            "from elsewhere expect somewhat less."
        )
    return sentences


def warnings(
    metrics: dict,
    data: dict,
    epochs: list[dict],
    scores: ClipScores | None,
    classes: Sequence[str],
) -> list[tuple[str, str]]:
    """Returns (headline, explanation) of all that a reader must know before quoting a number."""
    found = []
    if not metrics:
        done = f"after {_count(len(epochs), 'epoch')}" if epochs else "before its first epoch ended"
        found.append(("Not finished", f"This run stopped {done}, or is still going on."))
    if data.get("demo"):
        found.append(
            (
                "Demo videos",
                "Trained on small made-up videos. The numbers show that everything works, and "
                "say nothing about real recordings. Put your own videos into a folder per class "
                f"({', '.join(f'data/{name}/' for name in classes)}) and train again.",
            )
        )
    if data.get("from_scratch"):
        found.append(
            (
                "No pretrained weights",
                "The whole network was trained from scratch, without ImageNet weights. On real "
                "recordings expect clearly less than with them: see WEIGHTS in the README.",
            )
        )
    if scores is not None:
        found += _validation_warnings(metrics, scores, classes)
    clips = {name: side["clips"] for name, side in data.get("train", {}).items()}
    if clips and max(clips.values()) >= IMBALANCE * max(min(clips.values()), 1):
        most, least = max(clips, key=clips.get), min(clips, key=clips.get)
        found.append(
            (
                "Uneven classes",
                f"Training had {_count(clips[most], 'clip')} of {most} and {clips[least]} of "
                f"{least}. Classes were weighted, but more recordings of {least} will help most.",
            )
        )
    return found


def _validation_warnings(
    metrics: dict, scores: ClipScores, classes: Sequence[str]
) -> list[tuple[str, str]]:
    found = []
    counts = np.bincount(scores.labels, minlength=len(classes))
    absent = [name for name, clips in zip(classes, counts, strict=True) if clips == 0]
    if absent:
        text = f"There was no validation clip of {', '.join(absent)}: nothing is known about it."
        if len(classes) - len(absent) == 1:
            text += " With one class alone, accuracy and AUC say nothing about telling them apart."
        found.append(("A class was not judged", text))
    groups = metrics["groups"]
    if groups < FEW_GROUPS or len(scores) < FEW_CLIPS:
        found.append(
            (
                "A small validation set",
                f"{_count(len(scores), 'clip')} from {_count(groups, 'group')} are few. Clips of "
                "one group resemble each other, so it is the number of groups that counts: one "
                "easy or hard source more would move these numbers by many points.",
            )
        )
    share, balanced = counts.max() / len(scores), metrics.get("balanced_accuracy")
    if share >= IMBALANCE / (1 + IMBALANCE) and not absent:
        found.append(
            (
                "Uneven validation set",
                f"Always saying {classes[counts.argmax()]} would be right for {share:.0%} of "
                "these clips: look at the balanced accuracy instead of the accuracy.",
            )
        )
    if _known(balanced) and not absent and balanced < 1.2 / len(classes):
        found.append(
            (
                "Hardly better than guessing",
                f"Balanced accuracy is {balanced:.0%}, and guessing gives {1 / len(classes):.0%}. "
                "Do not use this result.",
            )
        )
    return found


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _share(value: float) -> str:
    """Returns a percentage; 996 of 1000 is no "100%"."""
    rounded = f"{value:.0%}"
    return f"{value:.1%}" if rounded in ("0%", "100%") and 0 < value < 1 else rounded


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
