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
    spans: tuple[Span, ...], duration_seconds: float, clip_seconds: float, hop_seconds: float
) -> list[tuple[float, float, str]]:
    """(start_seconds, end_seconds, label): each span of a recording cut as `cut_spans` does.

    A span of less than a second, as far as it lies within the recording, gives nothing.
    """
    clips = []
    for span in spans:
        length = min(span.end_seconds, duration_seconds) - span.start_seconds
        if length >= MIN_CLIP_SECONDS:
            clips += [
                (span.start_seconds + start, span.start_seconds + end, span.label)
                for start, end in cut_spans(length, clip_seconds, hop_seconds)
            ]
    return clips


def check_groups(recordings: list[Recording]) -> None:
    """Raises DataError where a class can't be on both sides of a split."""
    held_out = {label for r in recordings if r.validation for label in r.labels}
    for label, groups in _groups_by_class(recordings).items():
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


def split_by_group(
    clips: list[Clip], val_fraction: float, seed: int
) -> tuple[list[Clip], list[Clip]]:
    """Clips for training and for validation; a group is never on both sides.

    Recordings of `data/validation` are the validation set where there are any. Else the groups of
    each class are ranked by their names and the seed, and the first `val_fraction` of them held
    out: new recordings don't reshuffle old ones, and a new group moves at most one other.
    Raises DataError as `check_groups` does.
    """
    recordings = [clip.recording for clip in clips]
    check_groups(recordings)
    held_out = {recording.group for recording in recordings if recording.validation}
    if not held_out:
        for groups in _groups_by_class(recordings).values():
            ranked = sorted(groups, key=lambda group: (_position(group, seed), group))
            count = min(max(round(val_fraction * len(ranked)), 1), len(ranked) - 1)
            held_out |= set(ranked[:count])
    training = [clip for clip in clips if clip.recording.group not in held_out]
    validation = [clip for clip in clips if clip.recording.group in held_out]
    return training, validation


def group_folds(clips: list[Clip], count: int, seed: int) -> list[tuple[list[Clip], list[Clip]]]:
    """At most `count` (training, validation) pairs; every clip is in one validation side.

    A group is never on both sides, and the groups of each class are dealt out evenly.
    """
    fold_of: dict[tuple[str, str], int] = {}
    for label in sorted({clip.label for clip in clips}):
        groups = {clip.recording.group for clip in clips if clip.label == label}
        for rank, group in enumerate(sorted(groups, key=lambda name: _position(name, seed))):
            fold_of[label, group] = rank * count // len(groups)
    folds = [fold_of[clip.label, clip.recording.group] for clip in clips]
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


def _groups_by_class(recordings: list[Recording]) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = {}
    for recording in sorted(recordings):
        for label in recording.labels:
            groups.setdefault(label, set()).add(recording.group)
    return groups


def _position(group: str, seed: int) -> float:
    """A fixed place in [0, 1) for a group name."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
