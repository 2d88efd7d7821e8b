"""Training keeps its best weights, stops and goes on anywhere, and says what went wrong."""

import dataclasses
import json
import math
import os
import signal
import threading
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models.late_fusion import LateFusionClassifier
from models.mobilenet_v2 import NUM_BLOCKS
from tests.trainings import MadeSets, fill_heads, make_config, make_sets
from training import loop, step
from training.checkpoint import load_checkpoint, load_state
from training.distributed import Ranks
from training.loop import Trainer
from training.phases import Phase
from training.progress import TrainingError
from training.run_log import RunLog
from training.scores import score_clips
from training.statistics import class_weights
from training.weights import TrunkWeights, new_model
from utils.clips import Clip
from utils.config import Config
from utils.dataset import ClipDataset
from utils.errors import Interrupted

CPU = torch.device("cpu")
HEADS = {"epochs": 2, "batch_size": 2, "head_learning_rate": 0.003, "train_frames": 4}
CASES = {
    "heads": [Phase("heads", 0, 2, 0, 1)],
    "from scratch": [Phase("from scratch", 0, 2, NUM_BLOCKS, 1)],
    "fine-tune": [Phase("heads", 0, 1, 0, 1), Phase("fine-tune", 1, 2, 2, 1)],
}
STEPS = 6  # of each case: two epochs of three steps


@pytest.fixture
def config(tmp_path) -> Config:
    (tmp_path / "runs").mkdir()
    return make_config(tmp_path, **HEADS)


@pytest.fixture
def sets(config) -> MadeSets:
    return make_sets(config, counts=(6, 6))


def make_trainer(config: Config, sets: MadeSets, run: RunLog | None = None, **changes) -> Trainer:
    parts = {"train_set": sets.train_set, "val_set": sets.val_set, "model": None, **changes}
    model = parts["model"] or new_model(config, len(sets.train_set.classes), None)
    return Trainer(
        model,
        parts["train_set"],
        parts["val_set"],
        config,
        description={"made": True},
        embeddings=sets.embeddings,
        run=run,
    )


def new_run(config: Config) -> RunLog:
    return RunLog.create(config, "train.py", CPU)


def at_step(monkeypatch, number: int, act: Callable[[], None]) -> None:
    """Acts at the beginning of the step of this number, counted from 1."""
    original, count = step.seed_step, [0]

    def counted(*position: int) -> torch.Generator:
        count[0] += 1
        if count[0] == number:
            act()
        return original(*position)

    monkeypatch.setattr(step, "seed_step", counted)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def outcome(trainer: Trainer) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """The history without what a clock measured, and the weights."""
    clock = ("seconds", "clips_per_second", "wait_fraction")
    rows = [
        {name: value for name, value in row.items() if name not in clock}
        for row in trainer.progress.history
    ]
    return rows, {name: t.clone() for name, t in trainer.model.state_dict().items()}


def assert_same(found, expected) -> None:
    assert found[0] == expected[0]
    different = [name for name, t in expected[1].items() if not t.equal(found[1][name])]
    assert different == []


# Going on


@pytest.mark.parametrize(
    ("case", "stops"),
    [("heads", [1, 2, 3, 4, 6]), ("from scratch", [2, 3]), ("fine-tune", [3, 5])],
)
def test_training_stopped_at_any_step_and_resumed_equals_unbroken(
    config, sets, monkeypatch, case, stops
):
    unbroken = make_trainer(config, sets, new_run(config))
    unbroken.fit(CASES[case])
    expected = outcome(unbroken)
    assert len(expected[0]) == 2
    for stop in stops:
        run = new_run(config)
        with monkeypatch.context() as patch:
            at_step(patch, stop, interrupt)
            with pytest.raises(Interrupted, match=f"--resume {run.folder}"):
                make_trainer(config, sets, run).fit(CASES[case])
        resumed = make_trainer(config, sets, RunLog.open(run.folder))
        resumed.resume(run.folder)
        resumed.fit(CASES[case])
        assert_same(outcome(resumed), expected)
        best = load_checkpoint(run.path("best.safetensors")).model.state_dict()
        assert_same((expected[0], best), expected)


def test_training_that_crashed_goes_on_from_the_last_epoch(config, sets, monkeypatch):
    def crash() -> None:
        raise MemoryError

    unbroken = make_trainer(config, sets, new_run(config))
    unbroken.fit(CASES["heads"])
    run = new_run(config)
    with monkeypatch.context() as patch:
        at_step(patch, 5, crash)
        with pytest.raises(MemoryError):
            make_trainer(config, sets, run).fit(CASES["heads"])
    resumed = make_trainer(config, sets, run)
    resumed.resume(run.folder)
    assert (resumed.progress.epoch, resumed.progress.position) == (1, 0)
    resumed.fit(CASES["heads"])
    assert_same(outcome(resumed), outcome(unbroken))


