"""Where a model's outputs are compared with its teacher's: before they saturate, head by head.

An output that is a probability says little where it is near 0 or 1: of a detector's thousands of
anchors nearly all are. So it is compared before its Sigmoid or Softmax. And where one output holds
results of several natures (whether there is something, where, and what it is), each is compared by
itself, as else the one with the largest numbers would drown the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxqat.graph.query import producer

SATURATING = frozenset({"HardSigmoid", "LogSoftmax", "Sigmoid", "Softmax"})
LAYOUT = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that move numbers and do not change them."""
QDQ = frozenset({"DequantizeLinear", "QuantizeLinear"})


@dataclass(frozen=True)
class Head:
    """What is compared for an output, or for a part of it."""

    output: str
    tensor: str
    """The output itself, or an inner tensor of the same numbers before they saturate."""
    function: str | None
    """The operator by which they saturate."""

    def __str__(self) -> str:
        place = f"before its {self.function}" if self.function else "as it is"
        part = f"'{self.tensor}', for " if self.tensor != self.output else ""
        return f"{part}'{self.output}': squared error over variance, {place}"


def find_heads(student: gs.Graph, teacher: gs.Graph) -> tuple[Head, ...]:
    """What is compared for each output, in their order.

    Args:
        student: The Q/DQ graph, which has to compute a tensor of the same name.
        teacher: The FP32 graph, whose structure tells.
    """
    known = {tensor.name for node in student.nodes for tensor in node.outputs}
    return tuple(head for output in teacher.outputs for head in _heads_of(output, known))


def _heads_of(output: gs.Tensor, known: set[str]) -> Iterator[Head]:
    parts = _parts(output)
    if all(part.name in known for part, _ in parts):
        yield from (Head(output.name, part.name, function) for part, function in parts)
    else:  # another tool's file, whose inner names are its own
        yield Head(output.name, output.name, None)


def _parts(output: gs.Tensor) -> list[tuple[gs.Tensor, str | None]]:
    """The tensors that an output is made of, each with its saturating operator."""
    node = _maker(output)
    if node is not None and node.op == "Concat":
        found = [_before_saturation(tensor) for tensor in node.inputs]
        if len({function for _, function in found}) > 1:
            return found
    return [_before_saturation(output)]


def _before_saturation(tensor: gs.Tensor) -> tuple[gs.Tensor, str | None]:
    node = _maker(tensor)
    if node is None or node.op not in SATURATING:
        return tensor, None
    return node.inputs[0], str(node.op)


def _maker(tensor: gs.Tensor) -> gs.Node | None:
    """The node that computes the numbers of a tensor, before they were moved."""
    node = producer(tensor)
    while node is not None and node.op in LAYOUT | QDQ:
        node = producer(node.inputs[0])
    return node
