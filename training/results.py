"""Results: what a finished training is worth, written into its run folder."""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from training.device import describe_device, seed_step
from training.embedding import MemoryStore, embed_recordings
from training.evaluation import ClipScores, evaluate_scores, fit_temperature, write_predictions
from training.loop import Trainer, score_clips
from training.phases import Phase
from training.run_log import RunLog, python_command
from utils.clips import Clip, group_folds, split_at_random
from utils.config import Config
from utils.dataset import ClipDataset
from utils.duplicates import Duplicates
from utils.errors import Interrupted
from utils.feature_store import FeatureStore


def say_start(run: RunLog, config: Config, data: dict, device: torch.device) -> None:
    """Says what is about to happen, and writes data.json and rejected.csv."""
    run.write_json("data.json", data)
    run.write_csv("rejected.csv", ("path", "reason"), data["rejected"])
    run.say(f"run         {run.folder}")
    run.say(f"device      {describe_device(device)}")
    run.say(f"weights     {data['weights']}")
    if data["from_scratch"]:
        run.say(
            "WARNING     the whole network is trained from scratch, which needs far more videos to "
            "get as good: connect to the internet once, or pass --weights FILE"
        )
    if data["demo"]:
        run.say("data        the made demo set: what comes out says nothing about real recordings")
    for item in data["rejected"]:
        run.say(f"set aside   {item['path']}: {item['reason']}")
    shared = data["duplicates"]
    if shared["merged_groups"]:
        run.say(
            f"merged      {shared['merged_groups']} groups that share content into "
            f"{shared['merged_into']}, so that no side knows the other's"
        )
    if shared["left_out_clips"]:
        run.say(
            f"left out    {shared['left_out_clips']} clips of training that validation shows, too"
        )
    for example in shared["examples"]:
        run.say(f"the same    {example}")
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
    how = "each judged by heads that never saw it" if metrics["cross_validated"] else "held out"
    run.say()
    run.say(
        f"validation  accuracy {metrics['accuracy']:.3f}  balanced "
        f"{metrics['balanced_accuracy']:.3f}  AUC {_number(metrics['auc'])}  calibration error "
        f"{metrics['ece']:.3f}  ({metrics['clips']} clips of {metrics['groups']} groups, "
        f"{how})"
    )
    run.say(
        "random split (flattering: clips of one source on both sides)  balanced "
        f"{metrics['random_split_balanced_accuracy']:.3f}  AUC "
        f"{_number(metrics['random_split_auc'])}"
    )
    run.say(f"report      {report}")
    run.say(
        f"label a video: {python_command()} label_recording.py FILE "
        f"--checkpoint {run.path('best.safetensors')}"
    )


def write_results(
    trainer: Trainer,
    data: dict,
    *,
    duplicates: Duplicates | None = None,
    left_out: Sequence[Clip] = (),
) -> dict:
    """The metrics of a trained model, after writing them, its predictions and best.safetensors.

    Where the trunk stayed frozen, heads train in seconds: every group is then judged once, by
    heads that never saw it, and the network that is kept has learned from all of them. Else the
    validation clips judge. Beside that stand the numbers of either half alone, and those of clips
    split at random. `left_out` are clips that training did without because validation shows the
    same; where groups are judged in turn, each fold does without its own twins instead.
    Raises Interrupted after Ctrl-C.
    """
    try:
        return _write_results(trainer, data, duplicates or Duplicates([]), list(left_out))
    except KeyboardInterrupt:
        raise Interrupted(trainer.how_to_go_on()) from None


def can_cross_validate(trainer: Trainer) -> bool:
    """Whether each group can be judged in turn: heads only, and no validation set of the user's."""
    own_split = any(clip.recording.validation for clip in trainer.val_set.clips)
    return trainer.config.cross_validate and trainer.trunk_is_frozen and not own_split


