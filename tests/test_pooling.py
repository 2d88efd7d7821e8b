"""Any span is pooled as the network pools a clip, however long the recording is."""

import numpy as np
import pytest
import torch

from models.encoders import pool_mean_std
from timeline.pooling import SpanSums


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
