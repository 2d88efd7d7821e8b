"""A training that several processes share, as torchrun starts it, for test_distributed.py.

    torchrun --nproc-per-node 2 --module tests.ranks FOLDER [broken]

Trains each case in a folder of its own. With "broken" the second process fails.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from models.mobilenet_v2 import NUM_BLOCKS
from tests.trainings import make_config, make_sets
from training.distributed import Ranks, join_ranks
from training.loop import Trainer
from training.phases import Phase
from training.run_log import RunLog
from training.step import Step
from training.weights import new_model
from utils.errors import UserError, run_main

HEADS = [Phase("heads", 0, 2, 0, 1)]
LRCN = {"model": "lrcn", "lstm_size": 16, "lstm_learning_rate": 0.003}
CASES = {  # constants and phases
    "heads": ({}, HEADS),
    "fine-tune": ({}, [Phase("fine-tune", 0, 1, 2, 1)]),
    "lrcn": (LRCN, HEADS),
    "conv": ({**LRCN, "encoder": "conv"}, [Phase("from scratch", 0, 1, NUM_BLOCKS, 1)]),
}
CLIPS_A_STEP = 6  # of the 7 there are: the last step has one, and a process without any


class WatchedRanks(Ranks):
    """Ranks that keep the gradients of each step."""

    def sum_gradients(self, parameters) -> None:
        parameters = list(parameters)
        super().sum_gradients(parameters)
        learning = [p.grad.flatten() for p in parameters if p.requires_grad]
        vars(self).setdefault("gradients", []).append(torch.cat(learning))


def train(case: str, folder: Path, ranks: WatchedRanks) -> Trainer:
    """Without anything random that depends on who looks at a clip."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    constants, phases = CASES[case]
    settings = {"dropout": 0, "modality_dropout": 0, "train_frames": 4, "epochs": 2}
    batch_size = CLIPS_A_STEP // ranks.size
    settings |= {"batch_size": batch_size, "head_learning_rate": 0.003}
    config = make_config(folder, **settings, **constants)
    with ranks.in_turn():
        sets = make_sets(config, counts=(7, 7))
    trainer = Trainer(
        new_model(config, 2, None),
        sets.train_set,
        sets.val_set,
        config,
        description={},
        embeddings=sets.embeddings if phases[0].name == "heads" else None,
        run=RunLog.create(config, "ranks.py", torch.device("cpu")) if ranks.is_first else None,
        ranks=ranks,
    )
    trainer.fit(phases)
    return trainer


def keep(trainer: Trainer, folder: Path) -> None:
    """Writes what a training ended with."""
    weights = {name: t.contiguous() for name, t in trainer.model.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    gradients = {f"{step:04d}": g for step, g in enumerate(trainer.ranks.gradients)}
    save_file(gradients, folder / "gradients.safetensors")
    (folder / "history.json").write_text(json.dumps(trainer.progress.history))


def break_second_step() -> None:
    run, calls = Step.run, []

    def broken(self, *arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise UserError("the second process met its end")
        return run(self, *arguments)

    Step.run = broken


def main() -> int:
    folder = Path(sys.argv[1])
    ranks = WatchedRanks(**asdict(join_ranks()))
    if "broken" in sys.argv and not ranks.is_first:
        break_second_step()
    for case in CASES:
        trainer = train(case, folder / case, replace(ranks))
        if ranks.is_first:
            keep(trainer, folder / case)
    ranks.leave()
    print(f"process {ranks.rank} is done")
    return 0


if __name__ == "__main__":
    run_main(main)
