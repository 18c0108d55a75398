"""Repairs of types, opsets and scalars that TensorRT has no reading for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxqat.auditing import AuditConfig, audit, fix
from onnxqat.core.errors import BuildError
from onnxqat.core.finding import Severity
from onnxqat.engine import build
from tests.support.compile import needs_compiler
from tests.support.runtime import run

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
