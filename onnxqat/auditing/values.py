"""What a node reads: values that are known at build time, and their types."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.graph.query import constant_value, producer


def label(node: gs.Node) -> str:
    """A node's name; its operator and output where it has none."""
    return str(node.name or f"<{node.op} -> {node.outputs[0].name if node.outputs else ''}>")


def input_of(node: gs.Node, index: int) -> gs.Tensor | None:
    """An input of a node; None where it is left out."""
    if index >= len(node.inputs) or node.inputs[index].is_empty():
        return None
    return node.inputs[index]


def value_of(tensor: gs.Tensor | None) -> NDArray[Any] | None:
    """The array of a tensor that is known at build time, also through a Constant node."""
    if tensor is None:
        return None
    source = producer(tensor)
    if source is not None and source.op == "Constant":
        return constant_node_value(source)
    return constant_value(tensor)


def constant_node_value(node: gs.Node) -> NDArray[Any] | None:
    """What a Constant node holds; None for a sparse or unknown form."""
    for name, value in node.attrs.items():
        if name == "value":
            return np.asarray(value.values if isinstance(value, gs.Constant) else value)
        if name.startswith("value_"):
            return np.asarray(value)
    return None


def dtype_name(tensor: gs.Tensor | None) -> str | None:
    """Numpy's (ml_dtypes') name of a tensor's type; None where it is not known."""
    if tensor is None or tensor.dtype is None:
        return None
    return None if isinstance(tensor.dtype, int) else str(np.dtype(tensor.dtype).name)
