"""Made trainings: clips that can be told apart, a random trunk, configurations, scripts run."""

import contextlib
import io
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import cost_optimized_train
from models.encoders import FrameEncoder
from models.mobilenet_v2 import EMBEDDING_SIZE
from tests.media import draw_texture, write_video
from training.embedding import COLUMN
from utils.clips import Clip
from utils.config import Config, read_options
from utils.dataset import ClipDataset
from utils.errors import run_main
from utils.feature_store import Column, FeatureStore
from utils.prepared_set import open_feature_store
from utils.recordings import Recording, Span

ROOT = Path(__file__).resolve().parent.parent
CLIP_SECONDS = 4.0
SMALL = {
    "frame_size": "32,32",
    "trunk_size": "32,32",
    "fps": 2,
    "clip_seconds": 3,
    "clip_hop_seconds": 1.5,
    "workers": 2,
}


# Videos


def draw_ads(hue: float) -> Callable[[float, int, int], np.ndarray]:
    """Another flat picture four times a second."""

    def draw(seconds: float, height: int, width: int) -> np.ndarray:
        shot = np.random.default_rng(int(seconds * 4) + round(1000 * hue))
        blocks = shot.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        return blocks.repeat(height // 4, axis=0).repeat(width // 6, axis=1)

    return draw


def draw_games(hue: float) -> Callable[[float, int, int], np.ndarray]:
    """Waves that stand still."""
    return lambda seconds, height, width: draw_texture(hue, height, width)


def draw_news(hue: float) -> Callable[[float, int, int], np.ndarray]:
    """Waves that go by."""
    return lambda seconds, height, width: draw_texture(hue + seconds, height, width)


KINDS = {"ads": (draw_ads, 2500.0), "games": (draw_games, 300.0), "news": (draw_news, 900.0)}


def write_clip(path: Path, kind: str, number: int, seconds: float = CLIP_SECONDS, **how) -> Path:
    """A video of a kind, told apart from the others by its motion and by its tone."""
    draw, pitch = KINDS[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    how = {"tone_hz": pitch * (1 + number / 50), "sample_rate": 16000, **how}
    return write_video(path, seconds=seconds, fps=8, size=(64, 96), draw=draw(number / 7), **how)


def write_clips(folder: Path, numbers: Sequence[int], kinds: Sequence[str]) -> Path:
    """A clip for each number and kind, each a group of its own."""
    for kind in kinds:
        for number in numbers:
            write_clip(folder / kind / f"{number}.mp4", kind, number)
    return folder


def link_clips(source: Path, folder: Path) -> Path:
    """The same clips in another folder, to put others beside them."""
    for path in sorted(source.rglob("*.mp4")):
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    return folder


def fill_norms(encoder: FrameEncoder) -> None:
    """Gives batch norms the statistics of pictures: without, all embeddings are about the same."""
    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    momenta, training = [norm.momentum for norm in norms], encoder.training
    for norm in norms:
        norm.momentum = None  # takes the statistics as they are
    pictures = [draw(k)(k, 64, 96) for k in range(8) for draw in (draw_ads, draw_games)]
    with torch.no_grad():
        encoder.train()(torch.from_numpy(np.stack(pictures)))
    encoder.train(training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def write_trunk(path: Path) -> Path:
    """Random float16 weights of a trunk, whose batch norms know what frames look like."""
    torch.manual_seed(0)
    encoder = FrameEncoder((0.5,) * 3, (0.5,) * 3, "tensorflow")
    fill_norms(encoder)
    tensors = {
        f"features.{name}": (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in encoder.features.state_dict().items()
    }
    save_file(tensors, path, {"mean": "0.5,0.5,0.5", "std": "0.5,0.5,0.5", "padding": "tensorflow"})
    return path


def fill_heads(model: torch.nn.Module, value: float | None = None) -> None:
    """Gives all but the trunk this value, or random ones."""
    for name, parameter in model.named_parameters():
        if not name.startswith("video_encoder"):
            with torch.no_grad():
                parameter.normal_(std=0.1) if value is None else parameter.fill_(value)


# Scripts


@dataclass(frozen=True)
class Outcome:
    """How a script ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line on stderr, behind what bars left there."""
        return (self.err.splitlines() or [""])[-1]


def run_script(script: ModuleType, *arguments: object) -> Outcome:
    """Runs a root script as `python script.py ARGUMENTS` would, without the seconds of a start."""
    out, err = io.StringIO(), io.StringIO()
    words = [str(Path(script.__file__).name), *map(str, arguments)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                run_main(script.main)
            except SystemExit as left:
                return Outcome(left.code, out.getvalue(), err.getvalue())
    raise AssertionError("run_main came back")


def flags(**constants: object) -> list[str]:
    """`--frame-size 32,32` and so on."""
    return [
        word
        for name, value in constants.items()
        for word in ("--" + name.replace("_", "-"), str(value))
    ]


def make_config(folder: Path, **constants: object) -> Config:
    """The constants of a script with small frames, and everything that is written in `folder`."""
    places = {"data_dir": "data", "cache_dir": "cache", "runs_dir": "runs"}
    places = {name: folder / value for name, value in places.items()}
    words = flags(**{**SMALL, **places, "weights": "none", **constants})
    return read_options(vars(cost_optimized_train), words).config


# Datasets without videos


@dataclass(frozen=True)
class MadeSets:
    """Features and embeddings whose every half tells the classes apart, split by group."""

    train_set: ClipDataset
    val_set: ClipDataset
    embeddings: FeatureStore


def make_sets(
    config: Config,
    *,
    classes: Sequence[str] = ("ads", "games"),
    counts: Sequence[int] = (4, 4),
    seconds: float = 3.0,
    with_sound: bool = True,
) -> MadeSets:
    """`counts` recordings of each class, a group and a clip each; every other one validates.

    What the stores of the configuration hold already is left as it is.
    """
    spec, rng = config.feature_spec, np.random.default_rng(config.seed)
    store = open_feature_store(config.cache_dir, spec)
    column = Column("float16", (EMBEDDING_SIZE,))
    embeddings = FeatureStore(Path(config.cache_dir, "embeddings", "made"), {COLUMN: column})
    steps, num_frames = spec.mfcc_span(0, seconds).stop, spec.frame_span(0, seconds).stop
    clips: list[Clip] = []
    with store.writing(), embeddings.writing():
        for label, name in enumerate(classes):
            for number in range(counts[label]):
                key = f"{name}{number}"
                if key not in store:
                    level = 40 + 150 * label // len(classes)
                    frames = rng.integers(level, level + 60, (num_frames, *spec.frame_shape))
                    mfcc = rng.normal(3 * label, 1, (steps, spec.mfcc.n_mfcc))
                    columns = {"frames": [frames.astype(np.uint8)]}
                    if with_sound:
                        columns["mfcc"] = [mfcc.astype(np.float16)]
                    store.add(key, columns, {"aspect_ratio": 1.5})
                    centre = np.where(np.arange(EMBEDDING_SIZE) % len(classes) == label, 1.0, 0.0)
                    made = rng.normal(centre, 0.5, (num_frames, EMBEDDING_SIZE)).clip(0)
                    embeddings.add(key, {COLUMN: [made]}, {})
                file = f"{name}/{number}.mp4"
                spans = (Span(0.0, math.inf, name),)
                recording = Recording(file, (file,), spans, f"{name}/{number}", False)
                clips.append(Clip(recording, key, 0.0, seconds, name))
    train_set, val_set = (
        ClipDataset(clips[first::2], list(classes), spec, store) for first in (0, 1)
    )
    return MadeSets(train_set, val_set, embeddings)
