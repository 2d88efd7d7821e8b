"""Step: one update of the weights from one batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from training.device import autocast, seed_step
from training.distributed import Ranks
from training.phases import Phase, make_optimizer
from training.progress import TrainingError
from utils.augmentation import FRAME_DRAWS, SOUND_DRAWS, augment_frames, mask_mfcc
from utils.dataset import Batch

if TYPE_CHECKING:
    from utils.config import Config

MAX_GRADIENT_NORM = 1.0
HALVES_LOSS = 0.3  # weight of the loss of either half alone, beside that of both


@dataclass(frozen=True)
class ClassWeights:
    """(C,) float32 on the CPU: what a clip of each class weighs, and its sound."""

    clip: torch.Tensor
    sound: torch.Tensor


class Step:
    """The optimizer of a phase, and how a batch becomes one step of it.

    A batch is cut into parts of `micro_batch` clips that fit the memory; the first step for which
    it does not suffice halves them. Their gradients, and those of all processes, add up to those
    of the whole batch, whose clips share the loss as if they had been looked at together.
    `pictures` is what the batches' row numbers point into, where they hold no pictures themselves.
    """

    def __init__(
        self,
        model: nn.Module,
        phase: Phase,
        config: "Config",
        weights: ClassWeights,
        *,
        amp: torch.dtype | None = None,
        ranks: Ranks | None = None,
        pictures: torch.Tensor | None = None,
        micro_batch: int | None = None,
        say: Callable[[str], None] = print,
    ):
        self.model = model
        self.phase = phase
        self.config = config
        self.micro_batch = micro_batch or config.batch_size
        self.device = next(model.parameters()).device
        self.amp = amp
        self.ranks = ranks or Ranks()
        self.pictures = pictures
        self.optimizer = make_optimizer(model, phase, config)
        self._learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == torch.float16)
        self._say = say
        self._host_weights = weights
        self._weights = ClassWeights(weights.clip.to(self.device), weights.sound.to(self.device))

    def state_dict(self) -> dict:
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Takes over what the optimizer gathered; peaks and decay stay as they are set now."""
        settings = [
            {name: group[name] for name in ("peak_lr", "weight_decay")}
            for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, values in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(values)
        # The fused optimizer takes for granted that a moment lies in memory as its parameter does,
        # which is channels last; a file holds it in plain order.
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if value.shape == parameter.shape and value.stride() != parameter.stride():
                    moments[name] = torch.empty_like(parameter).copy_(value)
        self.scaler.load_state_dict(state["scaler"])

    def run(self, batch: Batch | None, position: tuple[int, ...], first_row: int) -> torch.Tensor:
        """Updates the weights; (2,) on the device: the loss summed over this process's clips, in
        which all the step's clips share, and how many of its clips were right.

        `position` seeds the step; `batch` holds its clips from `first_row` on, None where this
        process has none of them. Nothing waits for the device, but an LSTM for the lengths of its
        sequences. Raises TrainingError where a single clip exceeds the memory.
        """
        totals = self._share(batch)
        result = None
        while result is None:
            # Out of the except block: there the error would keep what was allocated alive.
            try:
                result = self._add_gradients(batch, position, first_row, totals)
            except torch.OutOfMemoryError as error:
                message = str(error)
            if result is None:
                self._halve(len(batch), message)
        self.ranks.sum_gradients(self.model.parameters())
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self._learning, MAX_GRADIENT_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return result

    def _share(self, batch: Batch | None) -> list[float]:
        """Number, weight and weight of the sound of the step's clips, over all processes."""
        if batch is None:
            return self.ranks.sum([0.0, 0.0, 0.0])
        has_sound = batch.mfcc_mask.any(dim=1)
        clip_weights = self._host_weights.clip[batch.labels]
        sound_weights = self._host_weights.sound[batch.labels] * has_sound
        return self.ranks.sum([len(batch), float(clip_weights.sum()), float(sound_weights.sum())])

    def _add_gradients(
        self, batch: Batch | None, position: tuple[int, ...], first_row: int, totals: list[float]
    ) -> torch.Tensor:
        """Leaves the (scaled) gradients of the batch in the parameters; returns what `run` does."""
        sound_draws = seed_step(*position)
        frame_draws = torch.Generator().manual_seed(sound_draws.initial_seed() + 1)
        torch.rand((first_row, FRAME_DRAWS), generator=frame_draws)  # of other processes' clips
        torch.rand((first_row, SOUND_DRAWS), generator=sound_draws)
        if self.ranks.rank:  # or each would hide the same inputs of its clips
            seed_step(*position, self.ranks.rank)
        self.optimizer.zero_grad(set_to_none=True)
        result = torch.zeros(2, device=self.device)
        size = self._part_size(batch)
        for start in range(0, len(batch) if batch else 0, size):
            part = batch.part(slice(start, start + size)).to(self.device)
            video = part.video if self.pictures is None else self.pictures[part.video]
            if self.phase.blocks:
                video = augment_frames(video, frame_draws)
            mfcc, mfcc_mask = mask_mfcc(part.mfcc, part.mfcc_mask, sound_draws)
            with autocast(self.device, self.amp):
                features = self.model.forward_features(video, part.video_mask, mfcc, mfcc_mask)
                halves = self.model.forward_halves(features)
                logits = sum(halves)
            joint_loss, loss = self._losses(part, logits, halves, totals)
            self.scaler.scale(loss).backward()
            right = (logits.argmax(1) == part.labels).sum()
            result += torch.stack([joint_loss.detach() * totals[0], right])
        return result

    def _part_size(self, batch: Batch | None) -> int:
        """Clips looked at together: as many as fit, on a processor a chunk of the encoder's.

        More would only keep the chunks' feature maps until the last of them: 5 GB for 8 clips.
        """
        if batch is None or self.device.type != "cpu" or self.phase.blocks == 0:
            return self.micro_batch
        chunk = self.model.video_encoder.frames_per_chunk
        return min(self.micro_batch, max(1, chunk // batch.video.shape[1]))

    def _losses(
        self,
        batch: Batch,
        logits: torch.Tensor,
        halves: tuple[torch.Tensor, ...],
        totals: list[float],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the clips add to the step's loss of the answer, and to that which is minimised."""
        _, clip_total, sound_total = totals
        joint_loss = self._cross_entropy(logits, batch, self._weights.clip).sum() / clip_total
        if len(halves) == 1:
            return joint_loss, joint_loss
        video_logits, sound_logits = halves
        video_loss = self._cross_entropy(video_logits, batch, self._weights.clip).sum()
        sound_losses = self._cross_entropy(sound_logits, batch, self._weights.sound)
        sound_loss = (sound_losses * batch.mfcc_mask.any(dim=1)).sum()
        halves_loss = video_loss / clip_total + sound_loss / max(sound_total, 1e-9)
        return joint_loss, joint_loss + HALVES_LOSS * halves_loss

    def _cross_entropy(
        self, logits: torch.Tensor, batch: Batch, weights: torch.Tensor
    ) -> torch.Tensor:
        smoothing = self.config.label_smoothing
        return F.cross_entropy(
            logits.float(), batch.labels, weights, reduction="none", label_smoothing=smoothing
        )

    def _halve(self, num_clips: int, message: str) -> None:
        tried = min(self.micro_batch, num_clips)
        if tried == 1:
            raise TrainingError(
                f"not even a single clip fits the memory of {self.device} "
                f"({'. '.join(message.split('. ')[:2])}): lower --train-frames or --frame-size, "
                "or end what else uses it"
            )
        self.micro_batch = tried // 2
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._say(
            f"memory      {tried} clips at once exceed that of {self.device}: from here on "
            f"{self.micro_batch} at a time, their gradients added up to the same steps"
        )
