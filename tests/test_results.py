"""What a run says of itself is honest, complete, and what the saved network does."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from models.mobilenet_v2 import NUM_BLOCKS
from tests.trainings import MadeSets, make_config, make_sets
from training import cross_validation, results
from training.checkpoint import load_checkpoint
from training.cross_validation import Retraining
from training.evaluation import evaluate_scores, read_predictions
from training.learning_curve import SHARES
from training.loop import Trainer
from training.phases import Phase
from training.report import write_report
from training.results import say_results, say_start, write_results
from training.run_log import RunLog
from training.scores import score_clips
from training.thresholds import Thresholds
from training.weights import new_model
from utils.config import Config
from utils.dataset import ClipDataset
from utils.duplicates import Duplicates, Repeat
from utils.errors import Interrupted

CPU = torch.device("cpu")
DATA = {"demo": False, "weights": "made", "rejected": []}
CLASSES = ("ads", "games")
HEADS = [Phase("heads", 0, 3, 0, 1)]


def make_trainer(config: Config, sets: MadeSets, phases=HEADS, **changes) -> Trainer:
    """A trainer that went through the phases."""
    run = RunLog.create(config, "train.py", CPU)
    model = new_model(config, len(sets.train_set.classes), None)
    sides = {"train_set": sets.train_set, "val_set": sets.val_set, **changes}
    trainer = Trainer(
        model,
        sides["train_set"],
        sides["val_set"],
        config,
        description=DATA,
        embeddings=sets.embeddings,
        run=run,
    )
    trainer.fit(phases)
    return trainer


def judge(trainer: Trainer, phases=HEADS, **repeat_fields) -> dict:
    """The metrics that are written for a trainer."""
    classes = len(trainer.train_set.classes)
    make_model = lambda: new_model(trainer.config, classes, None)  # noqa: E731
    return write_results(Retraining(trainer, phases, make_model, **repeat_fields), DATA)


@pytest.fixture
def config(tmp_path) -> Config:
    (tmp_path / "runs").mkdir()
    return make_config(tmp_path, epochs=3, batch_size=4, head_learning_rate=0.02, train_frames=4)


@pytest.fixture
def sets(config) -> MadeSets:
    return make_sets(config, counts=(4, 4))


def groups_of(clips) -> set[str]:
    return {clip.recording.group for clip in clips}


@pytest.fixture
def learned(monkeypatch) -> list[tuple[set[str], torch.nn.Module]]:
    """(groups a network learned from, that network), in order."""
    found, fit = [], cross_validation._fit

    def learn(trainer, model, clips, *how):
        fit(trainer, model, clips, *how)
        found.append((groups_of(clips), model))
        return model

    monkeypatch.setattr(cross_validation, "_fit", learn)
    return found


@pytest.fixture
def judgements(learned, monkeypatch) -> list[tuple[set[str] | None, list]]:
    """(groups a network learned from, clips it then judged), in order; None for the trainer's."""
    found = []

    def judge(model, dataset: ClipDataset, **how):
        seen = next((groups for groups, other in learned if other is model), None)
        found.append((seen, dataset.clips))
        return score_clips(model, dataset, **how)

    monkeypatch.setattr(results, "score_clips", judge)
    monkeypatch.setattr(cross_validation, "score_clips", judge)
    return found


def test_every_clip_is_judged_once_by_heads_that_never_saw_its_group(config, sets, judgements):
    trainer = make_trainer(config, sets)
    metrics = judge(trainer)
    *honest, random_split = judgements
    both, picture_only, sound_only = honest[::3], honest[1::3], honest[2::3]
    everything = sets.train_set.clips + sets.val_set.clips
    for part in (both, picture_only, sound_only):
        judged = [clip for _, clips in part for clip in clips]
        assert sorted(judged, key=str) == sorted(everything, key=str)
        for seen, clips in part:
            assert seen
            assert not seen & groups_of(clips)
            assert seen | groups_of(clips) == groups_of(everything)
    assert metrics["cross_validated"]
    assert (metrics["clips"], metrics["groups"]) == (8, 8)


def test_network_that_is_kept_learned_from_all_clips(config, sets, learned):
    trainer = make_trainer(config, sets)
    metrics = judge(trainer)
    seen, model = learned[-1]
    assert seen == groups_of(sets.train_set.clips + sets.val_set.clips)
    kept = load_checkpoint(trainer.run.path("best.safetensors"))
    assert all(map(torch.equal, kept.model.state_dict().values(), model.state_dict().values()))
    assert kept.temperature == metrics["temperature"]
    assert kept.recipe["metrics"] == json.loads(json.dumps(metrics))
    assert kept.recipe["thresholds"] is None


