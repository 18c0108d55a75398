"""Names that nothing in a graph has yet."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxqat.graph.graph import all_graphs, all_nodes, tensors_of


class Names:
    """The names taken in a graph and its subgraphs, for tensors and for nodes."""

    def __init__(self, graph: gs.Graph) -> None:
        """Collect the names of a graph as it stands now."""
        self._tensors = {t.name for inner in all_graphs(graph) for t in tensors_of(inner)}
        self._nodes = {node.name for node in all_nodes(graph)}

    def tensor(self, wish: str) -> str:
        """The wished tensor name, or with the first free `_2`, `_3`, …; taken from now on."""
        return _take(wish, self._tensors)

    def node(self, wish: str) -> str:
        """The wished node name, or with the first free `_2`, `_3`, …; taken from now on."""
        return _take(wish, self._nodes)


def _take(wish: str, taken: set[str]) -> str:
    name, count = wish, 1
    while name in taken:
        count += 1
        name = f"{wish}_{count}"
    taken.add(name)
    return name
