"""The layers of a Q/DQ module whose parameters the stages set: what multiplies with a weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs
from torch.nn import Parameter

from onnxqat.bridge import OnnxModule
from onnxqat.graph.query import consumers, producer
from onnxqat.training.names import parameters_by_name

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose second input may be a weight."""


@dataclass(frozen=True, eq=False)
class Biased:
    """A layer with a bias of its own."""

    node: str
    output: str
    """The tensor behind the bias."""
    axis: int
    """The output's channel axis, from the front or, if negative, from the back."""
    bias: Parameter
    """One value a channel."""
    factor: float = 1.0
    """What the bias is multiplied with."""


def biased_layers(student: OnnxModule) -> Iterator[Biased | str]:
    """In graph order; of a layer without such a bias, why."""
    known = parameters_by_name(student)
    for node in student.graph.nodes:
        if node.op in PRODUCTS and producer(node.inputs[1]) is not None:
            yield _biased(node, known)


def _biased(node: gs.Node, known: dict[str, Parameter]) -> Biased | str:
    found = _own_bias(node) if node.op in ("Conv", "ConvTranspose", "Gemm") else _added(node)
    if found is None:
        return f"'{node.name}' has no bias"
    tensor, last, axis = found
    bias = known.get(tensor.name)
    if bias is None or len(consumers(tensor)) > 1:
        return f"the bias '{tensor.name}' of '{node.name}' is quantized, shared or computed"
    if bias.ndim == 0 or bias.numel() != bias.shape[-1]:
        return f"the bias '{tensor.name}' of '{node.name}' has not one value a channel"
    factor = float(node.attrs.get("beta", 1.0)) if node.op == "Gemm" else 1.0
    return Biased(node.name, last.outputs[0].name, axis, bias, factor)


def _own_bias(node: gs.Node) -> tuple[gs.Tensor, gs.Node, int] | None:
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        return None
    return node.inputs[2], node, 1


def _added(node: gs.Node) -> tuple[gs.Tensor, gs.Node, int] | None:
    """The constant that the only reader of a MatMul adds."""
    readers = consumers(node.outputs[0])
    if len(readers) != 1 or readers[0][0].op != "Add":
        return None
    add, index = readers[0]
    return add.inputs[1 - index], add, -1
