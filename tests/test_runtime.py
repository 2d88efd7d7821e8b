"""The runtime's embeddings are the encoder's, whatever runs it."""

import sys

import numpy as np
import pytest
import torch

from models import runtime
from models.encoders import FrameEncoder
from models.runtime import TOLERANCE, TrunkRuntime
from tests.trainings import fill_norms

SIZES = [((96, 96), None), ((45, 77), None), ((35, 40), (103, 96)), ((64, 96), (64, 96))]


def make_encoder(**how) -> FrameEncoder:
    torch.manual_seed(0)
    encoder = FrameEncoder(**how).eval()
    fill_norms(encoder)
    return encoder


def make_frames(count: int, size: tuple[int, int]) -> np.ndarray:
    """Grey to bright pictures of coarse blocks."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    rows, columns = (np.arange(side) * 6 // side for side in size)
    return blocks[:, rows][:, :, columns]


def by_torch(encoder: FrameEncoder, frames: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return encoder(torch.from_numpy(np.array(frames))).numpy()


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Each frame's embedding within TOLERANCE of its length, where the frames differ by more."""
    assert found.shape == expected.shape
    difference = np.linalg.norm(found.astype(np.float32) - expected, axis=1)
    assert (difference <= TOLERANCE * np.linalg.norm(expected, axis=1)).all()
    spread = np.linalg.norm(expected - expected.mean(axis=0), axis=1)
    assert (spread > 10 * TOLERANCE * np.linalg.norm(expected, axis=1)).all()


@pytest.mark.parametrize("padding", ["torch", "tensorflow"])
@pytest.mark.parametrize(("size", "input_size"), SIZES)
@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_embeddings_are_those_of_the_encoder(engine, size, input_size, padding):
    encoder = make_encoder(
        mean=(0.5, 0.4, 0.3), std=(0.3, 0.4, 0.5), padding=padding, input_size=input_size
    )
    frames = make_frames(5, size)
    found = TrunkRuntime(encoder, engine=engine).embed(frames)
    assert found.dtype == np.float16
    assert_close(found, by_torch(encoder, frames))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 16, 50])
def test_every_frame_is_embedded_once_and_in_its_place(threads, count):
    encoder = make_encoder()
    frames = make_frames(50, (32, 32))
    engine = TrunkRuntime(encoder, threads=threads)
    expected = engine.embed(frames)
    np.testing.assert_allclose(engine.embed(frames[:count]), expected[:count], rtol=2e-3, atol=2e-3)
    assert len(np.unique(expected.round(3), axis=0)) == 50


def test_frames_of_several_sizes_and_from_a_mapped_file(tmp_path):
    encoder = make_encoder(input_size=(64, 64))
    engine = TrunkRuntime(encoder)
    np.save(tmp_path / "frames.npy", make_frames(9, (48, 40)))
    mapped = np.load(tmp_path / "frames.npy", mmap_mode="r")
    for frames in (mapped, mapped[::2], make_frames(4, (96, 96)), mapped):
        assert_close(engine.embed(frames), by_torch(encoder, frames))


def test_training_the_encoder_further_changes_nothing():
    encoder = make_encoder()
    frames = make_frames(4, (32, 32))
    engines = [TrunkRuntime(encoder, engine=name) for name in ("onnxruntime", "torch")]
    expected = by_torch(encoder, frames)
    with torch.no_grad():
        encoder.features[18][0].weight.mul_(2)
    for engine in engines:
        assert_close(engine.embed(frames), expected)


def test_threads_are_those_of_torch_unless_given():
    encoder = make_encoder()
    assert TrunkRuntime(encoder).threads == torch.get_num_threads()
    assert TrunkRuntime(encoder, threads=5).threads == 5


def test_without_onnxruntime_torch_embeds_and_one_line_says_so(monkeypatch, capsys):
    encoder, frames = make_encoder(), make_frames(3, (32, 32))
    assert TrunkRuntime(encoder).engine == "onnxruntime"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    runtime._has_onnxruntime.cache_clear()
    try:
        engines = [TrunkRuntime(encoder) for _ in range(2)]
    finally:
        runtime._has_onnxruntime.cache_clear()
    assert [engine.engine for engine in engines] == ["torch", "torch"]
    assert_close(engines[0].embed(frames), by_torch(encoder, frames))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "onnxruntime" in said.err


def test_int8_takes_the_same_inputs_and_says_nearly_the_same():
    encoder, frames = make_encoder(input_size=(64, 64)), make_frames(12, (40, 40))
    model = runtime.trunk_graph(encoder, (40, 40))
    small = runtime.quantize(model, [{"frames": frames[:6]}])
    assert len(small) < len(model) / 3
    (found,) = runtime.open_session(small).run(None, {"frames": frames[6:]})
    expected = by_torch(encoder, frames[6:])
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    # Random weights suffer more than learned ones, whose loss export_model.py states.
    assert ((found * expected).sum(axis=1) > 0.7 * lengths).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_embeddings_of_a_gpu_are_those_of_the_cpu():
    encoder, frames = make_encoder(), make_frames(300, (96, 96))
    expected = by_torch(encoder, frames)
    engine = TrunkRuntime(encoder.cuda())
    assert engine.engine == "torch"
    assert_close(engine.embed(frames), expected)
