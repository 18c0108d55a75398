"""Constants: Constant nodes become initializers, and what only constants decide is computed."""

from __future__ import annotations

from collections.abc import Iterator
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
from onnxqat.graph.query import RANDOM_OPS, constant_value, is_output, is_training

FOLD_LIMIT = 2**20
"""Bytes up to which a folded result may be larger than what it is computed from: an Expand or Tile
of a constant stays in the graph where it would bloat the file."""

NEVER_FOLDED = RANDOM_OPS | {
    # Q/DQ state a format; folding them would erase it.
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    "Dropout",  # draws, too, where it is not for inference
}

TRAINING_MODE = 14
"""The first opset in which an attribute of BatchNormalization tells training from inference."""

GROWING = frozenset(("ConstantOfShape", "Expand", "Tile", "Range", "EyeLike", "OneHot"))
"""Operators whose result may have any size: folded only where that size was inferred."""

_CONSTANT_DTYPES: dict[str, Any] = {
    "value_float": np.float32, "value_floats": np.float32, "value_int": np.int64,
    "value_ints": np.int64, "value_string": object, "value_strings": object,
}  # fmt: skip
"""What the attributes of Constant hold, besides `value`."""


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
    if kind not in _CONSTANT_DTYPES or isinstance(value, AttributeProto | gs.Node.AttributeRef):
        return None
    return np.asarray(value, _CONSTANT_DTYPES[kind])


def fold_constants(graph: Graph) -> Iterator[Change]:
    """Nodes that read constants only are replaced by their results; outer graphs first."""
    for inner in all_graphs(graph):
        folded = []
        for node in inner.nodes:
            results = _results(inner, node, graph.opset)
            if results is None:
                continue
            for tensor in node.outputs:
                if tensor.name in results:
                    make_constant(tensor, results[tensor.name])
            folded.append(node)
            yield Change(
                "fold constant", node.name, f"{node.op} of constants became '{_outputs(node)}'"
            )
        remove_nodes(inner, folded)


def _outputs(node: gs.Node) -> str:
    return "', '".join(tensor.name for tensor in node.outputs if tensor.name)


def _results(inner: gs.Graph, node: gs.Node, opset: int) -> dict[str, NDArray[Any]] | None:
    """The outputs of a node by name, if they are constant, of bearable size, and computable."""
    if not _is_foldable(inner, node):
        return None
    limit = FOLD_LIMIT + sum(tensor._values.nbytes for tensor in node.inputs if tensor.name)
    if not _is_bearable(node, limit):
        return None
    try:
        results = evaluate(node, opset)
    except Exception:  # noqa: BLE001 - the evaluator raises anything; the node then simply stays
        return None
    return results if sum(array.nbytes for array in results.values()) <= limit else None


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
    """Whether the inferred sizes allow to compute the outputs at all."""
    return all(_fits(node, tensor, limit) for tensor in node.outputs if not tensor.is_empty())


def _fits(node: gs.Node, tensor: gs.Variable, limit: int) -> bool:
    if tensor.shape is None or not all(isinstance(dim, int) for dim in tensor.shape):
        return node.op not in GROWING
    itemsize = 8 if tensor.dtype is None else np.dtype(tensor.dtype).itemsize
    return float(np.prod(tensor.shape, dtype=np.float64)) * itemsize <= limit


def evaluate(node: gs.Node, opset: int) -> dict[str, NDArray[Any]]:
    """The outputs, by name, of a node that reads constants only, by ONNX's reference evaluator.

    Raises:
        Exception: Anything, where the evaluator does not know the operator or its attributes.
    """
    from onnx.reference import ReferenceEvaluator

    feeds = {t.name: constant_value(t) for t in node.inputs if not t.is_empty()}
    named = [tensor for tensor in node.outputs if not tensor.is_empty()]
    if node.op == "BatchNormalization" and opset < TRAINING_MODE and is_training(node):
        node, named, opset = _with_training_mode(node), named[:1], TRAINING_MODE
    with np.errstate(all="ignore"):  # infinities and NaN are the graph's own business
        values = ReferenceEvaluator(_model_of(node, opset)).run(None, feeds)
    for tensor, value in zip(named, values, strict=True):
        _check_type(node, tensor, value)
    return {tensor.name: np.asarray(value) for tensor, value in zip(named, values, strict=True)}


def _with_training_mode(node: gs.Node) -> gs.Node:
    """A BatchNormalization by the statistics of its input, with the attribute that says so today.

    Older opsets said it by further outputs. Exporters normalize weights with it (weight
    standardization); the evaluator mixes it up with the other kind.
    """
    if any(tensor.outputs for tensor in node.outputs[1:]):
        raise ValueError("the statistics are read, which older opsets counted otherwise")
    attributes = {"epsilon": node.attrs.get("epsilon", 1e-5), "training_mode": 1}
    return gs.Node(node.op, node.name, attributes, node.inputs, node.outputs[:1])


def _model_of(node: gs.Node, opset: int) -> onnx.ModelProto:
    """A model of one node, whose constants are inputs: they need not be copied into it."""
    inputs = [gs.Variable(tensor.name) for tensor in node.inputs]
    outputs = [gs.Variable(tensor.name) for tensor in node.outputs]
    alone = gs.Node(node.op, node.name, dict(node.attrs), inputs, outputs, node.domain)
    graph = gs.Graph(
        [alone],
        inputs=[tensor for tensor in inputs if tensor.name],
        outputs=[tensor for tensor in outputs if tensor.name],
        opset=opset,
    )
    return export_model(graph, tensor_proto)


def _check_type(node: gs.Node, tensor: gs.Variable, value: Any) -> None:
    """Only an array of the inferred type becomes an initializer: no sequence, nothing optional."""
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"{node.op} gave no array")
    if tensor.dtype is not None and value.dtype != tensor.dtype:
        raise TypeError(f"{node.op} gave {value.dtype}, inference says {tensor.dtype}")
