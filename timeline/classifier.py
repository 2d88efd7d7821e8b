"""Classifier: a trained model, how to feed it, and how to read its answers."""

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from models.kept_network import KeptGraphs, can_run
from utils.bundles import forget_bundles, read_bundle, write_bundle
from utils.features import FeatureSpec
from utils.hardware import has_gpu

if TYPE_CHECKING:  # it takes seconds to import, which whoever reads old timelines need not wait
    from torch import nn

NETWORKS, DIGITS = "networks", 16  # folder in the cache; of a checkpoint's hash, one in it
MOST_KEPT = 8  # of 9 MB; another one is made anew within seconds
FORMAT = 1  # of what is kept; another one where models/graphs.py comes to other numbers
INDEX, TRUNK, HEADS = "network.json", "trunk.onnx", "heads.onnx"


@dataclass(frozen=True)
class Classifier:
    """What labelling needs of a checkpoint. `identity` (JSON values) says which one it is."""

    model: "nn.Module | KeptGraphs"
    spec: FeatureSpec
    classes: tuple[str, ...]
    clip_seconds: float
    temperature: float
    thresholds: Mapping[str, float] = field(default_factory=dict)  # from where a class is said
    identity: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def open(
        cls, path: Path, recipe: Mapping, read: Callable[[], object], cache_dir: Path
    ) -> "Classifier":
        """That of the checkpoint at `path`, without torch where it was opened before.

        Else of what `read` returns, which is training.checkpoint's, and kept in the cache.
        """
        kept = cls.kept(cache_dir, path, recipe)
        return kept or cls.of(read(), path).keep(cache_dir, path)

    @classmethod
    def of(
        cls, checkpoint: object, path: Path, thresholds: Mapping[str, float] | None = None
    ) -> "Classifier":
        """That of what training.checkpoint read from `path`."""
        return cls(
            checkpoint.model,
            checkpoint.spec,
            tuple(checkpoint.classes),
            checkpoint.clip_seconds,
            checkpoint.temperature,
            thresholds or {},
            identify(path, checkpoint.recipe),
        )

    @classmethod
    def kept(cls, cache_dir: Path, path: Path, recipe: Mapping) -> "Classifier | None":
        """That of the checkpoint at `path`, without torch, where `keep` left it in the cache.

        None where it did not, without onnxruntime, and with a GPU, where torch is the sooner way.
        """
        found = None if has_gpu() or not can_run() else read_bundle(_index(cache_dir, path))
        if found is None or found[1].get("format") != FORMAT:
            return None
        files, info = found
        numbers = tuple(info["mfcc_mean"]), tuple(info["mfcc_std"])
        return cls(
            KeptGraphs(files[TRUNK], files[HEADS], info["trunk_id"], *numbers),
            FeatureSpec.from_dict(recipe["feature_spec"]),
            tuple(recipe["classes"]),
            recipe["clip_seconds"],
            recipe["temperature"],
            identity=identify(path, recipe),
        )

    def keep(self, cache_dir: Path, path: Path) -> "Classifier":
        """The same without torch, and left in the cache for `kept`; itself where that can't be."""
        from models.array_network import ArrayNetwork

        try:
            graphs = ArrayNetwork(self.model).graphs(self.spec.frame_size)
        except ImportError:  # onnx is missing
            graphs = None
        if graphs is None:
            return self
        info = {
            "format": FORMAT,
            "trunk_id": graphs.trunk_id,
            "mfcc_mean": graphs.mfcc_mean,
            "mfcc_std": graphs.mfcc_std,
        }
        files = {TRUNK: graphs.trunk, HEADS: graphs.heads}
        with contextlib.suppress(OSError):  # a full disk is no reason not to label
            write_bundle(_index(cache_dir, path), files, info)
            forget_bundles(Path(cache_dir, NETWORKS), INDEX, most=MOST_KEPT)
        return replace(self, model=graphs)


def _index(cache_dir: Path, path: Path) -> Path:
    return Path(cache_dir, NETWORKS, _digest(path)[:DIGITS], INDEX)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identify(path: Path, recipe: Mapping) -> dict[str, object]:
    """JSON values that tell the checkpoint at `path`, of this recipe, from all others."""
    return {
        "name": recipe["model"]["name"],
        "run": path.resolve().parent.name,
        "sha256": _digest(path),
        "feature_spec": FeatureSpec.from_dict(recipe["feature_spec"]).id,
        "trained": recipe.get("versions", {}),
    }
