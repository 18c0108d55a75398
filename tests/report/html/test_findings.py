"""Findings come with pictures, as long as there are few of a kind."""

from __future__ import annotations

from dataclasses import replace

from onnxqat.core.finding import Finding, Severity
from onnxqat.report.html.findings import PICTURED, PICTURED_OF_A_RULE, finding_cards
from tests.support.reports import full_report


def test_a_finding_is_drawn_in_each_state_of_the_graph():
    on_node, on_tensor, on_model = finding_cards(full_report()).cards
    labels = ["before: FP32", "after: QAT"]
    assert [drawn.label for drawn in on_node.pictures] == labels
    assert [drawn.label for drawn in on_tensor.pictures] == labels
    assert on_model.pictures == ()


def test_only_the_first_findings_of_a_rule_are_drawn_and_the_rest_is_counted():
    one = Finding("QDQ101", Severity.ERROR, "again", node="/stem/Conv")
    found = finding_cards(replace(full_report(), findings=(one,) * 10))
    assert sum(bool(card.pictures) for card in found.cards) == PICTURED_OF_A_RULE
    assert found.undrawn == 10 - PICTURED_OF_A_RULE


def test_many_rules_do_not_make_a_page_large():
    many = tuple(
        Finding(f"QDQ{i}", Severity.NOTE, "once", node="/stem/Conv") for i in range(PICTURED + 5)
    )
    found = finding_cards(replace(full_report(), findings=many))
    assert found.undrawn == 5


def test_severities_are_counted_worst_first():
    counts = finding_cards(full_report()).counts
    assert counts == ((Severity.ERROR, 1), (Severity.WARNING, 1), (Severity.NOTE, 1))