def test_run_that_ended_before_its_first_epoch_is_resumed_from_the_start(config, sets, capsys):
    unbroken = make_trainer(config, sets, new_run(config))
    unbroken.fit(CASES["heads"])
    run = new_run(config)
    resumed = make_trainer(config, sets, run)
    resumed.resume(run.folder)
    assert "from the start" in capsys.readouterr().out
    resumed.fit(CASES["heads"])
    assert_same(outcome(resumed), outcome(unbroken))


def test_finished_training_is_resumed_without_a_step(config, sets, monkeypatch):
    run = new_run(config)
    first = make_trainer(config, sets, run)
    first.fit(CASES["heads"])
    at_step(monkeypatch, 1, lambda: pytest.fail("a step was done"))
    again = make_trainer(config, sets, run)
    again.resume(run.folder)
    again.fit(CASES["heads"])
    assert_same(outcome(again), outcome(first))


def test_second_ctrl_c_ends_at_once(config, sets, monkeypatch):
    def twice() -> None:
        interrupt()
        interrupt()

    before = signal.getsignal(signal.SIGINT)
    at_step(monkeypatch, 2, twice)
    with pytest.raises(KeyboardInterrupt):
        make_trainer(config, sets, new_run(config)).fit(CASES["heads"])
    assert signal.getsignal(signal.SIGINT) is before


