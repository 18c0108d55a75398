"""The bridge's coverage as data: of all ONNX operators, and of those in a model."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import defs

from onnxqat.bridge import ops as _families  # noqa: F401 - registers the operators
from onnxqat.bridge.coverage import opset_of
from onnxqat.bridge.ops.excluded import EXCLUDED
from onnxqat.bridge.ops.fused import DOMAIN as OWN_DOMAIN
from onnxqat.bridge.ops.registry import find, listed_versions, ops, since_version
from onnxqat.core.operators import Operator, OperatorUse, OperatorVersion
from onnxqat.graph import Graph
from onnxqat.graph.graph import all_nodes
from onnxqat.graph.passes.functions import inline_functions

OLDEST_OPSET = 7
"""The oldest opset of which every operator is meant to be covered."""
EXCLUDED_DOMAINS = {
    "ai.onnx.ml": 'trees, encoders and the like, which are not trained: fallback = "onnxruntime"',
    "ai.onnx.preview": "a preview, whose meaning may still change",
    "ai.onnx.preview.training": "a step of training, which is no part of inference",
}
"""Domain of ONNX -> why none of its operators is registered."""
_NOT_YET = "not implemented"


def operators() -> tuple[Operator, ...]:
    """Every operator that the installed ONNX knows or the bridge has, ONNX's own first."""
    versions: dict[tuple[str, str], dict[int, bool]] = {}
    for schema in defs.get_all_schemas_with_history():
        known = versions.setdefault((schema.domain, schema.name), {})
        known[schema.since_version] = bool(schema.deprecated)
    for domain, name, since in ops():
        if domain != OWN_DOMAIN:
            versions.setdefault((domain, name), {}).setdefault(since, False)
    return tuple(
        Operator(domain, name, tuple(_versions(domain, name, known)))
        for (domain, name), known in sorted(versions.items())
    )


def _versions(domain: str, name: str, known: dict[int, bool]) -> Iterator[OperatorVersion]:
    """The versions of an operator, given which of them only say that it is deprecated."""
    registered = listed_versions(name, domain)
    newer = (*sorted(known)[1:], None)
    for since, next_one in zip(sorted(known), newer, strict=True):
        is_past = next_one is not None and next_one <= OLDEST_OPSET
        if since in registered:
            yield OperatorVersion(since, is_covered=True)
        else:
            reason = _reason(domain, name, is_past=is_past, is_deprecated=known[since])
            yield OperatorVersion(since, is_covered=False, reason=reason)


def _reason(domain: str, name: str, *, is_past: bool, is_deprecated: bool) -> str:
    if domain in EXCLUDED_DOMAINS:
        return EXCLUDED_DOMAINS[domain]
    if name in EXCLUDED and not domain:
        return EXCLUDED[name]
    if is_deprecated:
        return "deprecated: no model of this opset may have it"
    return f"only in opsets before {OLDEST_OPSET}" if is_past else _NOT_YET


def operator_uses(graph: Graph) -> tuple[OperatorUse, ...]:
    """The operators of a graph, its subgraphs and functions, sorted, those not covered first.

    Raises:
        ModelError: A model-local function is written for another opset than the model.
    """
    graph = inline_functions(graph, lambda _: None)
    nodes: dict[tuple[str, int | None, bool], list[str]] = {}
    for node in all_nodes(graph):
        domain = "" if node.domain in (None, "ai.onnx") else node.domain
        opset = opset_of(graph, domain)
        since = since_version(node.op, domain=domain, opset=opset)
        is_covered = find(node.op, domain=domain, opset=opset) is not None
        key = (Operator(domain, node.op, ()).full_name, since, is_covered)
        nodes.setdefault(key, []).append(node.name or f"<{node.op}>")
    uses = (OperatorUse(n, s, tuple(names), covered) for (n, s, covered), names in nodes.items())
    return tuple(sorted(uses, key=lambda use: (use.is_covered, use.operator)))
