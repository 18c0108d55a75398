"""Which operators of a graph have a torch function."""

from __future__ import annotations

from collections.abc import Iterable

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
    nodes = unknown_nodes(graph)
    if nodes:
        raise UnsupportedOpError(
            f"no torch implementation of:{_listed(graph, nodes)}",
            fix="let ONNX Runtime run them as they are, without training through them: fallback = "
            '"onnxruntime" (--fallback onnxruntime; in a recipe under [finetune]); or add them to '
            'onnxqat/bridge/ops with @op("Name", versions=(…,)); or take them out of the model',
        )


def unknown_nodes(graph: gs.Graph) -> tuple[gs.Node, ...]:
    """The nodes of the graph and its subgraphs that have no torch function."""
    return tuple(
        node
        for node in all_nodes(graph)
        if find(node.op, domain=node.domain or "", opset=opset_of(graph, node.domain or "")) is None
    )


def refuse_both(graph: gs.Graph, refusals: Iterable[tuple[gs.Node, str]]) -> None:
    """Do nothing if ONNX Runtime refuses no node that has no torch function.

    Raises:
        UnsupportedOpError: Lists all that it refuses, with their nodes and its reasons.
    """
    reasons = list(refusals)
    if reasons:
        nodes = [node for node, _ in reasons]
        said = "\n    ".join(dict.fromkeys(reason for _, reason in reasons))
        raise UnsupportedOpError(
            f"neither torch nor ONNX Runtime can run:{_listed(graph, nodes)}\n    {said}",
            fix="take these nodes out of the model, or put ONNX operators or a model-local "
            "function in their place",
        )


def _listed(graph: gs.Graph, nodes: Iterable[gs.Node]) -> str:
    """A line for each operator, with its nodes."""
    by_op: dict[str, list[str]] = {}
    for node in nodes:
        by_op.setdefault(_describe(node, graph), []).append(node.name or f"<{node.op}>")
    return "".join(f"\n    {what}: {_some(names)}" for what, names in sorted(by_op.items()))


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
