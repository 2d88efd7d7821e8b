"""Loop: epochs over clips, from batches to the best weights."""

import hashlib
import math
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from models.encoders import pool_mean_std
from training.checkpoint import load_state, save_checkpoint, save_state
from training.device import amp_dtype, autocast, seed_step
from training.embedding import MemoryStore, embed_recordings
from training.evaluation import ClipScores, evaluate_scores, fit_temperature
from training.phases import RATES, Phase, learning_rate_factor, make_optimizer
from training.run_log import RunLog, python_command
from utils.augmentation import augment_frames, mask_mfcc
from utils.config import Config
from utils.dataset import Batch, ClipDataset, TrainingBatches, whole_batches
from utils.errors import Interrupted, UserError
from utils.feature_store import FeatureStore

EVALUATION_BATCH = 64  # clips, of embeddings
MAX_GRADIENT_NORM = 1.0
HALVES_LOSS = 0.3  # weight of the loss of either half alone, beside that of both


@dataclass
class Progress:
    """Where a training stands: beside weights and optimizer, all that resuming needs."""

    epoch: int = 0
    step: int = 0  # steps done in this epoch
    loss_sum: float = 0.0  # over this epoch's clips so far
    correct: int = 0
    clips: int = 0
    epoch_seconds: float = 0.0
    wait_seconds: float = 0.0
    total_seconds: float = 0.0
    total_wait_seconds: float = 0.0
    best_loss: float = math.inf
    best_epoch: int = 0
    stale_epochs: int = 0
    history: list[dict] = field(default_factory=list)

    def end_epoch(self) -> None:
        self.total_seconds += self.epoch_seconds
        self.total_wait_seconds += self.wait_seconds
        self.epoch, self.step = self.epoch + 1, 0
        self.loss_sum, self.correct, self.clips = 0.0, 0, 0
        self.epoch_seconds, self.wait_seconds = 0.0, 0.0


class TrainingError(UserError):
    """The loss is no number any more, or the run can't be gone on with."""


