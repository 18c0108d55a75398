"""What no output depends on goes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from onnxqat.graph.change import Change
from onnxqat.graph.graph import Graph, all_graphs
from onnxqat.graph.importer import copy_without
from onnxqat.graph.passes.edit import disconnect, drop_unread_constants, remove_nodes
from onnxqat.graph.query import is_output


def drop_unused(graph: Graph) -> Iterator[Change]:
    """Nodes and initializers that no graph output depends on go, inner graphs first."""
    for inner in reversed(list(all_graphs(graph))):
        unused = []
        for node in reversed(inner.nodes):
            if not _is_used(inner, node):
                yield Change("drop unused", node.name, f"no output depends on this {node.op}")
                disconnect(node)
                unused.append(node)
        remove_nodes(inner, unused)
    for name in drop_unread_constants(graph):
        yield Change("drop unused", name, f"no node reads initializer '{name}'")


def drop_training(graph: Graph) -> Iterator[Change]:
    """What the model says about its own training goes: it names tensors that change here."""
    if graph.shell.training_info:
        graph.shell = copy_without(graph.shell, {"training_info"})
        yield Change("drop training", graph.name, "the file's training information is for it only")


def _is_used(inner: gs.Graph, node: gs.Node) -> bool:
    return any(tensor.outputs or is_output(inner, tensor) for tensor in node.outputs)
