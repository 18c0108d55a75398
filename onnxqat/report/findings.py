"""Findings as text: JSON, SARIF 2.1.0, JUnit XML, and a page. Nothing here prints."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from onnxqat.auditing.evidence import NOTHING, Evidence
from onnxqat.auditing.registry import RULES, Rule
from onnxqat.core.codec import encode
from onnxqat.core.finding import Finding, Severity
from onnxqat.graph import Graph
from onnxqat.version import __version__

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, and names in a file may: https://www.w3.org/TR/xml/#charsets."""


@dataclass(frozen=True, eq=False)
class Mended:
    """What `--fix` did before the audit."""

    before: Graph
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Audited:
    """An audit's result, and what it was of."""

    model: str
    """The file's path, as the user wrote it."""
    findings: Sequence[Finding]
    rules: Sequence[str]
    """Codes of the rules that were applied."""
    fail_on: Severity = Severity.ERROR
    evidence: Evidence = NOTHING
    graph: Graph | None = None
    """What was audited; None: what the file holds."""
    mended: Mended | None = None


def as_json(audited: Audited) -> str:
    """The list of findings."""
    return json.dumps(encode(tuple(audited.findings)), indent=2)


def as_sarif(audited: Audited) -> str:
    """A SARIF 2.1.0 log of one run, for code-scanning services.

    Source: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
    """
    rules = sorted({*audited.rules, *(finding.rule for finding in audited.findings)} & set(RULES))
    driver = {
        "name": "onnxqat",
        "version": __version__,
        "rules": [_sarif_rule(RULES[code]) for code in rules],
    }
    uri = quote(audited.model.replace("\\", "/"))
    run = {
        "tool": {"driver": driver},
        "results": [_sarif_result(finding, uri, rules) for finding in audited.findings],
        "columnKind": "unicodeCodePoints",
    }
    log = {"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2)


def _sarif_rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.check.__name__.split("_")),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.manual},
        "help": {"text": rule.manual},
        "defaultConfiguration": {"level": rule.severity.value},
    }


def _sarif_result(finding: Finding, uri: str, rules: Sequence[str]) -> dict[str, Any]:
    place: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": uri}}}
    names = (("node", finding.node), ("tensor", finding.tensor))
    logical = [{"fullyQualifiedName": name, "kind": kind} for kind, name in names if name]
    if logical:
        place["logicalLocations"] = logical
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "level": finding.severity.value,
        "message": {"text": _message(finding)},
        "locations": [place],
        "partialFingerprints": {"onnxqat/v1": fingerprint(finding)},
    }
    if finding.rule in rules:
        result["ruleIndex"] = rules.index(finding.rule)
    return result


def fingerprint(finding: Finding) -> str:
    """A hash of rule and place, the same from one audit to the next."""
    place = "\0".join((finding.rule, finding.node or "", finding.tensor or ""))
    return hashlib.sha256(place.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def as_junit(audited: Audited) -> str:
    """A JUnit test suite: a case for each finding, and one that passes for each silent rule.

    Findings that make the audit fail are failures; milder ones pass, and tell it in their output.
    """
    found = {finding.rule for finding in audited.findings}
    silent = [code for code in audited.rules if code not in found]
    failures = [f for f in audited.findings if f.severity.rank >= audited.fail_on.rank]
    counts = {
        "tests": str(len(audited.findings) + len(silent)),
        "failures": str(len(failures)),
        "errors": "0",
    }
    suites = ET.Element("testsuites", {"name": "onnxqat audit", **counts})
    suite = ET.SubElement(suites, "testsuite", {"name": _clean(audited.model), **counts})
    for finding in audited.findings:
        _junit_case(suite, finding, fails=finding.severity.rank >= audited.fail_on.rank)
    for code in silent:
        ET.SubElement(suite, "testcase", classname=f"onnxqat.{code}", name=RULES[code].title)
    ET.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suites, encoding="unicode")


def _junit_case(suite: ET.Element, finding: Finding, *, fails: bool) -> None:
    place = finding.node or finding.tensor or "model"
    case = ET.SubElement(
        suite, "testcase", classname=f"onnxqat.{finding.rule}", name=_clean(f"{place}")
    )
    text = _clean(_message(finding))
    if fails:
        failure = ET.SubElement(
            case, "failure", message=_clean(finding.message), type=finding.severity.value
        )
        failure.text = text
    else:
        ET.SubElement(case, "system-out").text = f"{finding.severity.value}: {text}"


def as_html(audited: Audited) -> str:
    """One page that loads nothing: the findings in pictures, and all that was measured."""
    from onnxqat.report.html import render
    from onnxqat.report.html.audited import audit_report

    return render(audit_report(audited))


def _message(finding: Finding) -> str:
    return finding.message if finding.fix is None else f"{finding.message}\nFix: {finding.fix}"


def _clean(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


FORMATS: dict[str, Callable[[Audited], str]] = {
    "json": as_json,
    "sarif": as_sarif,
    "junit": as_junit,
    "html": as_html,
}
"""The formats that are written as they are, by the name that `--format` takes."""
