"""Which tensors are never negative, told by the operators that compute them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.auditing.values import input_of, value_of
from onnxqat.graph.query import producer

NEVER_NEGATIVE = frozenset(
    {"Abs", "Exp", "HardSigmoid", "ReduceL1", "ReduceL2", "ReduceSumSquare", "Relu", "Sigmoid"}
    | {"Softmax", "Softplus", "Sqrt"}
)
"""Operators with a result that is never negative, whatever they read."""

KEEP_SIGN = frozenset(
    {"Add", "AveragePool", "Cast", "Ceil", "Concat", "DepthToSpace", "Div", "Floor"}
    | {"GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool", "Mean", "Min"}
    | {"HardSwish", "Round", "SpaceToDepth", "Sum", "Swish", "Transpose"}
)
"""Operators of numbers that are not negative only, whose result then is not either."""

KEEP_SIGN_OF_FIRST = frozenset(
    {"DequantizeLinear", "Dropout", "Expand", "Flatten", "Gather", "QuantizeLinear", "ReduceMax"}
    | {"ReduceMean", "ReduceMin", "ReduceSum", "Reshape", "Slice", "Split", "Squeeze", "Tile"}
    | {"Unsqueeze"}
)
"""The same of operators whose other inputs say how."""


def is_never_negative(tensor: gs.Tensor) -> bool:
    """Whether it can be proven that no value of a tensor is below 0."""
    pending, seen = [tensor], {id(tensor)}
    while pending:
        found = pending.pop()
        value = value_of(found)
        if value is not None:
            if np.any(value < 0):
                return False
            continue
        node = producer(found)
        above = None if node is None else _must_not_be_negative(node)
        if above is None:
            return False
        new = [x for x in above if id(x) not in seen]
        seen.update(id(x) for x in new)
        pending.extend(new)
    return True


def _must_not_be_negative(node: gs.Node) -> list[gs.Tensor] | None:
    """What must not be negative for a node's result not to be; None if nothing ensures that."""
    if node.op in NEVER_NEGATIVE or _is_bounded(node):
        return []
    if node.op in _BY_INPUTS:
        return _BY_INPUTS[node.op](node)
    if node.op in KEEP_SIGN_OF_FIRST:
        return [node.inputs[0]]
    if node.op not in KEEP_SIGN:
        return None
    return [x for x in node.inputs if not x.is_empty()]


def _is_bounded(node: gs.Node) -> bool:
    """A Clip from 0 on, a Max with such a constant, or codes that hold nothing below 0."""
    if node.op == "Clip":
        least = node.attrs.get("min", None if (x := input_of(node, 1)) is None else value_of(x))
        return least is not None and bool(np.all(np.asarray(least) >= 0))
    if node.op == "Max":
        values = map(value_of, node.inputs)
        return any(value is not None and bool(np.all(value >= 0)) for value in values)
    return node.op == "DequantizeLinear" and _holds_nothing_below_zero(node)


def _holds_nothing_below_zero(dequantizer: gs.Node) -> bool:
    zero_point, scale = (value_of(input_of(dequantizer, i)) for i in (2, 1))
    if zero_point is None or scale is None or np.any(scale <= 0):
        return False
    is_integer = zero_point.dtype.kind in "iu"
    return is_integer and bool(np.all(zero_point == np.iinfo(zero_point.dtype).min))


def _square(node: gs.Node) -> list[gs.Tensor]:
    """x · x is no less than 0, any other product if its factors are."""
    left, right = node.inputs
    return [] if left is right else [left, right]


def _padded(node: gs.Node) -> list[gs.Tensor] | None:
    filled = input_of(node, 2)
    return [node.inputs[0], *([] if filled is None else [filled])]


def _resized(node: gs.Node) -> list[gs.Tensor] | None:
    """Cubic interpolation overshoots."""
    return None if node.attrs.get("mode") == "cubic" else [node.inputs[0]]


_BY_INPUTS: dict[str, Callable[[gs.Node], list[gs.Tensor] | None]] = {
    "Max": lambda node: list(node.inputs),
    "Mul": _square,
    "Pad": _padded,
    "Resize": _resized,
    "Where": lambda node: list(node.inputs[1:]),
}