def test_request_to_terminate_saves_too(config, sets, monkeypatch):
    at_step(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    run = new_run(config)
    with pytest.raises(Interrupted):
        make_trainer(config, sets, run).fit(CASES["heads"])
    assert load_state(run.path("last.ckpt"))["progress"]["position"] == 2
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("epoch", [1, 2])
def test_stop_while_validating_is_not_forgotten(config, sets, monkeypatch, epoch):
    unbroken = make_trainer(config, sets, new_run(config))
    unbroken.fit(CASES["heads"])
    run, count, evaluate = new_run(config), [0], loop.evaluate_scores

    def interrupted(*arguments):
        count[0] += 1
        if count[0] == epoch:
            interrupt()
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate_scores", interrupted)
        with pytest.raises(Interrupted, match=f"after {epoch} of 2 epochs"):
            make_trainer(config, sets, run).fit(CASES["heads"])
    resumed = make_trainer(config, sets, run)
    resumed.resume(run.folder)
    resumed.fit(CASES["heads"])
    assert_same(outcome(resumed), outcome(unbroken))


def test_how_to_go_on_can_be_pasted(tmp_path, sets, monkeypatch):
    folder = tmp_path / "my runs"
    folder.mkdir()
    config = make_config(tmp_path, **HEADS, runs_dir=folder)
    at_step(monkeypatch, 1, interrupt)
    with pytest.raises(Interrupted, match=r"python train.py --resume '.*/my runs/.*'$"):
        make_trainer(config, sets, new_run(config)).fit(CASES["heads"])


def test_training_need_not_be_in_the_main_thread(config, sets):
    trainer = make_trainer(config, sets, new_run(config))
    thread = threading.Thread(target=trainer.fit, args=(CASES["heads"],))
    thread.start()
    thread.join()
    assert len(trainer.progress.history) == 2


@pytest.fixture
def stopped(config, sets, monkeypatch) -> RunLog:
    """A run stopped in its first epoch."""
    run = new_run(config)
    with monkeypatch.context() as patch:
        at_step(patch, 2, interrupt)
        with pytest.raises(Interrupted):
            make_trainer(config, sets, run).fit(CASES["heads"])
    return run


def test_changed_videos_are_refused(config, sets, stopped):
    changes = [
        {"train_set": sets.train_set.only(sets.train_set.clips[1:])},
        {"val_set": sets.val_set.only(sets.val_set.clips[1:])},
        {"train_set": sets.val_set, "val_set": sets.train_set},
        {"train_set": sets.train_set.only([shifted(clip) for clip in sets.train_set.clips])},
    ]
    for change in changes:
        trainer = make_trainer(config, sets, stopped, **change)
        with pytest.raises(TrainingError, match="videos changed"):
            trainer.resume(stopped.folder)


def shifted(clip: Clip) -> Clip:
    return dataclasses.replace(clip, start_seconds=clip.start_seconds + 0.5)


def test_other_trunk_is_refused(config, sets, stopped):
    # Such as weights that could be downloaded this time: the stored embeddings are of those.
    trunk = new_model(config, 2, None).video_encoder.features.state_dict()
    other = {**trunk, "0.0.weight": trunk["0.0.weight"] + 1}
    model = new_model(config, 2, TrunkWeights(other))
    with pytest.raises(TrainingError, match="weights"):
        make_trainer(config, sets, stopped, model=model).resume(stopped.folder)


def test_other_plan_is_refused(config, sets, stopped):
    # Such as on a machine where weights can't be had, or, in the other phase, one without a GPU.
    trainer = make_trainer(config, sets, stopped)
    trainer.resume(stopped.folder)
    with pytest.raises(TrainingError, match="the phase 'heads', which is not planned"):
        trainer.fit(CASES["from scratch"])


def test_resumed_run_takes_over_what_was_changed_and_says_it(config, sets, stopped, capsys):
    changed = dataclasses.replace(config, epochs=3, batch_size=3, head_learning_rate=0.01)
    trainer = make_trainer(changed, sets, stopped)
    trainer.resume(stopped.folder, ["changed     EPOCHS from 2 to 3, from here on"])
    assert "EPOCHS from 2 to 3" in capsys.readouterr().out
    assert trainer.progress.position == 4
    assert stopped.read_json("config.json")["constants"]["EPOCHS"] == 3
    assert stopped.read_json("config.json")["script"] == "train.py"
    trainer.fit([Phase("heads", 0, 3, 0, 1)])
    assert [row["epoch"] for row in trainer.progress.history] == [1, 2, 3]
    assert all(row["train_loss"] < 1 for row in trainer.progress.history)


def test_finished_run_goes_on_with_more_epochs(config, sets):
    run = new_run(config)
    make_trainer(config, sets, run).fit(CASES["heads"])
    longer = make_trainer(dataclasses.replace(config, epochs=3), sets, run)
    longer.resume(run.folder)
    longer.fit([Phase("heads", 0, 3, 0, 1)])
    assert [row["epoch"] for row in longer.progress.history] == [1, 2, 3]


@pytest.mark.parametrize(("minutes", "positions"), [(0.0, [2, 4, 0, 2, 4, 0]), (60.0, [0, 0])])
def test_training_is_saved_as_often_as_asked_and_at_each_epochs_end(
    config, sets, monkeypatch, minutes, positions
):
    saved, save = [], loop.save_state

    def noted(path, state):
        saved.append(state["progress"]["position"])
        save(path, state)

    monkeypatch.setattr(loop, "save_state", noted)
    config = dataclasses.replace(config, checkpoint_minutes=minutes)
    make_trainer(config, sets, new_run(config)).fit(CASES["heads"])
    assert saved == positions


def test_smaller_parts_are_remembered_by_a_resumed_run(config, sets, monkeypatch):
    run, seen, see = new_run(config), [], LateFusionClassifier.forward_features

    def limited(self, video, *rest):
        seen.append(len(video))
        if self.training and len(video) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return see(self, video, *rest)

    monkeypatch.setattr(LateFusionClassifier, "forward_features", limited)
    with monkeypatch.context() as patch:
        at_step(patch, 3, interrupt)
        with pytest.raises(Interrupted):
            make_trainer(config, sets, run).fit(CASES["heads"])
    assert seen[0] == 2
    assert "2 clips at once exceed" in run.path("run.log").read_text()
    seen.clear()
    resumed = make_trainer(config, sets, run)
    resumed.resume(run.folder)
    resumed.fit(CASES["heads"])
    assert seen[0] == 1


def test_processes_that_began_differently_are_refused(config, sets):
    class Others(Ranks):
        def sum(self, numbers):
            return [2 * number + 1 for number in numbers]

    trainer = make_trainer(config, sets)
    trainer.ranks = Others(size=2)
    with pytest.raises(TrainingError, match="different clips or weights"):
        trainer.fit(CASES["heads"])


# Best weights


def mislabelled(sets: MadeSets) -> MadeSets:
    """The validation clips with their labels exchanged: what is learned makes them worse."""
    other = {"ads": "games", "games": "ads"}
    clips = [dataclasses.replace(clip, label=other[clip.label]) for clip in sets.val_set.clips]
    return dataclasses.replace(sets, val_set=sets.val_set.only(clips))


def test_early_stopping_ends_a_phase_and_the_best_weights_stay(config, sets, capsys):
    config = dataclasses.replace(config, epochs=30, patience=2)
    trainer = make_trainer(config, mislabelled(sets), new_run(config))
    trainer.fit([Phase("heads", 0, 30, 0, 1)])
    losses = [row["val_loss"] for row in trainer.progress.history]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + config.patience < 30
    assert trainer.progress.best_epoch == best + 1
    assert [row["best"] for row in trainer.progress.history][best:] == [True, False, False]
    kept = load_checkpoint(trainer.run.path("best.safetensors"))
    assert_same(([], kept.model.state_dict()), ([], outcome(trainer)[1]))
    assert kept.recipe["metrics"]["nll"] == losses[best]
    assert "heads ends here" in capsys.readouterr().out


def test_next_phase_begins_with_the_best_weights(config, sets, monkeypatch):
    config = dataclasses.replace(config, epochs=9, patience=1)
    trainer = make_trainer(config, mislabelled(sets), new_run(config))
    seed_step, began = step.seed_step, []

    def watching(seed: int, epoch: int, position: int) -> torch.Generator:
        if (epoch, position) == (8, 0):
            began.append((outcome(trainer), trainer.best_weights))
        return seed_step(seed, epoch, position)

    monkeypatch.setattr(step, "seed_step", watching)
    trainer.fit([Phase("heads", 0, 8, 0, 1), Phase("fine-tune", 8, 9, 1, 1)])
    (history, weights), best = began[0]
    assert not history[-1]["best"]
    assert_same(([], weights), ([], best))
    assert not trainer.trunk_is_frozen


def test_last_weights_count_without_a_validation_set(config, sets):
    trainer = make_trainer(config, sets, val_set=None)
    start = outcome(trainer)[1]["no_sound"]
    trainer.fit(CASES["heads"])
    assert_same(outcome(trainer), ([], trainer.best_weights))
    assert not trainer.best_weights["no_sound"].equal(start)
    assert trainer.progress.history == []


def test_run_folder_is_kept_current(config, sets):
    run = new_run(config)
    trainer = make_trainer(config, sets, run)
    trainer.fit(CASES["heads"])
    rows = [json.loads(line) for line in run.path("metrics.jsonl").read_text().splitlines()]
    assert rows == trainer.progress.history
    assert [row["epoch"] for row in rows] == [1, 2]
    log = run.path("run.log").read_text()
    assert len(log.splitlines()) == 2
    best = load_checkpoint(run.path("best.safetensors"))
    assert best.classes == ["ads", "games"]
    assert best.spec == config.feature_spec
    assert best.clip_seconds == config.clip_seconds
    assert best.recipe["data"] == {"made": True}
    assert best.recipe["constants"] == json.loads(json.dumps(config.constants()))
    assert sorted(path.name for path in run.folder.iterdir()) == [
        *("best.safetensors", "config.json", "last.ckpt", "metrics.jsonl", "run.log")
    ]


# What learns


def test_training_learns(config, sets):
    config = dataclasses.replace(config, epochs=12)
    trainer = make_trainer(config, sets, val_set=None)
    trainer.fit([Phase("heads", 0, 12, 0, 1)])
    val_set = sets.val_set.read_from(sets.embeddings)
    for hide in (None, "sound", "video"):
        scores = score_clips(trainer.model, val_set, hide=hide)
        assert (scores.logits.argmax(axis=1) == scores.labels).mean() > 0.9, hide


def encoder_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in trainer.model.video_encoder.features.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not before[name].equal(after[name])}


