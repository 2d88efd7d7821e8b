"""LRCN on motion that only the order of the pictures tells, beside means over time, which can't.

    python -m benchmarks.lrcn                       the small encoder, from scratch
    python -m benchmarks.lrcn --weights FILE        and the frozen trunk of MobileNetV2
    python -m benchmarks.lrcn --quick               two orders and one seed, within a minute or two

Every made scene comes in all orders, with the very same pictures, and is learned from or judged on
as a whole. Accuracies are the worst of the seeds for LRCN, and the best for means over time: those
of the same encoder without an LSTM, and with --weights those of late fusion. Beside that stands
what scoring an hour takes, once it is decoded and embedded.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import cost_optimized_train
from benchmarks.figures import write_figures
from models import MODELS, model_class
from models.array_network import ArrayNetwork
from timeline.dense import DenseScorer, EmbeddedBlock
from training.device import choose_device
from training.embedding import MemoryStore, embed_recordings
from training.loop import Trainer
from training.phases import plan_phases
from training.scores import embed_dataset, score_clips
from training.weights import load_weights, new_model
from utils.config import Config, make_config
from utils.dataset import ClipDataset
from utils.demo_motion import FOUR_ORDERS, SECONDS, TWO_ORDERS, make_motion_sets
from utils.features import FeatureSpec

SCENES = 60
SEEDS = (0, 1, 2)
COMMON = {"clip_seconds": SECONDS, "clip_hop_seconds": SECONDS, "fuse_sound": False, "dropout": 0.0}
CONV = {"model": "lrcn", "encoder": "conv", "frame_size": (32, 32), "scratch_learning_rate": 3e-3}
TRUNK = {"frame_size": (64, 64), "trunk_size": (96, 96), "lstm_learning_rate": 3e-3}
EPOCHS = 14
BLOCK_SECONDS = 30
HOUR_SECONDS = 3600


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", metavar="FILE", help="of MobileNetV2, as --weights takes it")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    seeds = SEEDS[:1] if options.quick else SEEDS
    kinds = {"": (CONV, {"model": "lrcn", "lstm_layers": 0})}
    if options.weights:
        trunk = TRUNK | {"weights": options.weights, "model": "lrcn"}
        kinds["mobilenet_"] = (trunk, {"model": "late_fusion"})
    figures = {}
    for orders in (TWO_ORDERS,) if options.quick else (TWO_ORDERS, FOUR_ORDERS):
        four = "four_orders_" if orders is FOUR_ORDERS else ""
        for kind, (constants, averaged) in kinds.items():
            for network, changes, worst in (("lrcn", {}, min), ("mean_pooling", averaged, max)):
                found = list(accuracies(constants | changes, orders, seeds))
                figures[f"{network}_{kind}{four}accuracy"] = worst(found)
                print(f"{network} {kind}{four}accuracy by seed: {found}", flush=True)
    for name in MODELS:
        figures[f"{name}_seconds_to_score_an_hour"] = hour_seconds(name)
    write_figures("lrcn", figures)


def accuracies(constants: dict, orders: tuple[str, ...], seeds: tuple[int, ...]) -> Iterator[float]:
    """Yields for each seed the part of right answers on scenes that were held out."""
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            settings = {"cache_dir": folder, "seed": seed, "epochs": EPOCHS, "patience": EPOCHS}
            config = make_config(
                vars(cost_optimized_train), {"weights": "none"} | COMMON | constants | settings
            )
            sets = make_motion_sets(config.feature_spec, folder, orders, SCENES, first=1000 * seed)
            accuracy = train(config, *sets)
        yield accuracy


def train(config: Config, train_set: ClipDataset, val_set: ClipDataset) -> float:
    """Accuracy on `val_set`. A pretrained trunk stays frozen."""
    weights = None if config.weights == "none" else load_weights(Path(config.weights))
    model = new_model(config, len(train_set.classes), weights).to(choose_device())
    embeddings = None
    if weights is not None:
        embeddings = MemoryStore()
        keys = [clip.key for clip in (*train_set.clips, *val_set.clips)]
        embed_recordings(model.video_encoder, train_set.store, keys, embeddings, title=None)
    trainer = Trainer(model, train_set, val_set, config, embeddings=embeddings)
    trainer.fit(plan_phases(config, from_scratch=weights is None, has_gpu=False))
    judged = val_set.read_from(embeddings) if embeddings else embed_dataset(model, val_set, None)
    scores = score_clips(model, judged)
    return float((scores.logits.argmax(axis=1) == scores.labels).mean())


def hour_seconds(name: str) -> float:
    """What the windows of an hour at 2 frames a second take, on one core, of made embeddings."""
    config = make_config(vars(cost_optimized_train), {"fps": 2.0})
    model, spec = model_class(name)(2, config.n_mfcc).eval(), config.feature_spec
    block, network = made_block(spec, model.video_encoder.embedding_size), ArrayNetwork(model)
    scorer = DenseScorer(network, spec, clip_seconds=config.clip_seconds, temperature=1.0)
    started = time.perf_counter()
    with network.at_work():
        for _ in range(HOUR_SECONDS // BLOCK_SECONDS):
            scorer.add(block)
        scorer.finish(HOUR_SECONDS)
    return time.perf_counter() - started


def made_block(spec: FeatureSpec, embedding_size: int) -> EmbeddedBlock:
    rng = np.random.default_rng(0)
    frames = spec.frame_span(0, BLOCK_SECONDS).stop
    rows = spec.num_rows(frames)
    embeddings = rng.gamma(1.0, 0.5, (frames, embedding_size)).astype(np.float16)
    mfcc = rng.normal(0, 3, (rows, spec.mfcc.n_mfcc)).astype(np.float16)
    return EmbeddedBlock(embeddings, np.ones(frames, bool), mfcc, np.ones(rows, bool))


if __name__ == "__main__":
    main()
