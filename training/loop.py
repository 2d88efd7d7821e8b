"""Loop: epochs over clips, from batches to the best weights."""

import hashlib
import math
import shlex
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from training.checkpoint import load_state, save_checkpoint, save_state
from training.device import amp_dtype
from training.distributed import Ranks
from training.embedding import MemoryStore
from training.evaluation import evaluate_scores, fit_temperature
from training.phases import Phase, clips_per_step, learning_rate_factor, rate_constant
from training.progress import Progress, Stop, TrainingError, epoch_line, stop_signal
from training.residence import settle
from training.run_log import RunLog, python_command
from training.scores import score_together
from training.statistics import (
    class_weights,
    mfcc_statistics,
    pool_pictures,
    pooled_statistics,
)
from training.step import ClassWeights, Step
from utils.config import Config
from utils.dataset import ClipDataset, TrainingBatches
from utils.errors import Interrupted
from utils.feature_store import FeatureStore
from utils.memory import keep_freed_memory

STEPS_AHEAD = 8  # that a GPU may have queued before the loss of the first of them is read


class Trainer:
    """Trains one model; `fit` goes through the phases and leaves the best weights in it.

    In the phase "heads" the datasets are read from `embeddings`. With a `run`, its last.ckpt,
    best.safetensors, metrics.jsonl and run.log are kept current. Without a `val_set` the last
    weights count as the best. `description` is what data.json holds. Of several `ranks` each gets
    the same arguments, except that only the first has a run, and all end with the same weights.
    """

    def __init__(
        self,
        model: nn.Module,
        train_set: ClipDataset,
        val_set: ClipDataset | None,
        config: Config,
        *,
        description: dict | None = None,
        embeddings: FeatureStore | MemoryStore | None = None,
        run: RunLog | None = None,
        ranks: Ranks | None = None,
    ):
        self.model = model
        self.description = description
        self.embeddings = embeddings
        self.train_set = train_set
        self.val_set = val_set
        self.config = config
        self.device = next(model.parameters()).device
        self.run = run
        self.ranks = ranks or Ranks()
        self.amp = amp_dtype(self.device, config.mixed_precision)
        self.progress = Progress()
        self.best_weights = _copy_weights(model)
        weights = (class_weights(train_set, with_sound=with_sound) for with_sound in (False, True))
        self._class_weights = ClassWeights(*weights)
        self._resumed: dict | None = None
        self._saved_at = time.monotonic()

    @property
    def trunk_is_frozen(self) -> bool:
        """Whether `embeddings` are still those of the model's trunk."""
        return all(row["phase"] == "heads" for row in self.progress.history)

    def resume(self, folder: Path, notes: Sequence[str] = ()) -> None:
        """Takes up the run where its last.ckpt was written, or at the start where none was yet.

        `notes` say which constants are others now. Raises TrainingError for other videos or
        another trunk.
        """
        if (folder / "last.ckpt").exists():
            self._load(folder)
        else:
            self._say("nothing was learned yet: training begins from the start")
        for note in notes:
            self._say(note)
        if self.run is not None and notes:
            constants = {"constants": self.config.constants()}
            self.run.write_json("config.json", self.run.read_json("config.json") | constants)

    def fit(self, phases: list[Phase]) -> None:
        """Trains until the last phase ends, or early stopping ends it, then loads the best weights.

        Raises Interrupted after Ctrl-C or SIGTERM, with everything saved.
        """
        keep_freed_memory()
        self._check_alike()
        if self._resumed is None:
            self._set_statistics()
        elif self._resumed["phase"] not in (names := [phase.name for phase in phases]):
            raise TrainingError(
                f"the run was in the phase {self._resumed['phase']!r}, which is not planned now "
                f"({', '.join(names)}): go on with the same weights and on a machine that has a "
                "GPU if the first had one, or start a new run"
            )
        # Without a run there is nothing to save: Ctrl-C then just ends the process.
        several = self.ranks.size > 1
        with stop_signal(patient=several) if self.run or several else nullcontext(Stop()) as stop:
            for phase in phases:
                if self.progress.epoch < phase.last_epoch:
                    self._fit_phase(phase, stop)
        self.model.load_state_dict(self.best_weights)
        self.model.eval()

    def how_to_go_on(self) -> str:
        """What to say to a person who stopped this training."""
        if self.run is None:
            return "stopped with the first process, which saved everything"
        command = python_command()
        if self.ranks.size > 1:
            command += f" -m torch.distributed.run --standalone --nproc-per-node {self.ranks.size}"
        return (
            f"stopped after {self.progress.epoch} of {self.config.epochs} epochs, everything is "
            f"saved. Go on with: {command} {self.run.script} "
            f"--resume {shlex.quote(str(self.run.folder))}"
        )

    def _check_alike(self) -> None:
        """Raises TrainingError where another process holds other clips or weights."""
        digest = hashlib.sha256(self.clips_id().encode())
        for tensor in self.model.state_dict().values() if self.ranks.size > 1 else ():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        own = int(digest.hexdigest()[:8], 16)
        if self.ranks.sum([own]) != [own * self.ranks.size]:
            raise TrainingError(
                "the processes hold different clips or weights: give all machines the same videos "
                "and the same --weights FILE"
            )

    def _load(self, folder: Path) -> None:
        state = load_state(folder / "last.ckpt")
        if state["clips"] != self.clips_id():
            raise TrainingError(f"the videos changed since {folder.name} began: start a new run")
        trunk = self.model.video_encoder.state_dict(prefix="video_encoder.")
        if state["phase"] == "heads" and not all(
            tensor.cpu().equal(state["model"][name]) for name, tensor in trunk.items()
        ):
            raise TrainingError(
                f"the pretrained weights are not those that {folder.name} began with: "
                "bring those back, or start a new run"
            )
        self.progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        self.best_weights = state["best"]
        self._resumed = state

    def _set_statistics(self) -> None:
        """Gives the model the training set's mean and deviation of what its halves are fed."""
        pooled = None
        if self.embeddings is not None:
            pooled = pooled_statistics(self.train_set.read_from(self.embeddings))
        self.model.set_statistics(pooled, mfcc_statistics(self.train_set))
        self.best_weights = _copy_weights(self.model)

    def _fit_phase(self, phase: Phase, stop: Stop) -> None:
        progress, config = self.progress, self.config
        if progress.epoch == phase.first_epoch and progress.position == 0:
            self.model.load_state_dict(self.best_weights)
            progress.stale_epochs = 0
        step, batches = self._prepare(phase)
        if self._resumed and self._resumed["phase"] == phase.name:
            step.load_state_dict(self._resumed)
        self._resumed = None
        while progress.epoch < phase.last_epoch:
            if self._train_one_epoch(phase, batches, step, stop):
                self._end_epoch(phase, step.optimizer.param_groups[0]["lr"])
                if config.patience <= progress.stale_epochs and progress.epoch < phase.last_epoch:
                    stale = progress.stale_epochs
                    self._say(f"no better for {stale} epochs: {phase.name} ends here")
                    progress.epoch = phase.last_epoch
            self._save(phase, step)
            if any(self._agreed(stop.requested)):
                raise Interrupted(self.how_to_go_on())

    def _prepare(self, phase: Phase) -> tuple[Step, TrainingBatches]:
        """The phase's step, and its batches, read from the best place there is for them."""
        config, ranks = self.config, self.ranks
        train_set = self.train_set
        if phase.blocks == 0:
            train_set = train_set.read_from(self.embeddings)
        train_set, where, rows = settle(train_set, self.device)
        self.model.video_encoder.train_last_blocks(phase.blocks)
        if config.compile and phase.blocks:
            self.model.video_encoder.features.compile()
        clips = clips_per_step(phase, config, phase.draws * len(train_set) // ranks.size)
        self._say_parallel(phase, where, clips)
        step = Step(
            self.model,
            phase,
            config,
            self._class_weights,
            amp=self.amp,
            ranks=ranks,
            pictures=rows and rows.pictures,
            micro_batch=self.progress.micro_batch or clips,
            say=self._say,
        )
        pools_early = phase.blocks == 0 and rows is None and not self.model.order_matters
        batches = TrainingBatches(
            train_set,
            clips * ranks.size,
            train_frames=self._train_frames(phase),
            draws=phase.draws,
            seed=config.seed,
            rank=ranks.rank,
            size=ranks.size,
            pin=self.device.type == "cuda",
            even=self.model.order_matters,
            finish=pool_pictures if pools_early else None,
        )
        return step, batches

    def _train_frames(self, phase: Phase) -> int:
        """Frames of a span that are looked at: where their order matters, as many as ever are."""
        config = self.config
        if self.model.order_matters:
            return config.sequence_frames
        return config.scratch_frames if phase.name == "from scratch" else config.train_frames

    def _say_parallel(self, phase: Phase, where: str, clips: int) -> None:
        if self.device.type != "cuda" and self.ranks.size == 1:
            return
        each = f", {clips} clips a step" + (
            f" in each of {self.ranks.size} processes" if self.ranks.size > 1 else ""
        )
        precision = str(self.amp or torch.float32).removeprefix("torch.")
        self._say(f"{phase.name:<11} {where}{each}, {precision}")

    def _train_one_epoch(
        self, phase: Phase, batches: TrainingBatches, step: Step, stop: Stop
    ) -> bool:
        """Goes on to the end of the epoch (True), or to a request to stop (False)."""
        config, progress = self.config, self.progress
        self.model.train()
        self.model.video_encoder.freeze_statistics(phase.name != "from scratch")
        total = (phase.last_epoch - phase.first_epoch) * batches.num_clips
        done_before = (progress.epoch - phase.first_epoch) * batches.num_clips
        clock, waited = time.perf_counter(), batches.wait_seconds
        pending: list[torch.Tensor] = []
        bar = tqdm(
            total=batches.num_clips,
            initial=progress.position,
            desc=f"{phase.name} {progress.epoch + 1}/{config.epochs}",
            unit="clip",
            leave=False,
            disable=self.run is None,
        )
        with bar:
            for batch in batches.epoch(progress.epoch, progress.position):
                factor = learning_rate_factor((done_before + progress.position) / total, config)
                for group in step.optimizer.param_groups:
                    group["lr"] = group["peak_lr"] * factor
                position = progress.position
                first_row = batches.own_part(position).start - position
                pending.append(step.run(batch, (config.seed, progress.epoch, position), first_row))
                progress.position = min(position + batches.batch_size, batches.num_clips)
                now, wait_seconds = time.perf_counter(), batches.wait_seconds
                progress.epoch_seconds += now - clock
                progress.wait_seconds += wait_seconds - waited
                clock, waited = now, wait_seconds

                stops, saves = self._agreed(stop.requested, self._is_time_to_save())
                is_last = progress.position == batches.num_clips
                if stops or saves or is_last or len(pending) >= self._steps_ahead:
                    self._read_totals(phase, pending)
                    bar.set_postfix_str(f"loss {progress.loss_sum / progress.position:.3f}", False)
                bar.update(progress.position - position)
                if saves and not stops and not is_last:
                    self._save(phase, step)
                if stops:
                    return False
        return True

    @property
    def _steps_ahead(self) -> int:
        return STEPS_AHEAD if self.device.type == "cuda" else 1

    def _read_totals(self, phase: Phase, pending: list[torch.Tensor]) -> None:
        """Adds to the progress what the steps found, which waits for the device to do them."""
        totals = iter(self.ranks.sum(torch.stack(pending).flatten().tolist()))
        pending.clear()
        for loss, correct in zip(totals, totals, strict=True):
            self.progress.loss_sum += loss
            self.progress.correct += int(correct)
        if not math.isfinite(self.progress.loss_sum):
            raise TrainingError(
                f"the loss became {self.progress.loss_sum} in epoch {self.progress.epoch + 1}: "
                f"lower --{rate_constant(self.model, phase).replace('_', '-')}"
            )

    def _end_epoch(self, phase: Phase, learning_rate: float) -> None:
        """Validates, keeps the weights if they are the best, says and records the epoch."""
        progress, val_set, clips = self.progress, self.val_set, self.progress.position
        row = {
            "phase": phase.name,
            "epoch": progress.epoch + 1,
            "epochs": self.config.epochs,
            "learning_rate": learning_rate,
            "train_loss": progress.loss_sum / clips,
            "train_accuracy": progress.correct / clips,
            "seconds": progress.epoch_seconds,
            "clips_per_second": clips / progress.epoch_seconds,
            "wait_fraction": progress.wait_seconds / progress.epoch_seconds,
        }
        progress.end_epoch()
        if val_set is None:
            self.best_weights = _copy_weights(self.model)
            return
        if phase.blocks == 0:
            val_set = val_set.read_from(self.embeddings)
        scores = score_together(self.model, val_set, self.ranks, self.amp, embed=phase.blocks > 0)
        # The loss of the calibrated network, for so it is used: over-confidence is mended later.
        temperature = fit_temperature(scores.logits, scores.labels)
        judged = evaluate_scores(scores, val_set.classes, temperature)
        best = judged["nll"] < progress.best_loss
        progress.stale_epochs = 0 if best else progress.stale_epochs + 1
        row |= {
            "val_loss": judged["nll"],
            "val_accuracy": judged["accuracy"],
            "val_balanced_accuracy": judged["balanced_accuracy"],
            "val_auc": judged["auc"],
            "best": best,
        }
        progress.history.append(row)
        self._say(epoch_line(row))
        if best:
            progress.best_loss, progress.best_epoch = judged["nll"], row["epoch"]
            self.best_weights = _copy_weights(self.model)
            self.save_best(temperature, judged)

    def _agreed(self, *wishes: bool) -> list[bool]:
        """For each wish whether any process has it: all must take the same steps."""
        return [wanted > 0 for wanted in self.ranks.sum(wishes)]

    def _is_time_to_save(self) -> bool:
        seconds = time.monotonic() - self._saved_at
        return self.run is not None and seconds >= 60 * self.config.checkpoint_minutes

    def _save(self, phase: Phase, step: Step) -> None:
        if step.micro_batch < self.config.batch_size:
            self.progress.micro_batch = step.micro_batch
        if self.run is None:
            return
        state = {
            "model": self.model.state_dict(),
            "best": self.best_weights,
            **step.state_dict(),
            "phase": phase.name,
            "progress": asdict(self.progress),
            "clips": self.clips_id(),
        }
        # The state comes last: what it says is done is never done, nor written, again.
        self.run.write_metrics(self.progress.history)
        save_state(self.run.path("last.ckpt"), state)
        self._saved_at = time.monotonic()

    def _say(self, line: str) -> None:
        if self.run is not None:
            self.run.say(line)

    def save_best(self, temperature: float, metrics: dict, thresholds: dict | None = None) -> None:
        """Writes the model as it is to best.safetensors, with all that belongs to it."""
        if self.run is None:
            return
        recipe = {
            "classes": self.train_set.classes,
            "feature_spec": self.train_set.spec.to_dict(),
            "clip_seconds": self.config.clip_seconds,
            "temperature": temperature,
            "thresholds": thresholds,
            "constants": self.config.constants(),
            "data": self.description,
            "clips_id": self.clips_id(),
            "metrics": metrics,
        }
        save_checkpoint(self.run.path("best.safetensors"), self.model, recipe)

    def clips_id(self) -> str:
        """16 hex digits that change with any clip of either side, its span or its label."""
        digest = hashlib.sha256()
        for dataset in (self.train_set, self.val_set):
            for clip in dataset.clips if dataset else []:
                digest.update(
                    f"{clip.key} {clip.start_seconds} {clip.end_seconds} {clip.label}\n".encode()
                )
            digest.update(b"--")
        return digest.hexdigest()[:16]


def _copy_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
