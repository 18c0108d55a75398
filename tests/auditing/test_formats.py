"""Repairs of types, opsets and scalars that TensorRT has no reading for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxqat.auditing import AuditConfig, audit, fix
from onnxqat.core.errors import BuildError
from onnxqat.core.finding import Severity
from onnxqat.engine import build
from tests.support.compile import needs_compiler
from tests.support.qdq_text import conv
from tests.support.runtime import run

FLOAT_CONV = "[product] y = Conv <kernel_shape = [1, 1]> (x, W)"

HALF_PAIR = """xf = Cast <to = 1> (x)
    [x_Q] xq = QuantizeLinear (xf, s, z)  [x_DQ] xd = DequantizeLinear (xq, s, z)
    xh = Cast <to = 10> (xd)"""


def half(scale: str) -> onnx.ModelProto:
    """A float16 tensor that is cast to float32 for its Q/DQ, and back."""
    return onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 19]>
        net (float16[1, 8] x) => (float16[1, 8] y) <float s = {{{scale}}}, int8 z = {{0}}>
        {{ {HALF_PAIR}  y = Relu (xh) }}"""
    )


def test_float16_scales_are_written_and_the_casts_beside_them_taken_out() -> None:
    model, config = half("0.03"), AuditConfig(select=("QDQ009",))
    fixed = fix(model, config=config)
    assert fixed.left == ()
    assert [node.op for node in fixed.graph.nodes] == ["QuantizeLinear", "DequantizeLinear", "Relu"]
    (scale,) = {float(node.inputs[1].values) for node in fixed.graph.nodes if len(node.inputs) > 2}
    assert 0.03 <= scale < 0.03 * (1 + 2**-10)  # the next above: no range is narrowed
    x = np.linspace(-4, 4, 8, dtype=np.float16).reshape(1, 8)
    before, after = (run(m, {"x": x})[0] for m in (model, fixed.graph))
    np.testing.assert_allclose(before, after, rtol=2**-9)


@pytest.mark.parametrize("scale", ["1e-6", "1e9"])
def test_scales_that_float16_does_not_hold_are_not_written(scale: str) -> None:
    (finding,) = audit(half(scale), config=AuditConfig(select=("QDQ009",)))
    assert not finding.is_fixable


def test_a_model_without_axes_is_raised_to_an_opset_with_them() -> None:
    weights = ", ".join(f"{i / 30 - 1:.2f}" for i in range(64))
    scales = ", ".join(f"{0.01 + 0.001 * i:.3f}" for i in range(8))
    model = onnx.parser.parse_model(
        f"""<ir_version: 7, opset_import: ["" : 11]>
        net (float[4, 8] x) => (float[4, 8] y)
        <float[8, 8] W = {{{weights}}}, float[8] s = {{{scales}}}, int8[8] z = {{0,0,0,0,0,0,0,0}}>
        {{ q = QuantizeLinear (W, s, z)  d = DequantizeLinear (q, s, z)
           a = MatMul (x, d)  b = Unsqueeze <axes = [0]> (a)
           c = Squeeze <axes = [0]> (b)  y = Softmax <axis = 1> (c) }}"""
    )
    fixed = fix(model, config=AuditConfig(select=("QDQ014",)))
    assert fixed.left == ()
    assert fixed.graph.opset == 13
    axes = [n.attrs["axis"] for n in fixed.graph.nodes if n.op.endswith("quantizeLinear")]
    assert axes == [1]  # the output channels of a MatMul
    x = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    w = np.array([float(v) for v in weights.split(",")], np.float32).reshape(8, 8)
    s = np.array([float(v) for v in scales.split(",")], np.float32)
    logits = x @ (np.clip(np.rint(w / s), -128, 127) * s)
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(run(fixed.graph, {"x": x})[0], wanted, rtol=1e-4)


