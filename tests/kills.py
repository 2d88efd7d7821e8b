"""A training killed again and again, and what its runs end with, for test_kills.py.

    OMP_NUM_THREADS=1 python -m tests.kills FOLDER KILLS [SEED [CASE]]

Starts a training, kills it with signal 9 after a random time, resumes it, and so on to its end,
then begins another one, until it has killed as often as asked. Each must end with the weights, bit
for bit, and the history of a training that nothing broke, and each epoch of what led to them must
have had every clip once. Prints one JSON object; fails where any of that is not so.
"""

import contextlib
import importlib
import io
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from models.mobilenet_v2 import NUM_BLOCKS
from tests.trainings import MadeSets, make_config, make_sets
from training.checkpoint import load_state
from training.loop import Trainer
from training.phases import Phase
from training.run_log import RunLog
from training.step import Step
from training.weights import new_model
from utils.config import Config
from utils.dataset import Batch

EPOCHS = 3
PHASES = [Phase("heads", 0, 2, 0, 1), Phase("fine-tune", 2, EPOCHS, 1, 1)]
CASES = {  # constants and phases
    "late_fusion": ({}, PHASES),
    "lrcn": ({"model": "lrcn", "lstm_size": 16}, PHASES),
    "conv": (
        {"model": "lrcn", "encoder": "conv", "lstm_size": 16},
        [Phase("from scratch", 0, EPOCHS, NUM_BLOCKS, 1)],
    ),
}
# Minutes between savings: at each step, now and then, and at the end of epochs alone.
INTERVALS = (0.0, 0.003, 60.0)
CLOCK = ("seconds", "clips_per_second", "wait_fraction")


def train(folder: Path, config: Config, phases: list[Phase], sets: MadeSets, trace: Path) -> None:
    """Goes on with the run in `folder`, or begins one there, and says in `trace` what is done."""
    if folder.exists():
        run = RunLog.open(folder)
    else:
        run = RunLog.create(config, "kills.py", torch.device("cpu"))
        os.rename(run.folder, folder)
        run = RunLog.open(folder)
    trainer = Trainer(
        new_model(config, 2, None),
        *(sets.train_set, sets.val_set, config),
        description={},
        embeddings=sets.embeddings if phases[0].name == "heads" else None,
        run=run,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        trainer.resume(folder)
        with open(trace, "a", buffering=1) as file:
            progress = trainer.progress
            file.write(json.dumps(["from", progress.epoch, progress.position, []]) + "\n")
            note_steps(sets, file)
            trainer.fit(phases)


def note_steps(sets: MadeSets, file: io.TextIOBase) -> None:
    """Each step writes a line: epoch, position, and the clips in it, known by their sound."""
    dataset = sets.train_set
    clip_of = {
        row.tobytes(): clip.key
        for clip in dataset.clips
        for row in np.asarray(dataset.store.get(clip.key, "mfcc"))
    }
    run = Step.run

    def noted(self: Step, batch: Batch, position: tuple[int, ...], first_row: int) -> torch.Tensor:
        clips = [clip_of[row.numpy().astype(np.float16).tobytes()] for row in batch.mfcc[:, 0]]
        result = run(self, batch, position, first_row)
        file.write(json.dumps(["step", *position[1:], clips]) + "\n")
        return result

    Step.run = noted


def fork(work: Callable[[], None]) -> int:
    """A child's process number. Forked, since importing torch for each takes seconds."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def outcome(folder: Path) -> tuple[list[dict], dict[str, torch.Tensor]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    history = [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in lines]
    state = load_state(folder / "last.ckpt")["model"]
    return history, state | {
        f"best {name}": tensor for name, tensor in load_file(folder / "best.safetensors").items()
    }


def check_same(found: Path, expected: Path) -> None:
    (history, tensors), (expected_history, expected_tensors) = outcome(found), outcome(expected)
    assert history == expected_history
    assert tensors.keys() == expected_tensors.keys()
    different = [name for name, t in tensors.items() if not t.equal(expected_tensors[name])]
    assert not different, different


def check_every_clip_once(trace: Path, sets: MadeSets) -> int:
    """The number of steps whose effect was lost and that were done again."""
    lineage: list[list] = []
    repeated = 0
    for line in trace.read_text().splitlines():
        what, epoch, position, clips = json.loads(line)
        if what == "from":  # what was done after this was saved died with its process
            kept = [step for step in lineage if (step[0], step[1]) < (epoch, position)]
            repeated += len(lineage) - len(kept)
            lineage = kept
        else:
            lineage.append([epoch, position, clips])
    for epoch in range(EPOCHS):
        seen = Counter(clip for step in lineage if step[0] == epoch for clip in step[2])
        assert seen == {clip.key: 1 for clip in sets.train_set.clips}, (epoch, seen)
    return repeated


def main() -> None:
    folder, wanted = Path(sys.argv[1]), int(sys.argv[2])
    chance = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    constants, phases = CASES[sys.argv[4] if len(sys.argv) > 4 else "late_fusion"]
    (folder / "runs").mkdir(parents=True)
    for name in ("sklearn.metrics", "scipy.optimize", "torch._dynamo"):
        importlib.import_module(name)  # a training does it late, and here each would
    settings = {"epochs": EPOCHS, "batch_size": 2, "head_learning_rate": 0.003, "train_frames": 4}
    config = make_config(folder, **settings, **constants)
    sets = make_sets(config, counts=(10, 10))
    started = time.monotonic()
    unbroken = folder / "unbroken"
    _, status = os.waitpid(fork(lambda: train(unbroken, config, phases, sets, folder / "trace")), 0)
    assert status == 0
    seconds = time.monotonic() - started
    check_every_clip_once(folder / "trace", sets)

    kills, runs, repeated, killed_in = 0, 0, 0, Counter()
    while kills < wanted:
        runs += 1
        run, trace, status = folder / f"run {runs}", folder / f"trace {runs}", -1
        while status != 0:
            now = replace(config, checkpoint_minutes=chance.choice(INTERVALS))
            child = fork(lambda c=now, r=run, t=trace: train(r, c, phases, sets, t))
            if kills < wanted:
                time.sleep(chance.uniform(0, seconds))
                os.kill(child, signal.SIGKILL)  # which is too late where it is done already
            _, status = os.waitpid(child, 0)
            assert status in (0, signal.SIGKILL), status
            if status != 0:
                kills += 1
                done = trace.read_text().splitlines() if trace.exists() else []
                where = f"epoch {json.loads(done[-1])[1] + 1}" if done else "the start"
                killed_in[where] += 1
        check_same(run, unbroken)
        repeated += check_every_clip_once(trace, sets)
    print(
        json.dumps(
            {"kills": kills, "runs": runs, "steps_repeated": repeated, "killed_in": killed_in}
        )
    )


if __name__ == "__main__":
    main()
