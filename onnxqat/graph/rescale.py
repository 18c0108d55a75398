"""Moving factors per channel between layers with weights, through what commutes with them.

`f(x) = f(s · x / s)`: where all that lies between is positively homogeneous (a Relu, a pool, a
sum), the activations may be divided by any positive factors, if the layers before have weights that
take up the division and all layers behind have weights that take up the product. A residual sum, or
a Concat, ties the channels of several tensors together: they are divided alike, from the first
layer that adds to them to the last one that reads them. All algebra is in float64 and rounded to
float32 once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.graph.graph import Graph, is_onnx
from onnxqat.graph.names import Names
from onnxqat.graph.passes.affine import FOLD, channels_of, has_constant_weights
from onnxqat.graph.passes.edit import float64, replace_constant
from onnxqat.graph.query import constant_value, consumers, is_float, is_output, producer

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

NORMS = frozenset({"LayerNormalization", "Mul"})
"""What ends in a product with one constant a channel."""
ELEMENTWISE = ("Identity", "LeakyRelu", "PRelu", "Relu")
"""Commute with positive factors, whatever axis counts the channels."""
SPATIAL = (
    "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMean", "Resize",
    "Upsample",
)  # fmt: skip
"""Commute with factors along axis 1. (Pools pad with what does not count, Resize interpolates.)"""

VALUELESS = frozenset({"Shape", "Size"})
"""Do not look at the values that they read."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A node with weights that can take up factors."""

    node: gs.Node
    channels: Ints
    """Of the group: one for each channel that the node computes, or reads."""

    @property
    def tensor(self) -> str:
        """The activation that it reads."""
        name: str = self.node.inputs[0].name
        return name


@dataclass(frozen=True, eq=False)
class Tied:
    """An activation of the group."""

    name: str
    axis: int
    """Of its channels: 1, or -1 for the last."""
    channels: Ints
    """Of the group: one for each of its own."""


@dataclass(frozen=True, eq=False)
class Bias:
    """A node in between that adds a constant."""

    node: gs.Node
    index: int
    """Of the constant."""
    channels: Ints
    behind: int
    """Axes of the sum behind the channels'."""


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that can only be divided together with nothing else but these layers' weights."""

    size: int
    """Channels with a factor of their own."""
    tensors: tuple[Tied, ...]
    producers: tuple[Layer, ...]
    readers: tuple[Layer, ...]
    biases: tuple[Bias, ...]

    @property
    def name(self) -> str:
        """Of the first layer that computes some of them."""
        name: str = self.producers[0].node.name
        return name

    @property
    def is_behind_norms(self) -> bool:
        """Whether normalizations compute all of them."""
        return all(layer.node.op in NORMS for layer in self.producers)


@dataclass(frozen=True)
class Refusal:
    """A layer whose channels cannot be rescaled, and why."""

    node: str
    reason: str


class _RefusedError(Exception):
    """Ends a search; its text is the reason."""


def groups(graph: Graph) -> Iterator[Group | Refusal]:
    """What can be rescaled in the main graph, in its order, and what cannot, although it has
    weights that could take up a division.
    """
    own = frozenset(map(id, graph.nodes))
    done: set[int] = set()
    refused: dict[str, str] = {}
    for node in graph.nodes:
        axis = _produces(node)
        if axis is None or _channels(node) < 2 or id(node) in done:
            continue
        reason = refused.get(node.outputs[0].name)
        if reason is None:
            search = _Search(graph, own)
            try:
                group = search.run(node, axis)
                done.update(id(layer.node) for layer in group.producers)
                yield group
                continue
            except _RefusedError as error:
                reason = str(error)
                refused.update(dict.fromkeys(search.known, reason))
        yield Refusal(node.name, reason)


def _produces(node: gs.Node) -> int | None:
    """The channel axis of what a node with weights computes: 1, or -1 for the last; None for every
    other node.
    """
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