def test_heads_leave_the_trunk_alone(config, sets):
    trainer = make_trainer(config, sets, val_set=None)
    before = encoder_of(trainer)
    trainer.fit(CASES["heads"])
    assert changed(before, encoder_of(trainer)) == set()
    assert trainer.trunk_is_frozen


def test_fine_tuning_leaves_early_blocks_and_all_statistics_alone(config, sets):
    trainer = make_trainer(config, sets, val_set=None)
    before = encoder_of(trainer)
    trainer.fit([Phase("fine-tune", 0, 1, 2, 1)])
    names = changed(before, encoder_of(trainer))
    assert {name.partition(".")[0] for name in names} == {str(NUM_BLOCKS - 2), str(NUM_BLOCKS - 1)}
    assert not any("running" in name or "tracked" in name for name in names)


def test_from_scratch_everything_learns(config, sets):
    trainer = make_trainer(config, sets, val_set=None)
    before = encoder_of(trainer)
    trainer.fit([Phase("from scratch", 0, 1, NUM_BLOCKS, 1)])
    assert changed(before, encoder_of(trainer)) == set(before)


def test_classes_count_the_same_however_many_clips_they_have(tmp_path):
    # With nothing to tell them apart by, the fair answer to every clip is one half.
    config = make_config(tmp_path, **{**HEADS, "batch_size": 20, "head_learning_rate": 0.1})
    sets = make_sets(config, counts=(32, 8), with_sound=False)
    trainer = make_trainer(config, sets, val_set=None)
    see = trainer.model.forward_features
    trainer.model.forward_features = lambda video, mask, *sound: see(video, mask & False, *sound)
    trainer.fit([Phase("heads", 0, 30, 0, 1)])
    scores = score_clips(trainer.model, sets.val_set.read_from(sets.embeddings))
    said = torch.softmax(torch.from_numpy(scores.logits), dim=1)
    assert said.numpy() == pytest.approx(0.5, abs=0.1)