class Trainer:
    """Trains one model; `fit` goes through the phases and leaves the best weights in it.

    In the phase "heads" the datasets are read from `embeddings`. With a `run`, its last.ckpt,
    best.safetensors, metrics.jsonl and run.log are kept current, and `resume` goes on from there.
    Without a `val_set` the last weights count as the best. `description` is what data.json holds.
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
    ):
        self.model = model
        self.description = description
        self.embeddings = embeddings
        self.train_set = train_set
        self.val_set = val_set
        self.config = config
        self.device = next(model.parameters()).device
        self.run = run
        self.amp = amp_dtype(self.device, config.mixed_precision)
        self.progress = Progress()
        self.best_weights = _copy_weights(model)
        self._class_weights = _class_weights(train_set).to(self.device)
        self._sound_class_weights = _class_weights(train_set, with_sound=True).to(self.device)
        self._resumed: dict | None = None

    @property
    def trunk_is_frozen(self) -> bool:
        """Whether `embeddings` are still those of the model's trunk."""
        return all(row["phase"] == "heads" for row in self.progress.history)

    def resume(self) -> None:
        """Takes up the run where its last.ckpt was written, or at the start where none was yet.

        Raises TrainingError for other videos or another trunk.
        """
        if not self.run.path("last.ckpt").exists():
            self._say("nothing was learned yet: training begins from the start")
            return
        state = load_state(self.run.path("last.ckpt"))
        if state["clips"] != self.clips_id():
            raise TrainingError(
                f"the videos changed since {self.run.folder.name} began: start a new run"
            )
        trunk = self.model.video_encoder.state_dict(prefix="video_encoder.")
        if state["phase"] == "heads" and not all(
            tensor.cpu().equal(state["model"][name]) for name, tensor in trunk.items()
        ):
            raise TrainingError(
                f"the pretrained weights are not those that {self.run.folder.name} began with: "
                "bring those back, or start a new run"
            )
        self.progress = Progress(**state["progress"])
        self.model.load_state_dict(state["model"])
        self.best_weights = state["best"]
        self._resumed = state

    def fit(self, phases: list[Phase]) -> None:
        """Trains until the last phase ends, or early stopping ends it, then loads the best weights.

        Raises Interrupted after Ctrl-C or SIGTERM, with everything saved.
        """
        if self._resumed is None:
            self._set_statistics()
        elif self._resumed["phase"] not in (names := [phase.name for phase in phases]):
            raise TrainingError(
                f"the run was in the phase {self._resumed['phase']!r}, which is not planned now "
                f"({', '.join(names)}): go on with the same weights and on a machine that has a "
                "GPU if the first had one, or start a new run"
            )
        # Without a run there is nothing to save: Ctrl-C then just ends the process.
        with _stop_signal() if self.run else nullcontext(_Stop()) as stop:
            for phase in phases:
                if self.progress.epoch < phase.last_epoch:
                    self._fit_phase(phase, stop)
        self.model.load_state_dict(self.best_weights)
        self.model.eval()

    def how_to_go_on(self) -> str:
        """What to say to a person who stopped this training."""
        return (
            f"stopped after {self.progress.epoch} of {self.config.epochs} epochs, everything is "
            f"saved. Go on with: {python_command()} {self.run.script} "
            f"--resume {shlex.quote(str(self.run.folder))}"
        )

    def _set_statistics(self) -> None:
        """Gives the model the training set's mean and deviation of what its halves are fed."""
        mfcc, pooled = _mfcc_statistics(self.train_set), None
        if self.embeddings is not None:
            batches = whole_batches(self.train_set.read_from(self.embeddings), EVALUATION_BATCH)
            pooled = torch.cat([pool_mean_std(b.video, b.video_mask) for b in batches])
        self.model.set_statistics(pooled, mfcc)
        self.best_weights = _copy_weights(self.model)

    def _fit_phase(self, phase: Phase, stop: "_Stop") -> None:
        progress = self.progress
        if progress.epoch == phase.first_epoch and progress.step == 0:
            self.model.load_state_dict(self.best_weights)
            progress.stale_epochs = 0
        train_set, val_set = self.train_set, self.val_set
        if phase.blocks == 0:
            train_set = train_set.read_from(self.embeddings)
            val_set = val_set and val_set.read_from(self.embeddings)
        self.model.video_encoder.train_last_blocks(phase.blocks)
        optimizer = make_optimizer(self.model, phase, self.config)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == torch.float16)
        if self._resumed and self._resumed["phase"] == phase.name:
            optimizer.load_state_dict(self._resumed["optimizer"])
            scaler.load_state_dict(self._resumed["scaler"])
        self._resumed = None
        config = self.config
        frames = config.scratch_frames if phase.name == "from scratch" else config.train_frames
        batches = TrainingBatches(
            train_set,
            self.config.batch_size,
            train_frames=frames,
            draws=phase.draws,
            seed=self.config.seed,
        )
        while progress.epoch < phase.last_epoch:
            self._train_one_epoch(phase, batches, optimizer, scaler, stop)
            if not stop.requested:
                self._end_epoch(phase, val_set, optimizer.param_groups[0]["lr"])
                if config.patience <= progress.stale_epochs and progress.epoch < phase.last_epoch:
                    stale = progress.stale_epochs
                    self._say(f"no better for {stale} epochs: {phase.name} ends here")
                    progress.epoch = phase.last_epoch
            self._save(phase, optimizer, scaler)
            if stop.requested:
                raise Interrupted(self.how_to_go_on())

    def _train_one_epoch(
        self,
        phase: Phase,
        batches: TrainingBatches,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        stop: "_Stop",
    ) -> None:
        """Steps from `progress.step` to the end of the epoch, or to a request to stop."""
        config, progress = self.config, self.progress
        self.model.train()
        self.model.video_encoder.freeze_statistics(phase.name != "from scratch")
        num_steps = (phase.last_epoch - phase.first_epoch) * len(batches)
        done_before = (progress.epoch - phase.first_epoch) * len(batches)
        started, waited = time.perf_counter(), batches.wait_seconds
        title = f"{phase.name} {progress.epoch + 1}/{config.epochs}"
        bar = tqdm(
            total=len(batches) * config.batch_size,
            initial=progress.step * config.batch_size,
            desc=title,
            unit="clip",
            leave=False,
            disable=self.run is None,
        )
        with bar:
            for batch in batches.epoch(progress.epoch, progress.step):
                generator = seed_step(config.seed, progress.epoch, progress.step)
                rate = learning_rate_factor((done_before + progress.step) / num_steps, config)
                for group in optimizer.param_groups:
                    group["lr"] = group["peak_lr"] * rate
                self._step(batch.to(self.device), phase, optimizer, scaler, generator)
                progress.step += 1
                bar.set_postfix_str(f"loss {progress.loss_sum / progress.clips:.3f}", False)
                bar.update(len(batch))
                if stop.requested:
                    break
        progress.epoch_seconds += time.perf_counter() - started
        progress.wait_seconds += batches.wait_seconds - waited

    def _step(
        self,
        batch: Batch,
        phase: Phase,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        generator: torch.Generator,
    ) -> None:
        video = augment_frames(batch.video, generator) if phase.blocks else batch.video
        mfcc, mfcc_mask = mask_mfcc(batch.mfcc, batch.mfcc_mask, generator)
        with autocast(self.device, self.amp):
            features = self.model.forward_features(video, batch.video_mask, mfcc, mfcc_mask)
            video_logits, sound_logits = self.model.forward_halves(features)
            logits = video_logits + sound_logits
        has_sound = batch.mfcc_mask.any(dim=1)
        joint_loss = self._loss(logits, batch.labels, self._class_weights)
        halves_loss = self._loss(video_logits, batch.labels, self._class_weights)
        if has_sound.any():
            halves_loss = halves_loss + self._loss(
                sound_logits[has_sound], batch.labels[has_sound], self._sound_class_weights
            )
        loss = joint_loss + HALVES_LOSS * halves_loss
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} in epoch {self.progress.epoch + 1}: "
                f"lower --{RATES[phase.name].replace('_', '-')}"
            )
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        scaler.step(optimizer)
        scaler.update()
        self.progress.loss_sum += joint_loss.item() * len(batch)
        self.progress.correct += int((logits.argmax(1) == batch.labels).sum())
        self.progress.clips += len(batch)

    def _loss(
        self, logits: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor
    ) -> torch.Tensor:
        smoothing = self.config.label_smoothing
        return F.cross_entropy(logits.float(), labels, class_weights, label_smoothing=smoothing)

    def _end_epoch(self, phase: Phase, val_set: ClipDataset | None, learning_rate: float) -> None:
        """Validates, keeps the weights if they are the best, says and records the epoch."""
        progress = self.progress
        row = {
            "phase": phase.name,
            "epoch": progress.epoch + 1,
            "epochs": self.config.epochs,
            "learning_rate": learning_rate,
            "train_loss": progress.loss_sum / progress.clips,
            "train_accuracy": progress.correct / progress.clips,
            "seconds": progress.epoch_seconds,
            "clips_per_second": progress.clips / progress.epoch_seconds,
            "wait_fraction": progress.wait_seconds / progress.epoch_seconds,
        }
        progress.end_epoch()
        if val_set is None:
            self.best_weights = _copy_weights(self.model)
            return
        if phase.blocks:
            val_set = embed_dataset(self.model, val_set, self.amp)
        scores = score_clips(self.model, val_set)
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
        self._say(_epoch_line(row))
        if best:
            progress.best_loss, progress.best_epoch = judged["nll"], row["epoch"]
            self.best_weights = _copy_weights(self.model)
            self.save_best(temperature, judged)

    def _save(
        self, phase: Phase, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
    ) -> None:
        if self.run is None:
            return
        state = {
            "model": self.model.state_dict(),
            "best": self.best_weights,
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "phase": phase.name,
            "progress": asdict(self.progress),
            "clips": self.clips_id(),
        }
        save_state(self.run.path("last.ckpt"), state)
        self.run.write_metrics(self.progress.history)

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
        """16 hex digits that change with any clip of either side."""
        digest = hashlib.sha256()
        for dataset in (self.train_set, self.val_set):
            for clip in dataset.clips if dataset else []:
                digest.update(f"{clip.key} {clip.start_seconds} {clip.end_seconds}\n".encode())
            digest.update(b"--")
        return digest.hexdigest()[:16]


