"""The rows of the table of layers: what was asked of a node, what it became, how far off it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx_graphsurgeon as gs

from onnxqat.auditing.rules.formats import code_type
from onnxqat.auditing.values import label
from onnxqat.core.comparison import Comparison, LayerError
from onnxqat.core.engine_plan import (
    EngineLayer,
    EnginePlan,
    NodePrecision,
    Precision,
    TensorView,
)
from onnxqat.core.plan import Placement, QuantPlan, Skip
from onnxqat.core.precision import HEAVY_OPS, TOLD_OPS, dtype_precision, node_precisions
from onnxqat.core.qdq_passage import QDQ_OPS
from onnxqat.core.spec import QuantDtype
from onnxqat.graph.query import producer
from onnxqat.report.html.contents import Report

FLOAT = "float"
_IN_FILE = {"float8_e4m3fn": "FP8", "int4": "4-bit"}
"""Numpy (ml_dtypes) name of codes -> what a file with them asks for; INT8 of all others."""
_ASKED = {
    QuantDtype.INT8: "INT8",
    QuantDtype.INT4_IN_INT8: "4-bit",
    QuantDtype.INT4: "4-bit",
    QuantDtype.FP8: "FP8",
}


@dataclass(frozen=True)
class Reason:
    """Why a rule decided so; told once, and referred to by number."""

    number: int
    rule: str
    reason: str


@dataclass(frozen=True)
class LayerRow:
    """One ONNX node that is no Q or DQ."""

    index: int
    """Its place in the file, from 1."""
    node: str
    op: str
    is_heavy: bool
    """Whether it multiplies matrices."""
    is_told: bool
    """Whether the compiled plan says in what type its work is done."""
    asked: str
    """What the file asks for: `INT8`, `float`, …"""
    compiled: Precision | None
    """The type of the node's work; what its kernel writes where that is not told. None: not
    compiled."""
    kernel: str | None
    errors: tuple[LayerError | None, ...]
    """Of its first output, for each compared model."""
    reasons: tuple[Reason, ...]

    @property
    def is_broken_promise(self) -> bool:
        """Whether the file asks for quantized work that compiled to float."""
        floats = (Precision.FP32, Precision.FP16, Precision.BF16)
        return self.is_heavy and self.asked != FLOAT and self.compiled in floats


@dataclass(frozen=True)
class Layers:
    """All rows, and what they share."""

    rows: tuple[LayerRow, ...]
    reasons: tuple[Reason, ...]
    compared: tuple[str, ...]
    """Names of the models that the rows' errors are of."""

    @property
    def ops(self) -> tuple[str, ...]:
        """The operators, sorted."""
        return tuple(sorted({row.op for row in self.rows}))

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that occur, in the order of `Precision`."""
        found = {row.compiled for row in self.rows}
        return tuple(precision for precision in Precision if precision in found)


def layers(report: Report) -> Layers:
    """The table's rows, in the order of the file."""
    table = _Table(report)
    return Layers(
        rows=tuple(table.row(i, node) for i, node in enumerate(work_nodes(report), start=1)),
        reasons=tuple(table.reasons.values()),
        compared=tuple(report.inner_errors),
    )


def work_nodes(report: Report) -> list[gs.Node]:
    """The nodes of the subject that are no Q, DQ or Constant."""
    passive = {*QDQ_OPS, "Constant"}
    return [node for node in report.subject.graph.nodes if node.op not in passive]


