"""Moving a factor per channel from a layer to the layers behind, through what commutes with it.

`f(x) = f(s · x / s)`: where all that lies between is positively homogeneous (a Relu, a pool, a
product), the activations may be divided by any positive factors, if the layer before has weights
that take up the division and all layers behind have weights that take up the product. All algebra
is in float64 and rounded to float32 once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.graph.graph import Graph, is_onnx
from onnxqat.graph.names import Names
from onnxqat.graph.passes.affine import FOLD, channels_of, has_constant_weights
from onnxqat.graph.passes.edit import float64, replace_constant
from onnxqat.graph.query import constant_value, consumers, is_float, is_output

Doubles = NDArray[np.float64]

NORMS = frozenset({"LayerNormalization", "Mul"})
"""What ends in a product with one constant a channel."""
ELEMENTWISE = frozenset({"Identity", "LeakyRelu", "PRelu", "Relu"})
"""Commute with positive factors, whatever axis counts the channels."""
SPATIAL = frozenset(
    {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Pad", "Resize", "Upsample"}
)
"""Commute with factors along axis 1. (Pools pad with what does not count, Resize interpolates.)"""


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that can take up the product."""

    node: gs.Node
    repeat: int
    """Input channels of the layer for one of the producer: more than one behind a Flatten."""

    @property
    def tensor(self) -> str:
        """The activation that it reads."""
        name: str = self.node.inputs[0].name
        return name


@dataclass(frozen=True, eq=False)
class Link:
    """A layer, and the layers that alone read what it computes."""

    producer: gs.Node
    channels: int
    axis: int
    """Of the producer's output that counts channels: 1, or -1 for the last."""
    readers: tuple[Reader, ...]
    biases: tuple[tuple[gs.Node, int], ...]
    """Nodes in between that add one constant a channel, with the constant's index."""


@dataclass(frozen=True)
class Refusal:
    """A layer whose channels cannot be rescaled, and why."""

    node: str
    reason: str


class _RefusedError(Exception):
    """Ends a search; its text is the reason."""


def links(graph: Graph) -> Iterator[Link | Refusal]:
    """What can be rescaled in the main graph, in its order, and what cannot, although it has
    weights that could take up a division.
    """
    for node in graph.nodes:
        axis = _produces(node)
        if axis is None or _channels(node) < 2:
            continue
        search = _Search(graph, _channels(node))
        try:
            search.follow(node.outputs[0], axis, repeat=1)
        except _RefusedError as refused:
            yield Refusal(node.name, str(refused))
            continue
        yield Link(node, search.channels, axis, tuple(search.readers), tuple(search.biases))


def _produces(node: gs.Node) -> int | None:
    """The channel axis of what a node with weights computes; None for every other node."""
    if not is_onnx(node):
        return None
    if node.op in FOLD:
        return 1 if has_constant_weights(node) else None
    if node.op == "MatMul" and _is_matrix(node.inputs[1]):
        return -1
    if node.op == "LayerNormalization":
        return -1 if all(_is_vector(tensor) for tensor in node.inputs[1:]) else None
    if node.op == "Mul" and sum(_is_vector(tensor) for tensor in node.inputs) == 1:
        return -1
    return None


