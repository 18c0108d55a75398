"""The page of an audit: what the audit was given, put where a run's page has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from onnxqat.auditing.values import input_of, value_of
from onnxqat.calibration.distribution import distribution_of
from onnxqat.core.distribution import Distribution
from onnxqat.core.errors import ModelError
from onnxqat.core.plan import QuantPlan
from onnxqat.graph import Graph, extract, load
from onnxqat.graph.insert import PLAN_KEY
from onnxqat.graph.qdq_pairs import CODE_TYPES
from onnxqat.report.html.contents import Report, View
from onnxqat.report.provenance import provenance_of

_TYPES = {name: dtype for name, dtype in CODE_TYPES.items() if name != "uint8"}

if TYPE_CHECKING:
    from onnxqat.auditing import Evidence
    from onnxqat.report.findings import Audited


def audit_report(audited: Audited) -> Report:
    """What the page of an audit shows."""
    graph = audited.graph if audited.graph is not None else load(audited.model)
    mended, evidence = audited.mended, audited.evidence
    compared = evidence.comparison
    return Report(
        title=Path(audited.model).name,
        subject=View("as it is" if mended is None else "after --fix", graph),
        before=View("before --fix", mended.before) if mended is not None else None,
        plan=_own_plan(graph),
        engine=evidence.engine,
        inner_errors={"": compared} if compared is not None else {},
        distributions=_distributions(graph, evidence),
        findings=tuple(audited.findings),
        mended=mended.findings if mended is not None else (),
        provenance=provenance_of(Path(audited.model)),
    )


def _own_plan(graph: Graph) -> QuantPlan | None:
    """The plan that a file of ours holds, for its reasons; None for files of other tools."""
    if PLAN_KEY not in graph.metadata:
        return None
    try:
        return extract(graph)[0]
    except ModelError:  # a damaged entry must not cost the user the audit
        return None


def _distributions(graph: Graph, evidence: Evidence) -> tuple[Distribution, ...] | None:
    """What each symmetric quantizer with one scale meets, noisiest first; None without data."""
    if not evidence.observed:
        return None
    found = {entry.tensor: entry for entry in _each(graph, evidence)}
    return tuple(sorted(found.values(), key=lambda entry: (entry.sqnr_db, entry.tensor)))


def _each(graph: Graph, evidence: Evidence) -> Iterator[Distribution]:
    for node in graph.nodes:
        if node.op != "QuantizeLinear" or node.inputs[0].name not in evidence.observed:
            continue
        scale, zero_point = value_of(input_of(node, 1)), value_of(input_of(node, 2))
        dtype = None if zero_point is None else _TYPES.get(zero_point.dtype.name)
        if scale is None or scale.size != 1 or dtype is None:
            continue
        name, amax = node.inputs[0].name, float(scale.reshape(())) * dtype.qmax
        seen = evidence.observed[name].statistics
        if amax > 0 and seen.values:
            yield distribution_of(name, seen, amax=amax, dtype=dtype)
