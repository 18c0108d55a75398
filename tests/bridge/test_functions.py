"""Model-local functions: expanded to run and to learn, kept in the graph that is written back."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import numpy_helper, parser

from onnxqat.bridge import to_torch, write_back
from onnxqat.graph import as_graph, to_model
from tests.support.bridge import Array, assert_agrees, runtime, torch_outputs

TEXT = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
net (float[n, 3] x, bool flag) => (float[n, 3] y)
{
    h = own.layer <slope = 0.25> (x, w)
    y = If (flag) <
        then_branch = yes () => (float[n, 3] a) { a = own.layer <slope = 0.5> (h, v) },
        else_branch = no () => (float[n, 3] b) { b = Neg (h) }
    >
}
<opset_import: ["" : 17], domain: "own">
layer <slope> (a, b) => (c)
{
    m = MatMul (a, b)
    shift = Constant <value = float[3] {1.0, 2.0, 3.0}> ()
    k = Add (m, shift)
    c = LeakyRelu <alpha: float = @slope> (k)
}
"""
QUANTIZED = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
net (float[n, 3] x) => (float[n, 3] y) { y = own.fake (x) }
<opset_import: ["" : 17], domain: "own">
fake (a) => (c)
{
    s = Constant <value = float {0.1}> ()
    z = Constant <value = int8 {0}> ()
    q = QuantizeLinear (a, s, z)
    c = DequantizeLinear (q, s, z)
}
"""


def random(*shape: int, seed: int = 0) -> Array:
    values: Array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return values


def net() -> onnx.ModelProto:
    model = parser.parse_model(TEXT)
    for seed, name in enumerate("wv"):
        model.graph.initializer.append(numpy_helper.from_array(random(3, 3, seed=seed), name))
    return model


def test_a_function_computes_what_onnx_runtime_does() -> None:
    for flag in (True, False):
        assert_agrees(net(), {"x": random(4, 3, seed=5), "flag": np.array(flag)})


def test_weights_that_are_handed_to_a_function_learn_and_constants_inside_it_do_not() -> None:
    module = to_torch(net())
    assert set(module.state_dict()) == {"w", "v"}
    module(torch.from_numpy(random(2, 3)), torch.tensor(True)).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_the_functions_are_written_back_with_what_was_trained() -> None:
    module = to_torch(net())
    untouched = to_model(write_back(module)).SerializeToString(deterministic=True)
    assert untouched == to_model(as_graph(net())).SerializeToString(deterministic=True)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    written = to_model(write_back(module))
    assert [function.name for function in written.functions] == ["layer"]
    feeds = {"x": random(2, 3), "flag": np.array(True)}
    np.testing.assert_allclose(
        torch_outputs(module, feeds)[0], runtime(written, feeds)[0], rtol=1e-5, atol=1e-5
    )


def test_a_pair_whose_scale_lies_in_a_function_runs_as_written_and_is_told() -> None:
    module = to_torch(parser.parse_model(QUANTIZED))
    (finding,) = module.findings
    assert "a constant of a model-local function" in finding.message
    assert not module.state_dict()
    assert_agrees(parser.parse_model(QUANTIZED), {"x": random(4, 3)})
