"""Where the constants of a graph lie, and how new values get there.

Some exporters keep weights and scales as initializers, others as the tensors of Constant nodes.
Lowering sees initializers only; the file keeps what it had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.graph import Graph
from onnxqat.graph.graph import all_graphs, all_nodes, all_tensors
from onnxqat.graph.passes.edit import make_constant, remove_nodes
from onnxqat.graph.passes.functions import inline_functions
from onnxqat.graph.query import constant_value, is_output


@dataclass(frozen=True, eq=False)
class Source:
    """A constant of the source graph: an initializer, or the tensor of a Constant node."""

    name: str
    """The initializer's name, or that of the Constant node's output."""
    value: NDArray[Any]
    """Its value in the file; read only."""
    index: int
    """Which of the graph's tensors it is, or which of its nodes holds it."""
    in_node: bool


@dataclass(frozen=True)
class Inlined:
    """A copy of a graph with initializers in place of Constant nodes, and functions expanded."""

    graph: Graph
    sources: dict[int, Source]
    """By the id of the constant in `graph`. Constants in the body of a function have none: several
    calls may share them, so that they keep their values."""


def as_lowered(graph: Graph) -> Inlined:
    """The graph as lowering reads it; Constant nodes without a tensor stay.

    Raises:
        ModelError: A model-local function is written for another opset than the model.
    """
    inlined = _with_initializers(graph)
    if not graph.shell.functions:
        return inlined
    named = [(t.name, inlined.sources.get(id(t))) for t in all_tensors(inlined.graph)]
    count = Counter(name for name, source in named if source is not None)
    sources = {name: source for name, source in named if source is not None and count[name] == 1}
    expanded = _with_initializers(inline_functions(inlined.graph, lambda _: None)).graph
    constants = (t for t in all_tensors(expanded) if isinstance(t, gs.Constant))
    return Inlined(expanded, {id(t): sources[t.name] for t in constants if t.name in sources})


def _with_initializers(graph: Graph) -> Inlined:
    copy: Graph = graph.copy()
    sources = {id(tensor): source for tensor, source in _initializers(copy)}
    nodes = {id(node): i for i, node in enumerate(all_nodes(copy))}
    for inner in all_graphs(copy):
        inlined = [node for node in inner.nodes if _holds_tensor(inner, node)]
        for node in inlined:
            output = node.outputs[0]
            value = constant_value(node.attrs["value"])
            assert value is not None
            constant = make_constant(output, value)
            sources[id(constant)] = Source(output.name, value, nodes[id(node)], in_node=True)
        remove_nodes(inner, inlined)
    return Inlined(copy, sources)


def _initializers(graph: Graph) -> Iterator[tuple[gs.Constant, Source]]:
    for i, tensor in enumerate(all_tensors(graph)):
        value = constant_value(tensor)
        if value is not None:
            yield tensor, Source(tensor.name, value, i, in_node=False)


def _holds_tensor(graph: gs.Graph, node: gs.Node) -> bool:
    is_tensor = node.op == "Constant" and isinstance(node.attrs.get("value"), gs.Constant)
    return is_tensor and not is_output(graph, node.outputs[0])


def with_values(graph: Graph, changes: list[tuple[Source, NDArray[Any]]]) -> Graph:
    """A copy of the source graph with other values in some of its constants."""
    copy: Graph = graph.copy()
    tensors, nodes = list(all_tensors(copy)), list(all_nodes(copy))
    for source, value in changes:
        if source.in_node:
            attributes = nodes[source.index].attrs  # its tensor is shared with the source graph
            attributes["value"] = gs.Constant(attributes["value"].name, value)
        else:
            tensors[source.index].values = value
    return copy
