"""Writing a module back changes values and nothing else."""

from __future__ import annotations

import copy
import json
import re

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser

from onnxqat.bridge import to_torch, write_back
from onnxqat.core import qdq
from onnxqat.core.codec import encode
from onnxqat.core.plan import Edge, Placement, QuantPlan
from onnxqat.core.spec import PerChannel, QuantDtype, QuantSpec
from onnxqat.graph import Graph, as_graph, to_model
from onnxqat.graph.insert import PLAN_KEY
from tests.support.bridge import Array, runtime, torch_outputs

QDQ = """
<ir_version: 9, opset_import: ["" : 19], producer_name: "someone", metadata_props: ["key": "value"]>
net (float[batch, 4] x) => (float[batch, 3] y)
<float x_scale = {0.05}, int8 x_zero = {0}, float[3] w_scale = {0.01, 0.02, 0.03},
 int8[3] w_zero = {0, 0, 0}>
{
    [xQ] xq = QuantizeLinear (x, x_scale, x_zero)
    [xDQ] xd = DequantizeLinear (xq, x_scale, x_zero)
    [wQ] wq = QuantizeLinear <axis = 1> (w, w_scale, w_zero)
    [wDQ] wd = DequantizeLinear <axis = 1> (wq, w_scale, w_zero)
    [gemm] y = Gemm (xd, wd, b)
}
"""
CODES = """
<ir_version: 9, opset_import: ["" : 19]>
net (float[batch, 4] x) => (float[batch, 3] y)
<float x_scale = {0.05}, uint8 x_zero = {128}, float[3] w_scale = {0.01, 0.02, 0.03},
 int8[3] w_zero = {0, 0, 0}, float b_scale = {0.0005}>
{
    xq = QuantizeLinear (x, x_scale, x_zero)
    xd = DequantizeLinear (xq, x_scale, x_zero)
    wd = DequantizeLinear <axis = 1> (w, w_scale, w_zero)
    bd = DequantizeLinear (b, b_scale)
    [gemm] y = Gemm (xd, wd, bd)
}
"""


def with_weights(text: str, **weights: Array) -> onnx.ModelProto:
    model = parser.parse_model(text)
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def qdq_model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(4, 3)) * 0.5, rng.normal(size=3)
    return with_weights(QDQ, w=w.astype(np.float32), b=b.astype(np.float32))


def codes_model(low: int = -127, high: int = 127) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    w = rng.integers(low, high + 1, (4, 3)).astype(np.int8)
    # a bias of 2**24 + 1 is no float32
    return with_weights(CODES, w=w, b=np.array([2**24 + 1, -77, 3], np.int32))


def fp8_model(text: str) -> onnx.ModelProto:
    """The model with FP8 codes: of float weights, or stored."""
    rng = np.random.default_rng(0)
    w = (rng.normal(size=(4, 3)) * 0.5).astype(np.float32)
    zero = np.zeros(1, ml_dtypes.float8_e4m3fn)
    plain = re.sub(r",\s+u?int8(\[3\])? \w+ = {[\d, ]+}", "", text)
    plain = plain.replace("bd = DequantizeLinear (b, b_scale)", "bd = Identity (b)")
    if text is CODES:
        w = (w * 100).astype(ml_dtypes.float8_e4m3fn)
    b = rng.normal(size=3).astype(np.float32)
    return with_weights(plain, w=w, b=b, x_zero=zero[0].reshape(()), w_zero=zero.repeat(3))


@pytest.mark.parametrize("text", [QDQ, CODES], ids=["float weights", "codes"])
def test_fp8_models_run_as_in_onnx_runtime_and_come_back_to_the_bit(text: str) -> None:
    model = fp8_model(text)
    graph = as_graph(model)
    module = to_torch(graph)
    feeds = {"x": np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)}
    assert len(module.quantizers) == 2
    np.testing.assert_allclose(torch_outputs(module, feeds), runtime(model, feeds), rtol=1e-5)
    assert bits(write_back(module)) == bits(graph)