def test_sound_is_weighed_by_the_clips_that_have_it(config, sets):
    dataset = sets.train_set
    first = dataset.classes[0]
    silent = {c.key for c in dataset.clips if c.label == first}
    silent.discard(next(c.key for c in dataset.clips if c.label == first))
    rows = dataset.store.num_rows
    has = [c.key not in silent and rows(c.key, "mfcc") > 0 for c in dataset.clips]
    counts = np.bincount(dataset.labels[has], minlength=len(dataset.classes))
    store = SimpleNamespace(num_rows=lambda key, column: 0 if key in silent else rows(key, column))
    muted = ClipDataset(dataset.clips, dataset.classes, dataset.spec, store)
    all_clips, with_sound = (class_weights(muted, with_sound=w) for w in (False, True))
    weight = counts * with_sound.numpy()
    np.testing.assert_allclose(weight, weight[0], rtol=1e-6)  # each class weighs the same
    assert not torch.allclose(all_clips, with_sound)


def test_trunk_is_compiled_where_it_learns_and_asked_for_only(config, sets, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    make_trainer(config, sets, val_set=None).fit(CASES["fine-tune"])
    assert compiled == []
    trainer = make_trainer(dataclasses.replace(config, compile=True), sets, val_set=None)
    trainer.fit(CASES["fine-tune"])
    assert compiled == [trainer.model.video_encoder.features]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES)
def test_training_on_a_gpu_stops_goes_on_and_leaves_a_checkpoint_for_any_machine(
    config, sets, monkeypatch, case
):
    def trainer(run: RunLog) -> Trainer:
        model = new_model(config, 2, None).cuda()
        return make_trainer(config, sets, run, model=model)

    run = new_run(config)
    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        with pytest.raises(Interrupted):
            trainer(run).fit(CASES[case])
    resumed = trainer(run)
    resumed.resume(run.folder)
    resumed.fit(CASES[case])
    assert resumed.amp is not None
    assert len(resumed.progress.history) == 2
    assert all(math.isfinite(row["val_loss"]) for row in resumed.progress.history)
    on_cpu = load_checkpoint(run.path("best.safetensors")).model.state_dict()
    assert all(t.cpu().equal(on_cpu[name]) for name, t in resumed.best_weights.items())


# What goes wrong


@pytest.mark.parametrize(
    ("case", "flag"),
    [("heads", "--head-learning-rate"), ("from scratch", "--scratch-learning-rate")],
)
def test_loss_that_is_no_number_ends_in_one_line_with_the_cure(config, sets, case, flag):
    trainer = make_trainer(config, sets, new_run(config))
    fill_heads(trainer.model, math.nan)
    with pytest.raises(TrainingError, match=rf"^the loss became nan in epoch 1: lower {flag}$"):
        trainer.fit(CASES[case])


def test_answers_that_are_no_numbers_end_in_one_line(config, sets, monkeypatch):
    # The last step of an epoch can break the weights without a loss that shows it.
    trainer = make_trainer(config, sets, new_run(config))
    score = loop.score_together

    def score_broken(model, *arguments, **named):
        fill_heads(model, math.nan)
        return score(model, *arguments, **named)

    monkeypatch.setattr(loop, "score_together", score_broken)
    with pytest.raises(TrainingError, match="no numbers any more: lower"):
        trainer.fit(CASES["heads"])
    assert not trainer.run.path("best.safetensors").exists()


def test_no_clip_gives_no_scores(config, sets):
    nothing = sets.val_set.only([]).read_from(sets.embeddings)
    assert score_clips(make_trainer(config, sets).model, nothing).logits.shape == (0, 2)
