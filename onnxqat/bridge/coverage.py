"""Which operators of a graph have a torch function."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxqat.bridge import ops  # noqa: F401 - registers the operators
from onnxqat.bridge.ops.registry import find, listed_versions, since_version
from onnxqat.core.errors import UnsupportedOpError
from onnxqat.graph.graph import all_nodes

MOST_NAMES = 4
"""Node names told for one operator; a net may have hundreds of a kind."""


def refuse_unknown(graph: gs.Graph) -> None:
    """Do nothing if every operator of the graph and its subgraphs has a torch function.

    Raises:
        UnsupportedOpError: Lists all that have none, with their nodes.
    """
    missing: dict[str, list[str]] = {}
    for node in all_nodes(graph):
        domain = node.domain or ""
        if find(node.op, domain=domain, opset=opset_of(graph, domain)) is None:
            missing.setdefault(_describe(node, graph), []).append(node.name or f"<{node.op}>")
    if missing:
        lines = [f"{what}: {_some(names)}" for what, names in sorted(missing.items())]
        raise UnsupportedOpError(
            "no torch implementation of:\n    " + "\n    ".join(lines),
            fix='add them to onnxqat/bridge/ops with @op("Name", versions=(…,)), '
            "or take these nodes out of the model",
        )


def opset_of(graph: gs.Graph, domain: str) -> int:
    """The opset that a graph imports of a domain; 1 where it imports none."""
    if domain in ("", "ai.onnx"):
        return int(graph.opset)
    versions = {entry.domain: entry.version for entry in graph.import_domains or ()}
    return int(versions.get(domain, 1))


def _describe(node: gs.Node, graph: gs.Graph) -> str:
    domain = node.domain or ""
    since = since_version(node.op, domain=domain, opset=opset_of(graph, domain))
    have = ", ".join(map(str, listed_versions(node.op, domain))) or "none"
    name = f"{domain}.{node.op}" if domain not in ("", "ai.onnx") else node.op
    if since is None:
        return f"{name} (not known at opset {opset_of(graph, domain)} of its domain)"
    return f"{name} since version {since} (have: {have})"


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:MOST_NAMES])
    left = len(names) - MOST_NAMES
    return shown if left <= 0 else f"{shown} and {left} more"
