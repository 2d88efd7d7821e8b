"""Results: what a finished training is worth, written into its run folder."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from training.cross_validation import (
    Retraining,
    Sides,
    join_scores,
    new_heads,
    score_halves,
)
from training.device import describe_device
from training.embedding import MemoryStore, embed_recordings
from training.evaluation import ClipScores, evaluate_scores, fit_temperature, write_predictions
from training.intervals import metric_intervals
from training.learning_curve import learning_curve
from training.run_log import RunLog, python_command
from training.scores import score_clips
from training.thresholds import Aim, Thresholds, choose_thresholds
from utils.clips import Clip, split_at_random
from utils.config import Config
from utils.errors import Interrupted

HEADLINE = ("auc", "balanced_accuracy")


def say_start(run: RunLog, config: Config, data: dict, device: torch.device) -> None:
    """Says what is about to happen, and writes data.json and rejected.csv."""
    run.write_json("data.json", data)
    run.write_csv("rejected.csv", ("path", "reason"), data["rejected"])
    run.say(f"run         {run.folder}")
    run.say(f"device      {describe_device(device)}")
    run.say(f"weights     {data['weights']}")
    if data["from_scratch"]:
        cure = "connect to the internet once, or pass --weights FILE"
        cure = "pass --encoder mobilenet_v2" if config.learns_from_scratch else cure
        run.say(
            "WARNING     the whole network is trained from scratch, which needs far more videos to "
            f"get as good: {cure}"
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
    """Says the main numbers, how far they may be off, and what to do next."""
    how = "each judged by a network that never saw it"
    how = how if metrics["cross_validated"] else "held out"
    run.say()
    run.say(f"validation  {metrics['clips']} clips of {metrics['groups']} groups, {how}")
    rows = {
        "accuracy": "accuracy",
        "balanced accuracy": "balanced_accuracy",
        "AUC": "auc",
        "log loss": "nll",
        "calibration error": "ece",
    }
    for name, key in rows.items():
        run.say(f"  {name:<18} {_with_interval(metrics, key)}")
    for name, key in (("picture alone", "video_only"), ("sound alone", "sound_only")):
        if f"{key}_auc" in metrics:  # not of a network without sound
            run.say(f"  {name:<18} {_headline_words(metrics, key)}")
    run.say(
        "random split (flattering: clips of one source on both sides)  "
        f"{_headline_words(metrics, 'random_split')}"
    )
    if metrics["seen_source_clips"]:
        run.say(
            f"the same {metrics['seen_source_clips']} clips  "
            f"accuracy {metrics['seen_source_accuracy']:.3f} where their source was in training, "
            f"{metrics['unseen_source_accuracy']:.3f} where not"
        )
    for line in _extra_lines(run):
        run.say(line)
    run.say(f"report      {report}")
    run.say(
        f"label a video: {python_command()} label_recording.py FILE "
        f"--checkpoint {run.path('best.safetensors')}"
    )


def _extra_lines(run: RunLog) -> list[str]:
    """What thresholds and a learning curve have to say, where there are any."""
    lines = []
    if run.path("thresholds.json").exists():
        lines += Thresholds.from_dict(run.read_json("thresholds.json")).sentences()
    if run.path("learning_curve.json").exists():
        lines.append(run.read_json("learning_curve.json")["sentence"])
    return lines


def same_source(learned: list[Clip], judged: list[Clip]) -> np.ndarray:
    """(judged,) bool: whether clips of the same group were learned from."""
    groups = {clip.recording.group for clip in learned}
    return np.array([clip.recording.group in groups for clip in judged], bool)


def write_results(retraining: Retraining, data: dict) -> dict:
    """The metrics of a trained model, after writing them, its predictions and best.safetensors.

    With folds every group is judged once, by a network that never saw it, and the network that is
    kept has learned from all of them. Else the validation clips judge. Beside that stand how far
    the numbers may be off, those of either half alone, of clips split at random, and of clips
    whose source or spot was in training. Raises Interrupted after Ctrl-C.
    """
    try:
        return _write_results(retraining, data)
    except KeyboardInterrupt:
        raise Interrupted(retraining.trainer.how_to_go_on()) from None


def _write_results(retraining: Retraining, data: dict) -> dict:
    trainer, config = retraining.trainer, retraining.trainer.config
    run, progress, classes = trainer.run, trainer.progress, trainer.train_set.classes
    for name in ("thresholds.json", "learning_curve.json"):  # a resumed run may want them no more
        run.path(name).unlink(missing_ok=True)
    folds = retraining.folds()
    if not folds and config.folds not in ("auto", "0"):
        run.say(f"data/validation judges alone: FOLDS {config.folds} is not used")
    sides = folds or [(trainer.train_set.clips, trainer.val_set.clips)]
    halves = _judge_halves(retraining, sides, trainer.model if not folds else None)
    scores = halves.pop("")
    temperature = fit_temperature(scores.logits, scores.labels)
    metrics = {
        **evaluate_scores(scores, classes, temperature),
        **metric_intervals(scores, classes, temperature),
        "temperature": temperature,
        "cross_validated": bool(folds),
        "demo": data["demo"],
        "best_epoch": progress.best_epoch,
        "training_seconds": progress.total_seconds,
        "wait_fraction": progress.total_wait_seconds / max(progress.total_seconds, 1e-9),
    }
    for name, part in halves.items():
        metrics |= _headline(name, part, classes)
    metrics |= _random_split(retraining, scores)
    thresholds = None
    if aim := Aim.of(config):
        chosen = choose_thresholds(scores, classes, temperature, aim)
        metrics |= chosen.metrics()
        thresholds = chosen.to_dict()
        run.write_json("thresholds.json", thresholds)
    if config.learning_curve:
        run.write_json("learning_curve.json", learning_curve(retraining, sides).to_dict())
    if folds:
        trainer.model.load_state_dict(retraining.train(retraining.clips).state_dict())
    trainer.save_best(temperature, metrics, thresholds)
    write_predictions(run.path("predictions.csv"), scores, classes, temperature)
    run.write_json("metrics.json", metrics)
    return metrics


def _judge_halves(
    retraining: Retraining, sides: list[Sides], model: nn.Module | None
) -> dict[str, ClipScores]:
    """What `score_halves` says of all judged clips, by `model`, or by one trained for each side."""
    judged = []
    for learned, clips in tqdm(sides, "judge", unit="fold", leave=False):
        judge = model or retraining.train(learned)
        judged.append(score_halves(judge, retraining.embedded(judge, clips)))
    return {name: join_scores([part[name] for part in judged]) for name in judged[0]}


def _random_split(retraining: Retraining, honest: ClipScores) -> dict:
    """The flattering number, and what of it is owed to sources and spots that training saw, too.

    Heads are trained anew on one side of a random split. Clips of the other side whose source, or
    spot, was learned from are looked up among the honest answers, too: then only that differs.
    """
    trainer, config = retraining.trainer, retraining.trainer.config
    embeddings = trainer.embeddings if trainer.trunk_is_frozen else _embed_all(retraining)
    val_count = max(1, round(config.val_fraction * len(retraining.clips)))
    learned, clips = split_at_random(retraining.clips, val_count, config.seed)
    model = new_heads(trainer, learned, embeddings)
    scores = score_clips(model, trainer.val_set.only(clips).read_from(embeddings))
    honest_index = {span: index for index, span in enumerate(_spans(honest))}
    metrics = _headline("random_split", scores, trainer.train_set.classes)
    was_seen = {
        "source": same_source(learned, clips),
        "spot": retraining.duplicates.show_same(learned, clips),
    }
    for what, seen in was_seen.items():
        pairs = [
            (index, honest_index[span])
            for index, span in enumerate(_spans(scores))
            if seen[index] and span in honest_index
        ]
        with_it, without = np.array(pairs, np.int64).reshape(-1, 2).T
        metrics |= _seen_metrics(what, scores.only(with_it), honest.only(without))
    return metrics


def _seen_metrics(what: str, seen: ClipScores, unseen: ClipScores) -> dict:
    """Accuracy on clips whose source or spot was in training, too, and on those it was not."""
    found = {}
    for name, part in ((f"seen_{what}", seen), (f"unseen_{what}", unseen)):
        right = part.logits.argmax(axis=1) == part.labels
        found[f"{name}_accuracy"] = float(right.mean()) if len(part) else None
        found[f"{name}_clips"] = len(part)
    return found


def _spans(scores: ClipScores) -> list[tuple[str, float]]:
    return list(zip(scores.recordings, scores.start_seconds.tolist(), strict=True))


def _headline(prefix: str, scores: ClipScores, classes: list[str]) -> dict:
    """HEADLINE metrics with their intervals; None where there is no clip to judge."""
    judged = {}
    if len(scores):
        judged = evaluate_scores(scores, classes, 1.0) | metric_intervals(scores, classes, 1.0)
    keys = [name + end for name in HEADLINE for end in ("", "_low", "_high")]
    return {f"{prefix}_{key}": judged.get(key) for key in keys}


def _embed_all(retraining: Retraining) -> MemoryStore:
    """Every clip's recording through the trunk as training left it."""
    store, trainer = MemoryStore(), retraining.trainer
    keys = [clip.key for clip in retraining.clips]
    encoder = trainer.model.video_encoder
    embed_recordings(encoder, trainer.train_set.store, keys, store, amp=trainer.amp)
    return store


def _with_interval(metrics: dict, key: str) -> str:
    """For example `0.909 (0.820 to 0.977)`."""
    low, high = metrics[f"{key}_low"], metrics[f"{key}_high"]
    spread = "" if low is None else f" ({low:.3f} to {high:.3f})"
    return f"{_number(metrics[key])}{spread}"


def _headline_words(metrics: dict, prefix: str) -> str:
    return (
        f"balanced accuracy {_with_interval(metrics, f'{prefix}_balanced_accuracy')}  "
        f"AUC {_with_interval(metrics, f'{prefix}_auc')}"
    )


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