def test_own_validation_set_judges_alone_and_says_so(config, sets, judgements, capsys):
    config = dataclasses.replace(config, folds="3")
    clips = [
        dataclasses.replace(clip, recording=dataclasses.replace(clip.recording, validation=True))
        for clip in sets.val_set.clips
    ]
    trainer = make_trainer(config, sets, val_set=sets.val_set.only(clips))
    before = trainer.model.state_dict()
    metrics = judge(trainer)
    assert not metrics["cross_validated"]
    assert [(seen, judged) for seen, judged in judgements[:3]] == [(None, clips)] * 3
    assert metrics["clips"] == len(clips)
    assert "data/validation judges alone: FOLDS 3 is not used" in capsys.readouterr().out
    kept = load_checkpoint(trainer.run.path("best.safetensors")).model.state_dict()
    assert all(kept[name].equal(before[name]) for name in before)


def test_cross_validation_can_be_switched_off(config, sets, judgements):
    config = dataclasses.replace(config, folds="0")
    metrics = judge(make_trainer(config, sets))
    assert not metrics["cross_validated"]
    assert judgements[0] == (None, sets.val_set.clips)


@pytest.mark.parametrize(
    "phase", [Phase("fine-tune", 0, 1, 2, 1), Phase("from scratch", 0, 1, NUM_BLOCKS, 1)]
)
def test_trunk_that_learned_is_judged_by_what_it_did_not_learn_from(
    config, sets, judgements, phase
):
    trainer = make_trainer(config, sets, [phase])
    before = {name: t.clone() for name, t in trainer.model.state_dict().items()}
    metrics = judge(trainer, [phase])
    assert not metrics["cross_validated"]
    assert judgements[0] == (None, sets.val_set.clips)
    assert metrics["random_split_balanced_accuracy"] is not None
    kept = load_checkpoint(trainer.run.path("best.safetensors")).model.state_dict()
    assert all(kept[name].equal(before[name]) for name in before)


def test_trunk_that_learned_is_trained_anew_for_each_fold_that_is_asked_for(config, sets, learned):
    config = dataclasses.replace(config, folds="2")
    phases = [Phase("heads", 0, 1, 0, 1), Phase("fine-tune", 1, 2, 2, 1)]
    trainer = make_trainer(config, sets, phases)
    learned.clear()
    trunk = {name: t.clone() for name, t in trainer.model.video_encoder.state_dict().items()}
    metrics = judge(trainer, phases)
    assert metrics["cross_validated"]
    assert (metrics["clips"], metrics["groups"]) == (8, 8)
    everything = groups_of(sets.train_set.clips + sets.val_set.clips)
    first, second, random_split, kept = (groups for groups, _ in learned)
    assert (everything - first) ^ (everything - second) == everything  # each group judged once
    assert kept == everything
    trunks = [model.video_encoder.state_dict() for _, model in learned]
    for other in (trunks[0], trunks[1], trunks[3]):
        assert any(not other[name].equal(trunk[name]) for name in trunk)
    assert all(trunks[2][name].equal(trunk[name]) for name in trunk)  # heads on the final trunk
    left = load_checkpoint(trainer.run.path("best.safetensors")).model.video_encoder.state_dict()
    assert all(left[name].equal(trunks[3][name]) for name in trunk)


def test_numbers_stand_beside_how_far_they_may_be_off(config, sets, capsys):
    trainer = make_trainer(config, sets)
    metrics = judge(trainer)
    for name in ("accuracy", "balanced_accuracy", "auc", "nll", "ece", "video_only_auc"):
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"], name
    say_results(trainer.run, metrics, trainer.run.path("report.html"))
    low, high = metrics["auc_low"], metrics["auc_high"]
    assert f"{metrics['auc']:.3f} ({low:.3f} to {high:.3f})" in capsys.readouterr().out