@dataclass(frozen=True, eq=False)
class _At:
    """A node in between, and how the search came to it."""

    node: gs.Node
    index: int | None
    """Of the input by which; None: by the output."""
    axis: int
    channels: int
    """Of the tensor by which."""

    def refuse(self, why: str = "does not commute with factors per channel") -> _RefusedError:
        return _RefusedError(f"{self.node.op} '{self.node.name}' {why}")

    @property
    def same(self) -> Ints:
        """The channels as they are."""
        return np.arange(self.channels)

    def shape(self, tensor: gs.Tensor) -> Sequence[int | str | None]:
        """Its shape.

        Raises:
            _RefusedError: The rank is not known.
        """
        if tensor.shape is None:
            raise self.refuse("has a shape that is not known")
        shape: Sequence[int | str | None] = tensor.shape
        return shape

    def size(self, tensor: gs.Tensor) -> int:
        """Its channels.

        Raises:
            _RefusedError: They are not known.
        """
        found = self.shape(tensor)[self.axis]
        if not isinstance(found, int):
            raise self.refuse("has a shape that is not known")
        return found


Tie = tuple[gs.Tensor, Ints]
"""A tensor, and for each of its channels the one among all of a node's channels."""


def _tie_elementwise(at: _At) -> list[Tie]:
    if at.index:
        raise at.refuse()
    return [(at.node.inputs[0], at.same), (at.node.outputs[0], at.same)]


def _tie_spatial(at: _At) -> list[Tie]:
    """Along the other axes alone, on values alone."""
    node = at.node
    is_cropping = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if at.axis != 1 or len(node.outputs) != 1 or is_cropping:  # cropping fills with a constant
        raise at.refuse()
    if node.op == "ReduceMean" and not _reduces_behind(node):
        raise at.refuse()
    before, after = at.shape(node.inputs[0]), at.shape(node.outputs[0])
    if len(after) < 2 or before[1] is None or before[1] != after[1]:
        raise at.refuse("does not work along the other axes alone")
    return _tie_elementwise(at)


def _reduces_behind(node: gs.Node) -> bool:
    """Whether along axes behind the channels' alone."""
    axes = _ints(node.attrs.get("axes") if len(node.inputs) < 2 else node.inputs[1])
    rank = len(node.inputs[0].shape or ())
    return bool(axes and rank) and all(axis % rank > 1 for axis in axes or ())


def _tie_pad(at: _At) -> list[Tie]:
    """Further channels may be zeros."""
    node = at.node
    if at.index:
        raise at.refuse()
    pads = _ints(node.attrs.get("pads") if len(node.inputs) < 2 else node.inputs[1])
    before = at.shape(node.inputs[0])
    is_partial = len(node.inputs) > 3 and not node.inputs[3].is_empty()
    if pads is None or len(pads) != 2 * len(before) or is_partial:
        raise at.refuse("has pads that are not known")
    axis = at.axis % len(before)
    first, last = pads[axis], pads[axis + len(before)]
    is_constant = node.attrs.get("mode", "constant") == "constant"
    if (is_constant and not _pads_with_zeros(node)) or min(first, last, 0) < 0:
        raise at.refuse()
    if not first and not last:
        return _tie_elementwise(at)
    if not is_constant:
        raise at.refuse()
    size = at.size(node.inputs[0])
    return [
        (node.outputs[0], np.arange(first + size + last)),
        (node.inputs[0], np.arange(first, first + size)),
    ]


def _tie_sum(at: _At) -> list[Tie]:
    """What is added must have all the channels; constants are divided too."""
    node = at.node
    operands = [tensor for tensor in node.inputs if not isinstance(tensor, gs.Constant)]
    out = at.shape(node.outputs[0])
    for tensor in operands:
        if len(at.shape(tensor)) != len(out) or at.size(tensor) != at.channels:
            raise at.refuse("adds tensors of different channels")
    return [(tensor, at.same) for tensor in (*operands, node.outputs[0])]


