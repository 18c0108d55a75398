"""The few ways in which passes change a graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.graph.graph import Graph, all_graphs, subgraphs
from onnxqat.graph.query import consumers, is_output


def make_constant(tensor: gs.Variable, values: NDArray[Any]) -> gs.Constant:
    """Put a constant of the same name in the place of a variable, for all that read it."""
    constant = gs.Constant(tensor.name, values)
    replace_reads(tensor, constant)
    return constant


def replace_reads(old: gs.Tensor, new: gs.Tensor) -> None:
    """Let every node that reads one tensor read another; in subgraphs, too."""
    for node, index in consumers(old):
        node.inputs[index] = new


def remove_nodes(graph: gs.Graph, nodes: Iterable[gs.Node]) -> None:
    """Take nodes out of a graph and, with all that is nested in them, off their tensors."""
    gone = {id(node): node for node in nodes}
    for node in gone.values():
        disconnect(node)
    graph.nodes = [node for node in graph.nodes if id(node) not in gone]


def disconnect(node: gs.Node) -> None:
    """Let a node, and the nodes in its subgraphs, read and write nothing."""
    node.inputs.clear()
    node.outputs.clear()
    for inner in subgraphs(node):
        for nested in inner.nodes:
            disconnect(nested)


def take_over_output(node: gs.Node, last: gs.Node) -> None:
    """Let a node write what the node behind it wrote; that one reads and writes nothing more."""
    output = last.outputs[0]
    last.outputs.clear()
    last.inputs.clear()
    node.outputs[0] = output


def only_reader(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node | None:
    """The node of this graph that is alone in reading a tensor; None if there is no such node."""
    reads = consumers(tensor)
    if len(reads) != 1 or is_output(graph, tensor):
        return None
    node: gs.Node = reads[0][0]
    return node if any(node is own for own in graph.nodes) else None


def replace_constant(
    node: gs.Node, index: int, values: NDArray[Any], *, fresh_name: str
) -> gs.Constant:
    """Give one input of a node new values: under its own name, if the node is its only reader."""
    old = node.inputs[index]
    alone = len(consumers(old)) == 1
    new = gs.Constant(old.name if alone else fresh_name, values)
    node.inputs[index] = new
    return new


def float64(tensor: gs.Constant) -> NDArray[np.float64]:
    """The values of a constant in double precision."""
    values: NDArray[np.float64] = tensor.values.astype(np.float64)
    return values


def drop_unread_constants(graph: gs.Graph) -> list[str]:
    """Forget the initializers that a graph holds and nothing reads; their names."""
    gone = []
    for inner in all_graphs(graph):
        if isinstance(inner, Graph):
            unread = [c for c in inner.held if not c.outputs and not is_output(inner, c)]
            gone += [constant.name for constant in unread]
            inner.held = [c for c in inner.held if not any(c is other for other in unread)]
    return gone