def test_seen_and_unseen_sources_are_compared_on_the_same_clips(config):
    config = dataclasses.replace(config, val_fraction=0.5)
    sets = make_sets(config, counts=(6, 6))
    for dataset in (sets.train_set, sets.val_set):  # two clips of each source
        clips = [
            dataclasses.replace(clip, start_seconds=start, end_seconds=start + 1.5)
            for clip in dataset.clips
            for start in (0.0, 1.5)
        ]
        dataset.__init__(clips, dataset.classes, dataset.spec, dataset.store)
    metrics = judge(make_trainer(config, sets))
    assert 0 < metrics["seen_source_clips"] == metrics["unseen_source_clips"] <= 12
    assert metrics["seen_source_accuracy"] >= 0.5
    assert metrics["unseen_source_accuracy"] >= 0.5


def shown_twice(sets: MadeSets) -> Duplicates:
    """The first clips of training and of validation are airings of one spot."""
    first, second = sets.train_set.clips[0], sets.val_set.clips[0]
    assert first.label == second.label
    return Duplicates([Repeat(first.key, 0.0, second.key, 0.0, 3.0, "picture")])


def test_no_network_that_judges_a_spot_has_seen_another_airing(config, sets, learned):
    duplicates = shown_twice(sets)
    judge(make_trainer(config, sets), duplicates=duplicates)
    twins = {sets.train_set.clips[0].recording.group, sets.val_set.clips[0].recording.group}
    assert {len(twins & groups) for groups, _ in learned[:-2]} == {0, 2}


def test_clips_that_were_left_out_are_judged_and_learned_from_in_the_end(config, sets, learned):
    *rest, left_out = sets.train_set.clips
    trainer = make_trainer(config, sets, train_set=sets.train_set.only(rest))
    metrics = judge(trainer, left_out=[left_out])
    assert metrics["clips"] == len(rest) + len(sets.val_set.clips) + 1
    assert left_out.recording.group in learned[-1][0]


def test_thresholds_travel_with_the_checkpoint_and_are_said(config, sets, capsys):
    config = dataclasses.replace(config, min_recall=0.9)
    trainer = make_trainer(config, sets)
    metrics = judge(trainer)
    kept = load_checkpoint(trainer.run.path("best.safetensors")).recipe["thresholds"]
    thresholds = Thresholds.from_dict(kept)
    assert thresholds.kept == "games"
    assert [row.name for row in thresholds.thresholds] == ["ads"]
    assert metrics["threshold_ads"] == thresholds.thresholds[0].value
    say_results(trainer.run, metrics, trainer.run.path("report.html"))
    assert "at least 90% found; in doubt it is games" in capsys.readouterr().out


def test_learning_curve_is_drawn_where_it_is_asked_for(config, sets, learned, capsys):
    config = dataclasses.replace(config, learning_curve=True, folds="2")
    trainer = make_trainer(config, sets)
    metrics = judge(trainer)
    curve = trainer.run.read_json("learning_curve.json")
    assert [point["share"] for point in curve["points"]] == list(SHARES)
    assert curve["points"][-1]["auc"] == pytest.approx(metrics["auc"])
    assert curve["points"][-1]["groups"] == 4
    say_results(trainer.run, metrics, trainer.run.path("report.html"))
    assert curve["sentence"] in capsys.readouterr().out


def test_metrics_are_complete_flat_and_those_of_the_predictions(config, sets):
    trainer = make_trainer(config, sets)
    metrics = judge(trainer)
    assert trainer.run.read_json("metrics.json") == json.loads(json.dumps(metrics))
    wanted = {"accuracy", "balanced_accuracy", "auc", "ece", "clips", "groups", "demo"}
    wanted |= {"random_split_auc", "random_split_balanced_accuracy", "temperature"}
    wanted |= {f"{what}_{name}" for what in ("precision", "recall", "f1") for name in CLASSES}
    assert wanted <= metrics.keys()
    assert not any(isinstance(value, dict) for value in metrics.values())
    scores, classes = read_predictions(trainer.run.path("predictions.csv"))
    again = evaluate_scores(scores, classes, metrics["temperature"])
    for name in ("accuracy", "balanced_accuracy", "auc", "ece", "nll"):
        assert metrics[name] == pytest.approx(again[name], abs=1e-4)


def test_recordings_without_any_sound_leave_its_numbers_out(config):
    sets = make_sets(config, counts=(4, 4), with_sound=False)
    metrics = judge(make_trainer(config, sets))
    assert metrics["sound_only_auc"] is None
    assert metrics["video_only_balanced_accuracy"] > 0.6


