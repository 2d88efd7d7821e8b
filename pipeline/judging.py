"""Judging: challenger and champion on the same untouched clips, and which of them is used."""

import dataclasses
from pathlib import Path

import numpy as np

from pipeline.preparing import TEST_CLIPS, TRAIN, read_snapshot, recordings_of
from pipeline.records import PipelineError, digest, read_json
from pipeline.source import open_recordings
from pipeline.steps import Pipeline, Step
from training.checkpoint import Checkpoint, load_checkpoint
from training.device import amp_dtype, choose_device
from training.evaluation import ClipScores, evaluate_scores, read_predictions, write_predictions
from training.promotion import Decision, Rules, decide
from training.registry import MODEL, Version, hash_file
from training.scores import embed_dataset, score_clips
from utils.clips import Clip
from utils.dataset import ClipDataset
from utils.features import FeatureSpec
from utils.files import write_whole
from utils.preparation import prepare_recordings
from utils.prepared_set import PreparedSet, open_feature_store

CHALLENGER, CHAMPION = "scores_challenger.csv", "scores_champion.csv"
SUMMARY = "pipeline.md"  # in the run folder, for who reads it elsewhere
NEVER_SAID = -50.0  # logit of a class that a model does not know
METRICS = ("accuracy", "balanced_accuracy", "auc", "nll", "clips", "groups")


class Evaluate(Step):
    name = "evaluate"
    about = "score challenger and champion on the same clips, which neither has learned from"

    def inputs(self, pipeline: Pipeline) -> dict:
        challenger = pipeline.outputs("train")["model"]
        opponent = pipeline.registry.opponent(challenger)
        return {
            "challenger": challenger,
            "champion": opponent.name if opponent else None,
            "test clips": pipeline.outputs("prepare")["test"],
        }

    def lost(self, pipeline: Pipeline, outputs: dict) -> str | None:
        return next(
            (
                f"{name} is gone"
                for name in outputs["files"]
                if not (pipeline.folder / name).exists()
            ),
            None,
        )

    def run(self, pipeline: Pipeline) -> tuple[dict, str]:
        trained = pipeline.outputs("train")
        opponent = pipeline.registry.opponent(trained["model"])
        challenger = load_checkpoint(find_model(pipeline, trained), choose_device())
        champion = load_checkpoint(opponent.model, choose_device()) if opponent else None
        clips, left_out = judging_clips(pipeline, opponent)
        if left_out:
            pipeline.warn(f"{left_out} test clips are left out, as the champion learned from them")
        known = {*challenger.classes, *(champion.classes if champion else ())}
        classes = sorted(known | {clip[3] for clip in clips})
        files, said = {}, []
        for file, checkpoint in ((CHALLENGER, challenger), (CHAMPION, champion)):
            (pipeline.folder / file).unlink(missing_ok=True)
            if checkpoint is None:
                continue
            scores = score_checkpoint(pipeline, checkpoint, clips, classes)
            write_predictions(pipeline.folder / file, scores, classes, checkpoint.temperature)
            metrics = evaluate_scores(scores, classes, checkpoint.temperature)
            files[file] = {name: metrics[name] for name in METRICS}
            said.append(f"{file[7:-4]} {metrics['balanced_accuracy']:.3f}")
        outputs = {"files": files, "left_out": left_out}
        return outputs, f"balanced accuracy of {', '.join(said)} on {len(clips)} clips"


class Promote(Step):
    name = "promote"
    about = "make the challenger champion where it is better beyond chance, and no class pays"

    def inputs(self, pipeline: Pipeline) -> dict:
        settings = pipeline.settings
        return {
            "challenger": pipeline.outputs("train")["model"],
            "evaluation": digest([_content(pipeline, name) for name in (CHALLENGER, CHAMPION)]),
            "rules": [settings.min_gain, settings.max_class_loss],
        }

    def run(self, pipeline: Pipeline) -> tuple[dict, str]:
        settings, trained = pipeline.settings, pipeline.outputs("train")
        challenger, classes = read_predictions(pipeline.folder / CHALLENGER)
        against = pipeline.folder / CHAMPION
        champion = read_predictions(against)[0] if against.exists() else None
        rules = Rules(settings.min_gain, settings.max_class_loss)
        decision = decide(challenger, champion, classes, rules)
        version = pipeline.registry.add(
            find_model(pipeline, trained).parent,
            {
                "trained_on": [r["key"] for r in read_snapshot(pipeline) if r["side"] == TRAIN],
                "decision": decision.to_dict(),
            },
        )
        if decision.promote:
            pipeline.registry.promote(version, decision.reason)
        if Path(trained["run"]).is_dir():
            text = describe_decision(version.name, decision)
            write_whole(Path(trained["run"], SUMMARY), text.encode())
        outputs = {"version": version.name, "decision": decision.to_dict()}
        verb = "is promoted" if decision.promote else "is not promoted"
        return outputs, f"{version.name} {verb}: {decision.reason}"


