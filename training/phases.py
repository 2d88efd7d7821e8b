"""Phases: what learns when, and how fast."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from models.mobilenet_v2 import NUM_BLOCKS

if TYPE_CHECKING:  # it brings the decoders, which a machine that only trains may lack
    from utils.config import Config

GPU_FINE_TUNE_BLOCKS = 3
MAX_HEAD_STEPS = 500  # of an epoch
SOUND_RATE = 5.0  # the sound's 16 inputs of the head need larger steps than the picture's 2560
RATES = {  # the constant with the peak rate, by name of the phase
    "heads": "head_learning_rate",
    "fine-tune": "learning_rate",
    "from scratch": "scratch_learning_rate",
}


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs in which the same part of the network learns."""

    name: str  # of RATES
    first_epoch: int
    last_epoch: int  # exclusive
    blocks: int  # of the trunk that learn, counted from its end; 0 reads stored embeddings
    draws: int  # of each clip in an epoch


def plan_phases(config: "Config", *, from_scratch: bool, has_gpu: bool) -> list[Phase]:
    """What learns when.

    From scratch the whole network learns all the time. With pretrained weights the heads learn
    first, on stored embeddings of the frozen trunk; then the trunk's last blocks, where
    `fine_tune_blocks` (auto: 3 on a GPU, 0 without one) says so.
    """
    if from_scratch:
        return [Phase("from scratch", 0, config.epochs, NUM_BLOCKS, 1)]
    blocks = config.fine_tune_blocks
    blocks = (GPU_FINE_TUNE_BLOCKS if has_gpu else 0) if blocks == "auto" else int(blocks)
    frozen = config.epochs if blocks == 0 else min(config.frozen_epochs, config.epochs)
    phases = [Phase("heads", 0, frozen, 0, config.frozen_draws)]
    if blocks:
        phases.append(Phase("fine-tune", frozen, config.epochs, blocks, 1))
    return [phase for phase in phases if phase.first_epoch < phase.last_epoch]


def clips_per_step(phase: Phase, config: "Config", num_clips: int) -> int:
    """Clips of a step, where an epoch draws `num_clips`: `batch_size`, or more for heads.

    Heads on a large archive learn no more from more steps, and each costs the same for any number
    of clips: MAX_HEAD_STEPS an epoch, which sets below MAX_HEAD_STEPS * batch_size never reach.
    """
    if phase.blocks:
        return config.batch_size
    return max(config.batch_size, math.ceil(num_clips / MAX_HEAD_STEPS))


def learning_rate_factor(position: float, config: "Config") -> float:
    """Part of the peak rate at `position` in 0..1 of a phase: linear warm-up, then half a cosine.

    The shape of OneCycle (arXiv 1708.07120) as a function of the position, so that nothing of it
    has to be saved.
    """
    if position < config.warmup:
        return 0.05 + 0.95 * position / config.warmup
    return 0.5 * (1 + math.cos(math.pi * (position - config.warmup) / (1 - config.warmup)))


def rate_constant(model: nn.Module, phase: Phase) -> str:
    """The constant with the peak rate of a phase."""
    if phase.name == "heads" and model.order_matters:
        return "lstm_learning_rate"
    return RATES[phase.name]


def make_optimizer(model: nn.Module, phase: Phase, config: "Config") -> torch.optim.AdamW:
    """AdamW, fused, on what the phase lets learn; biases and norms don't decay.

    The groups depend on the model and the phase alone: other rates still fit a saved state.
    """
    rate = getattr(config, rate_constant(model, phase))
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_sound = phase.name == "heads" and "sound" in name
            groups.setdefault((is_sound, parameter.ndim > 1), []).append(parameter)
    settings = []
    for (is_sound, decays), parameters in groups.items():
        peak = config.head_learning_rate * SOUND_RATE if is_sound else rate
        decay = config.weight_decay if decays else 0.0
        settings.append({"params": parameters, "lr": peak, "peak_lr": peak, "weight_decay": decay})
    return torch.optim.AdamW(settings, fused=True)
