"""What the bridge says of its coverage is what it does, and the page in the documentation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import helper

from onnxqat.bridge import to_torch
from onnxqat.bridge.operators import operator_uses, operators
from onnxqat.core.errors import UnsupportedOpError
from onnxqat.core.operators import Operator
from onnxqat.graph import as_graph
from tests.bridge.test_functions import net as function_net
from tests.support.nets import residual_net, unknown_op_net

ROOT = Path(__file__).resolve().parents[2]
PINNED = {
    line.strip()
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line.startswith("onnx==")
}
BY_NAME = {operator.full_name: operator for operator in operators()}


def test_every_operator_version_that_onnx_knows_is_in_the_table_once() -> None:
    known = {(s.domain, s.name, s.since_version) for s in onnx.defs.get_all_schemas_with_history()}
    told = [(o.domain, o.name, v.since) for o in operators() for v in o.versions]
    assert len(told) == len(set(told))
    assert known <= set(told)


def test_what_is_not_covered_has_a_reason() -> None:
    assert all(v.is_covered or v.reason for o in operators() for v in o.versions)
    assert BY_NAME["ImageDecoder"].covered == ()
    assert "image files" in next(iter(BY_NAME["ImageDecoder"].reasons))


@pytest.mark.parametrize("operator", [BY_NAME["Erf"], BY_NAME["Abs"]], ids=lambda o: o.name)
def test_a_version_that_is_told_to_be_covered_converts(operator: Operator) -> None:
    for version in operator.versions:
        opset = version.since
        node = helper.make_node(operator.name, ["x"], ["y"])
        x, y = (helper.make_tensor_value_info(name, 1, [3]) for name in "xy")
        graph = helper.make_graph([node], "one", [x], [y])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 8
        if version.is_covered:
            to_torch(model)
        else:
            with pytest.raises(UnsupportedOpError):
                to_torch(model)


def test_operators_of_the_bridges_own_are_not_told() -> None:
    assert not any(operator.domain == "onnxqat" for operator in operators())


def test_the_operators_of_a_model_come_with_their_nodes_the_missing_ones_first() -> None:
    uses = operator_uses(as_graph(unknown_op_net()))
    assert [(use.operator, use.nodes, use.is_covered) for use in uses] == [
        ("acme.Wibble", ("second",), False),
        ("acme.Wobble", ("first",), False),
        ("DequantizeLinear", ("dequantize",), True),
        ("QuantizeLinear", ("quantize",), True),
    ]


def test_the_version_of_a_models_operator_is_the_one_that_its_opset_means() -> None:
    uses = {use.operator: use.since for use in operator_uses(as_graph(residual_net()))}
    assert uses["Relu"] == 14
    assert uses["Conv"] == 11


def test_the_operators_inside_of_functions_are_a_models_own() -> None:
    assert {use.operator for use in operator_uses(as_graph(function_net()))} == {
        "Add", "Constant", "If", "LeakyRelu", "MatMul", "Neg",
    }  # fmt: skip


@pytest.mark.skipif(
    f"onnx=={onnx.__version__}" not in PINNED, reason="the page is of the pinned onnx"
)
def test_the_page_in_the_documentation_is_current() -> None:
    command = [sys.executable, str(ROOT / "tools" / "operator_table.py"), "--check"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
