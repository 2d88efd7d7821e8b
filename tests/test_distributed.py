"""Several processes train as one would on the same batches, and end together."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.ranks import CASES, WatchedRanks, train
from tests.trainings import ROOT
from training.distributed import RankError, Ranks, join_ranks


def torchrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, "--nproc-per-node", "2", "--module", "tests.ranks", folder, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """What two processes left of each case."""
    folder = tmp_path_factory.mktemp("two")
    done = torchrun(folder)
    assert done.returncode == 0, done.stderr
    # The first alone speaks.
    assert "process 0 is done" in done.stdout
    assert "process 1 is done" not in done.stdout
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one_does_on_the_same_batches(case, shared, tmp_path):
    folder = shared / case
    alone = train(case, tmp_path, WatchedRanks())
    gradients = load_file(folder / "gradients.safetensors")
    assert len(gradients) == len(alone.ranks.gradients) >= 2
    # Later steps have different weights already, by what the order of a sum makes of them.
    found, expected = gradients["0000"], alone.ranks.gradients[0]
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    for step, expected in enumerate(alone.ranks.gradients):
        scale = float(expected.norm())
        assert float((gradients[f"{step:04d}"] - expected).norm()) < 0.02 * scale, step
    history = json.loads((folder / "history.json").read_text())
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_auc")
    for row, other in zip(history, alone.progress.history, strict=True):
        for name in names:
            assert row[name] == pytest.approx(other[name], rel=2e-3), name
    weights = load_file(folder / "weights.safetensors")
    for name, tensor in alone.model.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-2, atol=2e-4)
    # The first alone wrote: one run, with one line an epoch.
    runs = [path for path in (folder / "runs").iterdir() if not path.is_symlink()]
    assert len(runs) == 1
    said = (runs[0] / "run.log").read_text().splitlines()
    assert len([line for line in said if "val loss" in line]) == len(history)
    assert any("3 clips a step in each of 2 processes" in line for line in said)


@pytest.mark.slow
def test_process_that_fails_ends_all_with_its_message(tmp_path):
    done = torchrun(tmp_path, "broken")
    assert done.returncode != 0
    assert "error: the second process met its end" in done.stderr
    assert "is done" not in done.stdout
    assert not list(tmp_path.rglob("weights.safetensors"))


def test_one_process_sends_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = join_ranks()
    assert ranks == Ranks()
    assert ranks.is_first
    assert ranks.sum([1.5, 2]) == [1.5, 2]
    entered = []
    with ranks.in_turn():
        entered.append(True)
    assert entered == [True]
    layer = torch.nn.Linear(2, 2)
    ranks.sum_gradients(layer.parameters())
    assert layer.weight.grad is None
    ranks.leave()
    assert not torch.distributed.is_initialized()


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RankError, match="pass --nproc-per-node 1 to torchrun"):
        join_ranks()
