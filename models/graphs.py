"""Graphs: the networks as ONNX, written node by node from their weights.

Not by torch's exporter: that takes seconds to import and many more to run, for a network whose
trunk is made of four operations. What is written here is compared with torch by tests, and by
export_model.py for each model that it writes.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from models.encoders import CONV_GRID, ConvEncoder, FrameEncoder
from models.kept_network import HAS_SOUND, HAS_VIDEO, POOLED_MFCC, POOLED_VIDEO
from models.late_fusion import MAX_DEVIATION, LateFusionClassifier
from models.lrcn import LrcnClassifier
from models.mobilenet_v2 import InvertedResidual, TensorflowPadConv2d
from models.sessions import EMBEDDINGS, FRAME_COUNTS, FRAMES, MFCC, MFCC_COUNTS

OPSET = 17  # of 2022; onnxruntime reads it since 1.12
IR_VERSION = 8  # that of the same release of ONNX
_FLOAT, _INT32, _BOOL = 1, 6, 9  # onnx.TensorProto's numbers for the types


def trunk_graph(encoder: FrameEncoder, frame_size: tuple[int, int]) -> bytes:
    """ONNX of the trunk: `frames` (n, H, W, 3) uint8 to `embeddings` (n, size) float32."""
    graph = _Graph()
    graph.rename(_add_trunk(graph, encoder, FRAMES, frame_size), EMBEDDINGS)
    return graph.serialize(
        {FRAMES: (np.uint8, ["n", *frame_size, 3])},
        {EMBEDDINGS: (np.float32, ["n", encoder.embedding_size])},
    )


def features_graph(model: nn.Module) -> bytes:
    """ONNX of a classifier's `forward_features`, from embeddings of frames that are made already.

    `embeddings` (clips, T, size) float32, the rest as for `classifier_graph`, to `features`
    (clips, size). Raises TypeError for another network.
    """
    graph, size = _Graph(), model.video_encoder.embedding_size
    video = _add_video(graph, model, EMBEDDINGS, lambda x: _add_flat(graph, x, size))
    sound = [_add_sound(graph, model)] if model.uses_sound else []
    graph.rename(graph.add("Concat", video, *sound, axis=1), "features")
    inputs = {EMBEDDINGS: (np.float32, ["clips", "T", size]), FRAME_COUNTS: (np.int64, ["clips"])}
    if model.uses_sound:
        inputs |= _sound_inputs(model)
    num_features = model.video_head.in_features
    num_features += model.sound_head.in_features if model.uses_sound else 0
    return graph.serialize(inputs, {"features": (np.float32, ["clips", num_features])})


def heads_graph(model: LateFusionClassifier) -> bytes:
    """ONNX of late fusion's `forward_pooled`, from what is pooled over time already.

    `pooled_video` (n, 2560) and `pooled_mfcc` (n, 2 * n_mfcc) float32, `has_video` and `has_sound`
    (n, 1) bool, to `logits` (n, classes) float32.
    """
    graph, n_mfcc = _Graph(), model.config["n_mfcc"]
    video = _add_fused_video(graph, model, graph.add("Relu", POOLED_VIDEO), HAS_VIDEO)
    sound = _add_fused_sound(graph, model, POOLED_MFCC, HAS_SOUND)
    video, sound = (
        _add_linear(graph, video, model.video_head),
        _add_linear(graph, sound, model.sound_head),
    )
    graph.rename(graph.add("Add", video, sound), "logits")
    return graph.serialize(
        {
            POOLED_VIDEO: (np.float32, ["n", model.video_head.in_features]),
            POOLED_MFCC: (np.float32, ["n", 2 * n_mfcc]),
            HAS_VIDEO: (np.bool_, ["n", 1]),
            HAS_SOUND: (np.bool_, ["n", 1]),
        },
        {"logits": (np.float32, ["n", model.config["num_classes"]])},
    )


def classifier_graph(model: nn.Module, frame_size: tuple[int, int], temperature: float) -> bytes:
    """ONNX of a classifier, from what is read of clips to their calibrated probabilities.

    `frames` (clips, T, H, W, 3) uint8 RGB and `mfcc` (clips, M, n_mfcc) float32, of which the first
    `frame_counts` and `mfcc_counts` (clips,) int64 count; the rest is padding. 0 says that a clip
    has no sound. To `probabilities` (clips, classes) float32. Raises TypeError for another network.
    """
    graph = _Graph()

    def encode(frames: str) -> str:
        flat = graph.add("Reshape", frames, np.array([-1, *frame_size, 3]))
        return _add_trunk(graph, model.video_encoder, flat, frame_size)

    logits = _add_linear(graph, _add_video(graph, model, FRAMES, encode), model.video_head)
    if model.uses_sound:
        sound = _add_linear(graph, _add_sound(graph, model), model.sound_head)
        logits = graph.add("Add", logits, sound)
    logits = graph.add("Div", logits, np.float32(temperature))
    graph.rename(graph.add("Softmax", logits, axis=1), "probabilities")
    return graph.serialize(
        {
            FRAMES: (np.uint8, ["clips", "T", *frame_size, 3]),
            FRAME_COUNTS: (np.int64, ["clips"]),
            **_sound_inputs(model),
        },
        {"probabilities": (np.float32, ["clips", model.config["num_classes"]])},
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


def _sound_inputs(model: nn.Module) -> dict:
    n_mfcc = model.config["n_mfcc"]
    return {MFCC: (np.float32, ["clips", "M", n_mfcc]), MFCC_COUNTS: (np.int64, ["clips"])}


def _add_video(graph: _Graph, model: nn.Module, video: str, encode: Callable[[str], str]) -> str:
    """The picture's half of the features, of an input whose first axes are (clips, T).

    `encode` adds what makes embeddings (clips * T, size) of that input or a part of it.
    """
    known = {LateFusionClassifier: _add_pooled_video, LrcnClassifier: _add_sequence}
    if type(model) not in known:
        raise TypeError(f"no ONNX graph is known for a {type(model).__name__}")
    return known[type(model)](graph, model, video, encode)


def _add_sound(graph: _Graph, model: nn.Module) -> str:
    """The sound's half of the features, (clips, sound_size)."""
    sound = graph.add("Sub", MFCC, model.audio_encoder.mean)
    sound = graph.add("Div", sound, model.audio_encoder.std)
    return _add_fused_sound(graph, model, *_add_pooling(graph, sound, MFCC_COUNTS))


