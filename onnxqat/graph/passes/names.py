"""Names: every node gets one of its own, and initializers stop being graph inputs."""

from __future__ import annotations

from collections.abc import Iterator

from onnxqat.graph.change import Change
from onnxqat.graph.graph import Graph, all_graphs, all_nodes
from onnxqat.graph.names import Names

FREE_INITIALIZERS = 4
"""The first IR version in which an initializer need not be a graph input as well."""


def name_nodes(graph: Graph) -> Iterator[Change]:
    """Every node, in subgraphs too, gets a name that no other has; good names stay."""
    seen: set[str] = set()
    names = Names(graph)
    for node in all_nodes(graph):
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        output = next((tensor.name for tensor in node.outputs if tensor.name), "")
        old, node.name = node.name, names.node(node.name or f"{node.op}_{output}")
        seen.add(node.name)
        why = f"shared the name '{old}' with another node" if old else "had no name"
        yield Change("name node", node.name, f"the {node.op} that makes '{output}' {why}")


def drop_initializer_inputs(graph: Graph) -> Iterator[Change]:
    """Graph inputs that only restate an initializer go: what they hold is a constant."""
    for inner in all_graphs(graph):
        if not isinstance(inner, Graph):
            continue
        for entry in inner.initializer_inputs:
            yield Change(
                "drop initializer input",
                entry.name,
                f"initializer '{entry.name}' was also listed as a graph input; callers can no "
                "longer replace its values",
            )
        inner.initializer_inputs = ()
    if graph.ir_version is not None and graph.ir_version < FREE_INITIALIZERS:
        graph.ir_version = FREE_INITIALIZERS