def _tie_product(at: _At) -> list[Tie]:
    """The other factor goes on as it is; it must not broadcast the channels."""
    node = at.node
    constants = [isinstance(tensor, gs.Constant) for tensor in node.inputs]
    index = constants.index(False) if at.index is None and any(constants) else at.index
    if index is None or (node.op == "Div" and index):
        raise at.refuse()
    read, out = node.inputs[index], node.outputs[0]
    if node.inputs[1 - index] is read:
        raise at.refuse(f"multiplies '{read.name}' with its like")
    if len(at.shape(read)) != len(at.shape(out)):
        raise at.refuse("broadcasts the channels")
    return [(read, at.same), (out, at.same)]


def _tie_matmul(at: _At) -> list[Tie]:
    """Attention mixes positions alone, of the values on the right."""
    right = at.node.inputs[1]
    if at.index == 0 or at.axis != -1 or isinstance(right, gs.Constant) or len(at.shape(right)) < 2:
        raise at.refuse()
    return [(right, at.same), (at.node.outputs[0], at.same)]


def _tie_flat(at: _At) -> list[Tie]:
    """All behind the first axis laid out in one: each channel, place after place."""
    read, out = at.node.inputs[0], at.node.outputs[0]
    before = at.shape(read)
    if at.index or at.axis != 1 or len(before) < 2:
        raise at.refuse()
    sizes = [size for size in before[1:] if isinstance(size, int)]
    if len(sizes) != len(before) - 1:
        raise at.refuse("flattens a shape that is not known")
    if _columns(out) != prod(sizes):
        raise at.refuse()
    return [(read, np.arange(sizes[0])), (out, np.repeat(np.arange(sizes[0]), prod(sizes[1:])))]


def _columns(matrix: gs.Tensor) -> int | None:
    """Of a tensor of two axes, by its shape or else by the Gemm that reads it."""
    if matrix.shape is not None and (len(matrix.shape) != 2 or isinstance(matrix.shape[1], int)):
        return matrix.shape[1] if len(matrix.shape) == 2 else None
    gemms = (node for node, index in consumers(matrix) if node.op == "Gemm" and not index)
    weights = [(node, node.inputs[1].shape) for node in gemms if not node.attrs.get("transA", 0)]
    sizes = {shape[node.attrs.get("transB", 0)] for node, shape in weights if shape is not None}
    return next(iter(sizes)) if len(sizes) == 1 else None


def _tie_concat(at: _At) -> list[Tie]:
    node = at.node
    rank = len(at.shape(node.outputs[0]))
    if any(isinstance(tensor, gs.Constant) for tensor in node.inputs):
        raise at.refuse("joins constants")
    if node.attrs["axis"] % rank != at.axis % rank:
        return [(tensor, at.same) for tensor in (*node.inputs, node.outputs[0])]
    ends = np.cumsum([at.size(tensor) for tensor in node.inputs])
    parts = np.split(np.arange(ends[-1]), ends[:-1])
    return [(node.outputs[0], np.arange(ends[-1])), *zip(node.inputs, parts, strict=True)]


def _tie_split(at: _At) -> list[Tie]:
    node = at.node
    rank = len(at.shape(node.inputs[0]))
    if at.index:
        raise at.refuse()
    if node.attrs.get("axis", 0) % rank != at.axis % rank:
        return [(tensor, at.same) for tensor in (node.inputs[0], *node.outputs)]
    ends = np.cumsum([at.size(tensor) for tensor in node.outputs])
    parts = np.split(np.arange(ends[-1]), ends[:-1])
    return [(node.inputs[0], np.arange(ends[-1])), *zip(node.outputs, parts, strict=True)]


