"""Which initializers are worth training: those that arrive where an operator wants a weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.bridge.fallback import learning_nodes
from onnxqat.bridge.ops.registry import Op, Reading, find
from onnxqat.graph.graph import all_tensors, subgraphs
from onnxqat.graph.query import constant_value, consumers


def trainable(graph: gs.Graph, frozen: Sequence[gs.Node] = ()) -> frozenset[int]:
    """The ids of the float constants that training may change.

    A constant with a value that is not finite is a mask, and none. Nor is one that a gradient could
    only reach through a frozen node, or that is read inside of one.
    """
    found = set()
    learning = learning_nodes(graph, frozen) if frozen else None
    hidden = {id(t) for node in frozen for body in subgraphs(node) for t in all_tensors(body)}
    for tensor in all_tensors(graph):
        if not isinstance(tensor, gs.Constant) or not _is_float(tensor) or id(tensor) in hidden:
            continue
        if _arrives(tensor, graph.opset, learning):
            array = constant_value(tensor)
            if array is not None and array.size and np.isfinite(array.astype(np.float32)).all():
                found.add(id(tensor))
    return frozenset(found)


def _is_float(tensor: gs.Tensor) -> bool:
    return tensor.dtype is not None and (
        np.issubdtype(tensor.dtype, np.floating) or np.dtype(tensor.dtype).name == "bfloat16"
    )


def _arrives(constant: gs.Constant, opset: int, learning: frozenset[int] | None) -> bool:
    """Whether the constant, moved about or not, is read as a weight by a node that learns."""
    size = int(np.prod(constant.shape))
    waiting: list[gs.Tensor] = [constant]
    seen = {id(constant)}
    while waiting:
        for node, index in consumers(waiting.pop()):
            if learning is not None and id(node) not in learning:
                continue
            entry = find(node.op, domain=node.domain or "", opset=opset)
            reading = _reading(entry, index)
            if reading is Reading.WEIGHT or (reading is Reading.OPERAND and size > 1):
                return True
            if reading is Reading.MOVED:
                fresh = [t for t in node.outputs if id(t) not in seen]
                seen.update(id(t) for t in fresh)
                waiting += fresh
    return False


def _reading(entry: Op | None, index: int) -> Reading | None:
    return None if entry is None else entry.reading(index)
