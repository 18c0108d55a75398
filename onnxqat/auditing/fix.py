"""Repairs what an audit found and can mend, and audits again."""

from __future__ import annotations

from dataclasses import dataclass

from onnxqat.auditing.audit import DEFAULTS, Model, auditable, chosen, findings_of
from onnxqat.auditing.config import AuditConfig
from onnxqat.auditing.registry import RULES
from onnxqat.auditing.subject import Subject
from onnxqat.core.finding import Finding
from onnxqat.graph import Graph
from onnxqat.graph.graph import all_graphs

ROUNDS = 64
"""One repair may uncover what another rule objects to, link by link of a chain."""


@dataclass(frozen=True, eq=False)
class Fixed:
    """A repaired graph."""

    graph: Graph
    repaired: tuple[Finding, ...]
    """What was found and mended, in the order of the repairs."""
    left: tuple[Finding, ...]
    """What the audit of the repaired graph still finds."""


def fix(model: Model, *, config: AuditConfig = DEFAULTS) -> Fixed:
    """Mend all that rules know a safe repair for, and audit the result.

    A repair may make a scale coarser, and never narrows the range of a tensor. Findings that need
    calibration data, another placement or another exporter stay.

    Raises:
        ModelError: The model cannot be read.
        ConfigError: As for `audit`.
    """
    graph = auditable(model)
    repaired: list[Finding] = []
    before: tuple[list[Finding], int] = ([], 0)
    for _ in range(ROUNDS):
        done = _round(graph, config)
        size = sum(len(inner.nodes) for inner in all_graphs(graph))
        if not done or (done, size) == before:  # repairs that change nothing will not do so again
            break
        repaired, before = repaired + done, (done, size)
    return Fixed(graph, tuple(dict.fromkeys(repaired)), findings_of(graph, config=config))


def _round(graph: Graph, config: AuditConfig) -> list[Finding]:
    """Apply the repairs of each rule in turn; what they mended. After a repair the graph is looked
    at anew.
    """
    done: list[Finding] = []
    subject = Subject(graph, config)
    for code in chosen(config):
        rule = RULES[code]
        objections = [x for x in rule.check(subject) if x.repair is not None]
        for objection in objections:
            assert objection.repair is not None
            objection.repair()
        if objections:
            subject = Subject(graph, config)
        done += [rule.finding(objection) for objection in objections]
    return done
