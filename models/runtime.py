"""Runtime: the trunk over many frames, by ONNX Runtime on a CPU and by torch on a GPU."""

import functools
import hashlib
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from models.encoders import FrameEncoder
from models.graphs import trunk_graph
from models.sessions import embed_frames, open_session

GPU_FRAMES = 256  # at once: 0.3 GB of memory at 160x160 in half precision
INT8_OPERATIONS = ["Conv", "Clip", "Add"]
TOLERANCE = 1e-3  # by which the engines' embeddings may differ, of their length


class TrunkRuntime:
    """The trunk as the encoder is now, ready for many frames; training it further changes nothing.

    On a CPU ONNX Runtime runs it on `threads` (by default torch's, which OMP_NUM_THREADS sets).
    Without onnxruntime, or on a GPU, torch runs it, there in the type `amp`.
    """

    def __init__(
        self,
        encoder: FrameEncoder,
        *,
        amp: torch.dtype | None = None,
        threads: int | None = None,
        engine: str = "auto",
    ):
        device = encoder.mean.device
        self.threads = threads or torch.get_num_threads()
        if engine == "auto":
            engine = "onnxruntime" if device.type == "cpu" and _has_onnxruntime() else "torch"
        self.engine = engine
        self._amp = amp
        self._encoder = encoder.for_inference()
        self._id: str | None = None
        self._sessions: dict[tuple[int, int], object] = {}  # by size of the frames

    @property
    def id(self) -> str:
        """16 hex digits that change with the weights and how frames are fed to them."""
        if self._id is None:
            digest = hashlib.sha256(str(self._encoder.config).encode())
            for tensor in self._encoder.state_dict().values():
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            self._id = digest.hexdigest()[:16]
        return self._id

    @property
    def embedding_size(self) -> int:
        return self._encoder.embedding_size

    def embed(self, frames: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB to (N, embedding_size) float16, all frames by themselves."""
        if len(frames) == 0:
            return np.zeros((0, self.embedding_size), np.float16)
        if self.engine == "torch":
            return self._by_torch(frames)
        return embed_frames(self._session(frames.shape[1:3]), frames, self.threads)

    @torch.inference_mode()
    def _by_torch(self, frames: np.ndarray) -> np.ndarray:
        device = self._encoder.mean.device
        autocast = torch.autocast(
            device.type, dtype=self._amp or torch.bfloat16, enabled=self._amp is not None
        )
        parts = []
        for start in range(0, len(frames), GPU_FRAMES):
            part = torch.from_numpy(np.array(frames[start : start + GPU_FRAMES])).to(device)
            with autocast:
                parts.append(self._encoder(part).half())
        return torch.cat(parts).cpu().numpy()

    def _session(self, frame_size: tuple[int, int]) -> object:
        if frame_size not in self._sessions:
            self._sessions[frame_size] = open_session(trunk_graph(self._encoder, frame_size))
        return self._sessions[frame_size]


def quantize(model: bytes, clips: Sequence[dict[str, np.ndarray]]) -> bytes:
    """ONNX whose convolutions compute in int8, with the ranges that they show on these inputs.

    Weights get 7 bits: processors without VNNI add two products of 8 bits in 16, which overflow.
    """
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._clips = iter(clips)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._clips, None)

    logging.disable(logging.WARNING)  # it advises to do what was done when the graph was made
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        quantization.quantize_static(
            onnx.load_model_from_string(model),
            path,
            Reader(),
            op_types_to_quantize=INT8_OPERATIONS,
            per_channel=True,
            reduce_range=True,
        )
        logging.disable(logging.NOTSET)
        return path.read_bytes()


@functools.cache
def _has_onnxruntime() -> bool:
    """Whether it and onnx can be imported; says so once where not."""
    try:
        import onnx  # noqa: F401 - to see whether it can be
        import onnxruntime  # noqa: F401
    except ImportError as error:
        print(
            f"note: frames are embedded by torch, about half as fast ({error}): "
            "./run_training.sh local installs what is missing",
            file=sys.stderr,
        )
        return False
    return True
