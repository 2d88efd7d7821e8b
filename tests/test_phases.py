"""Phases: which there are for which machine and weights, and how their rate goes."""

import numpy as np
import pytest

from models.mobilenet_v2 import NUM_BLOCKS
from tests.trainings import make_config
from training.phases import (
    MAX_HEAD_STEPS,
    Phase,
    clips_per_step,
    learning_rate_factor,
    make_optimizer,
    plan_phases,
    rate_constant,
)
from training.weights import new_model


@pytest.mark.parametrize(
    ("blocks", "from_scratch", "has_gpu", "expected"),
    [
        ("auto", False, False, [("heads", 0, 8)]),
        ("0", False, True, [("heads", 0, 8)]),
        ("auto", False, True, [("heads", 0, 3), ("fine-tune", 3, 8)]),
        ("5", False, False, [("heads", 0, 3), ("fine-tune", 3, 8)]),
        ("5", True, False, [("from scratch", 0, 8)]),
        ("0", True, True, [("from scratch", 0, 8)]),
    ],
)
def test_phases_follow_weights_blocks_and_gpu(tmp_path, blocks, from_scratch, has_gpu, expected):
    config = make_config(tmp_path, fine_tune_blocks=blocks, epochs=8, frozen_epochs=3)
    phases = plan_phases(config, from_scratch=from_scratch, has_gpu=has_gpu)
    assert [(p.name, p.first_epoch, p.last_epoch) for p in phases] == expected
    learning = {"heads": 0, "from scratch": NUM_BLOCKS}
    for phase in phases:
        assert phase.blocks == learning.get(phase.name, phase.blocks)
        assert (phase.blocks == 0) == (phase.name == "heads")


@pytest.mark.parametrize(("frozen", "names"), [(0, ["fine-tune"]), (9, ["heads"])])
def test_phase_without_epochs_is_left_out(tmp_path, frozen, names):
    config = make_config(tmp_path, fine_tune_blocks=2, epochs=5, frozen_epochs=frozen)
    phases = plan_phases(config, from_scratch=False, has_gpu=False)
    assert [phase.name for phase in phases] == names
    assert phases[-1].last_epoch == 5


def test_lstm_learns_at_its_own_rate_on_a_frozen_trunk_and_its_sound_as_ever(tmp_path):
    rates = {"head_learning_rate": 0.01, "lstm_learning_rate": 0.003, "learning_rate": 0.0002}
    config = make_config(tmp_path, model="lrcn", **rates)
    for phase, video, sound in (
        (Phase("heads", 0, 1, 0, 1), 0.003, 0.05),
        (Phase("fine-tune", 0, 1, 2, 1), 0.0002, 0.0002),
    ):
        model = new_model(config, 2, None)
        model.video_encoder.train_last_blocks(phase.blocks)
        peaks = {
            id(parameter): group["peak_lr"]
            for group in make_optimizer(model, phase, config).param_groups
            for parameter in group["params"]
        }
        assert peaks[id(model.lstm.weight_hh_l0)] == video
        assert peaks[id(model.sound_head.weight)] == sound
        assert (id(model.video_encoder.features[-1][0].weight) in peaks) == (phase.blocks > 0)
        assert rate_constant(model, phase) in rates


@pytest.mark.parametrize("warmup", [0.0, 0.3, 0.9])
def test_learning_rate_rises_to_its_peak_and_falls_to_nothing(tmp_path, warmup):
    config = make_config(tmp_path, warmup=warmup)
    positions = np.linspace(0, 1, 1001)
    rates = np.array([learning_rate_factor(position, config) for position in positions])
    peak = int(rates.argmax())
    assert rates[peak] == pytest.approx(1, abs=0.01)
    assert positions[peak] == pytest.approx(warmup, abs=0.002)
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) <= 0).all()
    assert rates[0] > 0
    assert rates[-1] == pytest.approx(0, abs=1e-6)


def test_heads_of_a_large_archive_take_larger_steps_and_not_more(tmp_path):
    config = make_config(tmp_path, batch_size=8)
    heads, fine_tune = Phase("heads", 0, 1, 0, 1), Phase("fine-tune", 0, 1, 3, 1)
    for num_clips, expected in ((1, 8), (8 * MAX_HEAD_STEPS, 8), (72_000, 144), (72_001, 145)):
        assert clips_per_step(heads, config, num_clips) == expected
        assert clips_per_step(fine_tune, config, num_clips) == 8