def test_trained_fp8_codes_are_those_of_the_oracle() -> None:
    module = to_torch(as_graph(fp8_model(CODES)))
    with torch.no_grad():
        module.get_parameter("w").mul_(1.3)
    codes = initializer(write_back(module), "w")
    weight, scale = (module.get_tensor(n).detach().numpy() for n in ("w", "w_scale"))
    want = qdq.quantize(weight, scale, dtype=QuantDtype.FP8, axis=1)
    assert codes.dtype == ml_dtypes.float8_e4m3fn
    np.testing.assert_array_equal(codes.astype(np.float32), want)


def bits(graph: Graph) -> bytes:
    return to_model(graph).SerializeToString(deterministic=True)


def initializer(graph: Graph, name: str) -> Array:
    model = to_model(graph)
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


@pytest.mark.parametrize("model", [qdq_model(), codes_model()], ids=["float weights", "codes"])
def test_what_was_not_trained_is_the_same_to_the_bit(model: onnx.ModelProto) -> None:
    graph = as_graph(model)
    assert bits(write_back(to_torch(graph))) == bits(graph)


@pytest.mark.parametrize("kind", [np.float64, np.float16])
def test_other_float_types_come_back_as_they_were(kind: type) -> None:
    text = """
    <ir_version: 9, opset_import: ["" : 19]>
    net (float[n, 2] x) => (float[n, 2] y) { a = Cast <to = 1> (w)  y = Mul (x, a) }
    """
    graph = as_graph(with_weights(text, w=np.array([1.5, 2.25], kind)))
    module = to_torch(graph)
    assert bits(write_back(module)) == bits(graph)
    with torch.no_grad():
        module.get_tensor("w").add_(1)
    assert initializer(write_back(module), "w").tolist() == [2.5, 3.25]
    assert initializer(write_back(module), "w").dtype == kind


def test_bfloat16_comes_back_as_it_was() -> None:
    text = """
    <ir_version: 9, opset_import: ["" : 19]>
    net (float[n, 2] x) => (float[n, 2] y) { a = Cast <to = 1> (w)  y = Mul (x, a) }
    """
    model = parser.parse_model(text)
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.BFLOAT16, [2], [1.5, 2.0]))
    graph = as_graph(model)
    module = to_torch(graph)
    assert bits(write_back(module)) == bits(graph)
    with torch.no_grad():
        module.get_tensor("w").add_(1)
    assert initializer(write_back(module), "w").astype(np.float32).tolist() == [2.5, 3.0]


def test_training_changes_values_only() -> None:
    graph = as_graph(qdq_model())
    module = to_torch(graph)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.25)
    before, after = to_model(graph), to_model(write_back(module))
    for name in ("w", "b", "x_scale", "w_scale"):
        assert np.array_equal(
            initializer(write_back(module), name),
            initializer(graph, name) * np.float32(1.25),
        )
    for model in (before, after):
        for tensor in model.graph.initializer:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    assert before == after


def test_the_source_graph_stays_as_it_was() -> None:
    graph = as_graph(qdq_model())
    before = bits(graph)
    module = to_torch(graph)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    write_back(module)
    assert bits(graph) == bits(module.graph) == before


def test_the_written_model_computes_what_the_module_does() -> None:
    module = to_torch(qdq_model())
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.mul_(1 + 0.1 * i)
    feeds = {"x": np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)}
    (want,) = runtime(write_back(module), feeds)
    np.testing.assert_allclose(torch_outputs(module, feeds)[0], want, rtol=1e-5, atol=1e-6)


def test_weights_stored_as_codes_are_trained_as_floats_and_stored_as_codes() -> None:
    graph = as_graph(codes_model())
    module = to_torch(graph)
    weight = module.get_tensor("w")
    scale = initializer(graph, "w_scale")
    assert np.array_equal(weight.detach().numpy(), initializer(graph, "w") * scale)
    with torch.no_grad():
        weight[0, 0] = 5.4 * float(scale[0])
        weight[1, 1] = 999.0
    written = initializer(write_back(module), "w")
    expected = qdq.quantize(weight.detach().numpy(), scale, dtype=QuantDtype.INT8, axis=1)
    assert written.dtype == np.int8
    assert written[0, 0] == 5
    assert written[1, 1] == 127
    assert np.array_equal(written, expected)