def _write_results(
    trainer: Trainer, data: dict, duplicates: Duplicates, left_out: list[Clip]
) -> dict:
    run, progress, config = trainer.run, trainer.progress, trainer.config
    classes = trainer.train_set.classes
    cross_validated = can_cross_validate(trainer)
    if cross_validated:
        embeddings = trainer.embeddings
        clips = _all_clips(trainer) + left_out
        folds = [
            (duplicates.part_twins(train_clips, val_clips)[0], val_clips)
            for train_clips, val_clips in group_folds(
                clips, round(1 / config.val_fraction), config.seed
            )
        ]
    else:
        embeddings = trainer.embeddings if trainer.trunk_is_frozen else _embed_all(trainer)
        folds = [(trainer.train_set.clips, trainer.val_set.clips)]

    judged = []
    for train_clips, val_clips in tqdm(folds, "judge", unit="fold", leave=False):
        model = trainer.model
        if cross_validated:
            model = _new_heads(trainer, train_clips, embeddings)
        judged.append(_score_halves(model, trainer.val_set.only(val_clips).read_from(embeddings)))
    scores, video_only, sound_only = (_join(parts) for parts in zip(*judged, strict=True))
    temperature = fit_temperature(scores.logits, scores.labels)

    clips = _all_clips(trainer)
    val_count = max(1, round(config.val_fraction * len(clips)))
    train_clips, val_clips = split_at_random(clips, val_count, config.seed)
    model = _new_heads(trainer, train_clips, embeddings)
    random_split = score_clips(model, trainer.val_set.only(val_clips).read_from(embeddings))

    metrics = {
        **evaluate_scores(scores, classes, temperature),
        **_headline("video_only", video_only, classes),
        **_headline("sound_only", sound_only, classes),
        **_headline("random_split", random_split, classes),
        "temperature": temperature,
        "cross_validated": cross_validated,
        "demo": data["demo"],
        "best_epoch": progress.best_epoch,
        "training_seconds": progress.total_seconds,
        "wait_fraction": progress.total_wait_seconds / max(progress.total_seconds, 1e-9),
    }
    if cross_validated:
        kept = _new_heads(trainer, clips + left_out, embeddings)
        trainer.model.load_state_dict(kept.state_dict())
    trainer.save_best(temperature, metrics)
    write_predictions(run.path("predictions.csv"), scores, classes, temperature)
    run.write_json("metrics.json", metrics)
    return metrics


def _new_heads(
    trainer: Trainer, clips: list[Clip], embeddings: FeatureStore | MemoryStore
) -> nn.Module:
    """A model with the trunk as it is, and heads trained anew on `clips` to the last epoch."""
    config = trainer.config
    model = copy.deepcopy(trainer.model)
    seed_step(config.seed)
    model.reset_heads()
    other = Trainer(model, trainer.train_set.only(clips), None, config, embeddings=embeddings)
    other.fit([Phase("heads", 0, config.epochs, 0, config.frozen_draws)])
    return model


def _score_halves(model: nn.Module, dataset: ClipDataset) -> tuple[ClipScores, ...]:
    """Scores by both halves, by the picture alone, and by the sound alone where there is one."""
    with_sound = [clip for clip in dataset.clips if dataset.store.num_rows(clip.key, "mfcc")]
    return (
        score_clips(model, dataset),
        score_clips(model, dataset, hide="sound"),
        score_clips(model, dataset.only(with_sound), hide="video"),
    )


def _all_clips(trainer: Trainer) -> list[Clip]:
    return trainer.train_set.clips + trainer.val_set.clips


def _join(parts: tuple[ClipScores, ...]) -> ClipScores:
    return ClipScores(
        logits=np.concatenate([part.logits for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        recordings=[name for part in parts for name in part.recordings],
        groups=[name for part in parts for name in part.groups],
        start_seconds=np.concatenate([part.start_seconds for part in parts]),
        end_seconds=np.concatenate([part.end_seconds for part in parts]),
    )


def _headline(prefix: str, scores: ClipScores, classes: list[str]) -> dict:
    """AUC and balanced accuracy; None where there is no clip to judge."""
    judged = evaluate_scores(scores, classes, temperature=1.0) if len(scores) else {}
    return {f"{prefix}_{name}": judged.get(name) for name in ("auc", "balanced_accuracy")}


def _embed_all(trainer: Trainer) -> MemoryStore:
    """Every clip's recording through the trunk as training left it."""
    store = MemoryStore()
    clips = trainer.train_set.clips + trainer.val_set.clips
    embed_recordings(
        trainer.model.video_encoder,
        trainer.train_set.store,
        [clip.key for clip in clips],
        store,
        amp=trainer.amp,
    )
    return store


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
