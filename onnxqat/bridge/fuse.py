"""Groups of nodes for which torch has one kernel, as exporters write them: fewer steps to run, and
fewer activations to keep for the backward pass.

    MatMul, Add                                        a linear layer with a bias
    Div, Erf, Add, Mul, Mul                            GELU
    Mul, Mul, Mul, Add, Mul, Tanh, Add, Mul, Mul       GELU's tanh approximation
    ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, …     layer normalization before opset 17

Only the graph that is lowered changes, never the one that is written back. A group is left alone
where anything else reads one of its inner tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import pi, sqrt
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.bridge.ops.fused import DOMAIN
from onnxqat.graph.graph import all_graphs
from onnxqat.graph.passes.edit import remove_nodes
from onnxqat.graph.query import constant_value, consumers, is_output, producer

EXACT = 1e-6
"""Relative difference up to which a constant is the one of the formula: float32's rounding."""
CUBIC = 0.044715
"""Of GELU's tanh approximation (Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2)."""


@dataclass(frozen=True)
class Group:
    """Nodes that one operator of the domain `onnxqat` stands for."""

    op: str
    nodes: tuple[gs.Node, ...]
    """In an order in which they may run; the last one makes the result."""
    inputs: tuple[gs.Tensor, ...]
    attributes: dict[str, Any] = field(default_factory=dict)


def fuse(graph: gs.Graph) -> None:
    """Put one node in the place of each group; in subgraphs, too. Changes the graph.

    The node's name is made of the names of all nodes of the group.
    """
    for inner in all_graphs(graph):
        own = {id(node) for node in inner.nodes}
        for node in list(inner.nodes):
            if node.outputs:  # else a group has taken it
                for match in _PATTERNS.get(node.op, ()):
                    group = match(node)
                    if group is not None and _is_closed(inner, group, own):
                        _replace(inner, group)
                        break


def _is_closed(graph: gs.Graph, group: Group, own: set[int]) -> bool:
    """Whether all nodes are of this graph, and nothing else reads what is inside the group."""
    inside = {id(node) for node in group.nodes}
    for node in group.nodes[:-1]:
        if len(node.outputs) != 1 or is_output(graph, node.outputs[0]):
            return False
        if not all(id(reader) in inside for reader, _ in consumers(node.outputs[0])):
            return False
    return inside <= own


def _replace(graph: gs.Graph, group: Group) -> None:
    *_, last = group.nodes
    output = last.outputs[0]
    name = " + ".join(node.name or f"<{node.op}>" for node in group.nodes)
    last.outputs.clear()
    node = gs.Node(group.op, name, group.attributes, list(group.inputs), [output], domain=DOMAIN)
    place = next(i for i, other in enumerate(graph.nodes) if other is last)
    graph.nodes[place] = node
    last.inputs.clear()
    remove_nodes(graph, group.nodes[:-1])


# Looking around in the graph ---------------------------------------------------------------------


def _next(node: gs.Node, op: str) -> gs.Node | None:
    """The one node that reads a node's result, if it is of this kind."""
    readers = consumers(node.outputs[0])
    return readers[0][0] if len(readers) == 1 and readers[0][0].op == op else None


def _made_by(tensor: gs.Tensor, op: str) -> gs.Node | None:
    node = producer(tensor)
    return node if node is not None and node.op == op and len(node.outputs) == 1 else None


def _other(node: gs.Node, one: gs.Tensor) -> gs.Tensor | None:
    """The other input of a node of two that reads `one`."""
    first, second = node.inputs
    return second if first is one else first if second is one else None


def _is(tensor: gs.Tensor | None, number: float) -> bool:
    """Whether a tensor is a constant of this one float32 number."""
    value = None if tensor is None else constant_value(tensor)
    if value is None or value.size != 1 or value.dtype != np.float32 or value.ndim > 1:
        return False
    return abs(float(value.item()) - number) <= EXACT * abs(number)


def _times(node: gs.Node | None, number: float) -> gs.Tensor | None:
    """What a node multiplies by this number; None if it does not do that."""
    if node is None or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    if node.op == "Div":
        return first if _is(second, 1 / number) else None
    if node.op != "Mul":
        return None
    return first if _is(second, number) else second if _is(first, number) else None


def _plus_one(node: gs.Node) -> gs.Node | None:
    """The Add of 1 that alone reads a node's result."""
    add = _next(node, "Add")
    return add if add is not None and _is(_other(add, node.outputs[0]), 1.0) else None


# The patterns ------------------------------------------------------------------------------------


def _linear(add: gs.Node) -> Group | None:
    """MatMul and the Add of a bias behind it."""
    for product, bias in (add.inputs, add.inputs[::-1]):
        matmul = _made_by(product, "MatMul")
        if matmul is not None and _is_vector(bias):
            return Group("Linear", (matmul, add), (*matmul.inputs, bias))
    return None


def _is_vector(tensor: gs.Tensor) -> bool:
    """Whether a tensor is a constant of rank 1, quantized or not."""
    while (node := producer(tensor)) is not None:
        if node.op not in ("QuantizeLinear", "DequantizeLinear"):
            return False
        tensor = node.inputs[0]
    return isinstance(tensor, gs.Constant) and len(tensor.shape) == 1 and tensor.shape[0] > 1


def _erf_gelu(erf: gs.Node) -> Group | None:
    """x/2 (1 + erf(x / √2)), whichever product comes first."""
    scaled = producer(erf.inputs[0])
    x = _times(scaled, 1 / sqrt(2))
    return None if x is None else _half_of_product(x, (scaled, erf), approximate="none")