def test_three_classes_are_judged(config, capsys):
    sets = make_sets(config, classes=("ads", "games", "news"), counts=(4, 4, 4))
    trainer = make_trainer(config, sets)
    metrics = judge(trainer)
    assert np.array(metrics["confusion"]).shape == (3, 3)
    assert metrics["balanced_accuracy"] > 0.6
    say_results(trainer.run, metrics, trainer.run.path("report.html"))
    assert "report.html" in capsys.readouterr().out


@pytest.mark.parametrize("val_fraction", [0.01, 0.5])
def test_any_part_may_be_held_out(config, sets, val_fraction):
    config = dataclasses.replace(config, val_fraction=val_fraction)
    metrics = judge(make_trainer(config, sets))
    assert metrics["clips"] == 8
    assert metrics["random_split_balanced_accuracy"] is not None


def test_results_are_a_function_of_data_and_seed(config, sets):
    first, second = (judge(make_trainer(config, sets)) for _ in range(2))
    clock = {"training_seconds", "wait_fraction"}
    assert {k: v for k, v in first.items() if k not in clock} == {
        k: v for k, v in second.items() if k not in clock
    }


def test_ctrl_c_while_judging_says_how_to_go_on(config, sets, monkeypatch):
    trainer = make_trainer(config, sets)

    def stop(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cross_validation, "score_clips", stop)
        with pytest.raises(Interrupted, match=f"--resume {trainer.run.folder}"):
            judge(trainer)
    assert not trainer.run.path("metrics.json").exists()
    again = Trainer(
        new_model(config, 2, None),
        sets.train_set,
        sets.val_set,
        config,
        description=DATA,
        embeddings=sets.embeddings,
        run=RunLog.open(trainer.run.folder),
    )
    again.resume(trainer.run.folder, ())
    again.fit(HEADS)
    assert judge(again)["accuracy"] > 0.6


def test_start_is_said_and_kept_with_the_rejected_files(config, capsys):
    run = RunLog.create(config, "train.py", CPU)
    side = {"ads": {"recordings": 3, "groups": 2, "clips": 9, "hours": 0.1}}
    rejected = [{"path": "ads/broken.mp4", "reason": "no picture"}]
    data = {"weights": "the file w.pth", "train": side, "validation": side, "rejected": rejected}
    data |= {"from_scratch": True, "demo": True}
    data["duplicates"] = {
        "merged_groups": 4,
        "merged_into": 2,
        "left_out_clips": 3,
        "examples": ["ads/a.mp4 at 2 s is ads/b.mp4 at 9 s (sound, 14 s)"],
    }
    say_start(run, config, data, CPU)
    said = capsys.readouterr().out
    for words in ("the file w.pth", "9 clips of 3 recordings in 2 groups", "SEED=42", "CPU"):
        assert words in said
    for words in ("WARNING", "from scratch", "demo set", "ads/broken.mp4: no picture"):
        assert words in said
    for words in ("4 groups that share content into 2", "3 clips of training", "at 9 s (sound"):
        assert words in said
    assert run.path("run.log").read_text() == said
    assert run.read_json("data.json") == data
    assert "ads/broken.mp4,no picture" in run.path("rejected.csv").read_text()


def test_network_without_sound_is_judged_by_its_picture_alone(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    config = make_config(
        *(tmp_path,), model="lrcn", fuse_sound=False, lstm_size=8, epochs=2, batch_size=4
    )
    trainer = make_trainer(config, make_sets(config, counts=(4, 4)))
    metrics = judge(trainer)
    assert not [name for name in metrics if name.startswith(("video_only", "sound_only"))]
    assert metrics["random_split_auc"] is not None
    capsys.readouterr()
    say_results(trainer.run, metrics, trainer.run.path("report.html"))
    said = capsys.readouterr().out
    assert "balanced accuracy" in said
    assert "alone" not in said
    trainer.run.write_json("data.json", {"classes": ["ads", "games"], "split": "held-out groups"})
    html = write_report(trainer.run.folder, thumbnails=lambda *span: None).read_text()
    assert "Held-out groups, picture<" in html
    assert "alone" not in html.partition("<h2>")[2]


def test_hidden_halves_change_what_is_judged(config, sets):
    trainer = make_trainer(config, sets)
    dataset = sets.val_set.read_from(sets.embeddings)
    both, picture, sound = (
        score_clips(trainer.model, dataset, hide=hide).logits for hide in (None, "sound", "video")
    )
    assert not np.allclose(both, picture)
    assert not np.allclose(both, sound)
    assert not np.allclose(picture, sound)
