"""Channels that can only be divided together, and the layers with weights around them.

From what a layer computes, a search goes forward to the layers that read it and backward to those
that add to it. A residual sum, or a Concat, ties the channels of several tensors together: they are
divided alike, from the first layer that adds to them to the last one that reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.graph.graph import Graph, is_onnx
from onnxqat.graph.passes.affine import FOLD, channels_of, has_constant_weights
from onnxqat.graph.query import consumers, is_float, is_output, producer
from onnxqat.graph.ties import TIES, Ints, Passed, RefusedError, limit_of

NORMS = frozenset({"LayerNormalization", "Mul"})
"""What ends in a product with one constant a channel."""
VALUELESS = frozenset({"Shape", "Size"})
"""Do not look at the values that they read."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A node with weights that can take up factors."""

    node: gs.Node
    channels: Ints
    """Of the group: one for each channel that the node computes, or reads."""


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
class Limit:
    """A Clip in between, which may cut what is multiplied."""

    tensor: str
    """What it computes."""
    magnitude: float
    """At which it cuts."""
    channels: Ints


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that can only be divided together with nothing else but these layers' weights."""

    size: int
    """Channels with a factor of their own."""
    tensors: tuple[Tied, ...]
    producers: tuple[Layer, ...]
    readers: tuple[Layer, ...]
    biases: tuple[Bias, ...]
    limits: tuple[Limit, ...]
    """A channel with one may be divided by less than 1 as far as its values then stay below it, and
    by more than 1 not at all."""

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
            except RefusedError as error:
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
    if node.op == "BatchNormalization":
        return 1 if _is_affine(node) else None
    return -1 if _scales_the_last_axis(node) else None


def _scales_the_last_axis(node: gs.Node) -> bool:
    if node.op == "LayerNormalization":
        return all(is_vector(tensor) for tensor in node.inputs[1:])
    if node.op == "MatMul":
        return _is_matrix(node.inputs[1])
    return node.op == "Mul" and sum(map(is_vector, node.inputs)) == 1


def _is_affine(node: gs.Node) -> bool:
    """Whether a BatchNormalization computes with constants alone."""
    return len(node.outputs) == 1 and all(is_vector(tensor) for tensor in node.inputs[1:])


def _is_matrix(tensor: gs.Tensor) -> bool:
    return isinstance(tensor, gs.Constant) and is_float(tensor) and len(tensor.shape) == 2


def is_vector(tensor: gs.Tensor) -> bool:
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
    return next(tensor for tensor in node.inputs if is_vector(tensor))


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
        self._limits: list[Limit] = []

    def run(self, node: gs.Node, axis: int) -> Group:
        """The group of what a layer computes.

        Raises:
            RefusedError: Something in it does not commute.
        """
        self._reach(node.outputs[0], axis, self._fresh(_channels(node)))
        while self._waiting:
            known = self._waiting.pop(0)
            self._forward(known)
            self._backward(known)
        for name in self._apart.keys() & self.known.keys():
            node = self._apart[name]
            raise RefusedError(f"{node.op} '{node.name}' multiplies '{name}' with its like")
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
            tuple(Limit(x.tensor, x.magnitude, compact[x.channels]) for x in self._limits),
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
            raise RefusedError(f"'{tensor.name}' counts channels along two axes")
        self._alike.append((known.channels, channels))

    def _forward(self, known: _Known) -> None:
        tensor = known.tensor
        found = consumers(tensor)
        if is_output(self._graph, tensor) or not found:
            raise RefusedError(f"'{tensor.name}' is an output of the model, or read by nothing")
        for node, index in found:
            if node.op in VALUELESS and is_onnx(node):
                continue
            if id(node) not in self._own or not is_onnx(node):
                raise RefusedError(f"'{node.name}' is in a subgraph, or of another domain")
            if _absorbs(node, index, known.axis):
                self._readers.append(Layer(node, known.channels))
            else:
                self._pass(Passed(node, index, known.axis, len(known.channels)))

    def _backward(self, known: _Known) -> None:
        node = producer(known.tensor)
        if node is None:
            raise RefusedError(f"'{known.tensor.name}' is an input of the model")
        if id(node) in self._passed:
            return
        if id(node) not in self._own or not is_onnx(node):
            raise RefusedError(f"'{node.name}' is in a subgraph, or of another domain")
        if _produces(node) == known.axis and _channels(node) == len(known.channels):
            self._producers.append(Layer(node, known.channels))
        else:
            self._pass(Passed(node, None, known.axis, len(known.channels)))

    def _pass(self, at: Passed) -> None:
        """Reach all that a node in between ties together."""
        if any(layer.node is at.node for layer in self._producers):
            raise at.refuse("would be divided twice")
        if id(at.node) in self._passed:
            return
        if at.node.op not in TIES:
            raise at.refuse()
        ties = TIES[at.node.op](at)
        self._passed.add(id(at.node))
        ids = self._fresh(1 + max(int(channels.max(initial=0)) for _, channels in ties))
        for tensor, channels in ties:
            self._reach(tensor, at.axis, ids[channels])
        if (magnitude := limit_of(at)) < inf:
            self._limits.append(Limit(at.node.outputs[0].name, magnitude, ids[at.same]))
        tied = {tensor.name for tensor, _ in ties}
        for index, tensor in enumerate(at.node.inputs):
            if at.node.op in ("Add", "Sum") and isinstance(tensor, gs.Constant):
                self._biases.append(self._bias(at, index, ids))
            elif tensor.name and tensor.name not in tied and at.node.op in ("Mul", "MatMul", "Div"):
                self._apart[tensor.name] = at.node

    def _bias(self, at: Passed, index: int, channels: Ints) -> Bias:
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
    if node.op == "BatchNormalization":
        return axis == 1 and index == 0 and _is_affine(node)
    if not isinstance(weight, gs.Constant) or not is_float(weight):
        return False
    if node.op in ("Conv", "ConvTranspose"):
        return axis == 1
    if node.op == "Gemm":
        return not node.attrs.get("transA", 0)
    rank = None if node.inputs[0].shape is None else len(node.inputs[0].shape)
    return node.op == "MatMul" and _is_matrix(weight) and (axis == -1 or rank == 2)
