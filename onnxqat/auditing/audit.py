"""Audits a graph by every rule."""

from __future__ import annotations

import os
from collections.abc import Collection

import onnx
import onnx_graphsurgeon as gs

from onnxqat.auditing.registry import RULES
from onnxqat.auditing.subject import Subject
from onnxqat.core.errors import ConfigError
from onnxqat.core.finding import Finding, Severity
from onnxqat.graph import as_graph
from onnxqat.graph.infer import infer_shapes

_WORST_FIRST = {severity: -rank for rank, severity in enumerate(Severity)}


def audit(
    model: str | os.PathLike[str] | onnx.ModelProto | gs.Graph,
    *,
    select: Collection[str] = (),
    ignore: Collection[str] = (),
) -> tuple[Finding, ...]:
    """What TensorRT would refuse in a model, or compile otherwise than the file asks for.

    Args:
        model: A path, a ModelProto or a graph, made by this package or by any other tool.
        select: Codes, or their first letters and digits (`QDQ0`), of the only rules to apply;
            all rules where empty.
        ignore: Codes, or their first letters and digits, of rules to leave out.

    Returns:
        The findings, worst first, then by rule, node and tensor.

    Raises:
        ModelError: The model cannot be read.
        ConfigError: No rule has a code that is selected or ignored.
    """
    codes = _matching(select or [""]) - _matching(ignore)
    graph = as_graph(model)
    infer_shapes(graph)
    subject = Subject(graph)
    findings = {finding for code in codes for finding in RULES[code].findings(subject)}
    return tuple(sorted(findings, key=_order))


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
    return (_WORST_FIRST[finding.severity], finding.rule, *where, finding.message)
