"""Where pictures lie makes no difference to a batch."""

import dataclasses

import pytest
import torch

from tests.trainings import make_config, make_sets
from training import residence
from training.residence import RowStore, settle, size_bytes
from utils.dataset import TrainingBatches, whole_batches

CPU = torch.device("cpu")


@pytest.fixture
def sets(tmp_path):
    return make_sets(make_config(tmp_path), counts=(4, 4))


@pytest.mark.parametrize("embedded", [True, False])
def test_pictures_looked_up_by_row_are_those_of_the_files(sets, embedded, monkeypatch):
    monkeypatch.setattr(residence, "BLOCK_ROWS", 4)  # of 6 a recording
    dataset = sets.train_set.read_from(sets.embeddings) if embedded else sets.train_set
    rows = RowStore(dataset, CPU)
    numbered = dataset.read_from(rows, dataset.video_column)
    settings = {"train_frames": 4, "draws": 2, "seed": 1}
    pairs = [
        *zip(whole_batches(dataset, 3), whole_batches(numbered, 3), strict=True),
        *zip(
            TrainingBatches(dataset, 3, **settings).epoch(0),
            TrainingBatches(numbered, 3, **settings).epoch(0),
            strict=True,
        ),
    ]
    for expected, found in pairs:
        assert found.video.dtype == torch.int64
        pictures = rows.pictures[found.video]
        assert pictures.dtype == expected.video.dtype
        assert torch.equal(pictures, expected.video)
        assert torch.equal(found.video_mask, expected.video_mask)
        assert torch.equal(found.mfcc, expected.mfcc)


def test_padding_looks_up_a_black_picture(sets):
    clips = sets.train_set.clips
    short = [dataclasses.replace(clips[0], end_seconds=1.0), clips[1]]
    rows = RowStore(sets.train_set, CPU)
    batch = next(whole_batches(sets.train_set.only(short).read_from(rows, "frames"), 2))
    assert not batch.video_mask.all()
    assert not rows.pictures[batch.video][~batch.video_mask].any()


def test_size_counts_each_recording_once(sets):
    dataset = sets.train_set.only([*sets.train_set.clips, sets.train_set.clips[0]])
    assert size_bytes(dataset) == 4 * 6 * 32 * 32 * 3
    assert size_bytes(dataset.read_from(sets.embeddings)) == 4 * 6 * 1280 * 2


@pytest.mark.parametrize(("part", "fits"), [(0.49, True), (0.51, False)])
def test_gpu_holds_what_takes_up_to_half_of_its_free_memory(sets, monkeypatch, part, fits):
    free = size_bytes(sets.train_set) / part
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    monkeypatch.setattr(residence, "RowStore", lambda dataset, device: RowStore(dataset, CPU))
    dataset, where, rows = settle(sets.train_set, torch.device("cuda"))
    assert (rows is not None) == fits
    assert where == "0.1 MB " + (
        "on the GPU" if fits else "in memory-mapped files, copied from pinned memory"
    )
    assert (dataset.video_store is rows) == fits


def test_processor_reads_the_files(sets):
    dataset, where, rows = settle(sets.train_set, CPU)
    assert (dataset, rows) == (sets.train_set, None)
    assert where == "0.1 MB in memory-mapped files"