def _add_fused_sound(graph: _Graph, model: nn.Module, pooled: str, has_sound: str) -> str:
    sound = _add_gelu(graph, _add_linear(graph, pooled, model.sound_projection[1]))
    return graph.add("Where", has_sound, sound, model.no_sound)


def _add_pooled_video(
    graph: _Graph, model: LateFusionClassifier, video: str, encode: Callable[[str], str]
) -> str:
    """(clips, 2560)"""
    shape = graph.add("Slice", graph.add("Shape", video), np.array([0]), np.array([2]))
    embeddings = encode(video)
    shape = graph.add("Concat", shape, np.array([model.video_encoder.embedding_size]), axis=0)
    embeddings = graph.add("Reshape", embeddings, shape)  # (clips, T, 1280)
    return _add_fused_video(graph, model, *_add_pooling(graph, embeddings, FRAME_COUNTS))


def _add_fused_video(
    graph: _Graph, model: LateFusionClassifier, pooled: str, has_video: str
) -> str:
    pooled = graph.add("Sqrt", graph.add("Add", pooled, np.float32(1e-6)))
    pooled = _add_standardised(graph, pooled, model)
    return graph.add("Mul", pooled, graph.add("Cast", has_video, to=_FLOAT))


def _add_sequence(
    graph: _Graph, model: LrcnClassifier, video: str, encode: Callable[[str], str]
) -> str:
    """(clips, lstm_size)"""
    number = np.array(model.sequence_frames)
    ends = graph.add("Unsqueeze", FRAME_COUNTS, np.array([1]))  # (clips, 1)
    length = graph.add("Min", graph.add("Gather", graph.add("Shape", video), np.array(1)), number)
    step = graph.add("Range", np.array(0), length, np.array(1))  # (K,)
    # As `spread` says it, of the first `frame_counts` frames.
    odd = graph.add("Add", graph.add("Mul", step, np.array(2)), np.array(1))
    place = graph.add("Div", graph.add("Mul", odd, ends), 2 * number)
    place = graph.add("Where", graph.add("Greater", ends, number), place, step)  # (clips, K)
    index = graph.add("Unsqueeze", place, np.array([2]))
    x = encode(graph.add("GatherND", video, index, batch_dims=1))  # of (clips, K, ...)
    x = _add_standardised(graph, x, model)
    x = _add_gelu(graph, _add_linear(graph, x, model.frame_projection[1]))
    shape = graph.add("Concat", graph.add("Shape", place), np.array([-1]), axis=0)
    x = graph.add("Reshape", x, shape)  # (clips, K, lstm_size)
    counts = graph.add("Max", graph.add("Min", ends, number), np.array(1))
    if model.lstm is not None:
        x = _add_lstm(graph, x, graph.add("Squeeze", counts, np.array([1])), model.lstm)
    if model.average_over_time:
        there = graph.add("Unsqueeze", graph.add("Less", step, counts), np.array([2]))
        x = graph.add("Where", there, x, np.float32(0))
        x = graph.add("ReduceSum", x, np.array([1]), keepdims=0)
        x = graph.add("Div", x, graph.add("Cast", counts, to=_FLOAT))
    else:
        x = graph.add("GatherND", x, graph.add("Sub", counts, np.array(1)), batch_dims=1)
    has_video = graph.add("Cast", graph.add("Greater", ends, np.array(0)), to=_FLOAT)
    return graph.add("Mul", x, has_video)


