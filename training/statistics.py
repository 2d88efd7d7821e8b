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


def pooled_sounds(dataset: ClipDataset) -> torch.Tensor | None:
    """(N, 2 * n_mfcc) float32: mean and deviation over time of the clips' MFCC; None without any.

    Of all clips with sound, or of those among STATISTICS_CLIPS evenly spread ones.
    """
    step = math.ceil(len(dataset) / STATISTICS_CLIPS)
    sounds = (dataset.whole(index)[1] for index in range(0, len(dataset), step))
    pooled = [
        pool_mean_std(torch.from_numpy(sound[None].astype(np.float32)), torch.ones(1, len(sound)))
        for sound in sounds
        if sound is not None and len(sound)
    ]
    return torch.cat(pooled) if pooled else None


def class_weights(dataset: ClipDataset, *, with_sound: bool = False) -> torch.Tensor:
    """(C,) float32: each class counts the same however many clips (with sound) it has."""
    labels = dataset.labels
    if with_sound:
        labels = labels[[dataset.store.num_rows(c.key, "mfcc") > 0 for c in dataset.clips]]
    counts = np.bincount(labels, minlength=len(dataset.classes)).clip(min=1)
    return torch.tensor(len(labels) / (len(counts) * counts), dtype=torch.float32)
