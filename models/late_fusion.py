"""Late fusion: frames and sound encoded apart, pooled over time, joined just before the decision."""

import torch
from torch import nn

from models.encoders import EMBEDDING_SIZE, FrameEncoder, MfccEncoder, pool_mean_std

SOUND_SIZE = 64  # of an MFCC step


class LateFusionClassifier(nn.Module):
    """A clip's logits from its frames and its sound.

        frames ─ MobileNetV2 ─ mean, std over time ─ standardise ─ linear ─┐
                                                                           ├─ concatenate ─ head
        MFCC ─── convolution ─ mean, std over time ─────────────── linear ─┘

    A clip without sound gets a learned vector in the sound's place, so that "no sound" is something
    the network knows, not silence; so does a clip without picture. In training each half is hidden
    now and then (`modality_dropout`), so that the other alone still answers.
    """

    def __init__(
        self,
        num_classes: int,
        n_mfcc: int,
        *,
        hidden: int = 64,
        dropout: float = 0.5,
        modality_dropout: float = 0.2,
        trunk: dict | None = None,
    ):
        super().__init__()
        self.video_encoder = FrameEncoder(**(trunk or {}))
        self.audio_encoder = MfccEncoder(n_mfcc, SOUND_SIZE)
        self.register_buffer("video_mean", torch.zeros(2 * EMBEDDING_SIZE))
        self.register_buffer("video_std", torch.ones(2 * EMBEDDING_SIZE))
        self.video_projection = _projection(2 * EMBEDDING_SIZE, hidden, dropout)
        self.audio_projection = _projection(2 * SOUND_SIZE, hidden, dropout)
        self.no_video = nn.Parameter(torch.zeros(hidden))
        self.no_sound = nn.Parameter(torch.zeros(hidden))
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * hidden, num_classes))
        self.modality_dropout = modality_dropout
        self.config = {
            "name": "late_fusion",
            "num_classes": num_classes,
            "n_mfcc": n_mfcc,
            "hidden": hidden,
            "dropout": dropout,
            "modality_dropout": modality_dropout,
            "trunk": self.video_encoder.config,
        }

    def set_statistics(self, pooled: torch.Tensor | None, mfcc: torch.Tensor | None) -> None:
        """Stores mean and deviation of (N, 2560) pooled embeddings and (M, n_mfcc) MFCC, if given."""
        if pooled is not None:
            self.video_mean.copy_(pooled.mean(dim=0))
            self.video_std.copy_(pooled.std(dim=0).clamp(min=1e-3))
        if mfcc is not None:
            self.audio_encoder.set_statistics(mfcc.mean(dim=0), mfcc.std(dim=0))

    def reset_heads(self) -> None:
        """Gives all but the trunk new random weights."""
        for name, child in self.named_modules():
            if not name.startswith("video_encoder") and hasattr(child, "reset_parameters"):
                child.reset_parameters()
        nn.init.zeros_(self.no_video)
        nn.init.zeros_(self.no_sound)

    def encode_video(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, T, H, W, 3) RGB in 0..255 to embeddings (B, T, 1280)."""
        b, t = frames.shape[:2]
        return self.video_encoder(frames.flatten(0, 1)).view(b, t, EMBEDDING_SIZE)

    def encode_audio(self, mfcc: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, M, n_mfcc) and (B, M) bool to (B, M, 64)."""
        return self.audio_encoder(mfcc, mask)

    def forward_features(
        self,
        video: torch.Tensor,
        video_mask: torch.Tensor,
        mfcc: torch.Tensor,
        mfcc_mask: torch.Tensor,
    ) -> torch.Tensor:
        """Both halves side by side, (B, 2 * hidden).

        `video` is frames (B, T, H, W, 3) or embeddings (B, T, 1280) made before; masks are bool.
        """
        if video.ndim == 5:
            video = self.encode_video(video)
        pooled = (pool_mean_std(video, video_mask) - self.video_mean) / self.video_std  # (B, 2560)
        sound = pool_mean_std(self.encode_audio(mfcc, mfcc_mask), mfcc_mask)  # (B, 128)
        has_video, has_sound = self._hide_halves(video_mask.any(dim=1), mfcc_mask.any(dim=1))
        return torch.cat(
            [
                torch.where(has_video[:, None], self.video_projection(pooled), self.no_video),
                torch.where(has_sound[:, None], self.audio_projection(sound), self.no_sound),
            ],
            dim=1,
        )  # (B, 2 * hidden)

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """(B, 2 * hidden) to logits (B, num_classes)."""
        return self.head(features)

    def forward(
        self,
        video: torch.Tensor,
        video_mask: torch.Tensor,
        mfcc: torch.Tensor,
        mfcc_mask: torch.Tensor,
    ) -> torch.Tensor:
        """Logits (B, num_classes); arguments as `forward_features`."""
        return self.forward_head(self.forward_features(video, video_mask, mfcc, mfcc_mask))

    def _hide_halves(
        self, has_video: torch.Tensor, has_sound: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """In training, hides the picture or the sound of some clips that have both."""
        if not self.training:
            return has_video, has_sound
        draw = torch.rand(len(has_video), device=has_video.device)
        both = has_video & has_sound
        hide_video = both & (draw < self.modality_dropout)
        hide_sound = both & (draw > 1 - self.modality_dropout)
        return has_video & ~hide_video, has_sound & ~hide_sound


def _projection(in_size: int, out_size: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(in_size, out_size), nn.ReLU())
