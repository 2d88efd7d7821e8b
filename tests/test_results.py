"""What a run says of itself is honest, complete, and what the saved network does."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from trainings import MadeSets, make_config, make_sets

from models.mobilenet_v2 import NUM_BLOCKS
from training import results
from training.checkpoint import load_checkpoint
from training.evaluation import evaluate_scores, read_predictions
from training.loop import Trainer, score_clips
from training.phases import Phase
from training.results import say_results, say_start, write_results
from training.run_log import RunLog
from training.weights import new_model
from utils.config import Config
from utils.dataset import ClipDataset
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
def judgements(monkeypatch) -> list[tuple[set[str] | None, list]]:
    """(groups a network learned from, clips it then judged), in order; None for the trainer's."""
    learned: dict[int, set[str]] = {}
    models, found = [], []
    new_heads, score = results._new_heads, results.score_clips

    def learn(trainer, clips, embeddings):
        model = new_heads(trainer, clips, embeddings)
        models.append(model)  # kept, so that no other gets its id
        learned[id(model)] = groups_of(clips)
        return model

    def judge(model, dataset: ClipDataset, **how):
        found.append((learned.get(id(model)), dataset.clips))
        return score(model, dataset, **how)

    monkeypatch.setattr(results, "_new_heads", learn)
    monkeypatch.setattr(results, "score_clips", judge)
    return found


def test_every_clip_is_judged_once_by_heads_that_never_saw_its_group(config, sets, judgements):
    trainer = make_trainer(config, sets)
    metrics = write_results(trainer, DATA)
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


def test_network_that_is_kept_learned_from_all_clips(config, sets, monkeypatch):
    learned, new_heads = [], results._new_heads

    def learn(trainer, clips, embeddings):
        model = new_heads(trainer, clips, embeddings)
        learned.append((groups_of(clips), model))
        return model

    monkeypatch.setattr(results, "_new_heads", learn)
    trainer = make_trainer(config, sets)
    metrics = write_results(trainer, DATA)
    seen, model = learned[-1]
    assert seen == groups_of(sets.train_set.clips + sets.val_set.clips)
    kept = load_checkpoint(trainer.run.path("best.safetensors"))
    assert all(map(torch.equal, kept.model.state_dict().values(), model.state_dict().values()))
    assert kept.temperature == metrics["temperature"]
    assert kept.recipe["metrics"] == json.loads(json.dumps(metrics))


def test_own_validation_set_judges_alone(config, sets, judgements):
    clips = [
        dataclasses.replace(clip, recording=dataclasses.replace(clip.recording, validation=True))
        for clip in sets.val_set.clips
    ]
    trainer = make_trainer(config, sets, val_set=sets.val_set.only(clips))
    before = trainer.model.state_dict()
    metrics = write_results(trainer, DATA)
    assert not metrics["cross_validated"]
    assert [(seen, judged) for seen, judged in judgements[:3]] == [(None, clips)] * 3
    assert metrics["clips"] == len(clips)
    kept = load_checkpoint(trainer.run.path("best.safetensors")).model.state_dict()
    assert all(kept[name].equal(before[name]) for name in before)


def test_cross_validation_can_be_switched_off(config, sets, judgements):
    config = dataclasses.replace(config, cross_validate=False)
    metrics = write_results(make_trainer(config, sets), DATA)
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
    metrics = write_results(trainer, DATA)
    assert not metrics["cross_validated"]
    assert judgements[0] == (None, sets.val_set.clips)
    assert metrics["random_split_balanced_accuracy"] is not None
    kept = load_checkpoint(trainer.run.path("best.safetensors")).model.state_dict()
    assert all(kept[name].equal(before[name]) for name in before)


def test_metrics_are_complete_flat_and_those_of_the_predictions(config, sets):
    trainer = make_trainer(config, sets)
    metrics = write_results(trainer, DATA)
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
    metrics = write_results(make_trainer(config, sets), DATA)
    assert metrics["sound_only_auc"] is None
    assert metrics["video_only_balanced_accuracy"] > 0.6


def test_three_classes_are_judged(config, capsys):
    sets = make_sets(config, classes=("ads", "games", "news"), counts=(4, 4, 4))
    trainer = make_trainer(config, sets)
    metrics = write_results(trainer, DATA)
    assert np.array(metrics["confusion"]).shape == (3, 3)
    assert metrics["balanced_accuracy"] > 0.6
    say_results(trainer.run, metrics, trainer.run.path("report.html"))
    assert "report.html" in capsys.readouterr().out


@pytest.mark.parametrize("val_fraction", [0.01, 0.5])
def test_any_part_may_be_held_out(config, sets, val_fraction):
    config = dataclasses.replace(config, val_fraction=val_fraction)
    metrics = write_results(make_trainer(config, sets), DATA)
    assert metrics["clips"] == 8
    assert metrics["random_split_balanced_accuracy"] is not None


def test_results_are_a_function_of_data_and_seed(config, sets):
    first, second = (write_results(make_trainer(config, sets), DATA) for _ in range(2))
    clock = {"training_seconds", "wait_fraction"}
    assert {k: v for k, v in first.items() if k not in clock} == {
        k: v for k, v in second.items() if k not in clock
    }


def test_ctrl_c_while_judging_says_how_to_go_on(config, sets, monkeypatch):
    trainer = make_trainer(config, sets)

    def stop(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(results, "score_clips", stop)
        with pytest.raises(Interrupted, match=f"--resume {trainer.run.folder}"):
            write_results(trainer, DATA)
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
    again.resume()
    again.fit(HEADS)
    assert write_results(again, DATA)["accuracy"] > 0.6


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
    for words in (
        "4 groups that share content into 2",
        "3 clips of training",
        "is ads/b.mp4 at 9 s",
    ):
        assert words in said
    assert run.path("run.log").read_text() == said
    assert run.read_json("data.json") == data
    assert "ads/broken.mp4,no picture" in run.path("rejected.csv").read_text()


def test_hidden_halves_change_what_is_judged(config, sets):
    trainer = make_trainer(config, sets)
    dataset = sets.val_set.read_from(sets.embeddings)
    both, picture, sound = (
        score_clips(trainer.model, dataset, hide=hide).logits for hide in (None, "sound", "video")
    )
    assert not np.allclose(both, picture)
    assert not np.allclose(both, sound)
    assert not np.allclose(picture, sound)