class _Table:
    """Looks each node up in everything that is known."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.reasons: dict[tuple[str, str], Reason] = {}
        self._asked = _asked_by_node(report.plan)
        self._rules = _rules_by_node(report.plan)
        self._errors = [errors_by_tensor(found) for found in report.inner_errors.values()]

    def row(self, index: int, node: gs.Node) -> LayerRow:
        compiled, kernel = self._compiled(node)
        return LayerRow(
            index=index,
            node=label(node),
            op=node.op,
            is_heavy=node.op in HEAVY_OPS,
            is_told=node.op in TOLD_OPS,
            asked=self._asked.get(node.name) or _asked_in_file(node),
            compiled=compiled,
            kernel=kernel,
            errors=tuple(self._error(node, errors) for errors in self._errors),
            reasons=tuple(self._reason(*why) for why in self._rules.get(node.name, ())),
        )

    def _compiled(self, node: gs.Node) -> tuple[Precision | None, str | None]:
        if self._report.engine is None:
            return None, None
        told = self._told.get(node.name)
        if told is not None:
            return told.precision, told.layer
        layer = self._last_layers.get(node.name)
        return (Precision.ABSENT, None) if layer is None else (written(layer), layer.name)

    @cached_property
    def _told(self) -> Mapping[str, NodePrecision]:
        assert self._report.engine is not None
        found = told_precisions(self._report, self._report.engine)
        return {entry.node: entry for entry in found}

    @cached_property
    def _last_layers(self) -> Mapping[str, EngineLayer]:
        assert self._report.engine is not None
        return {name: layer for layer in self._report.engine.kernels for name in layer.onnx_nodes}

    def _error(self, node: gs.Node, errors: Mapping[str, LayerError]) -> LayerError | None:
        return next((errors[t.name] for t in node.outputs if t.name in errors), None)

    def _reason(self, rule: str, reason: str) -> Reason:
        return self.reasons.setdefault((rule, reason), Reason(len(self.reasons) + 1, rule, reason))


def told_precisions(report: Report, engine: EnginePlan) -> tuple[NodePrecision, ...]:
    """The type of the work of the subject's nodes, as the plan tells it or its kernels do."""
    nodes = ((node.name, node.op) for node in report.subject.graph.nodes)
    wanted = [(name, op) for name, op in nodes if op in TOLD_OPS]
    return engine.nodes or node_precisions(engine, wanted)


def written(layer: EngineLayer) -> Precision:
    """The precision of the largest tensor that a kernel writes."""
    views: Iterable[TensorView] = layer.outputs or layer.inputs
    largest = max(views, key=lambda view: view.bytes, default=None)
    return Precision.OTHER if largest is None else dtype_precision(largest.dtype)


def errors_by_tensor(comparison: Comparison) -> dict[str, LayerError]:
    """The errors of inner tensors and outputs, by name."""
    return {error.tensor: error for error in (*comparison.layers, *comparison.outputs)}


def _asked_by_node(plan: QuantPlan | None) -> dict[str, str]:
    """Node -> the formats of its quantized edges, as `INT8` or `4-bit × INT8`."""
    formats: dict[str, set[str]] = {}
    for edge in plan.by_edge if plan is not None else ():
        assert plan is not None
        formats.setdefault(edge.node, set()).add(_ASKED[plan.spec_of(edge).dtype])
    return {node: " × ".join(sorted(found)) for node, found in formats.items()}


def _asked_in_file(node: gs.Node) -> str:
    """What the DequantizeLinear nodes in front of a node ask for."""
    sources = (producer(tensor) for tensor in node.inputs)
    types = {code_type(x) for x in sources if x is not None and x.op in QDQ_OPS}
    return " × ".join(sorted(_IN_FILE.get(name or "", "INT8") for name in types)) or FLOAT


def _rules_by_node(plan: QuantPlan | None) -> dict[str, list[tuple[str, str]]]:
    """Node -> rule and reason of each decision about its edges, each once."""
    found: dict[str, list[tuple[str, str]]] = {}
    if plan is None:
        return found
    decisions: tuple[Placement | Skip, ...] = (*plan.placements, *plan.skips)
    for decision in decisions:
        reasons = found.setdefault(decision.edge.node, [])
        if (decision.rule, decision.reason) not in reasons:
            reasons.append((decision.rule, decision.reason))
    return found
