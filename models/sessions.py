"""Sessions: networks that are ONNX already, on a CPU by ONNX Runtime; torch has no part in it."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

FRAMES, FRAME_COUNTS = "frames", "frame_counts"  # names of the inputs
MFCC, MFCC_COUNTS = "mfcc", "mfcc_counts"
EMBEDDINGS = "embeddings"
FRAMES_PER_RUN = 4  # as soon done as 16, in a quarter of the memory


def open_session(model: bytes, threads: int = 1) -> object:
    """An onnxruntime.InferenceSession on the CPU, whose threads sleep while they wait."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; it warns about machines whose cores it can't count
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def embed_frames(trunk: object, frames: np.ndarray, threads: int) -> np.ndarray:
    """(N, H, W, 3) uint8 RGB to (N, size) float16, by a session of `trunk_graph`.

    Each thread runs chunks of its own: none waits for another after each layer, as they do where
    all share a chunk, and none spins meanwhile.
    """
    embeddings = np.empty((len(frames), trunk.get_outputs()[0].shape[1]), np.float16)

    def run(chunk: slice) -> None:
        (found,) = trunk.run(None, {FRAMES: np.ascontiguousarray(frames[chunk])})
        embeddings[chunk] = found

    # Even chunks, as many for each thread.
    rounds = math.ceil(len(frames) / (threads * FRAMES_PER_RUN))
    chunks = list(_even_slices(len(frames), rounds * threads))
    if threads == 1:
        for chunk in chunks:
            run(chunk)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, chunks))
    return embeddings


def _even_slices(length: int, parts: int) -> Iterator[slice]:
    bounds = [length * part // parts for part in range(parts + 1)]
    yield from (slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False) if a < b)
