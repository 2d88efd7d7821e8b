"""A step is the same update however its batch is cut, and is cut further when memory ends."""

import dataclasses

import numpy as np
import pytest
import torch

from models.late_fusion import LateFusionClassifier
from tests.trainings import MadeSets, make_config, make_sets
from training.checkpoint import load_state, save_state
from training.phases import Phase
from training.progress import TrainingError
from training.statistics import class_weights
from training.step import ClassWeights, Step
from training.weights import new_model
from utils.config import Config
from utils.dataset import Batch, collate

HEADS = Phase("heads", 0, 2, 0, 1)
FINE_TUNE = Phase("fine-tune", 0, 2, 2, 1)
POSITION = (42, 0, 0)


@pytest.fixture
def config(tmp_path) -> Config:
    # Nothing random that depends on how the batch is cut.
    return make_config(tmp_path, dropout=0, modality_dropout=0, batch_size=6, learning_rate=1e-4)


@pytest.fixture
def sets(config) -> MadeSets:
    return make_sets(config, counts=(9, 3))


def batch_of(sets: MadeSets, phase: Phase, *, silent: int = 1) -> Batch:
    dataset = sets.train_set
    if phase is HEADS:
        dataset = dataset.read_from(sets.embeddings)
    items = [dataset.whole(index) for index in range(len(dataset))]
    for index in range(silent):
        items[index] = (items[index][0], None, items[index][2])
    return collate(items, dataset.spec.mfcc.n_mfcc)


def make_step(config: Config, sets: MadeSets, phase: Phase, **changes) -> Step:
    model = new_model(config, 2, None)
    model.train()
    model.video_encoder.freeze_statistics(True)
    model.video_encoder.train_last_blocks(phase.blocks)
    weights = [class_weights(sets.train_set, with_sound=sound) for sound in (False, True)]
    return Step(model, phase, config, ClassWeights(*weights), **changes)


def update(step: Step, batch: Batch) -> tuple[list[float], torch.Tensor]:
    """What the step returns, and the gradients it leaves, before it clips them."""
    gradients = {}

    class Ranks:
        rank, size = 0, 1

        def sum(self, numbers):
            return list(numbers)

        def sum_gradients(self, parameters):
            gradients.update(enumerate(p.grad.flatten() for p in parameters if p.requires_grad))

    step.ranks = Ranks()
    found = step.run(batch, POSITION, 0).tolist()
    return found, torch.cat([gradient.clone() for gradient in gradients.values()])


@pytest.mark.parametrize("phase", [HEADS, FINE_TUNE], ids=lambda phase: phase.name)
@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_parts_add_up_to_the_whole_batch(config, sets, phase, micro_batch, monkeypatch):
    monkeypatch.setattr(Step, "_part_size", lambda self, batch: self.micro_batch)
    batch = batch_of(sets, phase)
    whole, expected = update(make_step(config, sets, phase), batch)
    parts, found = update(make_step(config, sets, phase, micro_batch=micro_batch), batch)
    assert expected.norm() > 1e-2
    assert parts == pytest.approx(whole, rel=1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("phase", "expected"), [(HEADS, [6]), (FINE_TUNE, [2, 2, 2])])
def test_processor_looks_at_a_chunk_of_frames_at_a_time(config, sets, phase, expected):
    step, seen = make_step(config, sets, phase), []
    see = step.model.forward_features
    step.model.forward_features = lambda video, *rest: seen.append(len(video)) or see(video, *rest)
    step.run(batch_of(sets, phase), POSITION, 0)  # of six frames each
    assert seen == expected


def test_loss_is_that_of_the_definition(config, sets):
    batch = batch_of(sets, HEADS)
    step = make_step(config, sets, HEADS)
    with torch.no_grad():
        logits = step.model(batch.video, batch.video_mask, batch.mfcc, batch.mfcc_mask)
    weights = class_weights(sets.train_set)
    loss = torch.nn.functional.cross_entropy(logits, batch.labels, weights)
    found, _ = update(step, batch)
    # All answers are the same before the first update, whatever of the sound is hidden.
    assert found[0] == pytest.approx(len(batch) * float(loss), rel=0.05)
    assert found[1] == float((logits.argmax(1) == batch.labels).sum())