def describe_decision(name: str, decision: Decision) -> str:
    """Markdown for people: what became of the challenger, and both models' numbers."""
    champion = decision.champion or {}
    rows = "".join(
        f"| {measure.replace('_', ' ')} | {value:.3f} | "
        f"{f'{champion[measure]:.3f}' if measure in champion else 'n/a'} |\n"
        for measure, value in decision.challenger.items()
    )
    return (
        f"## {name} is {'promoted' if decision.promote else 'not promoted'}\n\n"
        f"{decision.reason}\n\n"
        f"| on {decision.clips} clips of {decision.groups} groups | challenger | champion |\n"
        f"| --- | --- | --- |\n{rows}"
    )


def find_model(pipeline: Pipeline, trained: dict) -> Path:
    """The checkpoint of the training that `trained` says: in its run, or as a version."""
    for version in pipeline.registry.versions():
        if version.id == trained["model"]:
            return version.model
    path = Path(trained["run"], MODEL)
    if not path.exists():
        raise PipelineError(f"{path} is gone: run with --from train")
    return path


def judging_clips(pipeline: Pipeline, opponent: Version | None) -> tuple[list[list], int]:
    """[recording, start, end, label] of clips that neither model learned from, and how many of the
    test clips the champion knows, as a group of another name or on another side.
    """
    clips = read_json(pipeline.folder / TEST_CLIPS)
    known = set(opponent.facts.get("trained_on", ())) if opponent else set()
    keys = {row["name"]: row["key"] for row in read_snapshot(pipeline)}
    fresh = [clip for clip in clips if keys[clip[0]] not in known]
    if not fresh:
        raise PipelineError(
            "evaluate: the champion has learned from every test clip, so nothing tells which is "
            "better: add recordings"
        )
    return fresh, len(clips) - len(fresh)


def score_checkpoint(
    pipeline: Pipeline, checkpoint: Checkpoint, spans: list[list], classes: list[str]
) -> ClipScores:
    """What a model says about these clips, in columns of `classes`, which hold all of its own; one
    that it does not know it never says.
    """
    prepared = prepare_for(pipeline, checkpoint.spec, {span[0] for span in spans})
    recordings = {recording.name: recording for recording in prepared.keys}
    missing = [name for name, *_ in spans if name not in recordings]
    if missing:
        raise PipelineError(
            f"evaluate: {missing[0]} can't be decoded as this model wants it: leave it out"
        )
    own = checkpoint.classes
    clips = [
        # The dataset wants a label that the model knows; the true ones are put back below.
        Clip(recordings[name], prepared.keys[recordings[name]], start, end, own[0])
        for name, start, end, _ in spans
    ]
    dataset = ClipDataset(clips, own, checkpoint.spec, prepared.store)
    amp = amp_dtype(next(checkpoint.model.parameters()).device, True)
    scores = score_clips(checkpoint.model, embed_dataset(checkpoint.model, dataset, amp, "judge"))
    logits = np.full((len(clips), len(classes)), NEVER_SAID, np.float32)
    logits[:, [classes.index(name) for name in own]] = scores.logits
    labels = np.array([classes.index(label) for *_, label in spans], np.int64)
    return dataclasses.replace(scores, logits=logits, labels=labels)


def prepare_for(pipeline: Pipeline, spec: FeatureSpec, names: set[str]) -> PreparedSet:
    """The recordings of these names as a model wants them, decoded anew where that is otherwise."""
    rows = [row for row in read_snapshot(pipeline) if row["name"] in names]
    keys, config = recordings_of(rows), pipeline.settings.train_config()
    if spec == config.feature_spec:
        return PreparedSet(open_feature_store(config.cache_dir, spec), spec, keys, [])
    return prepare_recordings(
        list(keys),
        open_recordings(pipeline),
        spec,
        config.cache_dir,
        workers=config.workers,
        max_rejected=1.0,
    )


def _content(pipeline: Pipeline, name: str) -> str | None:
    path = pipeline.folder / name
    return hash_file(path) if path.exists() else None
