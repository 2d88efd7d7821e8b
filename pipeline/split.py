"""Split: which groups judge every model and are never trained on."""

import hashlib
from collections.abc import Iterable, Mapping

from pipeline.records import PipelineError
from training.promotion import MIN_GROUPS
from utils.recordings import Recording

MIN_TRAIN_GROUPS = 2  # of each class: training splits them once more


def groups_by_class(recordings: Iterable[Recording]) -> dict[str, set[str]]:
    """The groups in which each class is shown."""
    groups: dict[str, set[str]] = {}
    for recording in recordings:
        for label in recording.labels:
            groups.setdefault(label, set()).add(recording.group)
    return dict(sorted(groups.items()))


def too_few_groups(groups_of: Mapping[str, set[str]]) -> list[str]:
    """A line for each class that can't be judged and learned from."""
    least = MIN_GROUPS + MIN_TRAIN_GROUPS
    return [
        f"{label} has {len(groups)} groups, and {least} are needed ({MIN_GROUPS} to judge on, "
        f"{MIN_TRAIN_GROUPS} to learn from): add recordings of other sources"
        for label, groups in groups_of.items()
        if len(groups) < least
    ]


def choose_test_groups(
    groups_of: Mapping[str, set[str]], *, fraction: float, seed: int
) -> frozenset[str]:
    """The groups that judge: those whose place, a fixed number in [0, 1), is below `fraction`.

    So a group stays on its side whatever else is added. Where that leaves a class fewer than
    MIN_GROUPS to judge on, or fewer than MIN_TRAIN_GROUPS to learn from, the next ones in the order
    of places change sides; what a champion has learned that way, `evaluate` leaves out. Raises
    PipelineError where it can't be had.
    """
    if too_few := too_few_groups(groups_of):
        raise PipelineError(too_few[0])
    places = {group: _place(group, seed) for groups in groups_of.values() for group in groups}
    test = {group for group, place in places.items() if place < fraction}
    for group in sorted(test, key=places.get, reverse=True):
        wanted = any(
            group in groups and len(groups - test) < MIN_TRAIN_GROUPS
            for groups in groups_of.values()
        )
        if wanted:
            test.remove(group)
    for group in sorted(places.keys() - test, key=places.get):
        mine = [groups for groups in groups_of.values() if group in groups]
        if any(len(groups & test) < MIN_GROUPS for groups in mine) and all(
            len(groups - test) > MIN_TRAIN_GROUPS for groups in mine
        ):
            test.add(group)
    for label, groups in groups_of.items():
        if len(groups & test) < MIN_GROUPS or len(groups - test) < MIN_TRAIN_GROUPS:
            raise PipelineError(
                f"{label} can't be both judged and learned, as its groups show other classes, too: "
                "add recordings of other sources, or your own test videos into data/validation"
            )
    return frozenset(test)


def _place(group: str, seed: int) -> float:
    # Not the order in which training chooses its own validation groups.
    hashed = hashlib.sha256(f"test:{seed}:{group}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(hashed[:8], "big") / 2**64
