"""Graphs: the networks as ONNX, written node by node from their weights.

Not by torch's exporter: that takes seconds to import and many more to run, for a network whose
trunk is made of four operations. What is written here is compared with torch by tests, and by
export_model.py for each model that it writes.
"""

import math

import numpy as np
import torch
from torch import nn

from models.encoders import FrameEncoder
from models.late_fusion import MAX_DEVIATION, LateFusionClassifier
from models.mobilenet_v2 import EMBEDDING_SIZE, InvertedResidual, TensorflowPadConv2d

OPSET = 17  # of 2022; onnxruntime reads it since 1.12
IR_VERSION = 8  # that of the same release of ONNX
FRAMES, FRAME_COUNTS = "frames", "frame_counts"  # names of the inputs
MFCC, MFCC_COUNTS = "mfcc", "mfcc_counts"
_FLOAT, _BOOL = 1, 9  # onnx.TensorProto's numbers for the types


def trunk_graph(encoder: FrameEncoder, frame_size: tuple[int, int]) -> bytes:
    """ONNX of the trunk: `frames` (n, H, W, 3) uint8 to `embeddings` (n, 1280) float32."""
    graph = _Graph()
    graph.rename(_add_trunk(graph, encoder, FRAMES, frame_size), "embeddings")
    return graph.serialize(
        {FRAMES: (np.uint8, ["n", *frame_size, 3])},
        {"embeddings": (np.float32, ["n", EMBEDDING_SIZE])},
    )


def classifier_graph(
    model: LateFusionClassifier, frame_size: tuple[int, int], temperature: float
) -> bytes:
    """ONNX of a classifier, from what is read of clips to their calibrated probabilities.

    `frames` (clips, T, H, W, 3) uint8 RGB and `mfcc` (clips, M, n_mfcc) float32, of which the first
    `frame_counts` and `mfcc_counts` (clips,) int64 count; the rest is padding. 0 says that a clip
    has no sound. To `probabilities` (clips, classes) float32. Raises TypeError for another network.
    """
    if not isinstance(model, LateFusionClassifier):
        raise TypeError(f"no ONNX graph is known for a {type(model).__name__}")
    graph = _Graph()
    flat = graph.add("Reshape", FRAMES, np.array([-1, *frame_size, 3]))
    embeddings = _add_trunk(graph, model.video_encoder, flat, frame_size)
    shape = graph.add("Slice", graph.add("Shape", FRAMES), np.array([0]), np.array([2]))
    shape = graph.add("Concat", shape, np.array([EMBEDDING_SIZE]), axis=0)
    embeddings = graph.add("Reshape", embeddings, shape)  # (clips, T, 1280)
    video, has_video = _add_pooling(graph, embeddings, FRAME_COUNTS)
    video = graph.add("Sqrt", graph.add("Add", video, np.float32(1e-6)))
    video = graph.add("Div", graph.add("Sub", video, model.video_mean), model.video_std)
    video = graph.add("Clip", video, np.float32(-MAX_DEVIATION), np.float32(MAX_DEVIATION))
    video = graph.add("Mul", video, graph.add("Cast", has_video, to=_FLOAT))
    sound = graph.add("Sub", MFCC, model.audio_encoder.mean)
    sound = graph.add("Div", sound, model.audio_encoder.std)
    sound, has_sound = _add_pooling(graph, sound, MFCC_COUNTS)
    sound = _add_gelu(graph, _add_linear(graph, sound, model.sound_projection[1]))
    sound = graph.add("Where", has_sound, sound, model.no_sound)
    video = _add_linear(graph, video, model.video_head)
    logits = graph.add("Add", video, _add_linear(graph, sound, model.sound_head))
    logits = graph.add("Div", logits, np.float32(temperature))
    graph.rename(graph.add("Softmax", logits, axis=1), "probabilities")
    n_mfcc, num_classes = model.config["n_mfcc"], model.config["num_classes"]
    return graph.serialize(
        {
            FRAMES: (np.uint8, ["clips", "T", *frame_size, 3]),
            FRAME_COUNTS: (np.int64, ["clips"]),
            MFCC: (np.float32, ["clips", "M", n_mfcc]),
            MFCC_COUNTS: (np.int64, ["clips"]),
        },
        {"probabilities": (np.float32, ["clips", num_classes])},
    )


def with_metadata(model: bytes, metadata: dict[str, str]) -> bytes:
    """The same ONNX with these texts in its metadata_props."""
    import onnx

    proto = onnx.load_model_from_string(model)
    onnx.helper.set_model_props(proto, metadata)
    return proto.SerializeToString()


class _Graph:
    """Nodes and the constants they need, in the order they are added."""

    def __init__(self) -> None:
        import onnx  # a third of a second

        self._onnx = onnx
        self._nodes: list = []
        self._constants: list = []

    def add(self, kind: str, *inputs: object, **attributes: object) -> str:
        """Adds a node; its name. Inputs are names of nodes, or numbers, arrays and tensors."""
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        output = f"{kind}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, names, [output], **attributes))
        return output

    def rename(self, last: str, name: str) -> None:
        """Gives the node added last the name of an output."""
        assert list(self._nodes[-1].output) == [last]
        self._nodes[-1].output[0] = name

    def serialize(self, inputs: dict, outputs: dict) -> bytes:
        """The model's bytes; inputs and outputs are (dtype, shape) by name."""
        helper = self._onnx.helper

        def describe(values: dict) -> list:
            return [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
                )
                for name, (dtype, shape) in values.items()
            ]

        graph = helper.make_graph(
            self._nodes, "model", describe(inputs), describe(outputs), self._constants
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="ad-game-classifier",
        )
        return model.SerializeToString()

    def _constant(self, value: object) -> str:
        if isinstance(value, torch.Tensor):
            value = value.detach().float().cpu().numpy()
        name = f"constant_{len(self._constants)}"
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        self._constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name


