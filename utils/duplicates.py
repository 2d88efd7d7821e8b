"""Duplicates: content that recordings share, and how it is kept on one side of a split."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.clips import Clip
from utils.feature_store import FeatureStore
from utils.features import FeatureSpec
from utils.files import write_whole
from utils.fingerprints import SOUND_STEP, hash_pictures, hash_sounds
from utils.prepared_set import PreparedSet
from utils.repeats import PICTURES, SOUNDS, find_runs

VERSION = 1  # raise it when the same store gives other repeats: found ones are then looked for anew
LARGEST_PART = 0.5  # of the clips of a class that merged groups may hold
TWIN_SECONDS = 2  # of held-out content from which on a clip is a twin


@dataclass(frozen=True, order=True)
class Repeat:
    """`seconds` of content that are in two recordings, or twice in one."""

    first: str  # key in the store
    first_seconds: float
    second: str
    second_seconds: float
    seconds: float
    by: str  # "picture" or "sound"


class Duplicates:
    """What the recordings of a store share with each other, and twins among their clips."""

    def __init__(self, repeats: Sequence[Repeat]):
        self.repeats = list(repeats)
        self._content = _number_content(self.repeats)

    def content(self, clip: Clip) -> np.ndarray:
        """(seconds,) int64: for each second of a clip that is seen elsewhere, what it shows.

        The same number is the same content, wherever it is.
        """
        numbers = self._content.get(clip.key)
        if numbers is None:
            return np.zeros(0, np.int64)
        shown = numbers[round(clip.start_seconds) : round(clip.end_seconds)]
        return shown[shown >= 0]

    def merged_groups(self, clips: list[Clip]) -> dict[str, str]:
        """The new group of each one that shares content with another: the first name among them.

        Groups stay as they are where the user holds data/validation out, and where all that hang
        together would hold more than LARGEST_PART of a class: whole recordings of one channel air
        the same spots, and a split needs more than one group. `part_twins` is for those.
        """
        if any(clip.recording.validation for clip in clips):
            return {}
        sizes: dict[str, dict[str, int]] = {}  # clips by group and class
        totals: dict[str, int] = {}
        showing: dict[int, set[str]] = {}
        for clip in clips:
            of_group = sizes.setdefault(clip.recording.group, {})
            of_group[clip.label] = of_group.get(clip.label, 0) + 1
            totals[clip.label] = totals.get(clip.label, 0) + 1
            for number in np.unique(self.content(clip)):
                showing.setdefault(int(number), set()).add(clip.recording.group)
        merged = {}
        for groups in _hanging_together(showing.values()):
            held = {label: sum(sizes[g].get(label, 0) for g in groups) for label in totals}
            if all(count <= LARGEST_PART * totals[label] for label, count in held.items()):
                merged |= dict.fromkeys(groups, min(groups))
        return merged

    def show_same(self, seen: list[Clip], clips: list[Clip]) -> np.ndarray:
        """(clips,) bool: whether TWIN_SECONDS or more of a clip are also in some clip of `seen`."""
        contents = [self.content(clip) for clip in seen]
        known = np.unique(np.concatenate([np.zeros(0, np.int64), *contents]))
        return np.array(
            [np.isin(self.content(clip), known).sum() >= TWIN_SECONDS for clip in clips], bool
        )

    def part_twins(
        self, training: list[Clip], validation: list[Clip]
    ) -> tuple[list[Clip], list[Clip]]:
        """The clips of `training` to learn from, and those that show what is also in `validation`.

        A class of which none would be left keeps all of its own.
        """
        is_twin = self.show_same(validation, training).tolist()
        left = {clip.label for clip, twin in zip(training, is_twin, strict=True) if not twin}
        kept, twins = [], []
        for clip, twin in zip(training, is_twin, strict=True):
            (twins if twin and clip.label in left else kept).append(clip)
        return kept, twins


def find_duplicates(
    store: FeatureStore, spec: FeatureSpec, keys: Sequence[str], cache_dir: str | Path
) -> Duplicates:
    """What the recordings with these keys share, by their pictures and by their sound.

    The answer is kept in `cache_dir` until the keys change, or what counts as alike.
    """
    keys = sorted(set(keys))
    alike = [dataclasses.astuple(likeness) for likeness in (PICTURES, SOUNDS)]
    text = json.dumps([VERSION, spec.id, alike, keys])
    known = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = Path(cache_dir, "duplicates.json")
    kept = json.loads(path.read_bytes()) if path.exists() else {}
    if kept.get("id") != known:
        rows = [dataclasses.astuple(repeat) for repeat in _find_repeats(store, spec, keys)]
        kept = {"id": known, "repeats": rows}
        write_whole(path, json.dumps(kept).encode())
    return Duplicates([Repeat(*row) for row in kept["repeats"]])


def regrouped(prepared: PreparedSet, groups: dict[str, str]) -> PreparedSet:
    """The same recordings, those of `groups` in their new ones."""
    return dataclasses.replace(
        prepared,
        keys={
            dataclasses.replace(recording, group=groups.get(recording.group, recording.group)): key
            for recording, key in prepared.keys.items()
        },
    )


def _find_repeats(store: FeatureStore, spec: FeatureSpec, keys: list[str]) -> list[Repeat]:
    pictures = [_picture_hashes(store, key) for key in keys]
    sounds = [_sound_hashes(store, key) for key in keys]
    rates = spec.fps, spec.mfcc.frames_per_second / SOUND_STEP
    repeats = []
    for by, hashes, rate, likeness in (
        ("picture", pictures, rates[0], PICTURES),
        ("sound", sounds, rates[1], SOUNDS),
    ):
        repeats += [
            Repeat(
                keys[run.first],
                run.first_start / rate,
                keys[run.second],
                run.second_start / rate,
                run.length / rate,
                by,
            )
            for run in find_runs(hashes, rate, likeness)
        ]
    return sorted(repeats)


def _picture_hashes(store: FeatureStore, key: str) -> np.ndarray:
    if "picture_hashes" in store.columns:
        return np.array(store.get(key, "picture_hashes"))
    frames = store.get(key, "frames")
    parts = [hash_pictures(frames[start : start + 256]) for start in range(0, len(frames), 256)]
    return np.concatenate(parts)


def _sound_hashes(store: FeatureStore, key: str) -> np.ndarray:
    mfcc = store.get(key, "mfcc")
    return np.zeros(0, np.uint64) if mfcc is None else hash_sounds(mfcc)


def _number_content(repeats: list[Repeat]) -> dict[str, np.ndarray]:
    """By key, for each second of a recording the number of what it shows, -1 for what is unique."""
    lengths: dict[str, int] = {}
    for repeat in repeats:
        for key, start in (
            (repeat.first, repeat.first_seconds),
            (repeat.second, repeat.second_seconds),
        ):
            lengths[key] = max(lengths.get(key, 0), round(start) + round(repeat.seconds))
    starts = dict(zip(lengths, np.cumsum([0, *lengths.values()]).tolist(), strict=False))
    links = [np.zeros((2, 0), np.int64)]
    for repeat in repeats:
        seconds = np.arange(round(repeat.seconds))
        first = starts[repeat.first] + round(repeat.first_seconds) + seconds
        second = starts[repeat.second] + round(repeat.second_seconds) + seconds
        links.append(np.stack([first, second]))
    first, second = np.concatenate(links, axis=1)
    numbers = _connected(first, second, sum(lengths.values()))
    unique = np.ones(len(numbers), bool)
    unique[first] = unique[second] = False
    numbers[unique] = -1
    return {key: numbers[start : start + lengths[key]] for key, start in starts.items()}


def _hanging_together(sets: Sequence[set[str]]) -> list[list[str]]:
    """The names that a chain of sets connects, two and more, in order."""
    names = sorted(set().union(*sets))
    place = {name: number for number, name in enumerate(names)}
    pairs = [(min(group), name) for group in sets for name in group]
    first = np.array([place[one] for one, _ in pairs], np.int64)
    second = np.array([place[two] for _, two in pairs], np.int64)
    found: dict[int, list[str]] = {}
    for name, number in zip(names, _connected(first, second, len(names)).tolist(), strict=True):
        found.setdefault(number, []).append(name)
    return [together for together in found.values() if len(together) > 1]


def _connected(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """(count,) int64: nodes have the same number where links first-second connect them."""
    from scipy.sparse import coo_array  # here: training starts without it
    from scipy.sparse.csgraph import connected_components

    if count == 0:
        return np.zeros(0, np.int64)
    links = coo_array((np.ones(len(first)), (first, second)), shape=(count, count))
    return connected_components(links, directed=False)[1].astype(np.int64)