def _tie_slice(at: _At) -> list[Tie]:
    node = at.node
    rank = len(at.shape(node.inputs[0]))
    given = [ints for tensor in node.inputs[1:] if (ints := _ints(tensor)) is not None]
    if at.index or not 2 <= len(given) == len(node.inputs) - 1:
        raise at.refuse("has limits that are not known")
    starts, ends, *rest = given
    axes = rest[0] if rest and rest[0] else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 and rest[1] else [1] * len(starts)
    taken = np.arange(at.size(node.inputs[0]))
    whole = len(taken)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if axis % rank == at.axis % rank:
            taken = taken[slice(start, None if step < 0 and end < -whole else end, step)]
    return [(node.inputs[0], np.arange(whole)), (node.outputs[0], taken)]


_TIES: dict[str, Callable[[_At], list[Tie]]] = {
    **dict.fromkeys(ELEMENTWISE, _tie_elementwise),
    **dict.fromkeys(SPATIAL, _tie_spatial),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze"), _tie_flat),
    **dict.fromkeys(("Add", "Sum"), _tie_sum),
    **dict.fromkeys(("Div", "Mul"), _tie_product),
    "Concat": _tie_concat,
    "MatMul": _tie_matmul,
    "Pad": _tie_pad,
    "Slice": _tie_slice,
    "Split": _tie_split,
}
"""Operator -> which channels of what it reads and computes have to be divided alike."""


def _ints(values: gs.Tensor | Sequence[int] | None) -> list[int] | None:
    """Constant integers; none for an absent input; None where they are computed."""
    if isinstance(values, gs.Tensor):
        if values.is_empty():
            return []
        constant = constant_value(values)
        return None if constant is None else [int(value) for value in constant.reshape(-1)]
    return None if values is None else [int(value) for value in values]


def _pads_with_zeros(node: gs.Node) -> bool:
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        return not node.attrs.get("value", 0.0)
    value = constant_value(node.inputs[2])
    return value is not None and not np.any(value)


@dataclass(frozen=True, eq=False)
class _Known:
    tensor: gs.Tensor
    axis: int
    channels: Ints


