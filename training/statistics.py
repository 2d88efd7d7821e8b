"""Statistics of the training set: what the network standardises by, and what each class weighs."""

import math
from dataclasses import replace

import numpy as np
import torch

from models.encoders import pool_mean_std
from utils.dataset import Batch, ClipDataset, whole_batches

BLOCK_CLIPS = 64
POOLED_CLIPS = 16  # at a time
STATISTICS_CLIPS = 10_000  # pooled, 100 MB; more would not make a mean and a deviation better


def pool_pictures(batch: Batch) -> Batch:
    """The batch with its embeddings pooled over time, (B, 2560) float32."""
    # A few clips at a time stay in the processor's cache: five times as fast as a batch of 144.
    parts = zip(batch.video.split(POOLED_CLIPS), batch.video_mask.split(POOLED_CLIPS), strict=True)
    return replace(batch, video=torch.cat([pool_mean_std(*part) for part in parts]))


def pooled_statistics(dataset: ClipDataset) -> torch.Tensor:
    """(N, 2560) float32: mean and deviation over time of clips of an embedded dataset.

    Of all clips, or of STATISTICS_CLIPS evenly spread ones.
    """
    step = math.ceil(len(dataset) / STATISTICS_CLIPS)
    batches = whole_batches(dataset.only(dataset.clips[::step]), BLOCK_CLIPS)
    return torch.cat([pool_pictures(batch).video for batch in batches])


def mfcc_statistics(dataset: ClipDataset) -> tuple[torch.Tensor, torch.Tensor] | None:
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


def class_weights(dataset: ClipDataset, *, with_sound: bool = False) -> torch.Tensor:
    """(C,) float32: each class counts the same however many clips (with sound) it has."""
    labels = dataset.labels
    if with_sound:
        labels = labels[[dataset.store.num_rows(c.key, "mfcc") > 0 for c in dataset.clips]]
    counts = np.bincount(labels, minlength=len(dataset.classes)).clip(min=1)
    return torch.tensor(len(labels) / (len(counts) * counts), dtype=torch.float32)
