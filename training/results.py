"""Results: what a finished training is worth, written into its run folder."""

import copy
from pathlib import Path

import torch

from training.device import describe_device
from training.embedding import FLIPPED, PLAIN, MemoryStore, embed_recordings
from training.evaluation import ClipScores, evaluate_scores, fit_temperature, write_predictions
from training.loop import Phase, Trainer, score_clips
from training.run_log import RunLog
from utils.clips import split_at_random
from utils.config import Config
from utils.dataset import ClipDataset
from utils.feature_store import FeatureStore


def say_start(run: RunLog, config: Config, data: dict, device: torch.device) -> None:
    """Says what is about to happen, and writes data.json and rejected.csv."""
    run.write_json("data.json", data)
    run.write_csv("rejected.csv", ("path", "reason"), data["rejected"])
    run.say(f"run         {run.folder}")
    run.say(f"device      {describe_device(device)}")
    run.say(f"weights     {data['weights']}")
    for side in ("train", "validation"):
        parts = [
            f"{name}: {d['clips']} clips of {d['recordings']} recordings in {d['groups']} groups"
            for name, d in data[side].items()
        ]
        run.say(f"{side:<11} {' | '.join(parts)}")
    constants = " ".join(f"{name}={value}" for name, value in config.constants().items())
    run.say(f"constants   {constants}")


def say_results(run: RunLog, metrics: dict, report: Path) -> None:
    """Says the main numbers and what to do next."""
    run.say()
    run.say(
        f"validation  accuracy {metrics['accuracy']:.3f}  balanced "
        f"{metrics['balanced_accuracy']:.3f}  AUC {metrics['auc']:.3f}  calibration error "
        f"{metrics['ece']:.3f}  ({metrics['clips']} clips of {metrics['groups']} held-out groups)"
    )
    run.say(
        f"if split at random instead: balanced {metrics['random_split_balanced_accuracy']:.3f}  AUC "
        f"{metrics['random_split_auc']:.3f}: flattering, since clips of one source are on both sides"
    )
    run.say(f"report      {report}")
    run.say(
        f"label a video: python label_recording.py FILE --checkpoint {run.path('best.safetensors')}"
    )


def write_results(trainer: Trainer, data: dict) -> dict:
    """The metrics of a trained model, after writing them, its predictions and best.safetensors.

    Calibrated on the validation clips. Beside the honest split stand the same numbers for clips
    split at random, and for each half of the network alone.
    """
    run = trainer.run
    embeddings = trainer.embeddings if trainer.trunk_is_frozen else _embed_all(trainer)
    val_set = trainer.val_set.read_from(embeddings)
    classes = val_set.classes
    scores = score_clips(trainer.model, val_set, trainer.device)
    temperature = fit_temperature(scores.logits, scores.labels)
    progress = trainer.progress
    metrics = {
        **evaluate_scores(scores, classes, temperature),
        **_each_half(trainer, val_set, temperature),
        **_random_split(trainer, embeddings),
        "temperature": temperature,
        "demo": data["demo"],
        "best_epoch": progress.best_epoch,
        "training_seconds": progress.total_seconds,
        "wait_fraction": progress.total_wait_seconds / max(progress.total_seconds, 1e-9),
    }
    trainer.save_best(temperature, metrics)
    write_predictions(run.path("predictions.csv"), scores, classes, temperature)
    run.write_json("metrics.json", metrics)
    return metrics


def _each_half(trainer: Trainer, val_set: ClipDataset, temperature: float) -> dict:
    """AUC and balanced accuracy from the picture alone, and from the sound of clips that have one."""
    with_sound = [clip for clip in val_set.clips if val_set.store.num_rows(clip.key, "mfcc")]
    halves = {"video_only": (val_set, "sound"), "sound_only": (val_set.only(with_sound), "video")}
    metrics = {}
    for name, (dataset, hidden) in halves.items():
        if len(dataset):
            scores = score_clips(trainer.model, dataset, trainer.device, hide=hidden)
            metrics |= _headline(name, scores, dataset.classes, temperature)
    return metrics


def _random_split(trainer: Trainer, embeddings: FeatureStore | MemoryStore) -> dict:
    """The same for heads trained anew on clips split at random, as much published work does.

    The trunk stays as this run left it.
    """
    config = trainer.config
    clips = trainer.train_set.clips + trainer.val_set.clips
    train_clips, val_clips = split_at_random(clips, len(trainer.val_set), config.seed)
    model = copy.deepcopy(trainer.model)
    model.reset_heads()
    other = Trainer(
        model,
        trainer.train_set.only(train_clips),
        trainer.val_set.only(val_clips),
        config,
        embeddings=embeddings,
    )
    other.fit([Phase("heads", 0, config.epochs, 0, config.frozen_draws)])
    val_set = other.val_set.read_from(embeddings)
    scores = score_clips(model, val_set, trainer.device)
    return _headline("random_split", scores, val_set.classes, temperature=1.0)


def _headline(prefix: str, scores: ClipScores, classes: list[str], temperature: float) -> dict:
    judged = evaluate_scores(scores, classes, temperature)
    return {f"{prefix}_{name}": judged[name] for name in ("auc", "balanced_accuracy")}


def _embed_all(trainer: Trainer) -> MemoryStore:
    """Every clip's recording through the trunk as training left it."""
    store = MemoryStore()
    clips = trainer.train_set.clips + trainer.val_set.clips
    embed_recordings(
        trainer.model.video_encoder,
        trainer.train_set.store,
        [clip.key for clip in clips],
        store,
        columns=(PLAIN, FLIPPED),
        amp=trainer.amp,
    )
    return store