def _add_trunk(graph: _Graph, encoder: FrameEncoder, frames: str, size: tuple[int, int]) -> str:
    """(n, H, W, 3) uint8 to (n, 1280), fed as the encoder's weights were trained."""
    encoder = encoder.for_inference()
    x = graph.add("Cast", graph.add("Transpose", frames, perm=[0, 3, 1, 2]), to=_FLOAT)
    if encoder.input_size and encoder.input_size != tuple(size):
        # Not `sizes` or `axes`: onnxruntime 1.31 mixes them up beside int8. A bit more than the
        # scale, because it is rounded down to a size.
        scales = np.float32([new / old for new, old in zip(encoder.input_size, size, strict=True)])
        scales = np.array([1, 1, *np.nextafter(scales, np.float32(np.inf))], np.float32)
        size = encoder.input_size
        # "" is no region of interest; all else is interpolate()'s default.
        x = graph.add("Resize", x, "", scales, mode="linear")
    x = graph.add("Div", graph.add("Sub", x, encoder.mean), encoder.std)
    x, _ = _add_module(graph, encoder.features, x, tuple(size))
    return graph.add("Flatten", graph.add("GlobalAveragePool", x))


def _add_module(
    graph: _Graph, module: nn.Module, x: str, size: tuple[int, int]
) -> tuple[str, tuple[int, int]]:
    """A part of MobileNetV2 with its batch norms folded; its output, and that picture's size."""
    if isinstance(module, InvertedResidual):
        y, size = _add_module(graph, module.conv, x, size)
        return (graph.add("Add", x, y) if module.is_residual else y), size
    if isinstance(module, nn.Sequential):
        for child in module:
            x, size = _add_module(graph, child, x, size)
        return x, size
    if isinstance(module, nn.Conv2d):
        return _add_convolution(graph, module, x, size)
    if isinstance(module, nn.ReLU6):
        return graph.add("Clip", x, np.float32(0), np.float32(6)), size
    if isinstance(module, nn.Identity):
        return x, size
    raise TypeError(f"no ONNX is known for {type(module).__name__}")


def _add_convolution(
    graph: _Graph, module: nn.Conv2d, x: str, size: tuple[int, int]
) -> tuple[str, tuple[int, int]]:
    (height, width), kernel, stride = size, module.kernel_size[0], module.stride[0]
    pads = [module.padding[0]] * 4  # top, left, bottom, right
    if isinstance(module, TensorflowPadConv2d):
        pads = [height % 2, width % 2, 1, 1]
    y = graph.add(
        "Conv",
        *(x, module.weight, module.bias),
        pads=pads,
        strides=[stride, stride],
        group=module.groups,
    )
    height = (height + pads[0] + pads[2] - kernel) // stride + 1
    width = (width + pads[1] + pads[3] - kernel) // stride + 1
    return y, (height, width)


def _add_pooling(graph: _Graph, x: str, counts: str) -> tuple[str, str]:
    """`pool_mean_std` of the first `counts` steps, (clips, 2D); and (clips, 1) whether any is."""
    steps = graph.add("Gather", graph.add("Shape", x), np.array(1))
    times = graph.add("Range", np.array(0), steps, np.array(1))
    ends = graph.add("Unsqueeze", counts, np.array([1]))
    weight = graph.add("Cast", graph.add("Less", times, ends), to=_FLOAT)  # (clips, steps)
    weight = graph.add("Unsqueeze", weight, np.array([2]))
    # What is padded may be anything, and 0 times that no number is none.
    x = graph.add("Where", graph.add("Cast", weight, to=_BOOL), x, np.float32(0))
    count = graph.add("Cast", ends, to=_FLOAT)
    mean = graph.add("ReduceSum", x, np.array([1]), keepdims=0)
    mean = graph.add("Div", mean, graph.add("Max", count, np.float32(1)))
    deviation = graph.add("Sub", x, graph.add("Unsqueeze", mean, np.array([1])))
    deviation = graph.add("Mul", deviation, weight)
    squares = graph.add("Mul", deviation, deviation)
    squares = graph.add("ReduceSum", squares, np.array([1]), keepdims=0)
    freedom = graph.add("Max", graph.add("Sub", count, np.float32(1)), np.float32(1))
    variance = graph.add("Add", graph.add("Div", squares, freedom), np.float32(1e-8))
    has_any = graph.add("Greater", ends, np.array(0))
    std = graph.add("Mul", graph.add("Sqrt", variance), graph.add("Cast", has_any, to=_FLOAT))
    return graph.add("Concat", mean, std, axis=1), has_any


def _add_linear(graph: _Graph, x: str, layer: nn.Linear) -> str:
    y = graph.add("MatMul", x, layer.weight.t())
    return y if layer.bias is None else graph.add("Add", y, layer.bias)


def _add_gelu(graph: _Graph, x: str) -> str:
    half = graph.add("Mul", x, np.float32(0.5))
    erf = graph.add("Erf", graph.add("Div", x, np.float32(math.sqrt(2))))
    return graph.add("Mul", half, graph.add("Add", erf, np.float32(1)))
