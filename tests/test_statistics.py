"""Statistics are those of the clips, of evenly spread ones where there are very many."""

import pytest
import torch
from trainings import MadeSets, make_config, make_sets

from models.encoders import pool_mean_std
from training import statistics
from training.statistics import pool_pictures, pooled_sounds, pooled_statistics
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


def test_sounds_are_pooled_over_time_those_of_silent_files_left_out(embedded, monkeypatch):
    batch = next(whole_batches(embedded, len(embedded)))
    pooled = pool_mean_std(batch.mfcc, batch.mfcc_mask)
    torch.testing.assert_close(pooled_sounds(embedded), pooled)
    silent, embedded = embedded.clips[0].key, embedded.only(embedded.clips)  # nothing read yet
    get = embedded.store.get
    monkeypatch.setattr(
        embedded.store,
        "get",
        lambda key, column: None if (key, column) == (silent, "mfcc") else get(key, column),
    )
    others = [index for index, clip in enumerate(embedded.clips) if clip.key != silent]
    assert len(others) < len(embedded)
    torch.testing.assert_close(pooled_sounds(embedded), pooled[others])


def test_without_any_sound_there_are_no_statistics_of_it(embedded, monkeypatch):
    get = embedded.store.get
    monkeypatch.setattr(
        embedded.store, "get", lambda key, column: None if column == "mfcc" else get(key, column)
    )
    assert pooled_sounds(embedded) is None
