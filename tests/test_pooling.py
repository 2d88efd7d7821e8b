"""Any span is pooled as the network pools a clip, however long the recording is."""

import numpy as np
import pytest
import torch

from models.encoders import pool_mean_std
from timeline.pooling import SpanRows, SpanSums


def pooled(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return pool_mean_std(torch.from_numpy(rows)[None], torch.from_numpy(counts)[None])[0].numpy()


def test_spans_are_pooled_as_the_network_does():
    rng = np.random.default_rng(0)
    rows = rng.gamma(1.0, 2.0, (300, 8)).astype(np.float16)
    counts = rng.random(300) < 0.7
    counts[100:140] = False
    sums = SpanSums(8)
    for start in range(0, 300, 37):
        sums.append(rows[start : start + 37], counts[start : start + 37])
        sums.forget(min(start - 60, 190))
    spans = [slice(a, a + n) for a in (190, 222, 280) for n in (0, 1, 2, 40)]
    found, count = sums.pool(spans)
    for span, row, n in zip(spans, found, count, strict=True):
        assert n == counts[span].sum()
        assert row == pytest.approx(pooled(rows[span], counts[span]), abs=1e-5)


def test_hours_of_sums_are_as_exact_as_the_first_minute_and_take_no_more_memory():
    rng = np.random.default_rng(1)
    block = rng.gamma(1.0, 2.0, (32, 4)).astype(np.float16)
    sums = SpanSums(4)
    for _ in range(4000):  # 9 hours at 4 a second
        sums.append(block)
        sums.forget(sums.end - 64)
    found, _ = sums.pool([slice(sums.end - 64, sums.end - 24)])
    assert found[0] == pytest.approx(
        pooled(np.concatenate([block, block[:8]]), np.ones(40, bool)), abs=1e-6
    )
    assert sums._sums.shape[0] <= 128


def test_forgotten_rows_are_not_made_up():
    sums = SpanSums(2)
    sums.append(np.ones((10, 2)))
    sums.forget(5)
    with pytest.raises(IndexError, match="row 3 was forgotten"):
        sums.pool([slice(3, 8)])


def test_spans_of_rows_are_those_that_were_put_there():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 8)).astype(np.float32)
    counts = rng.random(300) < 0.7
    kept = SpanRows(8)
    for start in range(0, 300, 37):
        kept.append(rows[start : start + 37], counts[start : start + 37])
        kept.forget(min(start - 60, 190))
    assert len(kept) == 300 - 190
    spans = [slice(a, a + n) for a in (190, 222, 280, 300) for n in (0, 1, 2, 40)]
    found, mask = kept.take(spans)
    assert found.shape == (16, 40, 8)
    for span, row, there in zip(spans, found, mask, strict=True):
        assert (row[there] == rows[span][counts[span]]).all()
        assert there[: len(counts[span])].tolist() == counts[span].tolist()
        assert not there[len(counts[span]) :].any()
    with pytest.raises(IndexError, match="row 189 was forgotten"):
        kept.take([slice(189, 200)])


def test_spans_of_no_rows_at_all_are_empty():
    found, mask = SpanRows(8).take([slice(0, 20), slice(20, 40)])
    assert found.shape == (2, 1, 8)
    assert not mask.any()
