"""Operators that torch has no function for: refused all at once, or run frozen in ONNX Runtime."""

from __future__ import annotations

import copy
import logging

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper, parser

from onnxqat.bridge import OnnxModule, to_torch, write_back
from onnxqat.bridge.ops import registry
from onnxqat.core.errors import ConfigError, ModelError, UnsupportedOpError
from onnxqat.graph import to_model
from tests.support.bridge import Array, runtime, torch_outputs
from tests.support.nets import unknown_op_net

OPSETS = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
NET = f"""
{OPSETS}
net (float[n, 3, 3] x) => (float[n, 3, 3] y)
{{
    [before] a = MatMul (x, early)
    [inverse] b = com.microsoft.Inverse (a)
    [beside] c = MatMul (x, side)
    [sum] d = Add (b, c)
    [after] y = MatMul (d, late)
}}
"""
"""com.microsoft.Inverse is an operator of ONNX Runtime that the bridge has no function for."""


def random(*shape: int, seed: int = 0) -> Array:
    values: Array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return values


def model_of(text: str, **weights: Array) -> onnx.ModelProto:
    model = parser.parse_model(text)
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def net() -> onnx.ModelProto:
    names = ("early", "side", "late")
    return model_of(NET, **{name: random(3, 3, seed=i) for i, name in enumerate(names)})


def frozen(model: onnx.ModelProto) -> OnnxModule:
    return to_torch(model, fallback="onnxruntime")