def test_step_without_any_sound_learns_from_pictures(config, sets):
    batch = batch_of(sets, HEADS, silent=6)
    (loss, _), gradients = update(make_step(config, sets, HEADS), batch)
    assert np.isfinite(loss)
    assert gradients.isfinite().all()
    assert gradients.norm() > 1e-3


def limit_memory(monkeypatch, clips: int) -> list[int]:
    """Lets the network take up to this many clips, and notes how many it was given."""
    seen, see = [], LateFusionClassifier.forward_features

    def limited(self, video, *rest):
        seen.append(len(video))
        if len(video) > clips:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        return see(self, video, *rest)

    monkeypatch.setattr(LateFusionClassifier, "forward_features", limited)
    return seen


def test_memory_that_ends_halves_the_parts_and_not_the_step(config, sets, monkeypatch):
    batch, said = batch_of(sets, HEADS), []
    whole, expected = update(make_step(config, sets, HEADS), batch)
    step = make_step(config, sets, HEADS, say=said.append)
    seen = limit_memory(monkeypatch, 4)
    found, gradients = update(step, batch)
    assert seen == [6, 3, 3]
    assert found == pytest.approx(whole, rel=1e-4)
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-5)
    assert len(said) == 1
    assert "6 clips at once exceed that of cpu: from here on 3 at a time" in said[0]
    update(step, batch)
    assert seen == [6, 3, 3, 3, 3]  # the next step knows


def test_memory_that_ends_in_a_later_part_begins_the_step_anew(config, sets, monkeypatch):
    batch = batch_of(sets, HEADS)
    whole, expected = update(make_step(config, sets, HEADS), batch)
    step = make_step(config, sets, HEADS, micro_batch=4)
    see, calls = LateFusionClassifier.forward_features, []

    def second_fails(self, *arguments):
        calls.append(len(arguments[0]))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return see(self, *arguments)

    monkeypatch.setattr(LateFusionClassifier, "forward_features", second_fails)
    found, gradients = update(step, batch)
    assert calls == [4, 2, 2, 2, 2]
    assert found == pytest.approx(whole, rel=1e-4)
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-5)


def test_single_clip_that_does_not_fit_ends_in_one_line_with_the_cure(config, sets, monkeypatch):
    limit_memory(monkeypatch, 0)
    step = make_step(config, sets, HEADS, say=lambda line: None)
    with pytest.raises(TrainingError, match=r"not even a single clip .*3.00 GiB.*--train-frames"):
        update(step, batch_of(sets, HEADS))


def test_loaded_optimizer_goes_on_as_the_saved_one_with_the_rates_of_now(config, sets, tmp_path):
    batch = batch_of(sets, FINE_TUNE)
    first = make_step(config, sets, FINE_TUNE)
    first.run(batch, POSITION, 0)
    save_state(tmp_path / "state", first.state_dict())
    saved = load_state(tmp_path / "state")
    weights = {name: tensor.clone() for name, tensor in first.model.state_dict().items()}
    first.run(batch, (42, 0, 6), 0)

    second = make_step(config, sets, FINE_TUNE)
    second.model.load_state_dict(weights)
    second.load_state_dict(saved)
    second.run(batch, (42, 0, 6), 0)
    for name, tensor in first.model.state_dict().items():
        assert tensor.equal(second.model.state_dict()[name]), name

    faster = make_step(
        dataclasses.replace(config, learning_rate=0.5, weight_decay=0.125), sets, FINE_TUNE
    )
    faster.load_state_dict(saved)
    assert {group["peak_lr"] for group in faster.optimizer.param_groups} == {0.5}
    assert {group["weight_decay"] for group in faster.optimizer.param_groups} == {0.0, 0.125}


@pytest.mark.parametrize("count", [1, 3])
def test_rows_of_other_processes_leave_the_random_changes_of_a_clip_alone(config, sets, count):
    batch = batch_of(sets, FINE_TUNE, silent=0)
    seen = []

    def watch(step: Step) -> None:
        see = step.model.forward_features

        def noted(video, video_mask, mfcc, mfcc_mask):
            seen.append((video, mfcc_mask))
            return see(video, video_mask, mfcc, mfcc_mask)

        step.model.forward_features = noted

    step = make_step(config, sets, FINE_TUNE)
    watch(step)
    step.run(batch, POSITION, 0)
    step.run(batch.part(slice(count, None)), POSITION, count)
    video, mask = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert torch.equal(video[6:], video[count:6])
    assert torch.equal(mask[6:], mask[count:6])