def _tanh_gelu(tanh: gs.Node) -> Group | None:
    """x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))."""
    scaled = producer(tanh.inputs[0])
    inner = _times(scaled, sqrt(2 / pi))
    add = None if inner is None else _made_by(inner, "Add")
    for x, cubic in () if add is None else (add.inputs, add.inputs[::-1]):
        weighted = producer(cubic)
        cube = _times(weighted, CUBIC)
        powers = None if cube is None else _cube_of(x, cube)
        if powers is not None:
            nodes = (*powers, weighted, add, scaled, tanh)
            return _half_of_product(x, nodes, approximate="tanh")
    return None


def _cube_of(x: gs.Tensor, cube: gs.Tensor) -> tuple[gs.Node, ...] | None:
    """The nodes that raise x to the third power."""
    power, product = _made_by(cube, "Pow"), _made_by(cube, "Mul")
    if power is not None:
        return (power,) if power.inputs[0] is x and _is(power.inputs[1], 3.0) else None
    square = None if product is None else _other(product, x)
    squaring = None if square is None else _made_by(square, "Mul")
    if squaring is not None and all(tensor is x for tensor in squaring.inputs):
        return squaring, product
    return None


def _half_of_product(x: gs.Tensor, nodes: tuple[gs.Node, ...], *, approximate: str) -> Group | None:
    """The group that ends with x/2 times (1 + the last node's result)."""
    add = _plus_one(nodes[-1])
    product = None if add is None else _next(add, "Mul")
    if add is None or product is None:
        return None
    other = _other(product, add.outputs[0])
    assert other is not None
    nodes = (*nodes, add)
    end: tuple[gs.Node, ...] | None = None
    if other is x or _is(other, 0.5):
        last = _next(product, "Mul")
        rest = None if last is None else _other(last, product.outputs[0])
        is_rest = _is(rest, 0.5) if other is x else rest is x
        end = (product, last) if is_rest else None
    elif _times(producer(other), 0.5) is x:
        end = (producer(other), product)
    return (
        None if end is None else Group("Gelu", (*nodes, *end), (x,), {"approximate": approximate})
    )


def _layer_norm(root: gs.Node) -> Group | None:
    """(x - mean) / √(variance + ε) · scale + bias, over the last axis."""
    add = producer(root.inputs[0])
    square_mean, epsilon = _with_number(add)
    if add is None or square_mean is None or epsilon is None:
        return None
    mean2 = _made_by(square_mean, "ReduceMean")
    square = None if mean2 is None else producer(mean2.inputs[0])
    centred = None if square is None else _square_of(square)
    sub = None if centred is None else _made_by(centred, "Sub")
    mean = None if sub is None else _made_by(sub.inputs[1], "ReduceMean")
    if mean is None or sub is None or sub.inputs[0] is not mean.inputs[0]:
        return None
    x = mean.inputs[0]
    tail = _scaled_and_shifted(root, centred)
    if tail is None or not all(_is_over_last_axis(node, x) for node in (mean, mean2)):
        return None
    nodes = (mean, sub, square, mean2, add, root, *tail[0])
    return Group("LayerNormalization", nodes, (x, *tail[1:]), {"epsilon": epsilon})


def _with_number(add: gs.Node | None) -> tuple[gs.Tensor | None, float | None]:
    """What an Add adds to a single number, and the number."""
    for tensor, other in () if add is None or add.op != "Add" else (add.inputs, add.inputs[::-1]):
        value = constant_value(other)
        if value is not None and value.size == 1 and value.dtype == np.float32:
            return tensor, float(value.item())
    return None, None


def _square_of(node: gs.Node) -> gs.Tensor | None:
    first, second = node.inputs if len(node.inputs) == 2 else (None, None)
    is_square = (node.op == "Pow" and _is(second, 2.0)) or (node.op == "Mul" and first is second)
    return first if is_square else None


Tail = tuple[tuple[gs.Node, ...], gs.Tensor, gs.Tensor]
"""The last nodes of a layer normalization, its scale and its bias."""


def _scaled_and_shifted(root: gs.Node, centred: gs.Tensor | None) -> Tail | None:
    div = _next(root, "Div")
    if div is None or div.inputs[0] is not centred:
        return None
    mul = _next(div, "Mul")
    add = None if mul is None else _next(mul, "Add")
    if mul is None or add is None:
        return None
    scale, bias = _other(mul, div.outputs[0]), _other(add, mul.outputs[0])
    if scale is None or bias is None or not (_is_vector(scale) and _is_vector(bias)):
        return None
    return ((div, mul, add), scale, bias) if scale.shape == bias.shape else None


def _is_over_last_axis(mean: gs.Node, x: gs.Tensor) -> bool:
    """Whether a ReduceMean of a tensor shaped like `x` takes the mean over the last axis."""
    axes = mean.attrs.get("axes")
    if axes is None and len(mean.inputs) > 1:
        value = constant_value(mean.inputs[1])
        axes = None if value is None else value.tolist()
    last = (-1,) if x.shape is None else (-1, len(x.shape) - 1)
    is_last = axes is not None and len(axes) == 1 and axes[0] in last
    return is_last and mean.attrs.get("keepdims", 1) == 1


_PATTERNS: dict[str, tuple[Callable[[gs.Node], Group | None], ...]] = {
    "Add": (_linear,),
    "Erf": (_erf_gelu,),
    "Tanh": (_tanh_gelu,),
    "Sqrt": (_layer_norm,),
}
"""Op of the node where the search begins -> the patterns that may lie around it."""
