"""Cost: what was measured, brought to the constants of each script, and kept for the plans."""

import json

import pytest

import cost_optimized_train
import train
from benchmarks import cost
from cloud import plan

MACHINE = "2 cores, x86_64, torch 2.14.1, no CUDA"
PREPARE = {
    "machine": MACHINE,
    "date": "2026-11-21",
    "command": "python -m benchmarks.prepare --data-dir /disk/clips/train --rounds 1",
    "figures": {
        "fast_times_real_time": 50.0,
        "exact_times_real_time": 40.0,
        "two_workers_over_one": 1.8,
        "long_recording_times_real_time": 60.0,
    },
}
FROZEN = {
    "machine": MACHINE,
    "date": "2026-11-22",
    "command": "python -m benchmarks.frozen",
    "figures": {"frames_per_second": 900.0, "head_clips_per_second": 5000.0},
}


def test_decoding_is_as_fast_as_the_slower_of_clips_and_recording():
    figures = PREPARE["figures"]
    assert cost.decoding_rate(figures, "fast") == 30.0  # of the recording, by two workers
    slow_clips = {**figures, "two_workers_over_one": 1.0}
    assert cost.decoding_rate(slow_clips, "fast") == 25.0
    assert cost.decoding_rate(figures, "exact") == pytest.approx(30.0 * 40 / 50)


def test_rates_are_those_of_one_core_at_the_size_that_the_trunk_sees():
    rates = cost.script_rates(cost_optimized_train, PREPARE, FROZEN)
    assert rates.script == "cost_optimized_train.py"
    assert rates.trunk_frames_per_second == pytest.approx(900 / 2 / (144 / 96) ** 2)
    assert rates.head_clips_per_second == 5000.0
    assert rates.head_epochs == 64


def test_larger_frames_and_longer_spans_take_longer_in_proportion():
    rates = cost.script_rates(train, PREPARE, FROZEN)
    assert rates.trunk_frames_per_second == pytest.approx(900 / 2 / (168 / 96) ** 2)
    assert rates.head_clips_per_second == pytest.approx(5000 * 16 / 24)
    assert rates.frame_bytes == 112 * 112 * 3


def test_source_names_machine_date_and_commands_without_its_folders():
    assert cost.source(PREPARE, FROZEN) == (
        f"{MACHINE}, 2026-11-22: `python -m benchmarks.prepare --data-dir train --rounds 1` and "
        "`python -m benchmarks.frozen`"
    )


def test_kept_rates_are_what_plans_are_made_from(tmp_path, monkeypatch):
    path = tmp_path / "rates.json"
    monkeypatch.setattr(cost, "RATES", path)
    monkeypatch.setattr(plan, "RATES", path)
    rates = {f"{m.__name__}.py": cost.script_rates(m, PREPARE, FROZEN) for m in cost.SCRIPTS}
    cost.keep(rates)
    for script, of_script in rates.items():
        assert plan.read_rates(script) == of_script
    assert set(json.loads(path.read_bytes())) == {"source", "scripts"}
