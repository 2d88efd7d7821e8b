"""Statistics are those of the clips, of evenly spread ones where there are very many."""

import numpy as np
import pytest
import torch

from models.encoders import pool_mean_std
from tests.trainings import MadeSets, make_config, make_sets
from training import statistics
from training.statistics import mfcc_statistics, pool_pictures, pooled_statistics
from utils.dataset import ClipDataset, whole_batches


@pytest.fixture
def sets(tmp_path) -> MadeSets:
    return make_sets(make_config(tmp_path), counts=(10, 10))


@pytest.fixture
def embedded(sets) -> ClipDataset:
    return sets.train_set.read_from(sets.embeddings)


def test_pictures_are_pooled_over_time(embedded):
    batch = next(whole_batches(embedded, len(embedded)))
    pooled = pool_pictures(batch)
    torch.testing.assert_close(pooled.video, pool_mean_std(batch.video, batch.video_mask))
    assert torch.equal(pooled.labels, batch.labels)


def test_pooled_statistics_are_of_every_clip_or_of_evenly_spread_ones(embedded, monkeypatch):
    pooled = pooled_statistics(embedded)
    assert pooled.shape == (len(embedded), 2560)
    monkeypatch.setattr(statistics, "STATISTICS_CLIPS", 5)
    torch.testing.assert_close(pooled_statistics(embedded), pooled[::2])


def test_sound_statistics_are_those_of_all_steps(sets):
    keys = {clip.key for clip in sets.train_set.clips}
    steps = np.concatenate([sets.train_set.store.get(key, "mfcc") for key in keys]).astype(float)
    mean, std = mfcc_statistics(sets.train_set)
    np.testing.assert_allclose(mean, steps.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std, steps.std(axis=0), rtol=1e-4)