@needs_compiler
def test_a_scalar_that_is_stored_as_codes_is_refused_and_stored_in_float() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 19]>
        net (float[1, 8] x) => (float[1, 8] y)
        <int8 f = {64}, float s = {0.01}, float[8] w = {1, 2, 3, 4, 5, 6, 7, 8}>
        { [f_DQ] d = DequantizeLinear (f, s)  a = Mul (x, d)  y = Add (a, w) }"""
    )
    (finding,) = audit(model, config=AuditConfig(select=("QDQ008",)))
    assert (finding.node, finding.severity) == ("f_DQ", Severity.ERROR)
    with pytest.raises(BuildError, match="Quantized constant"):
        build(model, backend="rtx")
    fixed = fix(model, config=AuditConfig(select=("QDQ008",)))
    build(fixed.graph, backend="rtx")
    x = np.arange(8, dtype=np.float32).reshape(1, 8)
    np.testing.assert_array_equal(run(fixed.graph, {"x": x})[0], run(model, {"x": x})[0])


def uint4_weights(zero_point: int) -> onnx.ModelProto:
    """A MatMul of weights in blocks of 64, as weight-only quantizers store them."""
    draw = np.random.default_rng(3)
    uint4 = helper.tensor_dtype_to_np_dtype(onnx.TensorProto.UINT4)
    stored = {
        "w": draw.integers(0, 16, (128, 16)).astype(uint4),
        "s": (0.01 + 0.01 * draw.random((2, 16))).astype(np.float32),
        "z": np.full((2, 16), zero_point).astype(uint4),
    }
    nodes = [
        helper.make_node("DequantizeLinear", [*stored], ["d"], name="W_DQ", axis=0, block_size=64),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, 1, [4, c]) for n, c in (("x", 128), ("y", 16))]
    initializers = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@needs_compiler
def test_uint4_weights_around_8_are_stored_as_the_int4_weights_that_they_are() -> None:
    model = uint4_weights(8)
    assert {x.rule for x in audit(model)} == {"QDQ001", "QDQ013"}
    with pytest.raises(BuildError):
        build(model, backend="rtx")
    fixed = fix(model)
    assert fixed.left == ()
    build(fixed.graph, backend="rtx")
    x = np.random.default_rng(0).standard_normal((4, 128)).astype(np.float32)
    np.testing.assert_array_equal(run(fixed.graph, {"x": x})[0], run(model, {"x": x})[0])


def test_uint4_weights_around_another_code_have_no_exact_form() -> None:
    assert not any(finding.is_fixable for finding in audit(uint4_weights(5)))


def test_another_axis_behind_than_before_is_found() -> None:
    model = conv(
        weight_pair="""[W_Q] wq = QuantizeLinear <axis = 0> (W, ws, wz)
                       [W_DQ] wd = DequantizeLinear <axis = 1> (wq, ws, wz)"""
    )
    assert "another axis" in audit(model, config=AuditConfig(select=("QDQ018",)))[0].message
    same = conv(
        weight_pair="""[W_Q] wq = QuantizeLinear <axis = 0> (W, ws, wz)
                       [W_DQ] wd = DequantizeLinear <axis = -4> (wq, ws, wz)"""
    )
    assert audit(same, config=AuditConfig(select=("QDQ018",))) == ()


def test_a_file_without_qdq_is_told_that_all_of_it_runs_in_float() -> None:
    (finding,) = audit(conv(data_pair="", weight_pair="", product=FLOAT_CONV))
    assert (finding.rule, finding.severity) == ("QDQ123", Severity.NOTE)
    assert "1 matrix product runs in float" in finding.message


def test_onnxruntime_s_own_qdq_are_read_as_onnx_s() -> None:
    model = conv()
    for node in model.graph.node:
        if node.op_type.endswith("quantizeLinear") or node.op_type == "QuantizeLinear":
            node.domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert audit(model) == ()


def test_qdq_in_a_function_of_the_model_is_audited_and_mended() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
        net (float[1, 8] x) => (float[1, 8] y) <float s = {0.02}, uint8 z = {5}>
        { y = own.FakeQuantize (x, s, z) }
        <domain: "own", opset_import: ["" : 21]>
        FakeQuantize (a, s, z) => (b)
        { q = QuantizeLinear (a, s, z)  b = DequantizeLinear (q, s, z) }"""
    )
    config = AuditConfig(select=("QDQ001",))
    assert [x.rule for x in audit(model, config=config)] == ["QDQ001"]
    assert fix(model, config=config).left == ()