class _Search:
    """Goes from a tensor to all that has to be divided with it, forward and backward."""

    def __init__(self, graph: Graph, own: frozenset[int]) -> None:
        self._graph, self._own = graph, own
        self.known: dict[str, _Known] = {}
        self._waiting: list[_Known] = []
        self._count = 0
        self._alike: list[tuple[Ints, Ints]] = []
        self._passed: set[int] = set()
        self._apart: dict[str, gs.Node] = {}
        self._producers: list[Layer] = []
        self._readers: list[Layer] = []
        self._biases: list[Bias] = []

    def run(self, node: gs.Node, axis: int) -> Group:
        """The group of what a layer computes.

        Raises:
            _RefusedError: Something in it does not commute.
        """
        self._reach(node.outputs[0], axis, self._fresh(_channels(node)))
        while self._waiting:
            known = self._waiting.pop(0)
            self._forward(known)
            self._backward(known)
        for name in self._apart.keys() & self.known.keys():
            node = self._apart[name]
            raise _RefusedError(f"{node.op} '{node.name}' multiplies '{name}' with its like")
        names = _representatives(self._count, self._alike)
        used, compact = np.unique(names, return_inverse=True)

        def settled(layers: list[Layer]) -> tuple[Layer, ...]:
            return tuple(Layer(layer.node, compact[layer.channels]) for layer in layers)

        return Group(
            len(used),
            tuple(Tied(x.tensor.name, x.axis, compact[x.channels]) for x in self.known.values()),
            settled(self._producers),
            settled(self._readers),
            tuple(Bias(b.node, b.index, compact[b.channels], b.behind) for b in self._biases),
        )

    def _fresh(self, count: int) -> Ints:
        self._count += count
        return np.arange(self._count - count, self._count)

    def _reach(self, tensor: gs.Tensor, axis: int, channels: Ints) -> None:
        known = self.known.get(tensor.name)
        if known is None:
            known = self.known[tensor.name] = _Known(tensor, axis, channels)
            self._waiting.append(known)
            return
        if known.axis != axis or len(known.channels) != len(channels):
            raise _RefusedError(f"'{tensor.name}' counts channels along two axes")
        self._alike.append((known.channels, channels))

    def _forward(self, known: _Known) -> None:
        tensor = known.tensor
        found = consumers(tensor)
        if is_output(self._graph, tensor) or not found:
            raise _RefusedError(f"'{tensor.name}' is an output of the model, or read by nothing")
        for node, index in found:
            if node.op in VALUELESS and is_onnx(node):
                continue
            if id(node) not in self._own or not is_onnx(node):
                raise _RefusedError(f"'{node.name}' is in a subgraph, or of another domain")
            if _absorbs(node, index, known.axis):
                self._readers.append(Layer(node, known.channels))
            else:
                self._pass(_At(node, index, known.axis, len(known.channels)))

    def _backward(self, known: _Known) -> None:
        node = producer(known.tensor)
        if node is None:
            raise _RefusedError(f"'{known.tensor.name}' is an input of the model")
        if id(node) in self._passed:
            return
        if id(node) not in self._own or not is_onnx(node):
            raise _RefusedError(f"'{node.name}' is in a subgraph, or of another domain")
        if _produces(node) == known.axis and _channels(node) == len(known.channels):
            self._producers.append(Layer(node, known.channels))
        else:
            self._pass(_At(node, None, known.axis, len(known.channels)))

    def _pass(self, at: _At) -> None:
        """Reach all that a node in between ties together."""
        if any(layer.node is at.node for layer in self._producers):
            raise at.refuse("would be divided twice")
        if id(at.node) in self._passed:
            return
        if at.node.op not in _TIES:
            raise at.refuse()
        ties = _TIES[at.node.op](at)
        self._passed.add(id(at.node))
        ids = self._fresh(1 + max(int(channels.max(initial=0)) for _, channels in ties))
        for tensor, channels in ties:
            self._reach(tensor, at.axis, ids[channels])
        tied = {tensor.name for tensor, _ in ties}
        for index, tensor in enumerate(at.node.inputs):
            if at.node.op in ("Add", "Sum") and isinstance(tensor, gs.Constant):
                self._biases.append(self._bias(at, index, ids))
            elif tensor.name and tensor.name not in tied and at.node.op in ("Mul", "MatMul", "Div"):
                self._apart[tensor.name] = at.node

    def _bias(self, at: _At, index: int, channels: Ints) -> Bias:
        constant, rank = at.node.inputs[index], len(at.shape(at.node.outputs[0]))
        own = at.axis % rank
        shape = (1,) * (rank - len(constant.shape)) + tuple(constant.shape)
        sizes = [size for i, size in enumerate(shape) if i != own]
        if not is_float(constant) or any(size != 1 for size in sizes) or len(shape) != rank:
            raise at.refuse("adds a constant that is not one a channel")
        return Bias(at.node, index, channels, rank - 1 - own)


def _representatives(count: int, alike: Sequence[tuple[Ints, Ints]]) -> Ints:
    """For each of `count` channels the least one that it must be divided like."""
    names = np.arange(count)
    if not alike:
        return names
    left = np.concatenate([pair[0] for pair in alike])
    right = np.concatenate([pair[1] for pair in alike])
    while True:
        least = np.minimum(names[left], names[right])
        found = names.copy()
        for side in (left, right):
            np.minimum.at(found, side, least)
            np.minimum.at(found, names[side], least)
        found = found[found]
        if np.array_equal(found, names):
            return names
        names = found


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


def rescale(group: Group, factors: Doubles, names: Names) -> None:
    """Divide the activations of a group by factors [size] > 0; the network computes the same."""
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


def _divide_mul(node: gs.Node, factors: Doubles, names: Names) -> None:
    index = next(i for i, tensor in enumerate(node.inputs) if _is_vector(tensor))
    _replace(node, index, float64(node.inputs[index]) / factors, names)


_DIVIDE: dict[str, Callable[[gs.Node, Doubles, Names], None]] = {
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
