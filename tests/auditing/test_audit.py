from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxqat.auditing import RULES, AuditConfig, audit, fix
from onnxqat.auditing.registry import rule
from onnxqat.core.errors import BuildError, ConfigError
from onnxqat.core.finding import Severity
from onnxqat.core.precision import Precision
from onnxqat.engine import build
from onnxqat.graph import as_graph, load
from tests.support.assets import MODELS, needs_assets
from tests.support.compile import needs_compiler, precisions
from tests.support.peer_quantizer import quantize_by_default, quantize_for_tensorrt
from tests.support.qdq_text import conv
from tests.support.runtime import run

TWO_FAULTS = conv(zero_point="uint8 z = {0}", scale="float s = {0.0}")  # QDQ003 and QDQ004


def codes(model: onnx.ModelProto, **choice: tuple[str, ...]) -> list[str]:
    return [finding.rule for finding in audit(model, config=AuditConfig(**choice))]


def test_errors_come_before_warnings() -> None:
    assert codes(TWO_FAULTS) == ["QDQ004", "QDQ003"]


def test_findings_are_the_same_from_a_path_a_proto_and_a_graph(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(TWO_FAULTS, path)

    assert audit(path) == audit(TWO_FAULTS) == audit(as_graph(TWO_FAULTS))


def test_selected_rules_alone_are_applied() -> None:
    assert codes(TWO_FAULTS, select=("QDQ003",)) == ["QDQ003"]


def test_a_group_of_rules_is_selected_by_its_first_characters() -> None:
    assert codes(TWO_FAULTS, select=("CAL", "QDQ1")) == []
    assert codes(TWO_FAULTS, select=("QDQ0",)) == ["QDQ004", "QDQ003"]


def test_ignored_rules_are_left_out() -> None:
    assert codes(TWO_FAULTS, ignore=("QDQ004",)) == ["QDQ003"]


def test_an_unknown_rule_is_an_error_that_lists_the_rules() -> None:
    with pytest.raises(ConfigError, match="no audit rule 'QDQ999'") as caught:
        audit(TWO_FAULTS, config=AuditConfig(select=("QDQ999",)))
    assert "QDQ001" in (caught.value.fix or "")


def test_the_graph_is_not_changed() -> None:
    before = TWO_FAULTS.SerializeToString()
    audit(TWO_FAULTS)

    assert TWO_FAULTS.SerializeToString() == before


def test_two_rules_of_one_code_are_an_error() -> None:
    with pytest.raises(ValueError, match="two audit rules are called QDQ001"):
        rule("QDQ001", Severity.ERROR)(RULES["QDQ001"].check)


def test_faults_inside_an_if_branch_are_found() -> None:
    inner = conv(zero_point="int8 z = {5}").graph
    del inner.input[:]
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        outer (bool c, float[1, 8, 16, 16] x) => (float[1, 8, 16, 16] y) {}"""
    )
    model.graph.node.append(
        onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner, name="if")
    )

    assert {finding.node for finding in audit(model)} == {"x_Q"}


def test_an_unnamed_node_is_told_by_its_operator_and_output() -> None:
    model = conv(zero_point="int8 z = {5}")
    model.graph.node[0].name = ""

    assert audit(model)[0].node == "<QuantizeLinear -> xq>"


@pytest.mark.parametrize("code", RULES)
def test_a_manual_page_says_what_why_how_and_where_from(code: str) -> None:
    page = RULES[code].manual

    assert page.splitlines()[0] == RULES[code].title
    assert RULES[code].title.endswith(".")
    assert all(f"{section}:" in page for section in ("Why it matters", "How to fix", "Source"))


@pytest.fixture(scope="module")
def peer_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ResNet-20 as onnxruntime.quantization writes it, by default and as TensorRT takes it."""
    folder = tmp_path_factory.mktemp("peers")
    data = np.random.default_rng(0).normal(size=(8, 3, 32, 32)).astype(np.float32)
    for name, quantize in PEERS.items():
        quantize(MODELS / "cifar10_resnet20.onnx", folder / name, {"input": data})
    return {name: folder / name for name in PEERS}


PEERS = {"default": quantize_by_default, "for_tensorrt": quantize_for_tensorrt}
RTX = AuditConfig(profile="rtx")


@needs_assets
@needs_compiler
def test_onnxruntime_s_default_file_has_the_errors_for_which_the_compiler_refuses_it(
    peer_files: dict[str, Path],
) -> None:
    path = peer_files["default"]
    errors = [f.rule for f in audit(path, config=RTX) if f.severity is Severity.ERROR]

    assert set(errors) == {"QDQ001", "QDQ003", "QDQ012"}  # QDQ003: its UINT8 stand for Relus
    assert errors.count("QDQ012") == 20  # one bias for each Conv and Gemm
    with pytest.raises(BuildError):
        build(path, backend="rtx")


@needs_assets
@needs_compiler
def test_onnxruntime_s_default_file_repaired_compiles_to_int8_and_computes_the_same(
    peer_files: dict[str, Path],
) -> None:
    path = peer_files["default"]
    fixed = fix(path, config=RTX)
    built = build(fixed.graph, backend="rtx")
    images = np.random.default_rng(1).normal(size=(8, 3, 32, 32)).astype(np.float32)
    before, after = (run(x, {"input": images})[0] for x in (path, fixed.graph))

    assert fixed.left == ()
    assert precisions(fixed.graph, built) == {Precision.INT8: 20}
    # 255 levels above 0 became 127: half the resolution, the same ranges
    assert 10 * np.log10((before**2).sum() / ((before - after) ** 2).sum()) > 20


@needs_assets
def test_a_relu_that_is_put_back_gives_its_tensor_the_name_that_the_float_model_has(
    peer_files: dict[str, Path],
) -> None:
    rectified = {
        n.outputs[0].name for n in load(MODELS / "cifar10_resnet20.onnx").nodes if n.op == "Relu"
    }
    fixed = fix(peer_files["default"], config=RTX).graph
    again = {node.outputs[0].name for node in fixed.nodes if node.op == "Relu"}
    assert again >= rectified


@needs_assets
@needs_compiler
def test_onnxruntime_s_file_for_tensorrt_has_no_error_and_compiles_to_int8(
    peer_files: dict[str, Path],
) -> None:
    path = peer_files["for_tensorrt"]
    findings = audit(path, config=RTX)

    assert Counter(f.rule for f in findings if f.severity is Severity.WARNING) == {
        "CAL001": 3,  # dead channels
        "QDQ008": 2,  # a Pad's value
        "QDQ112": 10,  # between Add and Relu, and Conv and Relu
        "QDQ114": 1,  # the logits
    }
    assert {f.rule for f in findings if f.severity is Severity.NOTE} == {"QDQ102", "QDQ122"}
    assert precisions(path, build(path, backend="rtx")) == {Precision.INT8: 20}