def test_a_codes_only_model_computes_what_onnx_runtime_does() -> None:
    feeds = {"x": np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32) * 9}
    model = codes_model()
    (want,) = runtime(model, feeds)
    np.testing.assert_allclose(torch_outputs(to_torch(model), feeds)[0], want, rtol=1e-5)


def test_an_int32_bias_is_trained_and_stored_as_int32() -> None:
    module = to_torch(codes_model())
    bias = module.get_tensor("b")
    module(torch.ones(2, 4)).sum().backward()
    assert bias.grad is not None
    assert bias.grad.tolist() == [2, 2, 2]
    with torch.no_grad():
        bias[1] = 0.005
    written = initializer(write_back(module), "b")
    assert written.dtype == np.int32
    assert written[1] == 10


def test_four_bit_codes_in_an_int8_container_stay_four_bit() -> None:
    """The container saturates at 127; the plan in the file says that these codes end at 7."""
    model = codes_model(-8, 7)
    spec = QuantSpec(QuantDtype.INT4_IN_INT8, PerChannel(1))
    plan = QuantPlan((Placement(Edge("w", "gemm", 1), spec, "rule", "reason"),))
    graph = as_graph(model)
    graph.metadata[PLAN_KEY] = json.dumps(encode(plan))
    module = to_torch(graph)
    quantizer = module.quantizers["w"]
    assert (quantizer.qmin, quantizer.qmax) == (-8, 7)
    assert bits(write_back(module)) == bits(graph)
    with torch.no_grad():
        module.get_tensor("w").fill_(99.0)
    assert initializer(write_back(module), "w").tolist() == [[7] * 3] * 4


def test_running_statistics_that_were_changed_are_written() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    norm (float[n, 2] x) => (float[n, 2] y)
    { y = BatchNormalization (x, scale, shift, mean, variance) }
    """
    weights = {n: np.ones(2, np.float32) for n in ("scale", "shift", "mean", "variance")}
    module = to_torch(with_weights(text, **weights))
    module.get_tensor("mean").fill_(3.0)
    assert initializer(write_back(module), "mean").tolist() == [3.0, 3.0]


def test_weights_in_a_branch_are_written_there() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n, 2] x, bool flag) => (float[n, 2] y)
    {
        y = If (flag) <
            then_branch = yes () => (float[n, 2] t) <float[2] k = {1.0, 2.0}> { t = Mul (x, k) },
            else_branch = no () => (float[n, 2] e) <float[2] k = {3.0, 4.0}> { e = Mul (x, k) }
        >
    }
    """
    module = to_torch(parser.parse_model(text))
    x, flag = torch.ones(1, 2), torch.tensor(True)
    module(x, flag).sum().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad)
    (node,) = to_model(write_back(module)).graph.node
    stored = {a.name: numpy_helper.to_array(a.g.initializer[0]).tolist() for a in node.attribute}
    assert stored == {"then_branch": [0.0, 1.0], "else_branch": [3.0, 4.0]}


