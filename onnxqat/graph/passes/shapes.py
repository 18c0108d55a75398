"""Shapes that the file itself declares are constants, even where other dimensions are dynamic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.graph.change import Change
from onnxqat.graph.graph import Graph, all_graphs, is_onnx
from onnxqat.graph.passes.edit import make_constant, remove_nodes
from onnxqat.graph.query import constant_value, is_output

Partial = NDArray[np.object_]
"""Integers of which some are not known: those are None."""

Known = dict[int, tuple[gs.Tensor, Partial]]
"""By identity of the tensor, which the entry keeps alive so that no other takes its identity."""


def fold_shapes(graph: Graph) -> Iterator[Change]:
    """Integers computed from declared dimensions become constants; the dynamic ones stay computed.

    As `x.shape[1]` of a [batch, 3, 32, 32] input is 3 whatever the batch.
    """
    known: Known = {}
    for inner in all_graphs(graph):
        folded = []
        for node in inner.nodes:
            value = _partial_result(node, known)
            if value is None:
                continue
            known[id(node.outputs[0])] = node.outputs[0], value
            if (value == None).any() or is_output(inner, node.outputs[0]):  # noqa: E711 - elementwise
                continue
            name = node.outputs[0].name
            dtype = np.dtype(node.outputs[0].dtype or np.int64)
            make_constant(node.outputs[0], value.astype(dtype))
            folded.append(node)
            yield Change(
                "fold shape", node.name, f"'{name}' is {value.tolist()}, whatever the input"
            )
        remove_nodes(inner, folded)


def _partial_result(node: gs.Node, known: Known) -> Partial | None:
    if not is_onnx(node):
        return None
    if node.op in ("Shape", "Size"):
        return _of_shape(node)
    rule = _RULES.get(node.op)
    inputs = [_partial_value(tensor, known) for tensor in node.inputs]
    if rule is None or not inputs or any(value is None for value in inputs):
        return None
    try:
        result: Partial | None = rule(node, *inputs)
    except (TypeError, ValueError, IndexError):  # an unknown integer decides here
        return None
    return result


def _of_shape(node: gs.Node) -> Partial | None:
    source = node.inputs[0]
    shape = source.shape
    if shape is None or isinstance(source, gs.Constant):
        return None
    # Some exporters write -1 or 0 for a dimension that is not known.
    dims = np.array([d if isinstance(d, int) and d > 0 else None for d in shape], object)
    if node.op == "Shape":
        return dims[slice(node.attrs.get("start", 0), node.attrs.get("end"))]
    return None if (dims == None).any() else np.array(int(np.prod(dims)), object)  # noqa: E711


def _partial_value(tensor: gs.Tensor, known: Known) -> Partial | None:
    value = constant_value(tensor)
    if value is None:
        return known[id(tensor)][1] if id(tensor) in known else None
    return value.astype(object) if value.dtype.kind == "i" and value.size <= 64 else None


def _gather(node: gs.Node, data: Partial, indices: Partial) -> Partial:
    taken = np.take(data, indices.astype(np.int64), axis=node.attrs.get("axis", 0))
    return np.asarray(taken, object)


def _slice(node: gs.Node, data: Partial, starts: Partial, ends: Partial, *rest: Partial) -> Partial:
    del node
    axes = rest[0].astype(np.int64).tolist() if rest else list(range(starts.size))
    steps = rest[1].astype(np.int64).tolist() if len(rest) > 1 else [1] * starts.size
    cut = [slice(None)] * data.ndim
    bounds = zip(axes, starts.astype(np.int64), ends.astype(np.int64), steps, strict=True)
    for axis, start, end, step in bounds:
        cut[axis] = slice(int(start), int(end), step)
    return data[tuple(cut)]


def _concat(node: gs.Node, *parts: Partial) -> Partial:
    return np.concatenate(parts, axis=node.attrs["axis"])


def _unsqueeze(node: gs.Node, data: Partial, axes: Partial | None = None) -> Partial:
    return np.expand_dims(data, tuple(_axes(node, axes) or ()))


def _squeeze(node: gs.Node, data: Partial, axes: Partial | None = None) -> Partial:
    where = _axes(node, axes)
    return np.squeeze(data, None if where is None else tuple(where))


def _axes(node: gs.Node, axes: Partial | None) -> list[int] | None:
    """From the input, or before opset 13 from the attribute."""
    listed: list[int] | None = node.attrs.get("axes") if axes is None else axes.tolist()
    return listed


def _cast(node: gs.Node, data: Partial) -> Partial | None:
    int32, int64 = 6, 7  # TensorProto.DataType
    return data if node.attrs["to"] in (int32, int64) else None


_RULES: dict[str, Callable[..., Any]] = {
    "Cast": _cast,
    "Concat": _concat,
    "Gather": _gather,
    "Identity": lambda node, data: data,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
