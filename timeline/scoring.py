"""Scoring: a recording to class probabilities over time."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.runtime import TrunkRuntime
from utils.clips import MIN_CLIP_SECONDS
from utils.dataset import prefetch
from utils.features import FeatureSpec, check_length, read_features


@dataclass(frozen=True)
class ScoredRecording:
    """What a model says about the windows of a recording, [start, end) seconds, without gaps."""

    windows: list[tuple[float, float]]
    probabilities: np.ndarray  # (windows, C) float64, calibrated
    has_sound: bool

    @property
    def duration_seconds(self) -> float:
        return self.windows[-1][1]

    @property
    def overall(self) -> np.ndarray:
        """(C,) mean probabilities, each window counted by its length."""
        lengths = np.array([end - start for start, end in self.windows])
        return lengths @ self.probabilities / lengths.sum()


@torch.inference_mode()
def score_recording(
    path: Path,
    model: nn.Module,
    spec: FeatureSpec,
    *,
    window_seconds: float,
    temperature: float,
    trunk: TrunkRuntime | None = None,
) -> ScoredRecording:
    """The probabilities of each window of a recording, read in one pass.

    Every frame goes through the trunk once and is then forgotten; its embedding is kept, 37 MB an
    hour at 4 fps. `trunk` is the model's, for a caller who scores many recordings to make once.
    Raises MediaError where the file can't be read.
    """
    device = next(model.parameters()).device
    trunk = trunk or TrunkRuntime(model.video_encoder)
    embedded, rows, heard = [], [], False
    with contextlib.closing(prefetch(read_features(path, spec))) as ahead:
        for block in ahead:
            embedded.append(trunk.embed(block.frames))
            if block.mfcc is not None:
                rows.append(block.mfcc)
            heard = heard or block.heard
    num_frames = sum(len(block) for block in embedded)
    check_length(num_frames, spec)
    embeddings = torch.from_numpy(np.concatenate(embedded)).to(device)  # (T, 1280)
    mfcc = np.concatenate(rows) if heard else None
    windows = tile_windows(num_frames / spec.fps, window_seconds)
    logits = [_score_window(model, spec, embeddings, mfcc, window, device) for window in windows]
    probabilities = torch.softmax(torch.cat(logits).double() / temperature, dim=1)
    return ScoredRecording(windows, probabilities.cpu().numpy(), mfcc is not None)


def tile_windows(duration_seconds: float, window_seconds: float) -> list[tuple[float, float]]:
    """Half-open windows side by side over a recording; too short a rest joins the last.

    0        10        20  22            0        10       20 20.5
    |--------|---------|---|             |--------|---------|
    """
    starts = list(np.arange(0.0, duration_seconds, window_seconds))
    if len(starts) > 1 and duration_seconds - starts[-1] < MIN_CLIP_SECONDS:
        starts.pop()
    return [
        (float(a), float(b)) for a, b in zip(starts, [*starts[1:], duration_seconds], strict=True)
    ]


def _score_window(
    model: nn.Module,
    spec: FeatureSpec,
    embeddings: torch.Tensor,
    mfcc: np.ndarray | None,
    window: tuple[float, float],
    device: torch.device,
) -> torch.Tensor:
    """Logits (1, C)."""
    video = embeddings[spec.frame_span(*window)].unsqueeze(0)
    sound = (
        np.zeros((1, spec.mfcc.n_mfcc), np.float16)
        if mfcc is None
        else mfcc[spec.mfcc_span(*window)]
    )
    sound = torch.from_numpy(sound).to(device).unsqueeze(0)
    video_mask = torch.ones(video.shape[:2], dtype=torch.bool, device=device)
    sound_mask = torch.full(sound.shape[:2], mfcc is not None, device=device)
    return model(video, video_mask, sound, sound_mask)
