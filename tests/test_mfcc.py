"""Rows of MFCC are the same however their samples come; the mel filters are librosa's."""

import librosa
import numpy as np
import pytest

from utils.mfcc import MfccMaker, MfccSpec, mel_filters

SPEC = MfccSpec()


@pytest.mark.parametrize("sample_rate", [1600, 8000, 16000, 44100])
@pytest.mark.parametrize(("n_fft", "n_mels"), [(512, 20), (1024, 32), (2048, 128)])
def test_mel_filters_are_librosas(sample_rate, n_fft, n_mels):
    spec = MfccSpec(sample_rate=sample_rate, n_fft=n_fft, n_mels=n_mels)
    expected = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels)
    np.testing.assert_allclose(mel_filters(spec), expected, rtol=1e-4, atol=1e-7)


def rows_of(maker: MfccMaker, blocks: list[np.ndarray], num_rows: int) -> np.ndarray:
    rows = []
    for block in blocks:
        maker.take(block)
        rows.append(maker.rows(3))
    maker.finish(num_rows)
    return np.concatenate([*rows, maker.rows(num_rows - sum(map(len, rows)))])


def test_rows_do_not_depend_on_the_blocks():
    samples = np.random.default_rng(0).standard_normal(50_000).astype(np.float32) / 10
    whole = rows_of(MfccMaker(SPEC), [samples], 98)
    assert (whole.shape, whole.dtype) == ((98, 20), np.float16)
    cuts = [1, 20, 700, 5000, 5001, 33_000]
    cut = rows_of(MfccMaker(SPEC, block_seconds=0.3), np.split(samples, cuts), 98)
    np.testing.assert_allclose(cut.astype(float), whole, atol=0.02)


@pytest.mark.parametrize("first_row", [1, 2, 40])
def test_rows_of_a_part_are_those_of_the_whole(first_row):
    samples = np.random.default_rng(0).standard_normal(50_000).astype(np.float32) / 10
    whole = rows_of(MfccMaker(SPEC), [samples], 98)
    maker = MfccMaker(SPEC, first_row)
    assert maker.first_sample == max(0, first_row * 512 - 512)
    part = rows_of(maker, [samples[maker.first_sample :]], 98 - first_row)
    np.testing.assert_allclose(part.astype(float), whole[first_row:], atol=0.02)


def test_silence_follows_where_samples_end():
    maker = MfccMaker(SPEC)
    maker.take(np.ones(600, np.float32))
    maker.finish(10)
    rows = maker.rows(10)
    assert len(rows) == 10
    assert (rows[4:] == rows[4]).all()
    assert len(maker.rows(5)) == 0
