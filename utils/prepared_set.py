"""Prepared set: recordings whose features are in the store, and those that were set aside."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from utils.clips import Clip, cut_recording
from utils.feature_store import Column, FeatureStore
from utils.features import FeatureSpec
from utils.files import write_whole
from utils.recordings import Recording

SPEC = "spec.json"
NUM_THUMBNAILS, THUMBNAIL_HEIGHT = 6, 112  # pictures, pixels


@dataclass(frozen=True)
class Rejected:
    """A recording that can't be used, and why."""

    recording: Recording
    reason: str


@dataclass(frozen=True)
class PreparedSet:
    """The usable recordings with their keys in the store, and the rejected ones."""

    store: FeatureStore
    spec: FeatureSpec
    keys: dict[Recording, str]
    rejected: list[Rejected]

    def seconds(self, recording: Recording) -> float:
        return self.store.num_rows(self.keys[recording], "frames") / self.spec.fps

    def clips(
        self, clip_seconds: float, hop_seconds: float, *, margin_seconds: float = 0.0
    ) -> list[Clip]:
        """All recordings cut into clips, as `cut_recording` says."""
        return [
            Clip(recording, key, start, end, label)
            for recording, key in self.keys.items()
            for start, end, label in cut_recording(
                recording.spans,
                self.seconds(recording),
                clip_seconds,
                hop_seconds,
                margin_seconds=margin_seconds,
            )
        ]

    def thumbnails(self, name: str, start_seconds: float, end_seconds: float) -> np.ndarray:
        """(n, h, w, 3) uint8 RGB: a few frames of a span, in the proportions of the picture."""
        recording = next(recording for recording in self.keys if recording.name == name)
        key = self.keys[recording]
        frames = self.store.get(key, "frames")
        # Times that were written to a file are rounded: the last may lie a frame behind the end.
        frames = frames[self.spec.frame_span(start_seconds, end_seconds)]
        rows = np.linspace(0, len(frames) - 1, NUM_THUMBNAILS).round().astype(int)
        width = round(THUMBNAIL_HEIGHT * self.store.info(key)["aspect_ratio"])
        return np.stack(
            [np.asarray(Image.fromarray(frames[i]).resize((width, THUMBNAIL_HEIGHT))) for i in rows]
        )


def open_feature_store(cache_dir: str | Path, spec: FeatureSpec) -> FeatureStore:
    """The store `cache_dir/features/<spec id>`: frames, a hash of each, and MFCC."""
    return FeatureStore(Path(cache_dir, "features", spec.id), store_columns(spec))


def store_columns(spec: FeatureSpec) -> dict[str, Column]:
    return {
        "frames": Column("uint8", spec.frame_shape),
        "picture_hashes": Column("uint64", ()),
        "mfcc": Column("float16", (spec.mfcc.n_mfcc,)),
    }


def write_spec(store: FeatureStore, spec: FeatureSpec) -> None:
    """Writes beside the store what its features are, for `--status` and for people."""
    path = store.folder / SPEC
    data = json.dumps(spec.to_dict(), indent=1, sort_keys=True).encode() + b"\n"
    if not path.exists() or path.read_bytes() != data:
        write_whole(path, data)
