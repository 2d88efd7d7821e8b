"""Clips: labelled spans of recordings, and their split into training and validation."""

import hashlib
from dataclasses import dataclass

import numpy as np

from utils.recordings import DataError, Recording, Span

MIN_CLIP_SECONDS = 1.0  # below this the deviation over time says nothing


@dataclass(frozen=True)
class Clip:
    """The span [start_seconds, end_seconds) of one recording, which shows `label`."""

    recording: Recording
    key: str  # of the recording in the feature store
    start_seconds: float
    end_seconds: float
    label: str


def cut_spans(
    duration_seconds: float, clip_seconds: float, hop_seconds: float
) -> list[tuple[float, float]]:
    """Half-open spans that cover a recording: every `hop_seconds`, the last one ends with it.

        0         10        20   23
        |---------|              |     hop 10, clip 10
                  |---------|    |
                       |---------|     moved back: full length, nothing of the end is lost

    A rest shorter than a second joins the last span: a clip of its own would show nothing new.
    A recording shorter than a clip is one span of its own length. Batches pad it, and the padding
    is masked out of every mean, so that a short clip is never diluted by made-up frames.
    """
    last_start = duration_seconds - clip_seconds
    if last_start <= 0:
        return [(0.0, duration_seconds)]
    starts = np.arange(0.0, last_start + 1e-6, hop_seconds)
    spans = [(float(start), float(start) + clip_seconds) for start in starts]
    if duration_seconds - spans[-1][1] >= MIN_CLIP_SECONDS:
        spans.append((last_start, duration_seconds))
    else:
        spans[-1] = (spans[-1][0], duration_seconds)
    return spans


def cut_recording(
    spans: tuple[Span, ...],
    duration_seconds: float,
    clip_seconds: float,
    hop_seconds: float,
    *,
    margin_seconds: float,
) -> list[tuple[float, float, str]]:
    """(start_seconds, end_seconds, label): each span of a recording cut as `cut_spans` does.

        ads      |  games                            |  ads
        ---------|-----------------------------------|------
        ------| m m |---------|          |---------| m m |---     m: margin

    A label is rarely exact, so clips keep `margin_seconds` from where a span begins or ends within
    the recording. What is left of less than a second gives no clip.
    """
    clips = []
    for span in spans:
        start, end = span.start_seconds, min(span.end_seconds, duration_seconds)
        start += margin_seconds * (start > 0)
        end -= margin_seconds * (end < duration_seconds)
        if end - start >= MIN_CLIP_SECONDS:
            clips += [
                (start + first, start + last, span.label)
                for first, last in cut_spans(end - start, clip_seconds, hop_seconds)
            ]
    return clips


def check_groups(recordings: list[Recording]) -> None:
    """Raises DataError where a class can't be on both sides of a split."""
    _check_groups({(label, r.group, r.validation) for r in recordings for label in r.labels})


def split_by_group(
    clips: list[Clip], val_fraction: float, seed: int
) -> tuple[list[Clip], list[Clip]]:
    """Clips for training and for validation; a group is never on both sides.

    Recordings of `data/validation` are the validation set where there are any. Else the groups of
    each class are ranked by their names and the seed, and the first `val_fraction` of them held
    out: new recordings don't reshuffle old ones, and a new group moves at most one other of a
    class. Each class stays on both sides, also where groups hold several.
    Raises DataError as `check_groups` does.
    """
    # By the labels of the clips: a span too short for a clip puts its class on no side.
    places = {(clip.label, clip.recording.group, clip.recording.validation) for clip in clips}
    _check_groups(places)
    held_out = {group for _, group, validation in places if validation}
    if not held_out:
        held_out = _ranked_groups(_by_class(places), val_fraction, seed)
    training = [clip for clip in clips if clip.recording.group not in held_out]
    validation = [clip for clip in clips if clip.recording.group in held_out]
    return training, validation


def group_folds(clips: list[Clip], count: int, seed: int) -> list[tuple[list[Clip], list[Clip]]]:
    """At most `count` (training, validation) pairs; every clip is in one validation side.

    A group is never on both sides, and the groups of each class are dealt out evenly.
    """
    groups_of = _by_class({(clip.label, clip.recording.group, False) for clip in clips})
    dealt = {label: [0] * count for label in groups_of}
    fold_of: dict[str, int] = {}
    for label in sorted(groups_of, key=lambda label: (len(groups_of[label]), label)):
        for group in sorted(groups_of[label] - set(fold_of), key=lambda g: (_position(g, seed), g)):
            labels = [other for other in groups_of if group in groups_of[other]]
            fold = min(range(count), key=lambda k: (sum(dealt[each][k] for each in labels), k))
            fold_of[group] = fold
            for each in labels:
                dealt[each][fold] += 1
    folds = [fold_of[clip.recording.group] for clip in clips]
    return [
        (
            [clip for clip, own in zip(clips, folds, strict=True) if own != fold],
            [clip for clip, own in zip(clips, folds, strict=True) if own == fold],
        )
        for fold in sorted(set(folds))
    ]


def split_at_random(clips: list[Clip], val_count: int, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Clips split one by one, groups ignored: what many publish, and too good to be true.

    Kept for the number that is printed beside the honest one.
    """
    order = np.random.default_rng(seed).permutation(len(clips))
    return [clips[i] for i in order[val_count:]], [clips[i] for i in order[:val_count]]


_Place = tuple[str, str, bool]  # label, group, whether it is in data/validation


def _check_groups(places: set[_Place]) -> None:
    held_out = {label for label, _, validation in places if validation}
    for label, groups in _by_class(places).items():
        if held_out and label not in held_out:
            raise DataError(
                f"data/validation has no video of {label}: "
                "put some there, or remove data/validation to split by group"
            )
        if not held_out and len(groups) < 2:
            raise DataError(
                f"{label} has a single group ({next(iter(groups))}), and a split needs two or "
                f"more: put recordings of another source into {label}/, in a sub-folder of their "
                "own, or your own validation videos into data/validation"
            )


def _by_class(places: set[_Place]) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = {}
    for label, group, _ in sorted(places):
        groups.setdefault(label, set()).add(group)
    return groups


def _ranked_groups(groups_of: dict[str, set[str]], val_fraction: float, seed: int) -> set[str]:
    """The groups to hold out: the first of each class, that leave all classes one to learn from."""
    held_out: set[str] = set()
    for groups in groups_of.values():
        missing = max(round(val_fraction * len(groups)), 1) - len(groups & held_out)
        for group in sorted(groups - held_out, key=lambda name: (_position(name, seed), name)):
            left = (others - held_out for others in groups_of.values() if group in others)
            if missing > 0 and all(len(others) > 1 for others in left):
                held_out.add(group)
                missing -= 1
    return held_out


def _position(group: str, seed: int) -> float:
    """A fixed place in [0, 1) for a group name."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