def _add_lstm(graph: _Graph, x: str, counts: str, lstm: nn.LSTM) -> str:
    """(clips, K, size) to the states of the last layer, (clips, K, hidden)."""
    x = graph.add("Transpose", x, perm=[1, 0, 2])
    counts = graph.add("Cast", counts, to=_INT32)
    for layer in range(lstm.num_layers):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        tensors = (getattr(lstm, f"{name}_l{layer}") for name in names)
        # Gates come as input, forget, cell, output; ONNX has input, output, forget, cell.
        gates = [torch.cat([t.chunk(4)[i] for i in (0, 3, 1, 2)])[None] for t in tensors]
        biases = torch.cat(gates[2:], dim=1)
        states = graph.add("LSTM", x, *gates[:2], biases, counts, hidden_size=lstm.hidden_size)
        x = graph.add("Squeeze", states, np.array([1]))  # of its one direction
    return graph.add("Transpose", x, perm=[1, 0, 2])


def _add_standardised(graph: _Graph, x: str, model: nn.Module) -> str:
    x = graph.add("Div", graph.add("Sub", x, model.video_mean), model.video_std)
    return graph.add("Clip", x, np.float32(-MAX_DEVIATION), np.float32(MAX_DEVIATION))


def _add_flat(graph: _Graph, x: str, size: int) -> str:
    return graph.add("Reshape", x, np.array([-1, size]))


def _add_trunk(graph: _Graph, encoder: FrameEncoder, frames: str, size: tuple[int, int]) -> str:
    """(n, H, W, 3) uint8 to (n, embedding_size), fed as the encoder's weights were trained."""
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
    x, size = _add_module(graph, encoder.features, x, tuple(size))
    if isinstance(encoder, ConvEncoder):
        rows, columns = (_means(n, places) for n, places in zip(size, CONV_GRID, strict=True))
        return graph.add("Flatten", graph.add("MatMul", graph.add("MatMul", rows, x), columns.T))
    return graph.add("Flatten", graph.add("GlobalAveragePool", x))


def _means(size: int, places: int) -> np.ndarray:
    """(places, size) float32: by what adaptive pooling of `size` steps multiplies each."""
    step, place = np.arange(size), np.arange(places)[:, None]
    inside = (step >= place * size // places) & (step < -(-(place + 1) * size // places))
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)


def _add_module(
    graph: _Graph, module: nn.Module, x: str, size: tuple[int, int]
) -> tuple[str, tuple[int, int]]:
    """A part of an encoder with its batch norms folded; its output, and that picture's size."""
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
    if isinstance(module, nn.ReLU):
        return graph.add("Relu", x), size
    if isinstance(module, nn.GroupNorm):
        return _add_group_norm(graph, module, x, size), size
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
        *(x, module.weight, *(() if module.bias is None else (module.bias,))),
        pads=pads,
        strides=[stride, stride],
        group=module.groups,
    )
    height = (height + pads[0] + pads[2] - kernel) // stride + 1
    width = (width + pads[1] + pads[3] - kernel) // stride + 1
    return y, (height, width)


def _add_group_norm(graph: _Graph, module: nn.GroupNorm, x: str, size: tuple[int, int]) -> str:
    groups, channels = module.num_groups, module.num_channels
    x = graph.add("Reshape", x, np.array([0, groups, -1]))
    one, zero = np.ones(groups, np.float32), np.zeros(groups, np.float32)
    x = graph.add("InstanceNormalization", x, one, zero, epsilon=module.eps)
    x = graph.add("Reshape", x, np.array([0, channels, *size]))
    x = graph.add("Mul", x, module.weight.view(-1, 1, 1))
    return graph.add("Add", x, module.bias.view(-1, 1, 1))


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
