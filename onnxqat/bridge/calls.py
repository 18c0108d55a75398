"""A node on its way to becoming a step: its function, attributes, place and what it declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxqat.bridge.ops.registry import Op, Reading, TensorValue
from onnxqat.bridge.program import (
    Declared,
    Place,
)
from onnxqat.bridge.tensors import tensor_of
from onnxqat.bridge.values import (
    Value,
)
from onnxqat.core.errors import ModelError
from onnxqat.graph.query import constant_value, dense_array

TYPE_PROTO, SPARSE_TENSOR = onnx.AttributeProto.TYPE_PROTO, onnx.AttributeProto.SPARSE_TENSOR


@dataclass(frozen=True)
class Call:
    """A node on its way to becoming a step."""

    node: gs.Node
    op: Op
    values: tuple[Value | None, ...]
    readings: tuple[Reading, ...]
    attributes: dict[str, Any]
    place: Place

    @property
    def output_count(self) -> int:
        """Outputs up to the last that has a name."""
        named = [i for i, tensor in enumerate(self.node.outputs) if tensor.name]
        return named[-1] + 1 if named else 1

    @property
    def function(self) -> Callable[..., Any]:
        """The operator with its attributes bound."""
        attributes = self.attributes
        if self.op.outputs_parameter is not None:
            attributes = {**attributes, self.op.outputs_parameter: self.output_count}
        return partial(self.op.function, **attributes) if attributes else self.op.function


def place_of(node: gs.Node) -> Place:
    """What errors and print-outs call the node."""
    inputs, outputs = ([t.name for t in tensors] for tensors in (node.inputs, node.outputs))
    return Place(label_of(node), node.op, tuple(inputs), tuple(filter(None, outputs)))


def label_of(node: gs.Node) -> str:
    """The node's name, or what tells it from others."""
    made = ", ".join(tensor.name for tensor in node.outputs if tensor.name)
    return node.name or f"<{node.op} of {made}>"


def declared(tensor: gs.Tensor) -> Declared:
    """What a subgraph says of one of its outputs."""
    sizes = tensor.shape
    known = sizes is not None and all(isinstance(n, int) for n in sizes)
    dtype = None if tensor.dtype is None else tensor_of(np.zeros(0, tensor.dtype)).dtype
    return Declared(tensor.name, dtype, tuple(sizes) if known else None)


def attributes_of(node: gs.Node, op: Op) -> dict[str, Any]:
    """The plain attributes as the operator's function takes them.

    Raises:
        ModelError: The schema has no such attribute, or it is of a kind without counterpart.
    """
    unknown = sorted(set(node.attrs) - {parameter.name for parameter in op.attributes})
    if unknown:
        raise ModelError(f"attributes {unknown} are not known")
    attributes = node.attrs.items()
    return {k: _plain(k, v) for k, v in attributes if not isinstance(v, gs.Graph)}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, gs.Constant):
        return TensorValue.of(tensor_of(constant_value(value)))
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, int | float | str) or getattr(value, "type", None) == TYPE_PROTO:
        return value
    if getattr(value, "type", None) == SPARSE_TENSOR:
        return TensorValue.of(tensor_of(dense_array(value.sparse_tensor)))
    raise ModelError(f"attribute '{name}' is of a kind that has no counterpart in torch")
