"""Training data: from the data folder to the two datasets of a training."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from utils.clips import Clip, check_groups, split_by_group
from utils.config import Config
from utils.dataset import ClipDataset
from utils.demo_data import is_demo_set, make_demo_set
from utils.duplicates import Duplicates, Repeat, find_duplicates, regrouped
from utils.fetching import FETCHED, Place
from utils.preparation import prepare_recordings
from utils.prepared_set import PreparedSet
from utils.recordings import (
    VIDEO_SUFFIXES,
    DataError,
    Recording,
    class_names,
    describe_recordings,
    find_recordings,
)
from utils.sources import Folder, Source, open_source

NUM_EXAMPLES = 5
LATE_SECONDS = 2.0  # that recorders round a time by
DEFAULT_DATA_DIR = "data"  # the only folder for which the demo set steps in


@dataclass(frozen=True)
class TrainingData:
    """Everything that was read from the data folder."""

    prepared: PreparedSet
    train_set: ClipDataset
    val_set: ClipDataset
    is_demo: bool
    duplicates: Duplicates
    merged_groups: dict[str, str]  # what each group that shares content with others became
    left_out: list[Clip]  # of training, because validation shows the same

    @property
    def classes(self) -> list[str]:
        return self.train_set.classes

    @property
    def keys(self) -> list[str]:
        """Of the recordings in the feature store."""
        return list(self.prepared.keys.values())

    def describe(self, weights: str, from_scratch: bool) -> dict:
        """What data.json holds: classes, both sides' hours, clips and groups, rejected files."""
        store = self.prepared.store
        return {
            "classes": self.classes,
            "demo": self.is_demo,
            "weights": weights,
            "from_scratch": from_scratch,
            "split": "data/validation"
            if self.val_set.clips[0].recording.validation
            else "held-out groups",
            "train": self._describe_side(self.train_set),
            "validation": self._describe_side(self.val_set),
            "rejected": [
                {"path": item.recording.name, "reason": item.reason}
                for item in self.prepared.rejected
            ],
            "duplicates": {
                "merged_groups": len(self.merged_groups),
                "merged_into": len(set(self.merged_groups.values())),
                "left_out_clips": len(self.left_out),
                "examples": self._examples(),
            },
            "no_sound": sum(store.num_rows(key, "mfcc") == 0 for key in self.keys),
        }

    def _examples(self) -> list[str]:
        """The longest content that recordings of several groups share, a line for each two."""
        names = {key: recording.name for recording, key in self.prepared.keys.items()}
        groups = {key: recording.group for recording, key in self.prepared.keys.items()}
        merged = set(self.merged_groups.values())
        longest: dict[tuple[str, str], Repeat] = {}
        for repeat in sorted(self.duplicates.repeats, key=lambda repeat: repeat.seconds):
            if len({groups[repeat.first], groups[repeat.second]}) == 2 or (
                groups[repeat.first] in merged and repeat.first != repeat.second
            ):
                longest[repeat.first, repeat.second] = repeat
        shown = sorted(longest.values(), key=lambda repeat: -repeat.seconds)[:NUM_EXAMPLES]
        return [
            f"{names[repeat.first]} at {repeat.first_seconds:.0f} s is {names[repeat.second]} at "
            f"{repeat.second_seconds:.0f} s ({repeat.by}, {repeat.seconds:.0f} s)"
            for repeat in shown
        ]

    def _describe_side(self, dataset: ClipDataset) -> dict:
        side = {}
        for name in self.classes:
            clips = [clip for clip in dataset.clips if clip.label == name]
            recordings = {clip.recording.name: clip.recording for clip in clips}.values()
            side[name] = {
                "recordings": len(recordings),
                "groups": len({recording.group for recording in recordings}),
                "clips": len(clips),
                "hours": sum(self._seconds_of(name, r) for r in recordings) / 3600,
            }
        return side

    def _seconds_of(self, label: str, recording: Recording) -> float:
        end = self.prepared.seconds(recording)
        spans = [span for span in recording.spans if span.label == label]
        return sum(max(0.0, min(s.end_seconds, end) - s.start_seconds) for s in spans)


def load_training_data(
    config: Config, s3_folder: Callable[[str], Place] | None = None
) -> TrainingData:
    """Finds, decodes, cuts and splits the recordings; a made demo set where there are none.

    `s3_folder` is for recordings on S3, as `open_source` says. Raises DataError where they can't be
    trained on.
    """
    recordings, source, is_demo = _find_or_make(config, s3_folder)
    classes = class_names(recordings)
    check_groups(recordings)  # before hours of decoding
    print(describe_recordings(recordings))
    prepared = prepare_recordings(
        recordings,
        source,
        config.feature_spec,
        config.cache_dir,
        workers=config.workers,
        max_rejected=config.max_rejected,
    )
    _say_labels_behind_the_end(prepared)
    duplicates = find_duplicates(
        prepared.store, prepared.spec, list(prepared.keys.values()), config.cache_dir
    )
    merged = duplicates.merged_groups(_cut(prepared, config))
    prepared = regrouped(prepared, merged)
    training, validation = split_by_group(_cut(prepared, config), config.val_fraction, config.seed)
    kept, left_out = duplicates.part_twins(training, validation)
    train_set, val_set = (
        ClipDataset(side, classes, prepared.spec, prepared.store) for side in (kept, validation)
    )
    return TrainingData(prepared, train_set, val_set, is_demo, duplicates, merged, left_out)


def _cut(prepared: PreparedSet, config: Config) -> list[Clip]:
    return prepared.clips(
        config.clip_seconds, config.clip_hop_seconds, margin_seconds=config.label_margin_seconds
    )


def _say_labels_behind_the_end(prepared: PreparedSet) -> None:
    """Says where labels go on after their recording has ended, as those of another file would."""
    late = []
    for recording in prepared.keys:
        edges = {edge for s in recording.spans for edge in (s.start_seconds, s.end_seconds)}
        end, length = max(edges - {math.inf}), prepared.seconds(recording)
        if end > length + LATE_SECONDS:
            late.append(f"{recording.name} ({end:.0f} s of {length:.0f})")
    if late:
        more = f" and {len(late) - 1} more" * (len(late) > 1)
        print(f"labels go on after the end of {late[0]}{more}: are they of another file?")


def _find_or_make(
    config: Config, s3_folder: Callable[[str], Place] | None
) -> tuple[list[Recording], Source, bool]:
    """The user's recordings, or the demo set and True where the default folder has none."""
    own = config.data_dir
    is_default = own == DEFAULT_DATA_DIR
    if os.path.isdir(own) or not is_default:
        source = open_source(own, Path(config.cache_dir, FETCHED), s3_folder)
        if recordings := find_recordings(source):
            return recordings, source, False
    if not is_default:
        raise DataError(
            f"{own} has no video ({' '.join(VIDEO_SUFFIXES)}) in a class folder: "
            f"put recordings into {own}/ads and {own}/games, or pass another --data-dir"
        )
    demo = Path(config.cache_dir, "demo")
    print(
        f"DEMO: {own}/ has no video yet, so this trains on made ones in {demo}/. "
        f"Put your own into {own}/ads/ and {own}/games/ and run this again."
    )
    if not is_demo_set(demo):
        demo.parent.mkdir(parents=True, exist_ok=True)
        make_demo_set(demo, workers=config.workers or os.cpu_count() or 1)
    return find_recordings(Folder(demo)), Folder(demo), True
