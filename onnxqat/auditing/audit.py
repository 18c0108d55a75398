"""Audits a graph by every rule."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TypeAlias

import onnx
import onnx.shape_inference
import onnx_graphsurgeon as gs

from onnxqat.auditing.config import AuditConfig
from onnxqat.auditing.evidence import NOTHING, Evidence
from onnxqat.auditing.registry import RULES
from onnxqat.auditing.subject import Subject
from onnxqat.core.errors import ConfigError, ModelError
from onnxqat.core.finding import Finding
from onnxqat.graph import Graph, as_graph
from onnxqat.graph.infer import infer_shapes
from onnxqat.graph.passes.functions import inline_functions

Model: TypeAlias = str | os.PathLike[str] | onnx.ModelProto | gs.Graph
DEFAULTS = AuditConfig()


def audit(
    model: Model, *, config: AuditConfig = DEFAULTS, evidence: Evidence = NOTHING
) -> tuple[Finding, ...]:
    """What TensorRT would refuse in a model, or compile otherwise than the file asks for.

    Args:
        model: A path, a ModelProto or a graph, made by this package or by any other tool.
        config: The rules to apply, the target, and the bounds.
        evidence: What was measured of this very model: its compiled plan, its error, its values.

    Returns:
        The findings, worst first, then by rule, node and tensor.

    Raises:
        ModelError: The model cannot be read.
        ConfigError: No rule has a code that is selected or ignored, or there is no such profile.
    """
    graph = auditable(model)
    return findings_of(graph, config=config, evidence=evidence)


def auditable(model: Model) -> Graph:
    """The graph of a model, with the shapes that ONNX infers; functions of its own that quantize
    are inlined.

    Raises:
        ModelError: The model cannot be read, or contradicts itself.
    """
    graph = as_graph(model)
    if _hides_quantization(graph):
        graph = inline_functions(graph, lambda _: None)
    try:
        infer_shapes(graph)
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(
            f"ONNX cannot follow the model's shapes: {error}", fix="run onnx.checker on the model"
        ) from error
    return graph


def _hides_quantization(graph: Graph) -> bool:
    """Whether the model's own functions hold Q/DQ, where no rule would see them."""
    inside = (node.op_type for function in graph.shell.functions for node in function.node)
    return any("Quantize" in op or "QLinear" in op or "Integer" in op for op in inside)


def findings_of(
    graph: Graph, *, config: AuditConfig = DEFAULTS, evidence: Evidence = NOTHING
) -> tuple[Finding, ...]:
    """`audit` of a graph whose shapes are inferred, and which is not changed."""
    subject = Subject(graph, config, evidence)
    found = {finding for code in chosen(config) for finding in RULES[code].findings(subject)}
    return tuple(sorted(found, key=_order))


def chosen(config: AuditConfig) -> list[str]:
    """The codes of the rules that a config applies, sorted.

    Raises:
        ConfigError: No rule has a code that is selected or ignored.
    """
    return sorted(_matching(config.select or ("",)) - _matching(config.ignore))


def _matching(prefixes: Collection[str]) -> set[str]:
    codes: set[str] = set()
    for prefix in prefixes:
        found = {code for code in RULES if code.startswith(prefix)}
        if not found:
            known = ", ".join(sorted(RULES))
            raise ConfigError(f"there is no audit rule '{prefix}'", fix=f"choose from {known}")
        codes |= found
    return codes


def _order(finding: Finding) -> tuple[int, str, str, str, str]:
    where = (finding.node or "", finding.tensor or "")
    return (-finding.severity.rank, finding.rule, *where, finding.message)
