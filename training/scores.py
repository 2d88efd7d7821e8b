"""Scores: what a model says about each clip of a dataset."""

import numpy as np
import torch
from torch import nn

from training.distributed import Ranks
from training.embedding import MemoryStore, embed_recordings
from training.evaluation import ClipScores
from training.progress import TrainingError
from utils.dataset import ClipDataset, whole_batches

BLOCK_CLIPS = 64


def embed_dataset(
    model: nn.Module, dataset: ClipDataset, amp: torch.dtype | None, title: str | None = None
) -> ClipDataset:
    """The dataset read from embeddings of the model's present trunk, made now."""
    store = MemoryStore()
    keys = [clip.key for clip in dataset.clips]
    embed_recordings(model.video_encoder, dataset.store, keys, store, amp=amp, title=title)
    return dataset.read_from(store)


def score_clips(model: nn.Module, dataset: ClipDataset, *, hide: str | None = None) -> ClipScores:
    """Logits of every clip of an embedded dataset. `hide` is "video" or "sound" for ablations.

    Raises TrainingError where they are no numbers.
    """
    return _scores(dataset, _logits(model, dataset, hide))


def score_together(
    model: nn.Module, dataset: ClipDataset, ranks: Ranks, amp: torch.dtype | None, *, embed: bool
) -> ClipScores:
    """What `score_clips` says, the same in each process, which looked at the recordings of its
    turn. `embed` makes their embeddings first, with the trunk as it is now.

    Raises TrainingError where logits are no numbers.
    """
    keys = set(sorted({clip.key for clip in dataset.clips})[ranks.rank :: ranks.size])
    mine = [index for index, clip in enumerate(dataset.clips) if clip.key in keys]
    own = dataset.only([dataset.clips[index] for index in mine])
    if embed:
        own = embed_dataset(model, own, amp)
    logits = np.zeros((len(dataset), len(dataset.classes)), np.float32)
    logits[mine] = _logits(model, own, None)
    summed = np.array(ranks.sum(logits.ravel()), np.float32)
    return _scores(dataset, summed.reshape(logits.shape))


@torch.inference_mode()
def _logits(model: nn.Module, dataset: ClipDataset, hide: str | None) -> np.ndarray:
    """(N, C) float32, not calibrated."""
    model.eval()
    device = next(model.parameters()).device
    logits = [np.zeros((0, len(dataset.classes)), np.float32)]
    for batch in whole_batches(dataset, BLOCK_CLIPS):
        batch = batch.to(device)
        video_mask = batch.video_mask & (hide != "video")
        mfcc_mask = batch.mfcc_mask & (hide != "sound")
        logits.append(model(batch.video, video_mask, batch.mfcc, mfcc_mask).float().cpu().numpy())
    return np.concatenate(logits)


def _scores(dataset: ClipDataset, logits: np.ndarray) -> ClipScores:
    if not np.isfinite(logits).all():
        raise TrainingError(
            "the network's answers are no numbers any more: lower the learning rates"
        )
    return ClipScores(
        logits=logits,
        labels=dataset.labels,
        recordings=[clip.recording.name for clip in dataset.clips],
        groups=[clip.recording.group for clip in dataset.clips],
        start_seconds=np.array([clip.start_seconds for clip in dataset.clips]),
        end_seconds=np.array([clip.end_seconds for clip in dataset.clips]),
    )
