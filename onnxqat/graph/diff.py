"""What differs between two graphs, in sentences: the proof that a stage changed nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import AttributeProto

from onnxqat.graph.exporter import constants_of
from onnxqat.graph.graph import Graph
from onnxqat.graph.query import constant_value


def structural_diff(before: gs.Graph, after: gs.Graph) -> tuple[str, ...]:
    """One sentence a difference; empty if both graphs say the same, bit for bit.

    Nodes are matched by name and initializers by name. Inferred types of inner tensors are not
    compared: they follow from the rest.
    """
    return tuple(_graph_diff(before, after))


def _graph_diff(before: gs.Graph, after: gs.Graph) -> Iterator[str]:
    yield from _header_diff(before, after)
    for what in ("inputs", "outputs"):
        yield from _interface_diff(what[:-1], getattr(before, what), getattr(after, what))
    yield from _node_diff(before, after)
    yield from _initializer_diff(before, after)


def _header_diff(before: gs.Graph, after: gs.Graph) -> Iterator[str]:
    for field in ("name", "opset", "ir_version", "doc_string", "producer_name", "producer_version"):
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            yield f"{field} was {old!r}, is {new!r}"
    if isinstance(before, Graph) and isinstance(after, Graph):
        yield from _table_diff("metadata", before.metadata, after.metadata)
        for field in ("shell", "graph_shell", "initializer_inputs"):
            if getattr(before, field) != getattr(after, field):
                yield f"the model's {field} differs"


def _table_diff(what: str, before: dict[str, str], after: dict[str, str]) -> Iterator[str]:
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            verb = "added" if key not in before else "removed" if key not in after else "changed"
            yield f"{what} '{key}' {verb}"


def _interface_diff(what: str, before: list[Any], after: list[Any]) -> Iterator[str]:
    old, new = (", ".join(_signature(tensor) for tensor in side) for side in (before, after))
    if old != new:
        yield f"graph {what}s were ({old}), are ({new})"


def _signature(tensor: gs.Tensor) -> str:
    dtype = "?" if tensor.dtype is None else np.dtype(tensor.dtype).name
    shape = "[…]" if tensor.shape is None else f"[{', '.join(map(str, tensor.shape))}]"
    return f"{tensor.name}: {dtype}{shape}"


def _node_diff(before: gs.Graph, after: gs.Graph) -> Iterator[str]:
    old, new = _by_name(before), _by_name(after)
    yield from (f"node '{name}' ({old[name].op}) removed" for name in old if name not in new)
    yield from (f"node '{name}' ({new[name].op}) added" for name in new if name not in old)
    kept = [name for name in old if name in new]
    if kept != [name for name in new if name in old]:
        yield "the order of the nodes differs"
    for name in kept:
        yield from _one_node_diff(name, old[name], new[name])


def _by_name(graph: gs.Graph) -> dict[str, gs.Node]:
    """Nodes by name; those without one by their first output, as TensorRT names them."""
    return {
        node.name or f"node_of_{next((t.name for t in node.outputs), '')}": node
        for node in graph.nodes
    }


def _one_node_diff(name: str, before: gs.Node, after: gs.Node) -> Iterator[str]:
    if (before.op, before.domain or "") != (after.op, after.domain or ""):
        yield f"node '{name}' was {before.op}, is {after.op}"
    yield from _ends_diff(name, "input", before.inputs, after.inputs)
    yield from _ends_diff(name, "output", before.outputs, after.outputs)
    for key in sorted(before.attrs.keys() | after.attrs.keys()):
        old, new = before.attrs.get(key), after.attrs.get(key)
        if isinstance(old, gs.Graph) and isinstance(new, gs.Graph):
            where = f"in '{key}' of node '{name}': "
            yield from (where + difference for difference in _graph_diff(old, new))
        elif not _same_attribute(old, new):
            yield f"node '{name}': attribute '{key}' differs"


def _ends_diff(name: str, what: str, before: list[Any], after: list[Any]) -> Iterator[str]:
    if len(before) != len(after):
        yield f"node '{name}' had {len(before)} {what}s, has {len(after)}"
    for i, (old, new) in enumerate(zip(before, after, strict=False)):
        if old.name != new.name:
            yield f"{what} {i} of node '{name}' was '{old.name}', is '{new.name}'"


def _same_attribute(before: Any, after: Any) -> bool:
    if isinstance(before, gs.Constant) and isinstance(after, gs.Constant):
        return _same_bits(before.values, after.values)
    if isinstance(before, AttributeProto):
        return bool(before == after)
    return type(before) is type(after) and bool(before == after)


def _initializer_diff(before: gs.Graph, after: gs.Graph) -> Iterator[str]:
    old = {constant.name: constant for constant in constants_of(before)}
    new = {constant.name: constant for constant in constants_of(after)}
    yield from (f"initializer '{name}' removed" for name in old if name not in new)
    yield from (f"initializer '{name}' added" for name in new if name not in old)
    for name, constant in old.items():
        if name in new and new[name]._values is not constant._values:
            yield from _value_diff(name, constant_value(constant), constant_value(new[name]))


def _value_diff(name: str, before: Any, after: Any) -> Iterator[str]:
    if (before.dtype, before.shape) != (after.dtype, after.shape):
        yield f"initializer '{name}' was {_kind(before)}, is {_kind(after)}"
    elif not _same_bits(before, after):
        yield f"initializer '{name}': values differ"


def _kind(array: NDArray[Any]) -> str:
    return f"{array.dtype.name}{list(array.shape)}"


def _same_bits(x: NDArray[Any], y: NDArray[Any]) -> bool:
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    if x.dtype.hasobject:
        return bool((x == y).all())
    x, y = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (x, y))
    return np.array_equal(x, y)
