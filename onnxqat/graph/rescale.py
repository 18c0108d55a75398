"""Moving factors per channel between layers with weights, through what commutes with them.

`f(x) = f(s · x / s)`: where all that lies between is positively homogeneous (a Relu, a pool, a
sum), the activations may be divided by any positive factors, if the layers before have weights that
take up the division and all layers behind have weights that take up the product. All algebra is in
float64 and rounded to float32 once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.graph.channel_groups import Group, Layer, is_vector
from onnxqat.graph.names import Names
from onnxqat.graph.passes.affine import FOLD
from onnxqat.graph.passes.edit import float64, replace_constant
from onnxqat.graph.query import constant_value, consumers
from onnxqat.graph.ties import Ints

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]


def rescale(group: Group, factors: Doubles, names: Names) -> None:
    """Divide the activations of a group by factors [size] > 0; the network computes the same, but
    where a limit of the group cuts what it did not cut before.
    """
    for layer in group.producers:
        divide = _DIVIDE.get(layer.node.op, _divide_layer)
        divide(layer.node, factors[layer.channels], names)
    for bias in group.biases:
        shaped = factors[bias.channels].reshape(-1, *[1] * bias.behind)
        _replace(bias.node, bias.index, float64(bias.node.inputs[bias.index]) / shaped, names)
    for reader in group.readers:
        _multiply(reader.node, factors[reader.channels], names)


def _divide_layer(node: gs.Node, factors: Doubles, names: Names) -> None:
    FOLD[node.op](node, 1 / factors, np.zeros_like(factors), names)


def _divide_matmul(node: gs.Node, factors: Doubles, names: Names) -> None:
    _replace(node, 1, float64(node.inputs[1]) / factors, names)


def _divide_norm(node: gs.Node, factors: Doubles, names: Names) -> None:
    for index in range(1, len(node.inputs)):
        _replace(node, index, float64(node.inputs[index]) / factors, names)


def _divide_batch_norm(node: gs.Node, factors: Doubles, names: Names) -> None:
    for index in (1, 2):  # scale and bias
        _replace(node, index, float64(node.inputs[index]) / factors, names)


def _divide_mul(node: gs.Node, factors: Doubles, names: Names) -> None:
    index = next(i for i, tensor in enumerate(node.inputs) if is_vector(tensor))
    _replace(node, index, float64(node.inputs[index]) / factors, names)


_DIVIDE: dict[str, Callable[[gs.Node, Doubles, Names], None]] = {
    "BatchNormalization": _divide_batch_norm,
    "LayerNormalization": _divide_norm,
    "MatMul": _divide_matmul,
    "Mul": _divide_mul,
}


def input_matrix(reader: Layer) -> tuple[Floats, Ints]:
    """The weights of a layer that reads, as [output channels, values of a row], and the group's
    channel that each of them multiplies. Of a ConvTranspose, with one line for each output channel
    and place of the kernel.
    """
    node = reader.node
    weight = constant_value(node.inputs[1])
    assert weight is not None
    return as_matrix(node, weight), as_matrix(node, _multiplied(reader, weight.shape))


def _multiplied(reader: Layer, shape: tuple[int, ...]) -> Ints:
    """For each weight the channel that it multiplies."""
    node, channels = reader.node, reader.channels
    if node.op == "Conv":  # [K, C / group, …]: the first K / group filters read the first C / group
        group = int(node.attrs.get("group", 1))
        split = np.repeat(channels.reshape(group, -1), shape[0] // group, axis=0)
        return np.broadcast_to(split.reshape(*shape[:2], *[1] * (len(shape) - 2)), shape)
    if node.op == "Gemm" and node.attrs.get("transB", 0):
        return np.broadcast_to(channels, shape)
    return np.broadcast_to(channels.reshape(-1, *[1] * (len(shape) - 1)), shape)


def as_matrix(node: gs.Node, weight: NDArray[Any]) -> NDArray[Any]:
    """What is laid out as a layer's weights, as [output channels, values of a row]."""
    if node.op == "Conv":
        return weight.reshape(len(weight), -1)
    if node.op == "Gemm" and node.attrs.get("transB", 0):
        return weight
    group = int(node.attrs.get("group", 1))  # of a ConvTranspose: [C, K / group, …]
    split = weight.reshape(group, len(weight) // group, -1).transpose(0, 2, 1)
    return np.ascontiguousarray(split).reshape(-1, split.shape[2])


def _multiply(node: gs.Node, factors: Doubles, names: Names) -> None:
    """Multiply the weights that read each input channel."""
    weight = float64(node.inputs[1])
    if node.op == "BatchNormalization":
        _replace(node, 3, float64(node.inputs[3]) / factors, names)  # the mean of what it reads
    if node.op == "Conv":
        group = int(node.attrs.get("group", 1))
        split = weight.reshape(group, -1, *weight.shape[1:])
        shaped = factors.reshape(group, 1, -1, *[1] * (weight.ndim - 2))
        product = (split * shaped).reshape(weight.shape)
    elif node.op == "Gemm" and node.attrs.get("transB", 0):
        product = weight * factors
    else:
        product = weight * factors.reshape(-1, *[1] * (weight.ndim - 1))
    _replace(node, 1, product, names)


def _replace(node: gs.Node, index: int, values: Doubles, names: Names) -> None:
    old = node.inputs[index]
    fresh = names.tensor(f"{old.name}_rescaled") if len(consumers(old)) > 1 else ""
    replace_constant(node, index, values.astype(np.float32), fresh_name=fresh)