def embed_dataset(
    model: nn.Module, dataset: ClipDataset, amp: torch.dtype | None, title: str | None = None
) -> ClipDataset:
    """The dataset read from embeddings of the model's present trunk, made now."""
    store = MemoryStore()
    keys = [clip.key for clip in dataset.clips]
    embed_recordings(model.video_encoder, dataset.store, keys, store, amp=amp, title=title)
    return dataset.read_from(store)


@torch.inference_mode()
def score_clips(model: nn.Module, dataset: ClipDataset, *, hide: str | None = None) -> ClipScores:
    """Logits of every clip of an embedded dataset. `hide` is "video" or "sound" for ablations.

    Raises TrainingError where they are no numbers.
    """
    model.eval()
    device = next(model.parameters()).device
    logits = [np.zeros((0, len(dataset.classes)), np.float32)]
    for batch in whole_batches(dataset, EVALUATION_BATCH):
        batch = batch.to(device)
        video_mask = batch.video_mask & (hide != "video")
        mfcc_mask = batch.mfcc_mask & (hide != "sound")
        logits.append(model(batch.video, video_mask, batch.mfcc, mfcc_mask).float().cpu().numpy())
    if not all(np.isfinite(part).all() for part in logits):
        raise TrainingError(
            "the network's answers are no numbers any more: lower the learning rates"
        )
    return ClipScores(
        logits=np.concatenate(logits),
        labels=dataset.labels,
        recordings=[clip.recording.name for clip in dataset.clips],
        groups=[clip.recording.group for clip in dataset.clips],
        start_seconds=np.array([clip.start_seconds for clip in dataset.clips]),
        end_seconds=np.array([clip.end_seconds for clip in dataset.clips]),
    )