def assert_agrees(model: onnx.ModelProto, feeds: dict[str, Array]) -> None:
    for got, want in zip(torch_outputs(frozen(model), feeds), runtime(model, feeds), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_the_bridge_has_no_function_for_the_operators_of_these_tests() -> None:
    assert registry.find("Inverse", domain="com.microsoft", opset=1) is None


@pytest.mark.parametrize("batch", [1, 5])
def test_the_module_computes_what_onnx_runtime_does(batch: int) -> None:
    assert_agrees(net(), {"x": random(batch, 3, 3, seed=7)})


def test_what_learns_is_what_a_gradient_reaches_without_passing_a_frozen_node() -> None:
    module = frozen(net())
    assert {name for name, _ in module.named_parameters()} == {"side", "late"}
    module(torch.from_numpy(random(2, 3, 3))).square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_a_scale_learns_only_where_a_gradient_reaches_it() -> None:
    text = f"""
    {OPSETS}
    net (float[n, 3, 3] x) => (float[n, 3, 3] y)
    <float s = {{0.1}}, float t = {{0.1}}, float u = {{0.1}}, int8 z = {{0}}>
    {{
        q = QuantizeLinear (x, s, z)
        d = DequantizeLinear (q, s, z)
        v = DequantizeLinear (codes, u, z)
        a = MatMul (d, v)
        b = com.microsoft.Inverse (a)
        r = QuantizeLinear (b, t, z)
        y = DequantizeLinear (r, t, z)
    }}
    """
    module = frozen(model_of(text, codes=np.eye(3, dtype=np.int8)))
    for quantizer in module.quantizers.values():
        quantizer.learn_scale = True
    assert {n for n, p in module.named_parameters() if p.requires_grad} == {"t"}


def test_a_frozen_nodes_output_requires_no_gradient() -> None:
    text = f"{OPSETS} net (float[n, 3, 3] x) => (float[n, 3, 3] y) " + (
        "{ y = com.microsoft.Inverse (x) }"
    )
    x = torch.eye(3)[None].requires_grad_()
    assert not frozen(parser.parse_model(text))(x).requires_grad


def test_the_frozen_nodes_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        module = frozen(net())
    (finding,) = module.findings
    assert (finding.rule, finding.node) == ("frozen_operator", "inverse")
    assert "no gradient passes it" in finding.message
    assert [record.getMessage() for record in caplog.records] == [f"inverse: {finding.message}"]
    assert "inverse: Inverse(a) -> b  # frozen, in ONNX Runtime" in str(module)


def test_what_is_frozen_is_written_back_as_it_was() -> None:
    model = net()
    module = frozen(model)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    written = to_model(write_back(module))
    assert [node.op_type for node in written.graph.node] == [n.op_type for n in model.graph.node]
    x = random(2, 3, 3, seed=3)
    (got,) = torch_outputs(module, {"x": x})
    np.testing.assert_allclose(got, runtime(written, {"x": x})[0], rtol=1e-4, atol=1e-4)


def test_without_the_fallback_the_error_names_it() -> None:
    with pytest.raises(UnsupportedOpError, match="--fallback onnxruntime"):
        to_torch(net())


def test_what_neither_has_is_listed_all_at_once_with_onnx_runtimes_reasons() -> None:
    with pytest.raises(UnsupportedOpError) as caught:
        frozen(unknown_op_net())
    message = str(caught.value)
    for text in ("acme.Wobble", "'first'", "acme.Wibble", "'second'", "not a registered function"):
        assert text in message


def test_another_fallback_is_a_wrong_argument() -> None:
    with pytest.raises(ConfigError, match="no fallback 'tensorrt'"):
        to_torch(net(), fallback="tensorrt")  # type: ignore[arg-type]


def test_constants_of_a_frozen_node_reach_it_as_constants() -> None:
    """Tile of com.microsoft wants nothing; Pad of com.microsoft reads its pads as a constant."""
    text = f"""
    {OPSETS}
    net (float[n, 3] x) => (float[n, m] y)
    <int64[2] one = {{0, 1}}, int64[2] two = {{0, 2}}, float value = {{7.0}}>
    {{
        pads = Concat <axis = 0> (one, two)
        y = com.microsoft.Pad (x, pads, value)
    }}
    """
    assert_agrees(model_of(text), {"x": random(4, 3)})


UNIQUE = f"""
{OPSETS}
net (float[n] x) => (float[k] y, int64[k] counts)
{{ [unique] y, places, counts = com.microsoft.Unique (x) }}
"""


def test_a_frozen_node_may_have_several_outputs() -> None:
    assert_agrees(parser.parse_model(UNIQUE), {"x": np.array([2, 1, 2, 5], np.float32)})


def test_a_frozen_node_in_a_branch_sees_the_values_around_it() -> None:
    text = f"""
    {OPSETS}
    net (float[n, 3, 3] x, bool flag) => (float[n, 3, 3] y)
    {{
        h = Add (x, x)
        y = If (flag) <
            then_branch = yes () => (float[n, 3, 3] t) {{ t = com.microsoft.Inverse (h) }},
            else_branch = no () => (float[n, 3, 3] e) {{ e = Neg (h) }}
        >
    }}
    """
    for flag in (True, False):
        assert_agrees(parser.parse_model(text), {"x": random(2, 3, 3), "flag": np.array(flag)})


def test_strings_pass_between_frozen_nodes() -> None:
    """Trees and labels of ai.onnx.ml around a network are what the fallback meets most."""
    nodes = [
        helper.make_node("Identity", ["x"], ["i"], name="identity"),
        helper.make_node(
            "LabelEncoder", ["i"], ["s"], domain="ai.onnx.ml", name="words",
            keys_int64s=[0, 1], values_strings=["no", "yes"],
        ),
        helper.make_node(
            "LabelEncoder", ["s"], ["f"], domain="ai.onnx.ml", name="numbers",
            keys_strings=["no", "yes"], values_floats=[-1.0, 1.0],
        ),
        helper.make_node("Neg", ["f"], ["y"], name="neg"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "labels",
        [helper.make_tensor_value_info("x", onnx.TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n"])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    assert_agrees(
        helper.make_model(graph, opset_imports=opsets, ir_version=8), {"x": np.array([1, 0, 1])}
    )


def test_copies_of_the_module_run() -> None:
    module = frozen(net())
    x = torch.from_numpy(random(2, 3, 3))
    torch.testing.assert_close(copy.deepcopy(module)(x), module(x), rtol=0, atol=0)


def test_autocast_leaves_a_frozen_node_in_the_files_type() -> None:
    module = frozen(net())
    x = torch.from_numpy(random(2, 3, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    assert torch.isfinite(y.float()).all()
    torch.testing.assert_close(y.float(), module(x), rtol=0.1, atol=0.5)


def test_compiled_it_computes_the_same() -> None:
    module = frozen(net())
    compiled = torch.compile(module, backend="eager")
    x = torch.from_numpy(random(2, 3, 3))
    torch.testing.assert_close(compiled(x), module(x))


def test_a_failure_names_the_frozen_node_and_the_shapes() -> None:
    module = frozen(parser.parse_model(UNIQUE))
    with pytest.raises(ModelError, match=r"(?s)Unique failed.*node 'unique'.*\[2, 3\]"):
        module(torch.zeros(2, 3))


def test_a_type_that_onnx_runtime_cannot_be_handed_is_an_error_that_names_the_node() -> None:
    text = f"""
    {OPSETS}
    net (bfloat16[n, 3, 3] x) => (bfloat16[n, 3, 3] y)
    {{ [odd] y = com.microsoft.Inverse (x) [even] z = com.microsoft.Inverse (k) }}
    """
    model = parser.parse_model(text)
    constant = helper.make_tensor("k", onnx.TensorProto.BFLOAT16, [1, 1], [1.0])
    model.graph.initializer.append(constant)
    with pytest.raises(ModelError, match=r"(?s)bfloat16 cannot be handed.*node 'even'"):
        frozen(model)
