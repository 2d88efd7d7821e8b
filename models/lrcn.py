"""LRCN: a network for each frame, an LSTM over the frames, and an answer averaged over time."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.encoders import ConvEncoder, FrameEncoder, MfccEncoder, pool_mean_std
from models.late_fusion import MAX_DEVIATION, STD_FLOOR, Dropout, hide_halves

ENCODERS = {"conv": ConvEncoder, "mobilenet_v2": FrameEncoder}


class LrcnClassifier(nn.Module):
    """A clip's logits from the order of its frames, and its sound if it is fused.

        frames ─ encoder ─ standardise, linear, GELU ─ LSTM ─ linear ─ mean over time ─┐
                                                                                       + ─ logits
        MFCC ─── MfccEncoder ─ mean, std over time ─ linear, GELU ──── linear ─────────┘

    After Donahue et al., arXiv 1411.4389: each frame's state gives a prediction, and those are
    averaged (`average_over_time`), or the last one counts. The paper averages probabilities; here
    it is logits, so that the mean state says all that is said of a clip: that is what
    `forward_features` returns. Of more than `sequence_frames` frames evenly spaced ones are looked
    at, in training and after it. With no `lstm_layers` the frames themselves are averaged, which
    shows what their order is worth. The sound is that of late fusion, and so is how either half is
    hidden in training (`modality_dropout`).
    """

    order_matters = True  # of the frames: they can't be pooled before

    def __init__(
        self,
        num_classes: int,
        n_mfcc: int,
        *,
        encoder: str = "mobilenet_v2",
        sequence_frames: int = 16,
        lstm_size: int = 128,
        lstm_layers: int = 1,
        average_over_time: bool = True,
        fuse_sound: bool = True,
        sound_size: int = 16,
        dropout: float = 0.5,
        modality_dropout: float = 0.3,
        trunk: dict | None = None,
    ):
        super().__init__()
        if encoder not in ENCODERS:
            raise ValueError(f"unknown encoder {encoder!r}: it is one of {', '.join(ENCODERS)}")
        self.video_encoder = ENCODERS[encoder](**(trunk or {}))
        size = self.video_encoder.embedding_size
        self.register_buffer("video_mean", torch.zeros(size))
        self.register_buffer("video_std", torch.ones(size))
        self.frame_projection = nn.Sequential(
            Dropout(dropout), nn.Linear(size, lstm_size), nn.GELU()
        )
        self.lstm = None
        if lstm_layers:
            self.lstm = nn.LSTM(lstm_size, lstm_size, lstm_layers, batch_first=True)
        self.dropout = Dropout(dropout)
        # With a sound, no bias: then a missing picture says nothing.
        self.video_head = nn.Linear(lstm_size, num_classes, bias=not fuse_sound)
        self.uses_sound = fuse_sound
        if fuse_sound:
            self.audio_encoder = MfccEncoder(n_mfcc)
            self.sound_projection = nn.Sequential(
                Dropout(dropout), nn.Linear(2 * n_mfcc, sound_size), nn.GELU()
            )
            self.no_sound = nn.Parameter(torch.zeros(1, sound_size))
            self.sound_head = nn.Linear(sound_size, num_classes)
        self.sequence_frames = sequence_frames
        self.average_over_time = average_over_time
        self.modality_dropout = modality_dropout
        self._start()
        self.config = {
            "name": "lrcn",
            "num_classes": num_classes,
            "n_mfcc": n_mfcc,
            "encoder": encoder,
            "sequence_frames": sequence_frames,
            "lstm_size": lstm_size,
            "lstm_layers": lstm_layers,
            "average_over_time": average_over_time,
            "fuse_sound": fuse_sound,
            "sound_size": sound_size,
            "dropout": dropout,
            "modality_dropout": modality_dropout,
            "trunk": self.video_encoder.config,
        }

    def set_statistics(
        self, pooled: torch.Tensor | None, mfcc: tuple[torch.Tensor, torch.Tensor] | None
    ) -> None:
        """Stores mean and deviation of single embeddings, from those pooled over each clip's time
        (N, 2 * embedding_size), and those given of the MFCC."""
        if pooled is not None:
            mean, std = pooled.chunk(2, dim=1)
            # Within the clips and between them; the means' own scatter counts a few % too much.
            std = (std.square().mean(dim=0) + mean.var(dim=0, correction=0)).sqrt()
            self.video_mean.copy_(mean.mean(dim=0))
            # All the same where the trunk learned nothing yet: 0 / 0 would be no number.
            self.video_std.copy_((std + STD_FLOOR * std.mean()).clamp(min=1e-6))
        if mfcc is not None and self.uses_sound:
            self.audio_encoder.set_statistics(*mfcc)

    def reset_heads(self) -> None:
        """Gives all but the encoder new random weights."""
        for name, child in self.named_modules():
            if not name.startswith("video_encoder") and hasattr(child, "reset_parameters"):
                child.reset_parameters()
        self._start()

    def encode_audio(self, mfcc: torch.Tensor) -> torch.Tensor:
        """(B, M, n_mfcc) to the same shape, about normal."""
        return self.audio_encoder(mfcc)

    def project(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings (..., embedding_size), each by itself, to what the LSTM is fed with,
        (..., lstm_size)."""
        x = (embeddings.float() - self.video_mean) / self.video_std
        return self.frame_projection(x.clamp(-MAX_DEVIATION, MAX_DEVIATION))

    def forward_features(
        self,
        video: torch.Tensor,
        video_mask: torch.Tensor,
        mfcc: torch.Tensor,
        mfcc_mask: torch.Tensor,
    ) -> torch.Tensor:
        """What the last layer is given, (B, lstm_size), or (B, lstm_size + sound_size) where the
        sound is fused.

        `video` is frames (B, T, H, W, 3) or embeddings (B, T, embedding_size); masks are bool.
        """
        index, lengths = spread(video_mask, self.sequence_frames)
        there = torch.arange(index.shape[1], device=index.device) < lengths[:, None]  # (B, K)
        clip = torch.arange(len(index), device=index.device)[:, None].expand_as(index)
        video = video[clip[there], index[there]]  # what is padded is not even encoded
        if video.ndim == 4:
            video = self.video_encoder(video)
        projected = self.project(video)  # (all frames, lstm_size)
        sequences = projected.new_zeros((*index.shape, projected.shape[1]))
        sequences[there] = projected
        sound = None
        if self.uses_sound:
            sound = pool_mean_std(self.encode_audio(mfcc), mfcc_mask)
        return self._fuse(sequences, lengths, sound, mfcc_mask.any(dim=1))

    def forward_windows(
        self,
        video: torch.Tensor,
        video_mask: torch.Tensor,
        sound: torch.Tensor,
        has_sound: torch.Tensor,
    ) -> torch.Tensor:
        """Logits (B, num_classes) of windows that share frames: `video` (B, T, lstm_size) is of
        `project`, `sound` (B, 2 * n_mfcc) pooled of what `encode_audio` gives, where it is used.
        """
        index, lengths = spread(video_mask, self.sequence_frames)
        sequences = video.gather(1, index[:, :, None].expand(-1, -1, video.shape[2]))
        return self.forward_head(self._fuse(sequences, lengths, sound, has_sound))

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """What `forward_features` returns to logits (B, num_classes)."""
        return sum(self.forward_halves(features))

    def forward_halves(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the picture says and, if it is fused, the sound: logits (B, num_classes) each."""
        video = features[:, : self.video_head.in_features]
        halves = (self.video_head(self.dropout(video)),)
        if self.uses_sound:
            halves += (self.sound_head(features[:, self.video_head.in_features :]),)
        return halves

    def forward(
        self,
        video: torch.Tensor,
        video_mask: torch.Tensor,
        mfcc: torch.Tensor,
        mfcc_mask: torch.Tensor,
    ) -> torch.Tensor:
        """Logits (B, num_classes); arguments as `forward_features`."""
        return self.forward_head(self.forward_features(video, video_mask, mfcc, mfcc_mask))

    def _fuse(
        self,
        sequences: torch.Tensor,
        lengths: torch.Tensor,
        sound: torch.Tensor | None,
        has_sound: torch.Tensor,
    ) -> torch.Tensor:
        """Projected frames (B, K, lstm_size), the first `lengths` of them, to features."""
        video, has_video = self._over_time(sequences, lengths), lengths > 0
        if not self.uses_sound:
            return video * has_video[:, None]
        if self.training:
            has_video, has_sound = hide_halves(has_video, has_sound, self.modality_dropout)
        sound = torch.where(has_sound[:, None], self.sound_projection(sound), self.no_sound)
        return torch.cat([video * has_video[:, None], sound], dim=1)

    def _over_time(self, sequences: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The states (B, lstm_size): their mean over each sequence, or the last of each."""
        counted = lengths.clamp(min=1)  # a sequence of no frames is one of zeros, and not used
        states = sequences
        if self.lstm is not None:
            packed = pack_padded_sequence(
                sequences.float(), counted.cpu(), batch_first=True, enforce_sorted=False
            )
            # Not in half precision: rounding would add up from frame to frame.
            with torch.autocast(sequences.device.type, enabled=False):
                packed, _ = self.lstm(packed)
            states, _ = pad_packed_sequence(
                packed, batch_first=True, total_length=sequences.shape[1]
            )  # (B, K, lstm_size), zeros behind each sequence
        if self.average_over_time:
            step = torch.arange(states.shape[1], device=lengths.device)
            there = (step < counted[:, None])[:, :, None]
            return torch.where(there, states.float(), 0).sum(dim=1) / counted[:, None]
        return states.float()[torch.arange(len(counted), device=counted.device), counted - 1]

    def _start(self) -> None:
        if self.lstm is not None:
            # Open forget gates: what the first frames showed reaches the last from the first step
            # of training on (Jozefowicz et al. 2015).
            for layer in range(self.lstm.num_layers):
                forget = slice(self.lstm.hidden_size, 2 * self.lstm.hidden_size)
                nn.init.ones_(getattr(self.lstm, f"bias_ih_l{layer}").data[forget])
        if self.uses_sound:
            nn.init.zeros_(self.sound_head.bias)
            nn.init.zeros_(self.no_sound)


def spread(mask: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, K) int64, the places of each row's True steps, in order, and (B,) how many they are.

    Of more than `number` the evenly spaced ones; K is `number` or the length of the mask. What
    stands behind a row's count is of no meaning.
    """
    count = mask.sum(dim=1, keepdim=True)
    # A stable sort brings a row's True steps to its front.
    places = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
    step = torch.arange(min(number, mask.shape[1]), device=mask.device).expand(len(mask), -1)
    rank = torch.where(count > number, (2 * step + 1) * count // (2 * number), step)
    return places.gather(1, rank), count.squeeze(1).clamp(max=number)
