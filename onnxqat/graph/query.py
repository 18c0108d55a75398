"""Questions about a graph that every stage asks."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import SparseValues

from onnxqat.core.errors import ModelError
from onnxqat.core.signature import InputSpec
from onnxqat.core.spec import Edge

RANDOM_OPS = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"}
    | {"RandomUniformLike"}
)
"""Operators of ONNX that draw anew in each run."""


def is_training(norm: gs.Node) -> bool:
    """Whether a BatchNormalization computes the statistics of its batch.

    Before opset 14 it says so by outputs beside the first, since then by an attribute.
    """
    further = any(not output.is_empty() for output in norm.outputs[1:])
    return further or bool(norm.attrs.get("training_mode", 0))


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that computes a tensor; None for graph inputs, constants and absent inputs."""
    return tensor.inputs[0] if tensor.inputs else None


def comes_from_inputs(tensor: gs.Tensor, through: frozenset[str]) -> bool:
    """Whether a tensor is made of graph inputs, and constants, by these operators alone."""
    waiting, done, is_fed = [tensor], set(), False
    while waiting:
        at = waiting.pop()
        node = producer(at)
        if node is None:
            is_fed = is_fed or not (isinstance(at, gs.Constant) or at.is_empty())
        elif node.op not in through:
            return False
        elif id(node) not in done:
            done.add(id(node))
            waiting += node.inputs
    return is_fed


def consumers(tensor: gs.Tensor) -> tuple[tuple[gs.Node, int], ...]:
    """The nodes that read a tensor, each with the input's index; those in subgraphs included.

    A node that reads it twice comes twice.
    """
    nodes = {id(node): node for node in tensor.outputs}.values()
    return tuple(
        (node, i) for node in nodes for i, read in enumerate(node.inputs) if read is tensor
    )


def edges_of(tensor: gs.Tensor) -> tuple[Edge, ...]:
    """The edges through which nodes read a tensor, sorted."""
    return tuple(sorted(Edge(tensor.name, node.name, i) for node, i in consumers(tensor)))


def is_output(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether a tensor is an output of this graph."""
    return any(tensor is output for output in graph.outputs)


def constant_value(tensor: gs.Tensor) -> NDArray[Any] | None:
    """The array of a constant, not to be written to; None for any other tensor."""
    if not isinstance(tensor, gs.Constant):
        return None
    values = tensor._values
    if isinstance(values, SparseValues):
        return dense_array(values.tensor)
    array: NDArray[Any] = tensor.values
    return array


def dense_array(sparse: Any) -> NDArray[Any]:
    """The full array of a sparse tensor: its indices are flat, or one column a dimension."""
    from onnx import numpy_helper

    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def is_float(tensor: gs.Tensor) -> bool:
    """Whether a tensor is float32: the type that INT8 is put around."""
    return tensor.dtype is not None and np.dtype(tensor.dtype) == np.float32


def is_weight(tensor: gs.Tensor) -> bool:
    """Whether a tensor is a constant float array of two or more dimensions."""
    return isinstance(tensor, gs.Constant) and is_float(tensor) and len(tensor.shape) > 1


def nodes_by_name(graph: gs.Graph) -> dict[str, gs.Node]:
    """The nodes of the main graph, by name.

    Raises:
        ModelError: Two nodes have one name, or one has none; `prepare` sees to both.
    """
    nodes: dict[str, gs.Node] = {}
    for node in graph.nodes:
        if not node.name or node.name in nodes:
            raise ModelError(
                "nodes need unique names", node=node.name or f"<{node.op}>", fix="prepare the graph"
            )
        nodes[node.name] = node
    return nodes


def input_specs(graph: gs.Graph) -> tuple[InputSpec, ...]:
    """Name, type and shape of each graph input, in order.

    Raises:
        ModelError: An input is no tensor, or its type or rank is not declared.
    """
    return tuple(_input_spec(tensor) for tensor in graph.inputs)


def _input_spec(tensor: gs.Variable) -> InputSpec:
    if tensor.dtype is None or tensor.shape is None or tensor.type != "tensor_type":
        raise ModelError(
            "a graph input has no declared type and shape, or is no tensor",
            tensor=tensor.name,
            fix="export the model with typed tensor inputs",
        )
    # Some exporters write -1 for a dimension that is not fixed.
    shape = tuple(None if isinstance(d, int) and d < 0 else d for d in tensor.shape)
    return InputSpec(tensor.name, np.dtype(tensor.dtype).name, shape)
