"""The benchmark of the step measures steps of its own making."""

import dataclasses

import pytest
import torch

from benchmarks import train_step
from benchmarks.train_step import PHASES, MadeSpec, make_datasets, measure, read_constants
from tests.trainings import make_config
from utils.config import read_options

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", PHASES)
def test_loader_is_measured_against_batches_that_are_there(tmp_path, name):
    config = read_constants(train_step.SCRIPT)
    config.frame_size = config.trunk_size = (32, 32)
    config.train_frames = 2
    datasets = make_datasets(tmp_path, config, recordings=4)
    dataset = datasets[0] if name == "fine_tune" else datasets[1]
    figures = measure(PHASES[name], dataset, config, CPU, quick=True)
    assert 0.05 < figures["loader_over_synthetic"] < 5
    assert 0 <= figures["wait_fraction"] < 1
    assert figures["clips_per_second"] > 0
    assert figures["peak_memory_mb"] > 50


def test_constants_are_read_without_importing_the_script():
    constants = vars(read_constants(train_step.SCRIPT))
    values = {name.upper(): value for name, value in constants.items()}
    script = values | {"__file__": str(train_step.SCRIPT), "__doc__": ""}
    assert dataclasses.asdict(read_options(script, []).config) == constants


def test_made_clips_are_cut_as_real_ones_are(tmp_path):
    spec = make_config(tmp_path).feature_spec
    made = MadeSpec(spec.fps, spec.mfcc)
    for start, end in [(0, 10), (2.5, 9.7), (0.3, 60), (5, 15)]:
        assert made.frame_span(start, end) == spec.frame_span(start, end)
        assert made.mfcc_span(start, end) == spec.mfcc_span(start, end)
