"""What a page may show. Whatever was not measured is left empty, and the page says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxqat.core.comparison import Comparison
from onnxqat.core.distribution import Distribution
from onnxqat.core.engine_plan import EnginePlan
from onnxqat.core.finding import Finding
from onnxqat.core.mixed_precision import Mix
from onnxqat.core.plan import QuantPlan
from onnxqat.core.provenance import Provenance
from onnxqat.core.summary import Summary
from onnxqat.core.training_record import StepRecord
from onnxqat.graph import Graph


@dataclass(frozen=True)
class View:
    """One state of the graph, and what to call it: before quantization, after `--fix`, …"""

    label: str
    graph: Graph


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a page is made of."""

    title: str
    """The model's name."""
    subject: View
    """The graph that the table lists and the findings speak of."""
    before: View | None = None
    """The graph from which the subject was made, where both are at hand."""
    summary: Summary | None = None
    plan: QuantPlan | None = None
    """The subject's, for rules and reasons."""
    engine: EnginePlan | None = None
    """What the subject compiled to."""
    inner_errors: Mapping[str, Comparison] = field(default_factory=dict)
    """Tensor by tensor, by model; the one that the page is about comes last."""
    distributions: tuple[Distribution, ...] | None = None
    """Noisiest first."""
    mix: Mix | None = None
    """How the plan came about, where a budget of mixed precision made it."""
    history: tuple[StepRecord, ...] = ()
    findings: tuple[Finding, ...] | None = None
    """None where nothing was audited."""
    mended: tuple[Finding, ...] = ()
    """What was found in `before`, and mended in the subject."""
    provenance: Provenance | None = None
