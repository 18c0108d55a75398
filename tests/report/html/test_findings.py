"""Findings come by rule, the first of each with pictures."""

from __future__ import annotations

from dataclasses import replace

from onnxqat.core.finding import Finding, Severity
from onnxqat.report.html.findings import PICTURED, SHOWN_OF_A_RULE, findings_by_rule
from tests.support.reports import full_report


def test_a_finding_is_drawn_in_each_state_of_the_graph():
    cards = [card for rule in findings_by_rule(full_report()).rules for card in rule.cards]
    labels = [[drawn.label for drawn in card.pictures] for card in cards]
    assert labels == [["before: FP32", "after: QAT"], ["before: FP32", "after: QAT"], []]


def test_only_the_first_findings_of_a_rule_are_drawn_and_the_rest_is_listed():
    same = tuple(
        Finding("QDQ101", Severity.ERROR, f"again {i}", node="/stem/Conv") for i in range(10)
    )
    (rule,) = findings_by_rule(replace(full_report(), findings=same)).rules
    assert all(card.pictures for card in rule.cards)
    assert (*(card.finding for card in rule.cards), *rule.others) == same
    assert len(rule.cards) == SHOWN_OF_A_RULE


def test_many_rules_do_not_make_a_page_large():
    many = tuple(
        Finding(f"QDQ{i}", Severity.NOTE, "once", node="/stem/Conv") for i in range(PICTURED + 5)
    )
    found = findings_by_rule(replace(full_report(), findings=many))
    assert sum(bool(card.pictures) for rule in found.rules for card in rule.cards) == PICTURED


def test_severities_are_counted_worst_first():
    counts = findings_by_rule(full_report()).counts
    assert counts == ((Severity.ERROR, 1), (Severity.WARNING, 1), (Severity.NOTE, 1))
