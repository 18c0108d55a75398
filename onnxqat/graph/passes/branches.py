"""If nodes whose condition is a constant: the branch that is taken moves into the graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx_graphsurgeon as gs

from onnxqat.graph.change import Change
from onnxqat.graph.graph import Graph, all_graphs, tensors_of
from onnxqat.graph.names import Names
from onnxqat.graph.passes.edit import disconnect
from onnxqat.graph.query import constant_value


def inline_branches(graph: Graph) -> Iterator[Change]:
    """An If that always goes one way is replaced by the nodes of that branch."""
    names = Names(graph)
    for inner in all_graphs(graph):  # comes to the graphs in a node after this one is through
        while (decided := _decided_if(inner)) is not None:
            node, way = decided
            _inline(graph, inner, node, node.attrs.pop(way), names)
            yield Change("inline branch", node.name, f"the If always takes its {way}")


def _decided_if(graph: gs.Graph) -> tuple[gs.Node, str] | None:
    """The first If with a constant condition, and the branch that it takes."""
    for node in graph.nodes:
        condition = constant_value(node.inputs[0]) if node.op == "If" else None
        if condition is not None and condition.size == 1:
            return node, "then_branch" if condition.item() else "else_branch"
    return None


def _inline(root: Graph, graph: gs.Graph, node: gs.Node, branch: gs.Graph, names: Names) -> None:
    outputs = list(node.outputs)
    disconnect(node)  # with the other branch
    _rename_clashes(root, branch, names)
    ends = [
        gs.Node("Identity", names.node(f"{node.name}_{inner.name}"), {}, [inner], [outer])
        for inner, outer in zip(branch.outputs, outputs, strict=True)
    ]
    index = next(i for i, other in enumerate(graph.nodes) if other is node)
    graph.nodes[index : index + 1] = [*branch.nodes, *ends]


def _rename_clashes(root: Graph, branch: gs.Graph, names: Names) -> None:
    """Tensor names need only be unique along one path of nested graphs, and this path changes."""
    local = {id(t): t for t in tensors_of(branch) if _is_local(branch, t)}
    found = {id(t): t for inner in all_graphs(root) for t in tensors_of(inner)}
    uses = Counter(tensor.name for tensor in (found | local).values())
    for tensor in local.values():
        if uses[tensor.name] > 1:
            tensor.name = names.tensor(tensor.name)


def _is_local(branch: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether a tensor is made in a branch, or lies there as a constant."""
    if not tensor.inputs:
        return isinstance(tensor, gs.Constant)
    return any(tensor.inputs[0] is node for node in branch.nodes)
