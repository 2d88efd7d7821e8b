"""Windows are scored as features come, and what is not there has no say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.array_network import ArrayNetwork
from models.late_fusion import LateFusionClassifier
from models.lrcn import LrcnClassifier
from models.mobilenet_v2 import EMBEDDING_SIZE
from tests.trainings import fill_heads, make_config
from timeline.dense import DenseScorer, EmbeddedBlock

SECONDS = 60


MODELS = {"late fusion": LateFusionClassifier, "lrcn": LrcnClassifier}


@pytest.fixture(scope="module", params=MODELS)
def model(request) -> torch.nn.Module:
    torch.manual_seed(0)
    model = MODELS[request.param](2, 20).eval()
    fill_heads(model)
    return model


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return replace(make_config(tmp_path_factory.mktemp("config")).feature_spec, fps=2.0)


@pytest.fixture(scope="module")
def whole(spec) -> EmbeddedBlock:
    """A minute whose first half looks and sounds other than the second."""
    rng = np.random.default_rng(0)
    frames, rows = int(SECONDS * spec.fps), spec.num_rows(int(SECONDS * spec.fps))
    embeddings = rng.gamma(1.0, 1.0, (frames, EMBEDDING_SIZE))
    embeddings[: frames // 2] *= np.linspace(0.2, 3.0, EMBEDDING_SIZE)
    mfcc = rng.normal(0, 1, (rows, spec.mfcc.n_mfcc)) + 3 * (np.arange(rows) < rows // 2)[:, None]
    return EmbeddedBlock(
        embeddings.astype(np.float16),
        np.ones(frames, bool),
        mfcc.astype(np.float16),
        np.ones(rows, bool),
    )


def dense(model, spec, blocks, seconds=SECONDS) -> tuple[np.ndarray, np.ndarray]:
    scorer = DenseScorer(ArrayNetwork(model), spec, clip_seconds=10.0, temperature=1.0)
    for block in blocks:
        scorer.add(block)
    return scorer.finish(seconds)


def split(block: EmbeddedBlock, frames: list[int], rows: list[int]) -> list[EmbeddedBlock]:
    """The same in blocks that end at these frames and rows."""
    f, r = [0, *frames, len(block.shown)], [0, *rows, len(block.sounding)]
    return [
        EmbeddedBlock(block.embeddings[a:b], block.shown[a:b], block.mfcc[c:d], block.sounding[c:d])
        for a, b, c, d in zip(f, f[1:], r, r[1:], strict=False)
    ]


def test_blocks_of_any_size_and_order_of_kinds_give_the_same(model, spec, whole):
    expected, tiles = dense(model, spec, [whole])
    assert expected.shape == (2, 4 * SECONDS, 2)
    assert len(tiles) == 6
    rows = len(whole.sounding)
    for frames, sound in (
        ([16, 32, 48, 64], [300, 400, 900, 901]),
        ([1, 100], [0, 0]),  # all of the sound comes last, as where a track is away
        ([0, 0, 5], [rows, rows, rows]),  # all of it comes first
    ):
        found, found_tiles = dense(model, spec, split(whole, frames, sound))
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(found_tiles, tiles, atol=1e-6)


def test_memory_is_that_of_a_window(model, spec, whole):
    scorer = DenseScorer(ArrayNetwork(model), spec, clip_seconds=10.0, temperature=1.0)
    for _ in range(40):
        scorer.add(whole)
    first_needed = [track._kept.end - len(track._kept) for track in (scorer._video, scorer._sound)]
    assert first_needed[0] > (40 * SECONDS - 60) * spec.fps
    assert first_needed[1] > (40 * SECONDS - 60) * spec.mfcc.frames_per_second
    assert not scorer._video._held


def test_missing_sound_is_no_sound_and_not_what_was_filled_in(model, spec, whole):
    away = slice(*(spec.mfcc_span(20, 40).start, spec.mfcc_span(20, 40).stop))
    sounding = whole.sounding.copy()
    sounding[away] = False
    answers = []
    for filling in (0.0, 100.0):
        mfcc = whole.mfcc.copy()
        mfcc[away] = filling
        answers.append(dense(model, spec, [replace(whole, mfcc=mfcc, sounding=sounding)])[0])
    np.testing.assert_array_equal(*answers)
    mute = replace(whole, mfcc=None, sounding=np.zeros(0, bool))
    silent, _ = dense(model, spec, [mute])
    heard, _ = dense(model, spec, [whole])
    np.testing.assert_allclose(
        answers[0][0, 4 * 26 : 4 * 34], silent[0, 4 * 26 : 4 * 34], atol=1e-6
    )
    np.testing.assert_allclose(answers[0][0, 4 * 46 :], heard[0, 4 * 46 :], atol=1e-6)
    assert np.abs(silent[0] - heard[0]).max() > 1e-4


def test_where_nothing_is_to_be_had_all_is_equally_probable(model, spec, whole):
    shown = whole.shown.copy()
    shown[spec.frame_span(20, 50)] = False
    mute = replace(whole, shown=shown, mfcc=None, sounding=np.zeros(0, bool))
    found, _ = dense(model, spec, [mute])
    assert (found[0, 4 * 26 : 4 * 44] == 0.5).all()
    assert (np.abs(found[0, : 4 * 14] - 0.5) > 0.01).all()
    # Sound alone speaks where there is one.
    found, _ = dense(model, spec, [replace(whole, shown=shown)])
    assert (np.abs(found[0, 4 * 26 : 4 * 44] - 0.5) > 1e-4).all()


def test_recording_may_end_within_its_last_frame(model, spec, whole):
    found, tiles = dense(model, spec, [whole], 59.6)
    assert found.shape[1] == 239
    assert len(tiles) == 6


def test_window_is_given_what_the_network_gives_to_the_clip(model, spec, whole):
    windows, tiles = dense(model, spec, [whole])
    with torch.inference_mode():
        for start in (10, 30, 50):
            frames = torch.from_numpy(whole.embeddings[spec.frame_span(start, start + 10)])[None]
            mfcc = torch.from_numpy(whole.mfcc[spec.mfcc_span(start, start + 10)])[None].float()
            masks = [torch.ones(x.shape[:2], dtype=torch.bool) for x in (frames, mfcc)]
            expected = model(frames, masks[0], mfcc, masks[1]).softmax(dim=1)[0]
            np.testing.assert_allclose(tiles[start // 10], expected, atol=1e-5)


def test_network_without_sound_knows_nothing_of_what_it_does_not_see(spec, whole):
    torch.manual_seed(0)
    model = LrcnClassifier(2, 20, fuse_sound=False).eval()
    shown = whole.shown.copy()
    shown[spec.frame_span(20, 50)] = False
    found, _ = dense(model, spec, [replace(whole, shown=shown)])
    assert (found[0, 4 * 26 : 4 * 44] == 0.5).all()
    mute, _ = dense(model, spec, [replace(whole, shown=shown, mfcc=whole.mfcc * 0)])
    np.testing.assert_array_equal(found, mute)