def in_constant_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Each read of a scale or zero point gets a Constant node of its own, as torch exports them."""
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        for i in range(1, len(node.input)) if node.op_type.endswith("Linear") else ():
            name = f"{node.name}_{i}"
            nodes.append(helper.make_node("Constant", [], [name], value=values[node.input[i]]))
            node.input[i] = name
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def test_scales_in_constant_nodes_are_trained_as_one_and_written_to_both() -> None:
    graph = as_graph(in_constant_nodes(qdq_model()))
    module = to_torch(graph)
    assert set(module.quantizers) == {"x", "w"}
    assert bits(write_back(module)) == bits(graph)
    with torch.no_grad():
        module.quantizers["x"].scale.mul_(2)
    written = to_model(write_back(module))
    stored = {n.output[0]: n.attribute[0].t for n in written.graph.node if n.op_type == "Constant"}
    for name in ("xQ_1", "xDQ_1"):
        assert numpy_helper.to_array(stored[name]) == np.float32(0.1)
    feeds = {"x": np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)}
    np.testing.assert_allclose(
        torch_outputs(module, feeds)[0], runtime(written, feeds)[0], rtol=1e-5, atol=1e-6
    )


def test_a_pair_with_two_scales_of_one_value_stays_one_pair() -> None:
    text = QDQ.replace("float x_scale = {0.05}", "float x_scale = {0.05}, float twin = {0.05}")
    text = text.replace("DequantizeLinear (xq, x_scale", "DequantizeLinear (xq, twin")
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(4, 3)), rng.normal(size=3)
    module = to_torch(with_weights(text, w=w.astype(np.float32), b=b.astype(np.float32)))
    with torch.no_grad():
        module.quantizers["x"].scale.fill_(0.25)
    written = write_back(module)
    assert initializer(written, "x_scale") == initializer(written, "twin") == 0.25


def test_a_pair_whose_scales_differ_runs_as_it_stands() -> None:
    text = QDQ.replace("float x_scale = {0.05}", "float x_scale = {0.05}, float other = {0.07}")
    text = text.replace("DequantizeLinear (xq, x_scale", "DequantizeLinear (xq, other")
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(4, 3)), rng.normal(size=3)
    model = with_weights(text, w=w.astype(np.float32), b=b.astype(np.float32))
    module = to_torch(model)
    assert set(module.quantizers) == {"w"}
    feeds = {"x": rng.normal(size=(9, 4)).astype(np.float32)}
    np.testing.assert_allclose(
        torch_outputs(module, feeds)[0], runtime(model, feeds)[0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("model", [qdq_model(), fp8_model(QDQ)], ids=["int8", "fp8"])
def test_compiled_it_has_the_same_values_and_gradients(model: onnx.ModelProto, learn: bool) -> None:
    module = to_torch(model)
    for quantizer in module.quantizers.values():
        quantizer.learn_scale = learn
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=True)
    gradients = []
    for call in (module, compiled):
        module.zero_grad()
        y = call(torch.linspace(-7, 7, 24).reshape(6, 4))
        y.square().sum().backward()
        gradients.append((y.detach(), [p.grad for p in module.parameters()]))
    (y0, grads0), (y1, grads1) = gradients
    torch.testing.assert_close(y0, y1)
    assert sum(g is not None for g in grads0) == (4 if learn else 2)
    for g0, g1 in zip(grads0, grads1, strict=True):
        torch.testing.assert_close(
            g0, g1, rtol=1e-4, atol=1e-4
        ) if learn or g0 is not None else None


def test_a_copy_keeps_scales_shared() -> None:
    module = copy.deepcopy(to_torch(qdq_model()))
    assert module.quantizers["x"].scale is module.get_tensor("x_scale")
    with torch.no_grad():
        module.quantizers["x"].scale.fill_(0.5)
    assert initializer(write_back(module), "x_scale") == 0.5


def test_pairs_with_one_scale_initializer_train_one_parameter() -> None:
    text = """
    <ir_version: 9, opset_import: ["" : 19]>
    net (float[n, 2] x) => (float[n, 2] y) <float s = {0.1}, int8 z = {0}>
    {
        xq = QuantizeLinear (x, s, z)
        xd = DequantizeLinear (xq, s, z)
        r = Relu (xd)
        rq = QuantizeLinear (r, s, z)
        rd = DequantizeLinear (rq, s, z)
        y = Add (xd, rd)
    }
    """
    module = to_torch(parser.parse_model(text))
    assert module.quantizers["x"].scale is module.quantizers["r"].scale
    assert [name for name, _ in module.named_parameters()] == ["s"]
    assert list(module.state_dict()) == ["s"]
    moved = module.to(torch.float64)
    assert moved.quantizers["x"].scale is moved.get_tensor("s")
