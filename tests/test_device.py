"""Randomness is a function of a position, and precision one of the device."""

import pytest
import torch

from training.device import amp_dtype, autocast, choose_device, describe_device, seed_step

CPU = torch.device("cpu")


def draws(*position: int) -> list[float]:
    generator = seed_step(*position)
    return [*torch.rand(3, generator=generator).tolist(), *torch.rand(3).tolist()]


def test_same_position_draws_the_same_whatever_was_drawn_before():
    first = draws(42, 3, 1)
    torch.rand(100)
    assert draws(42, 3, 1) == first


def test_every_part_of_the_position_counts():
    positions = [(42, 3, 1), (43, 3, 1), (42, 4, 1), (42, 3, 2), (42, 1, 3), (42,), (42, 3)]
    assert len({tuple(draws(*position)) for position in positions}) == len(positions)


def test_gpu_is_seeded_where_one_is_in_use(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    seed_step(42, 1)
    assert seeds == []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    seed_step(42, 1)
    assert seeds == [torch.initial_seed()]


def test_largest_seed_is_taken():
    assert draws(2**32 - 1, 10_000, 10**6) == draws(2**32 - 1, 10_000, 10**6)


def test_processor_runs_in_full_precision():
    assert amp_dtype(CPU, mixed_precision=True) is None
    with autocast(CPU, None):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_mixed_precision_runs_in_the_type_asked_for():
    with autocast(CPU, torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("has_bfloat16", "wanted", "expected"),
    [(True, True, torch.bfloat16), (False, True, torch.float16), (True, False, None)],
)
def test_gpu_uses_bfloat16_where_it_has_it(monkeypatch, has_bfloat16, wanted, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    assert amp_dtype(torch.device("cuda"), wanted) is expected


@pytest.mark.parametrize(("available", "expected"), [(True, "cuda"), (False, "cpu")])
def test_gpu_is_chosen_where_there_is_one(monkeypatch, available, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert choose_device().type == expected


def test_processor_is_described_with_its_threads():
    assert describe_device(CPU) == f"CPU, {torch.get_num_threads()} threads"