def _is_matrix(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and is_float(tensor) and len(tensor.shape) == 2


def _is_vector(tensor: gs.Tensor) -> bool:
    """A constant [C] with C > 1."""
    is_constant = isinstance(tensor, gs.Constant) and is_float(tensor)
    return is_constant and len(tensor.shape) == 1 and tensor.shape[0] > 1


def _channels(node: gs.Node) -> int:
    if node.op in FOLD:
        return channels_of(node)
    if node.op == "MatMul":
        return int(node.inputs[1].shape[1])
    return int(_vector(node).shape[0])


def _vector(node: gs.Node) -> gs.Constant:
    return next(tensor for tensor in node.inputs if _is_vector(tensor))


@dataclass(eq=False)
class _Search:
    """Follows a tensor to all layers that read it."""

    graph: Graph
    channels: int

    def __post_init__(self) -> None:
        self.readers: list[Reader] = []
        self.biases: list[tuple[gs.Node, int]] = []

    def follow(self, tensor: gs.Tensor, axis: int, *, repeat: int) -> None:
        """Note what is behind a tensor; refuse where that does not commute."""
        found = consumers(tensor)
        if is_output(self.graph, tensor) or not found:
            raise _RefusedError(f"'{tensor.name}' is an output of the model, or read by nothing")
        if len({id(node) for node, _ in found}) < len(found):
            raise _RefusedError(f"'{found[0][0].name}' reads '{tensor.name}' twice")
        for node, index in found:
            if not any(node is own for own in self.graph.nodes) or not is_onnx(node):
                raise _RefusedError(f"'{node.name}' is in a subgraph, or of another domain")
            self._pass(node, index, axis, repeat)

    def _pass(self, node: gs.Node, index: int, axis: int, repeat: int) -> None:
        is_spatial = axis == 1 and index == 0 and node.op in SPATIAL
        if _absorbs(node, index, axis):
            self.readers.append(Reader(node, repeat))
        elif (node.op in ELEMENTWISE and index == 0) or (is_spatial and _keeps_channels(node)):
            self.follow(node.outputs[0], axis, repeat=repeat)
        elif node.op == "Mul" or (node.op == "Div" and index == 0):
            self._keeps_shape(node, index)
            self.follow(node.outputs[0], axis, repeat=repeat)
        elif (
            node.op == "MatMul"
            and index == 1
            and axis == -1
            and len(node.inputs[1].shape or ()) > 1
        ):
            self.follow(node.outputs[0], axis, repeat=repeat)  # attention: mixes positions alone
        elif node.op == "Add" and self._adds_constant(node, index, axis) and repeat == 1:
            self.biases.append((node, 1 - index))
            self.follow(node.outputs[0], axis, repeat=repeat)
        elif node.op == "Flatten" and node.attrs.get("axis", 1) == 1 and axis == 1:
            shape = node.inputs[0].shape
            if shape is None or not all(isinstance(size, int) for size in shape[2:]):
                raise _RefusedError(f"'{node.name}' flattens a shape that is not known")
            self.follow(node.outputs[0], axis, repeat=repeat * prod(shape[2:]))
        else:
            raise _RefusedError(
                f"{node.op} '{node.name}' does not commute with factors per channel"
            )

    def _keeps_shape(self, node: gs.Node, index: int) -> None:
        """The other factor must not broadcast the channels."""
        own, out = node.inputs[index].shape, node.outputs[0].shape
        if own is None or out is None or len(own) != len(out):
            raise _RefusedError(f"the shapes at {node.op} '{node.name}' are not known")

    def _adds_constant(self, node: gs.Node, index: int, axis: int) -> bool:
        other, own = node.inputs[1 - index], node.inputs[index].shape
        if not isinstance(other, gs.Constant) or not is_float(other) or own is None:
            return False
        shape = (1,) * (len(own) - len(other.shape)) + tuple(other.shape)
        at = axis % len(own)
        return len(shape) == len(own) and all(
            size == 1 or (i == at and size == self.channels) for i, size in enumerate(shape)
        )


def _keeps_channels(node: gs.Node) -> bool:
    """Whether a pool or Resize works along the other axes alone, on values alone."""
    if node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return False  # fills with a constant
    if node.op == "Pad" and not _pads_with_zeros(node):
        return False
    before, after = node.inputs[0].shape, node.outputs[0].shape
    is_known = before is not None and after is not None
    return len(node.outputs) == 1 and is_known and before[1] == after[1]


def _pads_with_zeros(node: gs.Node) -> bool:
    """Or with values of the tensor itself."""
    if node.attrs.get("mode", "constant") != "constant" or len(node.inputs) < 3:
        return True
    value = node.inputs[2]
    return value.is_empty() or (isinstance(value, gs.Constant) and not np.any(value.values))


def _absorbs(node: gs.Node, index: int, axis: int) -> bool:
    """Whether a layer has weights that can take up factors of what it reads here."""
    weight = node.inputs[1] if index == 0 and len(node.inputs) > 1 else None
    if not isinstance(weight, gs.Constant) or not is_float(weight):
        return False
    if node.op in ("Conv", "ConvTranspose"):
        return axis == 1
    if node.op == "Gemm":
        return not node.attrs.get("transA", 0)
    rank = None if node.inputs[0].shape is None else len(node.inputs[0].shape)
    return node.op == "MatMul" and _is_matrix(weight) and (axis == -1 or rank == 2)


def largest_weights(reader: Reader, channels: int) -> Doubles:
    """The largest magnitude of the weights that multiply each channel, [channels]."""
    rows = np.abs(_rows(reader.node)).max(axis=1, initial=0)
    found: Doubles = rows.reshape(channels, -1).max(axis=1)
    return found


def rescale(link: Link, factors: Doubles, names: Names) -> None:
    """Divide the activations of a link by factors [channels] > 0; the network computes the same."""
    _DIVIDE.get(link.producer.op, _divide_layer)(link.producer, factors, names)
    for node, index in link.biases:
        behind = 0 if link.axis == -1 else len(node.outputs[0].shape) - 2
        shaped = factors.reshape(-1, *[1] * behind)
        _replace(node, index, float64(node.inputs[index]) / shaped, names)
    for reader in link.readers:
        _multiply(reader.node, np.repeat(factors, reader.repeat), names)


def _divide_layer(node: gs.Node, factors: Doubles, names: Names) -> None:
    FOLD[node.op](node, 1 / factors, np.zeros_like(factors), names)


def _divide_matmul(node: gs.Node, factors: Doubles, names: Names) -> None:
    _replace(node, 1, float64(node.inputs[1]) / factors, names)


def _divide_norm(node: gs.Node, factors: Doubles, names: Names) -> None:
    for index in range(1, len(node.inputs)):
        _replace(node, index, float64(node.inputs[index]) / factors, names)


def _divide_mul(node: gs.Node, factors: Doubles, names: Names) -> None:
    index = next(i for i, tensor in enumerate(node.inputs) if _is_vector(tensor))
    _replace(node, index, float64(node.inputs[index]) / factors, names)


_DIVIDE: dict[str, Callable[[gs.Node, Doubles, Names], None]] = {
    "LayerNormalization": _divide_norm,
    "MatMul": _divide_matmul,
    "Mul": _divide_mul,
}


def _rows(node: gs.Node) -> Doubles:
    """The weights of a layer as [input channels, all that multiplies one]."""
    weight = constant_value(node.inputs[1])
    assert weight is not None
    weight = weight.astype(np.float64)
    if node.op == "Conv":  # [K, C / group, …]: the first K / group filters read the first C / group
        group = int(node.attrs.get("group", 1))
        split = weight.reshape(group, len(weight) // group, weight.shape[1], -1)
        return split.transpose(0, 2, 1, 3).reshape(group * weight.shape[1], -1)
    if node.op == "Gemm" and node.attrs.get("transB", 0):
        weight = weight.T
    return weight.reshape(len(weight), -1)


def output_matrix(node: gs.Node) -> NDArray[np.float32]:
    """The weights of a layer as [output channels, values of a row], the groups one below the other;
    of a ConvTranspose, with one line for each output channel and place of the kernel.
    """
    weight: NDArray[np.float32] = node.inputs[1].values
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
