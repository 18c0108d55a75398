"""Where a node's weights are, and in what format they are quantized."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxqat.core.spec import Granularity, PerChannel, PerTensor, QuantDtype, QuantSpec
from onnxqat.placement.families import CONVOLUTIONS, WEIGHTED
from onnxqat.placement.scene import Scene, is_constant, readers


def weight_index(node: gs.Node) -> int | None:
    """The input of a weighted op that holds its weights; None if no operand is stored.

    Conv and ConvTranspose keep them at 1; Gemm and MatMul may have them on either side.
    """
    places = (1,) if node.op in CONVOLUTIONS else (1, 0)
    return next((index for index in places if is_constant(node.inputs[index])), None)


def weight_spec(scene: Scene, node: gs.Node, index: int) -> QuantSpec:
    """The format of the weights at input `index`: the user's, one scale an output channel (P3).

    Weights that several nodes read along different axes get one scale for all, which fits each;
    weights that are also read in float, or in another format, stay 8-bit, for 4-bit ones are stored
    as codes alone. Weights are FP8 exactly where the data is: no kernel mixes it with INT8.
    """
    weights = node.inputs[index]
    slots = [(reader, i) for reader, i in readers(weights) if _is_weight_slot(reader, i)]
    uses = {weight_granularity(reader, i) for reader, i in slots}
    is_all = len(slots) == len(readers(weights))
    asked = {_asked(scene, reader, i) for reader, i in slots}
    dtype = asked.pop() if len(asked) == 1 else QuantDtype.INT8
    if dtype is QuantDtype.INT4_IN_INT8 and not is_all:
        dtype = QuantDtype.INT8
    return QuantSpec(dtype, uses.pop() if len(uses) == 1 else PerTensor())


def _asked(scene: Scene, node: gs.Node, index: int) -> QuantDtype:
    """The type of the weights at an input that the user's format comes to."""
    data, asked = scene.activation_on(node.inputs[1 - index]).dtype, scene.format_of(node).weight
    if data.is_float == asked.is_float:
        return asked
    return QuantDtype.FP8 if data.is_float else QuantDtype.INT8


def weight_granularity(node: gs.Node, index: int) -> Granularity:
    """One scale an output channel, or one for all where the weights have no such axis."""
    axis = _CHANNEL_AXES[node.op](node, index, len(node.inputs[index].shape))
    return PerTensor() if axis is None else PerChannel(axis)


def _is_weight_slot(node: gs.Node, index: int) -> bool:
    return node.op in WEIGHTED and index == weight_index(node)


def _conv(node: gs.Node, index: int, rank: int) -> int | None:
    """[M, C/group, ...], see https://onnx.ai/onnx/operators/onnx__Conv.html."""
    return 0


def _conv_transpose(node: gs.Node, index: int, rank: int) -> int | None:
    """[C, M/group, ...], see https://onnx.ai/onnx/operators/onnx__ConvTranspose.html."""
    return 1


def _gemm(node: gs.Node, index: int, rank: int) -> int | None:
    """A [M, K] and B [K, N], each stored transposed where its attribute says so."""
    is_transposed = bool(node.attrs.get(("transA", "transB")[index], 0))
    return index ^ is_transposed


def _matmul(node: gs.Node, index: int, rank: int) -> int | None:
    """A [..., M, K] and B [..., K, N] as in numpy; a vector [K] has no output channel."""
    return None if rank < 2 else (rank - 2, rank - 1)[index]


_CHANNEL_AXES = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