class _Stop:
    requested = False


@contextmanager
def _stop_signal() -> Iterator[_Stop]:
    """Ctrl-C and SIGTERM set `requested`; a second Ctrl-C ends the process at once."""
    stop = _Stop()

    def request(number: int, frame: object) -> None:
        stop.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = {s: signal.signal(s, request) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # signals belong to the main thread; elsewhere the caller stops us
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _mfcc_statistics(dataset: ClipDataset) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Mean and deviation (n_mfcc,) of the recordings' MFCC, or None where none has sound."""
    count, total, squares = 0, 0.0, 0.0
    for key in sorted({clip.key for clip in dataset.clips}):
        mfcc = dataset.store.get(key, "mfcc")
        if mfcc is not None:
            steps = mfcc.astype(np.float64)
            count += len(steps)
            total = total + steps.sum(axis=0)
            squares = squares + np.square(steps).sum(axis=0)
    if count == 0:
        return None
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


def _class_weights(dataset: ClipDataset, *, with_sound: bool = False) -> torch.Tensor:
    """(C,) float32: each class counts the same however many clips (with sound) it has."""
    labels = dataset.labels
    if with_sound:
        labels = labels[[dataset.store.num_rows(c.key, "mfcc") > 0 for c in dataset.clips]]
    counts = np.bincount(labels, minlength=len(dataset.classes)).clip(min=1)
    return torch.tensor(len(labels) / (len(counts) * counts), dtype=torch.float32)


def _copy_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _epoch_line(row: dict) -> str:
    auc = "  -  " if row["val_auc"] is None else f"{row['val_auc']:.3f}"
    return (
        f"{row['phase']:<12} {row['epoch']:>3}/{row['epochs']:<3} "
        f"train loss {row['train_loss']:.3f} acc {row['train_accuracy']:.3f} | "
        f"val loss {row['val_loss']:.3f} acc {row['val_accuracy']:.3f} "
        f"balanced {row['val_balanced_accuracy']:.3f} auc {auc} | "
        f"{row['seconds']:5.1f} s {row['clips_per_second']:6.0f} clips/s"
        f"{'  best' if row['best'] else ''}"
    )
