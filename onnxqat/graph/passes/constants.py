"""Constants: Constant nodes become initializers, and what only constants decide is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import AttributeProto

from onnxqat.graph.change import Change
from onnxqat.graph.exporter import export_model, tensor_proto
from onnxqat.graph.graph import Graph, all_graphs, is_onnx, subgraphs
from onnxqat.graph.passes.edit import make_constant, remove_nodes
from onnxqat.graph.query import constant_value, is_output

FOLD_LIMIT = 2**20
"""Bytes up to which a folded result may be larger than what it is computed from: an Expand or Tile
of a constant stays in the graph where it would bloat the file."""

NEVER_FOLDED = frozenset(
    (
        # Q/DQ state a format; folding them would erase it.
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear",
        # Each run draws anew.
        "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
        "Bernoulli", "Dropout",
    )
)  # fmt: skip


def lower_constants(graph: Graph) -> Iterator[Change]:
    """Constant nodes become initializers under the name of their output."""
    for inner in all_graphs(graph):
        lowered = []
        for node in inner.nodes:
            values = _constant_node_value(node)
            if values is None or is_output(inner, node.outputs[0]):
                continue
            name = node.outputs[0].name
            make_constant(node.outputs[0], values)
            lowered.append(node)
            yield Change(
                "constant to initializer",
                node.name,
                f"'{name}' is an initializer instead of a node",
            )
        remove_nodes(inner, lowered)


def _constant_node_value(node: gs.Node) -> NDArray[Any] | None:
    if node.op != "Constant" or not is_onnx(node) or len(node.attrs) != 1:
        return None
    kind, value = next(iter(node.attrs.items()))
    if kind == "value":
        return constant_value(value) if isinstance(value, gs.Constant) else None
    dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64,
             "value_ints": np.int64, "value_string": object, "value_strings": object}  # fmt: skip
    if kind not in dtype or isinstance(value, AttributeProto | gs.Node.AttributeRef):
        return None
    return np.asarray(value, dtype[kind])


def fold_constants(graph: Graph) -> Iterator[Change]:
    """Nodes that read constants only are replaced by their results; outer graphs first."""
    for inner in all_graphs(graph):
        folded = []
        for node in inner.nodes:
            results = _results(inner, node, graph)
            if results is None:
                continue
            for tensor, values in zip(node.outputs, results, strict=True):
                if not tensor.is_empty():
                    make_constant(tensor, values)
            folded.append(node)
            yield Change(
                "fold constant", node.name, f"{node.op} of constants became '{_outputs(node)}'"
            )
        remove_nodes(inner, folded)


def _outputs(node: gs.Node) -> str:
    return "', '".join(tensor.name for tensor in node.outputs if tensor.name)


def _results(inner: gs.Graph, node: gs.Node, graph: Graph) -> Sequence[NDArray[Any]] | None:
    """The outputs of a node, if they are constant, of bearable size, and computable."""
    if not _is_foldable(inner, node):
        return None
    inputs = [None if t.is_empty() else constant_value(t) for t in node.inputs]
    given = sum(array.nbytes for array in inputs if array is not None)
    if not _is_bearable(node, given + FOLD_LIMIT):
        return None
    try:
        results = evaluate(node, graph)
    except Exception:  # noqa: BLE001 - the evaluator raises anything; the node then simply stays
        return None
    if sum(array.nbytes for array in results) > given + FOLD_LIMIT:
        return None
    return results


def _is_foldable(inner: gs.Graph, node: gs.Node) -> bool:
    return (
        is_onnx(node)
        and node.op not in NEVER_FOLDED
        and node.op != "Constant"
        and not any(True for _ in subgraphs(node))
        and not any(is_output(inner, tensor) for tensor in node.outputs)
        and all(tensor.is_empty() or isinstance(tensor, gs.Constant) for tensor in node.inputs)
    )


def _is_bearable(node: gs.Node, limit: int) -> bool:
    """Whether the inferred sizes allow the fold; sizes not inferred are small or judged after."""
    for tensor in node.outputs:
        shape, dtype = getattr(tensor, "shape", None), getattr(tensor, "dtype", None)
        if shape is None or not all(isinstance(dim, int) for dim in shape):
            if node.op in ("ConstantOfShape", "Expand", "Tile", "Range", "EyeLike", "OneHot"):
                return False
            continue
        itemsize = 8 if dtype is None else np.dtype(dtype).itemsize
        if int(np.prod(shape, dtype=np.float64)) * itemsize > limit:
            return False
    return True


def evaluate(node: gs.Node, graph: Graph) -> list[NDArray[Any]]:
    """The outputs of a node whose inputs are all constants, by ONNX's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    outputs = [gs.Variable(t.name) for t in node.outputs]
    inputs = [gs.Variable.empty() if t.is_empty() else gs.Variable(t.name) for t in node.inputs]
    alone = gs.Node(node.op, node.name, dict(node.attrs), inputs, outputs, node.domain)
    named = [tensor for tensor in outputs if tensor.name]
    model = export_model(
        gs.Graph([alone], inputs=[], outputs=named, opset=graph.opset), tensor_proto
    )
    feeds = {t.name: constant_value(t) for t in node.inputs if not t.is_empty()}
    for name in feeds:
        model.graph.input.append(onnx.helper.make_empty_tensor_value_info(name))
    values = iter(ReferenceEvaluator(model).run(None, feeds))
    results = [np.asarray(next(values)) if tensor.name else np.empty(0) for tensor in outputs]
    for tensor, result in zip(node.outputs, results, strict=True):
        if tensor.dtype is not None and tensor.name and result.dtype != tensor.dtype:
            raise TypeError(f"{node.op} gave {result.dtype}, inference says {tensor.dtype}")
    return results
