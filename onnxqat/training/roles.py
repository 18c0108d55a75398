"""Which initializers of a graph are weights, biases and norms, and so may be trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from onnxqat.graph import Graph
from onnxqat.graph.query import comes_from_inputs
from onnxqat.training.parameters import Kind

WEIGHTS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}
"""Op -> inputs that are weights where they are constant."""
BIASES = {
    "Conv": (2,),
    "ConvTranspose": (2,),
    "Gemm": (2,),
    "LSTM": (3,),
    "GRU": (3,),
    "RNN": (3,),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "PRelu": (1,),
}
"""Op -> inputs that shift or scale a channel; running statistics are not among them."""
PER_CHANNEL = frozenset({"Add", "Sub", "Mul", "Div"})
"""Ops whose constant is a bias or a norm's scale where it has one value a channel. One value for
all belongs to a formula (GELU's 0.5), and one a position to a geometry (anchor boxes)."""
PREPROCESSING = PER_CHANNEL | {
    "Cast",
    "Identity",
    "Pad",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
"""Ops between an input and the first layer. Their constants belong to the data: they do not train,
as pixels that `align` made whole numbers would be none after a step."""
TRANSPARENT = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Squeeze", "Unsqueeze"}
)
"""Ops through which a constant is followed up to its initializer."""


def roles(graph: Graph) -> dict[str, Kind]:
    """Initializer name -> what it is, for those that may be trained, in node order."""
    found: dict[str, Kind] = {}
    for constant, kind, _ in _reads(graph):
        found.setdefault(constant, kind)
    return found


def readers_of_parameters(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Initializer name -> the nodes that read it, for those that may be trained."""
    found: dict[str, dict[str, None]] = {}
    for constant, _, node in _reads(graph):
        found.setdefault(constant, {})[node] = None
    return {constant: tuple(nodes) for constant, nodes in found.items()}


def _reads(graph: Graph) -> Iterator[tuple[str, Kind, str]]:
    """Each initializer that may be trained, what it is, and the node that reads it."""
    for node in graph.nodes:
        for kind, index in _trained_inputs(node):
            constant = _initializer(node.inputs[index]) if index < len(node.inputs) else None
            if constant is not None:
                yield constant, kind, node.name


def weights_of(node: Any) -> tuple[str, ...]:
    """Names of the initializers that are this node's weights."""
    read = (node.inputs[index] for index in WEIGHTS.get(node.op, ()) if index < len(node.inputs))
    return tuple(name for tensor in read if (name := _initializer(tensor)) is not None)


def _trained_inputs(node: Any) -> Iterator[tuple[Kind, int]]:
    yield from ((Kind.WEIGHT, index) for index in WEIGHTS.get(node.op, ()))
    yield from ((Kind.BIAS, index) for index in BIASES.get(node.op, ()))
    if node.op in PER_CHANNEL and not comes_from_inputs(node.outputs[0], PREPROCESSING):
        for index, tensor in enumerate(node.inputs):
            if _is_per_channel(tensor):
                yield Kind.BIAS, index


def _initializer(tensor: Any) -> str | None:
    """The name of the constant that a tensor is made of; None if it is made of an activation."""
    while tensor.inputs:
        producer = tensor.inputs[0]
        if producer.op not in TRANSPARENT:
            return None
        tensor = producer.inputs[0]
    return str(tensor.name) if hasattr(tensor, "values") else None


def _is_per_channel(tensor: Any) -> bool:
    """A float constant with more than one value, all along one axis."""
    shape = getattr(tensor, "shape", None)
    if not hasattr(tensor, "values") or not np.issubdtype(tensor.dtype, np.floating):
        return False
    return sum(1 for size in shape or () if size > 1) == 1
