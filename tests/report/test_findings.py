"""Findings for other programs: SARIF against its schema, JUnit read by an XML parser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import fastjsonschema
import pytest

from onnxqat.auditing import RULES
from onnxqat.core.codec import decode
from onnxqat.core.finding import Finding, Severity
from onnxqat.report.findings import Audited, as_json, as_junit, as_sarif

SCHEMA = Path(__file__).parent / "schemas" / "sarif-2.1.0-rtm.5.json"

ERROR = Finding("QDQ001", Severity.ERROR, "zero point 5", node="x_Q", tensor="z", fix="use 0")
WARNING = Finding("QDQ105", Severity.WARNING, "a bare branch", node="/layer 1/Add", tensor="t")
NOTE = Finding("DEP005", Severity.NOTE, "weights lie beside the model")
HOSTILE = Finding("QDQ001", Severity.ERROR, "<&]]> \x00\x1b[31m", node='"\x07<node>')


def audited(*findings: Finding, fail_on: Severity = Severity.ERROR) -> Audited:
    return Audited("a folder/net.onnx", findings, sorted(RULES), fail_on)


@pytest.fixture(scope="module")
def validate() -> Any:
    return fastjsonschema.compile(json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize("findings", [(), (ERROR, WARNING, NOTE), (HOSTILE,)])
def test_sarif_fits_its_schema(validate: Any, findings: tuple[Finding, ...]) -> None:
    validate(json.loads(as_sarif(audited(*findings))))


def test_the_schema_refuses_what_is_no_sarif(validate: Any) -> None:
    log = json.loads(as_sarif(audited(ERROR)))
    log["runs"][0]["results"][0]["level"] = "fatal"

    with pytest.raises(fastjsonschema.JsonSchemaException):
        validate(log)


def test_a_sarif_result_tells_rule_level_place_and_fix() -> None:
    (run,) = json.loads(as_sarif(audited(ERROR, NOTE)))["runs"]
    result, note = run["results"]

    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "QDQ001"
    assert (result["level"], note["level"]) == ("error", "note")
    assert result["message"]["text"] == "zero point 5\nFix: use 0"
    (place,) = result["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "a%20folder/net.onnx"
    assert [x["fullyQualifiedName"] for x in place["logicalLocations"]] == ["x_Q", "z"]


def test_the_fingerprint_stays_when_the_message_changes_and_tells_places_apart() -> None:
    def fingerprint(finding: Finding) -> str:
        (result,) = json.loads(as_sarif(audited(finding)))["runs"][0]["results"]
        return str(result["partialFingerprints"]["onnxqat/v1"])

    moved = Finding("QDQ001", Severity.ERROR, "zero point 5", node="y_Q", tensor="z", fix="use 0")
    other_number = Finding("QDQ001", Severity.ERROR, "zero point 7", node="x_Q", tensor="z")
    assert fingerprint(other_number) == fingerprint(ERROR) != fingerprint(moved)


def test_every_rule_has_its_page_in_sarif() -> None:
    (run,) = json.loads(as_sarif(audited()))["runs"]

    pages = {rule["id"]: rule["help"]["text"] for rule in run["tool"]["driver"]["rules"]}
    assert pages == {code: rule.manual for code, rule in RULES.items()}


@pytest.mark.parametrize(("fail_on", "failures"), [("error", 1), ("warning", 2), ("note", 3)])
def test_junit_counts_what_makes_the_audit_fail(fail_on: str, failures: int) -> None:
    xml = as_junit(audited(ERROR, WARNING, NOTE, fail_on=Severity(fail_on)))
    suites = ET.fromstring(xml.encode())
    (suite,) = suites

    assert suites.attrib["failures"] == suite.attrib["failures"] == str(failures)
    assert len(suite.findall("testcase/failure")) == failures
    assert len(suite.findall("testcase")) == int(suite.attrib["tests"]) == len(RULES)


def test_junit_is_xml_whatever_the_names_in_the_file_are() -> None:
    (suite,) = ET.fromstring(as_junit(audited(HOSTILE)).encode())

    (failure,) = suite.findall("testcase/failure")
    assert failure.attrib["message"].startswith("<&]]> \N{REPLACEMENT CHARACTER}")


def test_json_reads_back_as_the_findings() -> None:
    assert decode(tuple[Finding, ...], json.loads(as_json(audited(ERROR, NOTE)))) == (ERROR, NOTE)
