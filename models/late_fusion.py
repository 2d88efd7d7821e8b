"""Late fusion: frames and sound encoded apart, pooled over time, joined for the decision."""

import math

import torch
from torch import nn

from models.encoders import FrameEncoder, MfccEncoder, pool_mean_std
from models.mobilenet_v2 import EMBEDDING_SIZE

VIDEO_SIZE = 2 * EMBEDDING_SIZE  # mean and deviation of the embeddings
MAX_DEVIATION = 6.0  # of a standardised feature: what no training clip showed says little more
STD_FLOOR = 0.1  # of the mean deviation: features that hardly vary must not be blown up


class LateFusionClassifier(nn.Module):
    """A clip's logits from its frames and its sound.

        frames ─ MobileNetV2 ─ mean, std over time ─ root, standardise ─ linear ─┐
                                                                                 + ─ logits
        MFCC ─── MfccEncoder ─ mean, std over time ─ linear, GELU ───── linear ──┘

    The head of the concatenated halves is linear, that is, the sum of a head for each. Trained
    beside the sum (`forward_halves`), they keep the halves honest: each can be asked alone, and an
    unreliable sound can't bend what the picture says. No sound is a learned vector, a state of its
    own and not silence; no picture counts as an average one. In training each half is hidden now
    and then (`modality_dropout`), so that the other alone still answers.
    """

    order_matters = False  # of the frames: they can be pooled before
    uses_sound = True

    def __init__(
        self,
        num_classes: int,
        n_mfcc: int,
        *,
        sound_size: int = 16,
        dropout: float = 0.5,
        modality_dropout: float = 0.3,
        trunk: dict | None = None,
    ):
        super().__init__()
        self.video_encoder = FrameEncoder(**(trunk or {}))
        self.audio_encoder = MfccEncoder(n_mfcc)
        self.register_buffer("video_mean", torch.zeros(VIDEO_SIZE))
        self.register_buffer("video_std", torch.ones(VIDEO_SIZE))
        self.sound_projection = nn.Sequential(
            Dropout(dropout), nn.Linear(2 * n_mfcc, sound_size), nn.GELU()
        )
        self.no_sound = nn.Parameter(torch.zeros(1, sound_size))
        self.dropout = Dropout(dropout)
        # No bias: an average picture, which stands for a missing one, says nothing.
        self.video_head = nn.Linear(VIDEO_SIZE, num_classes, bias=False)
        self.sound_head = nn.Linear(sound_size, num_classes)
        self.modality_dropout = modality_dropout
        self._start_at_nothing()
        self.config = {
            "name": "late_fusion",
            "num_classes": num_classes,
            "n_mfcc": n_mfcc,
            "sound_size": sound_size,
            "dropout": dropout,
            "modality_dropout": modality_dropout,
            "trunk": self.video_encoder.config,
        }

    def set_statistics(
        self, pooled: torch.Tensor | None, mfcc: tuple[torch.Tensor, torch.Tensor] | None
    ) -> None:
        """Stores mean and deviation of pooled embeddings (N, 2560), and those given of the MFCC."""
        if pooled is not None:
            pooled = _root(pooled)
            std = pooled.std(dim=0)
            self.video_mean.copy_(pooled.mean(dim=0))
            # All the same where the trunk learned nothing yet: 0 / 0 would be no number.
            self.video_std.copy_((std + STD_FLOOR * std.mean()).clamp(min=1e-6))
        if mfcc is not None:
            self.audio_encoder.set_statistics(*mfcc)

    def reset_heads(self) -> None:
        """Gives all but the trunk new random weights."""
        for name, child in self.named_modules():
            if not name.startswith("video_encoder") and hasattr(child, "reset_parameters"):
                child.reset_parameters()
        self._start_at_nothing()

    def encode_video(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, T, H, W, 3) RGB in 0..255 to embeddings (B, T, 1280)."""
        b, t = frames.shape[:2]
        return self.video_encoder(frames.flatten(0, 1)).view(b, t, EMBEDDING_SIZE)

    def encode_audio(self, mfcc: torch.Tensor) -> torch.Tensor:
        """(B, M, n_mfcc) to (B, M, n_mfcc)."""
        return self.audio_encoder(mfcc)

    def forward_features(
        self,
        video: torch.Tensor,
        video_mask: torch.Tensor,
        mfcc: torch.Tensor,
        mfcc_mask: torch.Tensor,
    ) -> torch.Tensor:
        """Both halves side by side, (B, 2560 + sound_size).

        `video` is frames (B, T, H, W, 3), embeddings (B, T, 1280) made before, or those pooled,
        (B, 2560); masks are bool.
        """
        if video.ndim == 5:
            video = self.encode_video(video)
        if video.ndim == 3:
            video = pool_mean_std(video, video_mask)
        sound = pool_mean_std(self.encode_audio(mfcc), mfcc_mask)
        has_video, has_sound = video_mask.any(dim=1), mfcc_mask.any(dim=1)
        if self.training:
            has_video, has_sound = hide_halves(has_video, has_sound, self.modality_dropout)
        return self._fuse(video, sound, has_video, has_sound)

    def forward_pooled(
        self,
        video: torch.Tensor,
        sound: torch.Tensor,
        has_sound: torch.Tensor,
        has_video: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits (B, num_classes) of what is pooled already, as `pool_mean_std` does.

        `video` (B, 2560) is of embeddings, `sound` (B, 2 * n_mfcc) of what `encode_audio` gives;
        where `has_sound` (B,) bool is False, there is none, and so with `has_video`.
        """
        has_video = torch.ones_like(has_sound) if has_video is None else has_video
        return self.forward_head(self._fuse(video, sound, has_video, has_sound))

    def _fuse(
        self,
        video: torch.Tensor,
        sound: torch.Tensor,
        has_video: torch.Tensor,
        has_sound: torch.Tensor,
    ) -> torch.Tensor:
        """Pooled halves (B, 2560) and (B, 2 * n_mfcc) to features (B, 2560 + sound_size)."""
        pooled = _root(video)
        pooled = ((pooled - self.video_mean) / self.video_std).clamp(-MAX_DEVIATION, MAX_DEVIATION)
        sound = self.sound_projection(sound)  # (B, sound_size)
        return torch.cat(
            [
                pooled * has_video[:, None],
                torch.where(has_sound[:, None], sound, self.no_sound),
            ],
            dim=1,
        )

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """(B, 2560 + sound_size) to logits (B, num_classes)."""
        video_logits, sound_logits = self.forward_halves(features)
        return video_logits + sound_logits

    def forward_halves(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the picture says and what the sound says, logits (B, num_classes) each."""
        video, sound = features.split([VIDEO_SIZE, self.no_sound.shape[1]], dim=1)
        return self.video_head(self.dropout(video)), self.sound_head(sound)

    def forward(
        self,
        video: torch.Tensor,
        video_mask: torch.Tensor,
        mfcc: torch.Tensor,
        mfcc_mask: torch.Tensor,
    ) -> torch.Tensor:
        """Logits (B, num_classes); arguments as `forward_features`."""
        return self.forward_head(self.forward_features(video, video_mask, mfcc, mfcc_mask))

    def _start_at_nothing(self) -> None:
        """A few hundred clips reach few of 2560 directions, and what random weights say along the
        others would stay in every answer about a new source: the picture's head starts at zero."""
        nn.init.zeros_(self.video_head.weight)
        nn.init.zeros_(self.sound_head.bias)
        nn.init.zeros_(self.no_sound)


class Dropout(nn.Module):
    """Hides inputs in training with a chance of `p`, rounded to 1/256, as nn.Dropout does.

    A random number decides about eight of them: on a CPU, a number for each took a third of the
    time of a step of the heads.
    """

    def __init__(self, p: float):
        super().__init__()
        self.threshold = round(256 * p)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.threshold == 0:
            return x
        numbers = torch.empty(math.ceil(x.numel() / 8), dtype=torch.int64, device=x.device)
        draws = numbers.random_(-(2**63), None).view(torch.uint8)[: x.numel()].view(x.shape)
        return x * (draws >= self.threshold) * (256 / (256 - self.threshold))


def hide_halves(
    has_video: torch.Tensor, has_sound: torch.Tensor, chance: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both (B,) bool, with the sound of some clips that have both hidden, and half as often the
    picture of others."""
    draw = torch.rand(len(has_video), device=has_video.device)
    both = has_video & has_sound
    hide_video = both & (draw < chance / 2)
    hide_sound = both & (draw > 1 - chance)
    return has_video & ~hide_video, has_sound & ~hide_sound


def _root(pooled: torch.Tensor) -> torch.Tensor:
    """The square root: means and deviations behind a ReLU are skewed, their roots hardly are."""
    return (pooled.clamp(min=0) + 1e-6).sqrt()
