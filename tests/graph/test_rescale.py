"""Factors per channel move from layer to layer, and the network computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from onnxqat.graph import as_graph, prepare, to_model
from onnxqat.graph.channel_groups import Group, Refusal, groups
from onnxqat.graph.names import Names
from onnxqat.graph.rescale import rescale
from tests.support import networks

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'

CHAINS = {
    "conv, relu, conv": """
        net (float[n, 3, 8, 8] x) => (float[n, 4, 8, 8] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w_6_3_3_3, b_6)
            r = Relu (a)
            y = Conv <pads = [1, 1, 1, 1]> (r, w_4_6_3_3)
        }""",
    "conv, leaky relu, depthwise conv": """
        net (float[n, 3, 8, 8] x) => (float[n, 6, 8, 8] y) {
            a = Conv (x, w_6_3_1_1)
            r = LeakyRelu <alpha = 0.2> (a)
            y = Conv <pads = [1, 1, 1, 1], group = 6> (r, w_6_1_3_3)
        }""",
    "conv, prelu, grouped conv with two inputs a group": """
        net (float[n, 3, 8, 8] x) => (float[n, 9, 8, 8] y) {
            a = Conv (x, w_6_3_1_1, b_6)
            r = PRelu (a, s_6_1_1)
            y = Conv <group = 3> (r, w_9_2_1_1)
        }""",
    "transposed convs, in groups": """
        net (float[n, 4, 4, 4] x) => (float[n, 6, 8, 8] y) {
            a = ConvTranspose <group = 2> (x, w_4_3_1_1, b_6)
            r = Relu (a)
            y = ConvTranspose <group = 3, strides = [2, 2], kernel_shape = [2, 2]> (r, w_6_2_2_2)
        }""",
    "conv, pad, max pool, average pool, flatten, gemm": """
        net (float[n, 3, 8, 8] x) => (float[n, 5] y) {
            a = Conv (x, w_6_3_1_1, b_6)
            r = Relu (a)
            p = Pad (r, pads_8)
            m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (p)
            v = AveragePool <kernel_shape = [2, 2], strides = [1, 1], pads = [1, 1, 0, 0]> (m)
            f = Flatten (v)
            y = Gemm <transB = 1> (f, w_5_150, b_5)
        }""",
    "matmul, add, relu, matmul": """
        net (float[n, 5, 4] x) => (float[n, 5, 3] y) {
            a = MatMul (x, w_4_6)
            c = Add (b_6, a)
            r = Relu (c)
            y = MatMul (r, w_6_3)
        }""",
    "gemm with alpha and beta, gemm": """
        net (float[n, 4] x) => (float[n, 3] y) {
            a = Gemm <alpha = 0.5, beta = 2.0> (x, w_4_6, b_6)
            r = Relu (a)
            y = Gemm (r, w_6_3)
        }""",
    "layer norm, two matmuls": """
        net (float[n, 5, 6] x) => (float[n, 5, 3] y) {
            a = LayerNormalization (x, s_6, b_6)
            p = MatMul (a, w_6_3)
            q = MatMul (a, v_6_3)
            y = Mul (p, q)
        }""",
    "scale and shift of a normalization in parts, matmul": """
        net (float[n, 5, 6] x) => (float[n, 5, 3] y) {
            h = Tanh (x)
            a = Mul (h, s_6)
            c = Add (a, b_6)
            y = MatMul (c, w_6_3)
        }""",
    "values of an attention, projection": """
        net (float[n, 5, 4] x) => (float[n, 5, 3] y) {
            v = MatMul (x, w_4_6)
            p = Softmax (x5)
            x5 = MatMul (x, w_4_5)
            o = MatMul (p, v)
            y = MatMul (o, w_6_3)
        }""",
    "residual sum with a constant, mean, gemm": """
        net (float[n, 3, 8, 8] x) => (float[n, 5] y) {
            a = Conv (x, w_6_3_1_1, b_6)
            r = Relu (a)
            c = Conv <pads = [1, 1, 1, 1]> (r, w_6_6_3_3, v_6)
            s = Sum (c, r, b_6_1_1)
            t = Relu (s)
            m = ReduceMean <axes = [2, 3], keepdims = 0> (t)
            y = Gemm (m, w_6_5)
        }""",
    "concat of a layer and its own input": """
        net (float[n, 3, 8, 8] x) => (float[n, 5, 8, 8] y) {
            a = Conv (x, w_6_3_1_1, b_6)
            c = Conv (a, w_4_6_1_1)
            j = Concat <axis = 1> (c, a)
            y = Conv (j, w_5_10_1_1)
        }""",
    "shortcut of every other pixel, between channels of zeros": """
        net (float[n, 3, 8, 8] x) => (float[n, 5, 1, 1] y) {
            a = Conv (x, w_4_3_1_1, b_4)
            c = Conv <strides = [2, 2]> (a, w_8_4_1_1)
            s = Slice (a, starts_0_0, ends_8_8, axes_2_3, steps_2_2)
            p = Pad (s, wide_8)
            t = Add (p, c)
            y = Conv <strides = [4, 4]> (t, w_5_8_1_1)
        }""",
    "channels backward, and parted": """
        net (float[n, 3, 8, 8] x) => (float[n, 5, 8, 8] y) {
            a = Conv (x, w_6_3_1_1, b_6)
            b = Slice (a, starts_5, ends_m9, axes_1, steps_m1)
            c, d = Split <axis = 1> (b, sizes_2_4)
            p = Conv (c, w_5_2_1_1)
            q = Conv (d, w_5_4_1_1)
            y = Add (p, q)
        }""",
    "normalization before a layer and behind a sum": """
        net (float[n, 3, 8, 8] x) => (float[n, 5, 8, 8] y) {
            a = Conv (x, w_6_3_1_1, b_6)
            c = Conv (a, w_6_6_1_1)
            s = Add (a, c)
            t = BatchNormalization (s, s_6, b_6, mean_6, variance_6)
            r = Relu (t)
            y = Conv (r, w_5_6_1_1)
        }""",
    "pool, reshape, gemm": """
        net (float[n, 3, 8, 8] x) => (float[n, 5] y) {
            a = Conv (x, w_6_3_1_1, b_6)
            p = GlobalMaxPool (a)
            f = Reshape (p, shape_m1_6)
            y = Gemm (f, w_6_5)
        }""",
    "squeeze and excitation": """
        net (float[n, 3, 8, 8] x) => (float[n, 4, 8, 8] y) {
            a = Conv (x, w_6_3_1_1, b_6)
            r = Relu (a)
            g = GlobalAveragePool (r)
            h = Conv (g, v_6_6_1_1)
            s = Sigmoid (h)
            m = Mul (r, s)
            y = Conv (m, w_4_6_1_1)
        }""",
}  # fmt: skip


PADS = {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "wide": [0, 2, 0, 0, 0, 2, 0, 0]}


def chain(name: str) -> onnx.ModelProto:
    """The network, with a constant for every name that tells its shape."""
    text = CHAINS[name].replace(
        "            p = Softmax (x5)\n            x5 = MatMul (x, w_4_5)\n",
        "            x5 = MatMul (x, w_4_5)\n            p = Softmax (x5)\n",
    )
    model = parser.parse_model(HEAD + text.strip())
    rng = np.random.default_rng(len(name))
    made = {output for node in model.graph.node for output in node.output}
    for constant in sorted({i for node in model.graph.node for i in node.input} - made - {"x"}):
        kind, *shape = constant.split("_")
        numbers = [int(size.replace("m", "-")) for size in shape]
        if kind in ("starts", "ends", "axes", "steps", "sizes", "shape"):
            values = np.array(numbers, np.int64)
        elif kind in PADS:
            values = np.array(PADS[kind], np.int64)
        else:
            values = rng.normal(size=numbers).astype(np.float32)
            values = values**2 + 0.1 if kind == "variance" else values
        model.graph.initializer.append(numpy_helper.from_array(values, constant))
    for node in model.graph.node:
        node.name = f"/{node.output[0]}"
    onnx.checker.check_model(model)
    return model


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options)
    return session.run(None, feeds)


def feeds_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    feeds = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [d.dim_value or 2 for d in tensor.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        is_float = np.issubdtype(dtype, np.floating)
        values = rng.normal(size=shape) if is_float else rng.integers(0, 2, shape)
        feeds[value.name] = values.astype(dtype)
    return feeds


def rescaled(model: onnx.ModelProto) -> tuple[int, onnx.ModelProto]:
    """All groups without a limit rescaled by random factors of up to 30, either way."""
    graph = prepare(as_graph(model))
    rng = np.random.default_rng(2)
    found = [group for group in groups(graph) if isinstance(group, Group) and not group.limits]
    names = Names(graph)
    for group in found:
        rescale(group, 30 ** rng.uniform(-1, 1, group.size), names)
    return len(found), to_model(graph)


def assert_equal(model: onnx.ModelProto, changed: onnx.ModelProto) -> None:
    feeds = feeds_of(model)
    for before, after in zip(run(model, feeds), run(changed, feeds), strict=True):
        scale = max(float(np.abs(before).max()), 1e-6)
        assert np.abs(after - before).max() <= 1e-5 * scale


@pytest.mark.parametrize("name", CHAINS)
def test_random_factors_change_nothing_that_the_network_computes(name):
    model = chain(name)
    count, changed = rescaled(model)
    assert count >= 1
    assert_equal(model, changed)
    weights = {x.name: numpy_helper.to_array(x) for x in changed.graph.initializer}
    same = [
        np.array_equal(weights.get(x.name), numpy_helper.to_array(x))
        for x in model.graph.initializer
    ]
    assert not all(same), "something did move"


NETWORKS = {
    "resnet18": networks.resnet18,
    "resnet_v1_padded": networks.resnet_padded,
    "resnet_v2": networks.resnet_v2,
    "densenet": networks.densenet,
    "shufflenet": networks.shufflenet,
    "yolo": networks.yolo,
    "fpn": networks.fpn,
    "mobilenet_v2": networks.mobilenet_v2,
    "mobilenet_v3": networks.mobilenet_v3,
    "inception": networks.inception,
    "unet": networks.unet,
    "vit": networks.vit,
    "bert": networks.bert,
    "mlp": networks.mlp,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_in_networks_of_many_kinds_as_well(name):
    model = NETWORKS[name]()
    _, changed = rescaled(model)
    assert_equal(model, changed)
    assert {t.name for t in changed.graph.output} == {t.name for t in model.graph.output}


REFUSED = {
    "a limit that is computed": ("m = Clip (a, zero, peak)", "Clip"),
    "a limit that 0 does not pass": ("m = Clip (a, one, six)", "Clip"),
    "a limit that 0 alone passes": ("m = Clip (a, zero, zero)", "Clip"),
    "a function that is not homogeneous": ("m = Sigmoid (a)", "Sigmoid"),
    "a sum with an input": ("m = Add (a, x)", "'x' is an input"),
    "a product with itself": ("m = Mul (a, a)", "its like"),
    "a product with what it is made of": ("s = Relu (a)\n m = Mul (a, s)", "its like"),
    "padding with a number": ("m = Pad (a, pads, one)", "Pad"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_commute_ends_a_group_and_is_told(case):
    call, reason = REFUSED[case]
    model = parser.parse_model(f"""{HEAD}
        net (float[n, 3, 8, 8] x) => (float[n, 4, k, k] y) {{
            peak = ReduceMax <keepdims = 0> (x)
            a = Conv (x, w)
            {call}
            y = Conv (m, v)
        }}""")
    constants = {
        "w": np.ones((3, 3, 1, 1), np.float32),
        "v": np.ones((4, 3, 1, 1), np.float32),
        "zero": np.float32(0),
        "six": np.float32(6),
        "one": np.float32(1),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }
    read = {name for node in model.graph.node for name in node.input}
    for name, value in constants.items():
        if name in read:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    first, *_ = groups(prepare(as_graph(model)))
    assert isinstance(first, Refusal)
    assert reason in first.reason


CLIPS = {
    "of ReLU6": ("Clip (a, zero, six)", [6.0]),
    "on both sides": ("Clip (a, below, six)", [3.0]),
    "below alone": ("Clip (a, below)", [3.0]),
    "below, and nothing above 0": ("Clip (a, below, zero)", [3.0]),
    "none, as of Relu": ("Clip (a, zero)", []),
    "none, as exporters write it": ("Clip (a, zero, huge)", []),
}


@pytest.mark.parametrize("case", CLIPS)
def test_a_limit_is_told_and_what_stays_below_it_may_be_multiplied(case):
    call, magnitudes = CLIPS[case]
    model = parser.parse_model(f"""{HEAD}
        net (float[n, 3, 8, 8] x) => (float[n, 4, 8, 8] y) {{
            a = Conv (x, w)
            m = {call}
            y = Conv (m, v)
        }}""")
    rng = np.random.default_rng(4)
    constants = {
        "w": 0.05 * rng.normal(size=(3, 3, 1, 1)).astype(np.float32),
        "v": rng.normal(size=(4, 3, 1, 1)).astype(np.float32),
        "zero": np.float32(0), "six": np.float32(6), "below": np.float32(-3),
        "huge": np.float32(3.4028235e38),
    }  # fmt: skip
    read = {name for node in model.graph.node for name in node.input}
    for name in constants.keys() & read:
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(constants[name]), name))
    graph = prepare(as_graph(model))
    group, *_ = groups(graph)
    assert isinstance(group, Group)
    assert [limit.magnitude for limit in group.limits] == magnitudes
    rescale(group, np.array([0.25, 0.5, 1.0]), Names(graph))
    assert_equal(model, to_model(graph))


def test_weights_that_two_layers_share_are_parted():
    model = parser.parse_model(f"""{HEAD}
        net (float[n, 3, 8, 8] x) => (float[n, 3, 8, 8] y) {{
            a = Conv (x, w)
            r = Relu (a)
            b = Conv (r, w)
            s = Relu (b)
            y = Conv (s, w)
        }}""")
    values = np.random.default_rng(0).normal(size=(3, 3, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(values, "w"))
    count, changed = rescaled(model)
    assert count == 2
    assert_equal(model, changed)
    assert len(changed.graph.initializer) >= 3
