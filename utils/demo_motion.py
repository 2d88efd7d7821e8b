"""Demo motion: clips of the same pictures in other orders, which single pictures can't tell."""

import math

import numpy as np

from utils.clips import Clip
from utils.dataset import ClipDataset
from utils.features import FeatureSpec
from utils.prepared_set import open_feature_store
from utils.recordings import Recording, Span

TWO_ORDERS = ("forward", "backward")
FOUR_ORDERS = (*TWO_ORDERS, "there_and_back", "back_and_there")
SECONDS = 3.0  # of a clip: the shortest span that training draws, so that it sees whole orders
HELD_OUT = 3  # every so many scenes one is judged on


def arrange(order: str, count: int) -> np.ndarray:
    """(count,) int64: which picture of a scene is shown when; each is shown once.

    forward 012345, backward 543210, there_and_back 024531, back_and_there 531024.
    """
    steps = np.arange(count)
    if order in TWO_ORDERS:
        return steps if order == "forward" else steps[::-1].copy()
    up = steps[0::2] if order == "there_and_back" else steps[1::2]
    down = steps[1::2] if order == "there_and_back" else steps[0::2]
    there, back = (up, down[::-1]) if order == "there_and_back" else (up[::-1], down)
    return np.concatenate([there, back])


def draw_scene(seed: int, count: int, size: tuple[int, int]) -> np.ndarray:
    """(count, height, width, 3) uint8 RGB: something comes nearer, somewhere, over some ground."""
    rng = np.random.default_rng(seed)
    height, width = size
    cells = rng.integers(20, 110, (4, 6, 3))
    ground = cells.repeat(math.ceil(height / 4), 0).repeat(math.ceil(width / 6), 1)
    ground = ground[:height, :width] + rng.normal(0, 8, (height, width, 3))
    colour = rng.integers(150, 256, 3)
    power = rng.choice([1.0, 2.0, 8.0])  # a diamond, a disc, a square
    small, large = rng.uniform(0.04, 0.12), rng.uniform(0.28, 0.45)
    centres = np.linspace(rng.uniform(0.35, 0.65, 2), rng.uniform(0.35, 0.65, 2), count)
    radii = min(size) * (
        small + (large - small) * np.linspace(0, 1, count) ** rng.uniform(0.7, 1.4)
    )
    y, x = np.mgrid[:height, :width]
    frames = np.empty((count, height, width, 3), np.uint8)
    for frame, (top, left), radius in zip(frames, centres, radii, strict=True):
        away = np.abs(y - top * height) ** power + np.abs(x - left * width) ** power
        picture = np.where((away <= radius**power)[..., None], colour, ground)
        frame[:] = (picture + rng.normal(0, 4, picture.shape)).clip(0, 255)
    return frames


def make_motion_sets(
    spec: FeatureSpec, cache_dir: str, orders: tuple[str, ...], scenes: int, first: int = 0
) -> tuple[ClipDataset, ClipDataset]:
    """Clips to learn from and to judge: each of the scenes from `first` on in all orders, whole
    scenes held out."""
    store = open_feature_store(cache_dir, spec)
    count = spec.frame_span(0.0, SECONDS).stop
    sides: tuple[list[Clip], list[Clip]] = ([], [])
    with store.writing():
        for scene in range(first, first + scenes):
            frames = draw_scene(scene, count, spec.frame_size)
            for order in orders:
                key = f"{order}{scene}"
                store.add(key, {"frames": [frames[arrange(order, count)]]}, {"aspect_ratio": 1.0})
                name = f"{order}/{scene}.mp4"
                spans = (Span(0.0, math.inf, order),)
                recording = Recording(name, (name,), spans, f"scene {scene}", False)
                clip = Clip(recording, key, 0.0, SECONDS, order)
                sides[scene % HELD_OUT == 0].append(clip)
    return tuple(ClipDataset(side, list(orders), spec, store) for side in sides)
