"""`onnxqat audit`: exit codes, formats, repairs, settings, baseline, and what it can look at."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest

from onnxqat.auditing import RULES
from onnxqat.cli.main import main
from onnxqat.graph import save
from tests.support import nets
from tests.support.compile import needs_compiler
from tests.support.qdq_text import conv
from tests.support.seeded import good

Run = Callable[..., tuple[int, list[dict[str, Any]]]]


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """QDQ001 (an error) and CAL001 (a warning), both of which can be mended."""
    path = tmp_path / "faulty.onnx"
    model = conv(zero_point="int8 z = {5}", weight_scale="float[8] ws = {" + "1e-12, " * 7 + "1}")
    onnx.save(model, path)
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def called(*arguments: object) -> tuple[int, list[dict[str, Any]]]:
        code = main(["audit", *map(str, arguments), "--json"])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else []

    return called


def rules(findings: list[dict[str, Any]]) -> set[str]:
    return {finding["rule"] for finding in findings}


def test_an_error_makes_the_exit_code_1(run: Run, faulty: Path) -> None:
    code, findings = run(faulty)

    assert code == 1
    assert {"QDQ001", "CAL001"} <= rules(findings)


def test_a_clean_model_ends_with_0(run: Run, tmp_path: Path) -> None:
    save(good("residual"), tmp_path / "good.onnx")

    assert run(tmp_path / "good.onnx") == (0, [])


def test_fail_on_decides_what_is_bad_enough(run: Run, faulty: Path) -> None:
    only = ("--select", "CAL001")

    assert run(faulty, *only)[0] == 0
    assert run(faulty, *only, "--fail-on", "warning")[0] == 1


def test_select_and_ignore_choose_the_rules(run: Run, faulty: Path) -> None:
    assert rules(run(faulty, "--select", "QDQ0")[1]) == {"QDQ001"}
    assert "QDQ001" not in rules(run(faulty, "--ignore", "QDQ001")[1])


def test_fix_writes_a_clean_model_and_leaves_the_old_one(
    run: Run, faulty: Path, tmp_path: Path
) -> None:
    before = faulty.read_bytes()

    code, findings = run(faulty, "--fix", "-o", tmp_path / "mended.onnx")

    assert (code, findings) == (0, [])
    assert run(tmp_path / "mended.onnx") == (0, [])
    assert faulty.read_bytes() == before


def test_fix_needs_a_place_to_write(capsys: pytest.CaptureFixture[str], faulty: Path) -> None:
    assert main(["audit", str(faulty), "--fix"]) == 2
    assert "--output" in capsys.readouterr().err


def test_a_baseline_accepts_what_is_known_and_tells_what_is_new(
    run: Run, faulty: Path, tmp_path: Path
) -> None:
    baseline = tmp_path / "baseline.json"

    assert run(faulty, "--select", "CAL", "--write-baseline", baseline) == (0, [])
    code, findings = run(faulty, "--baseline", baseline)

    assert code == 1
    assert rules(findings) == {"QDQ001"}


def test_a_damaged_baseline_is_bad_input(
    capsys: pytest.CaptureFixture[str], faulty: Path, tmp_path: Path
) -> None:
    (tmp_path / "b.json").write_text('{"version": 1, "findings": [{}]}')

    assert main(["audit", str(faulty), "--baseline", str(tmp_path / "b.json")]) == 2
    assert "is no baseline" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "table"), [("pyproject.toml", "tool.onnxqat.audit"), ("onnxqat.toml", "audit")]
)
def test_settings_of_the_folder_hold_and_flags_come_before_them(
    run: Run, faulty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, table: str
) -> None:
    below = tmp_path / "below"
    below.mkdir()
    (tmp_path / name).write_text(f'[{table}]\nselect = ["CAL001"]\nfail_on = "warning"\n')
    monkeypatch.chdir(below)

    assert run(faulty)[0] == 1
    assert rules(run(faulty)[1]) == {"CAL001"}
    assert run(faulty, "--fail-on", "error")[0] == 0
    assert rules(run(faulty, "--select", "QDQ001")[1]) == {"QDQ001"}


def test_a_misspelt_setting_is_bad_input(
    capsys: pytest.CaptureFixture[str], faulty: Path, tmp_path: Path
) -> None:
    file = tmp_path / "onnxqat.toml"
    file.write_text("[audit]\nselected = []\n")

    assert main(["audit", str(faulty), "--config", str(file)]) == 2
    assert "selected" in capsys.readouterr().err


def test_a_file_without_the_table_is_bad_input(
    capsys: pytest.CaptureFixture[str], faulty: Path, tmp_path: Path
) -> None:
    file = tmp_path / "onnxqat.toml"
    file.write_text("[other]\n")

    assert main(["audit", str(faulty), "--config", str(file)]) == 2
    assert "[audit]" in capsys.readouterr().err


def test_every_format_tells_the_finding(capsys: pytest.CaptureFixture[str], faulty: Path) -> None:
    outputs = {}
    for name in ("text", "json", "sarif", "junit"):
        assert main(["audit", str(faulty), "--format", name]) == 1
        outputs[name] = capsys.readouterr().out

    assert json.loads(outputs["sarif"])["version"] == "2.1.0"
    assert ET.fromstring(outputs["junit"].encode()).tag == "testsuites"
    assert "audit --fix mends 4" in outputs["text"]
    assert all("QDQ001" in text for text in outputs.values())


def test_data_and_a_reference_are_looked_at(run: Run, tmp_path: Path) -> None:
    model, data = nets.write_net(tmp_path, samples=16)
    save(good("residual"), tmp_path / "qdq.onnx")
    with np.load(data) as arrays:
        loud = {name: arrays[name] * (100 if name == "image" else 1) for name in arrays.files}
    np.savez(tmp_path / "loud.npz", **loud)

    given = ("--data", tmp_path / "loud.npz", "--reference", model)
    _, findings = run(tmp_path / "qdq.onnx", *given, "--ignore", "ACC002")

    assert "CAL008" in rules(findings)
    assert rules(findings) & {"ACC001", "ACC003"}


@needs_compiler
def test_compile_tells_that_the_compiler_refuses_the_file(run: Run, faulty: Path) -> None:
    code, findings = run(faulty, "--compile", "--backend", "rtx", "--select", "ENG")

    assert code == 1
    assert rules(findings) == {"ENG001"}


def test_rule_prints_the_page_of_every_rule(capsys: pytest.CaptureFixture[str]) -> None:
    for code in RULES:
        assert main(["rule", code]) == 0
        assert "Why it matters" in capsys.readouterr().out


def test_control_characters_in_names_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = conv(zero_point="int8 z = {5}")
    model.graph.node[0].name = "\x1b[2Jclear"
    onnx.save(model, tmp_path / "m.onnx")

    main(["audit", str(tmp_path / "m.onnx")])

    assert "\x1b[2J" not in capsys.readouterr().out


def test_the_page_goes_to_stdout_as_it_is(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mended.onnx"

    assert main(["audit", str(faulty), "--format", "html", "--fix", "-o", str(out)]) == 0

    page = capsys.readouterr().out
    assert page.lstrip().startswith("<!doctype html>")
    assert "before --fix" in page


@pytest.mark.parametrize("command", ["audit", "report"])
def test_pages_are_made_without_torch(command: str, faulty: Path) -> None:
    (faulty.parent / "fp32.onnx").write_bytes(faulty.read_bytes())
    arguments = ["audit", str(faulty), "--format", "html"]
    if command == "report":
        arguments = ["report", str(faulty.parent)]
    code = f"from onnxqat.cli.main import main; import sys; main({arguments!r}); "
    code += "sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr.count(b"Traceback")) == (0, 0)
