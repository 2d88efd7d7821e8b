"""Short training: what the real scripts do to their files and signals, without learning anything.

For tests of what is around a training: it starts in a tenth of a second, imports nothing but
Python's own, takes the flags that are needed there, and writes the files of a run by their names.
What it "learns" is a chain of hashes, a link a step: who lost a step, or did one twice, ends
elsewhere. `final_state` says where.

    python short_train.py --data-dir s3://bucket/data --runs-dir runs --epochs 5 [--resume RUN]
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from datetime import datetime
from hashlib import sha256
from pathlib import Path

EPOCHS = 6
EPOCH_SECONDS = 0.25
STEPS = 4  # of an epoch
NEVER = 10**9


def final_state(epochs: int = EPOCHS) -> str:
    """What a training ends with that nothing went wrong in, or was resumed exactly."""
    state = "begin"
    for epoch in range(epochs):
        for step in range(STEPS):
            state = next_state(state, epoch, step)
    return state


def next_state(state: str, epoch: int, step: int) -> str:
    return sha256(f"{state} {epoch} {step}".encode()).hexdigest()


class Run:
    """The folder of one training."""

    def __init__(self, folder: Path, options: argparse.Namespace):
        self.folder, self.options = folder, options
        self.epoch, self.step, self.state = 0, 0, "begin"
        self.history: list[dict] = []
        self.stopped = threading.Event()
        self.ended = threading.Event()

    def begin(self) -> None:
        self.folder.mkdir(parents=True)
        constants = {"EPOCHS": self.options.epochs, "DATA_DIR": self.options.data_dir}
        self.write(
            "config.json",
            {
                "script": Path(__file__).name,
                "started": datetime.now().astimezone().isoformat(timespec="seconds"),
                "constants": constants,
            },
        )
        self.write("data.json", {"classes": ["ads", "games"]})
        self.write("rejected.csv", "path,reason\n")
        link = self.folder.parent / f".latest-{os.getpid()}"
        link.symlink_to(self.folder.name)
        os.replace(link, self.folder.parent / "latest")
        self.say(f"run         {self.folder}")

    def resume(self) -> None:
        path = self.folder / "last.ckpt"
        if not path.exists():
            self.say("nothing was learned yet: training begins from the start")
            return
        saved = json.loads(path.read_text())
        self.epoch, self.step, self.state = saved["epoch"], saved["step"], saved["state"]
        self.history = saved["history"]
        self.say(f"resumed     at epoch {self.epoch}, step {self.step}")

    def train(self) -> None:
        """Raises KeyboardInterrupt where it was told to stop, with everything saved."""
        while self.epoch < self.options.epochs:
            self.misbehave()
            started = time.monotonic()
            while self.step < STEPS:
                time.sleep(self.options.epoch_seconds / STEPS)
                self.state = next_state(self.state, self.epoch, self.step)
                self.step += 1
                if self.stopped.is_set():
                    self.save()
                    raise KeyboardInterrupt
            self.end_epoch(time.monotonic() - started)

    def end_epoch(self, seconds: float) -> None:
        self.epoch, self.step = self.epoch + 1, 0
        loss = round(1 / (1 + self.epoch), 4)
        row = {
            "epoch": self.epoch,
            "epochs": self.options.epochs,
            "phase": "heads",
            "seconds": seconds,
            "clips_per_second": 10.0,
            "train_loss": loss,
            "val_loss": loss,
            "val_auc": 1 - loss / 10,
            "best": True,
            "state": self.state,
            "time": time.time(),
        }
        self.history.append(row)
        self.say(f"epoch {self.epoch}/{self.options.epochs}  loss {loss}")
        self.write("best.safetensors", self.state)
        events = self.folder / "tensorboard" / "events.out.tfevents.short"  # grows, in a folder
        events.parent.mkdir(exist_ok=True)
        with events.open("a") as file:
            file.write(f"{self.epoch}\n")
        self.save()

    def save(self) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in self.history)
        self.write("metrics.jsonl", lines)
        state = {"epoch": self.epoch, "step": self.step, "state": self.state}
        self.write("last.ckpt", state | {"history": self.history})

    def finish(self) -> None:
        self.write("predictions.csv", "recording,label,ads\n")
        self.write("metrics.json", {"auc": 0.99, "state": self.state})
        self.write("report.html", f"<html>{self.state}</html>\n")
        self.say(f"report      {self.folder / 'report.html'}")

    def misbehave(self) -> None:
        options = self.options
        if self.epoch == options.hang_at:
            while True:  # a dead lock: it hears signals and does nothing about them
                time.sleep(60)
        if self.epoch == options.spin_at:
            while True:
                pass
        if self.epoch == options.fail_at:
            raise ValueError("a mistake in the training")

    def write(self, name: str, content: dict | str) -> None:
        """Whole or not at all, as the real ones write."""
        text = content if isinstance(content, str) else json.dumps(content) + "\n"
        temporary = self.folder / f".{name}.{os.getpid()}.partial"
        full = self.epoch >= self.options.disk_full_at
        with open("/dev/full" if full else temporary, "w") as file:  # where any write fails
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.folder / name)

    def say(self, line: str) -> None:
        print(line, flush=True)
        with open(self.folder / "run.log", "a") as log:
            log.write(line + "\n")

    def monitor(self) -> None:
        """Lines about the machine, which go on while the training hangs."""
        path, seconds = self.folder / "monitor.jsonl", 0.0
        while not self.ended.wait(0.2):
            seconds += 0.2
            with path.open("a") as file:
                line = {"seconds": round(seconds, 2), "cpu_percent": 50.0, "gpus": []}
                file.write(json.dumps(line) + "\n")

    def write_end(self, state: str, reason: str = "") -> None:
        line = {"ended": state} | ({"reason": reason} if reason else {})
        with (self.folder / "monitor.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def main() -> int:
    options = _options()
    if options.resume:
        folder = options.resume.resolve()
        if not (folder / "config.json").exists():
            print(f"error: {options.resume} is not the folder of a run", file=sys.stderr)
            return 1
        run = Run(folder, options)
    else:
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        run = Run(options.runs_dir / f"{stamp}-{Path(__file__).stem}", options)
        run.begin()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: run.stopped.set())
    threading.Thread(target=run.monitor, daemon=True).start()
    return _train(run)


def _train(run: Run) -> int:
    try:
        if run.options.resume:
            run.resume()
        run.train()
        run.finish()
    except KeyboardInterrupt:
        reason = f"stopped after {run.epoch} of {run.options.epochs} epochs, everything is saved"
        run.write_end("interrupted", reason)
        print(f"\n{reason}", file=sys.stderr)
        return 130
    except (OSError, ValueError) as error:
        run.write_end("failed", str(error))
        full = "the disk is full: free some space and run again, a training with --resume"
        print(f"error: {full if isinstance(error, OSError) else error}", file=sys.stderr)
        return 1
    run.ended.set()
    run.write_end("finished")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--cache-dir", type=Path, default=Path("cache"))
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--resume", nargs="?", type=Path, const=Path("runs", "latest"))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--epoch-seconds", type=float, default=EPOCH_SECONDS)
    for fault in ("--hang-at", "--spin-at", "--fail-at", "--disk-full-at"):
        parser.add_argument(fault, type=int, default=NEVER, metavar="EPOCH")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
