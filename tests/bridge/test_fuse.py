"""Groups of nodes with one torch kernel: what is recognized, what is left alone, what comes out."""

from __future__ import annotations

from math import pi

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser

from onnxqat.bridge import OnnxModule, to_torch, write_back
from onnxqat.graph import Graph, to_model
from tests.support.bridge import Array, assert_agrees

WIDTH = 6
NUMBERS = {
    "root2": 2**0.5,
    "inverse": 0.5**0.5,
    "one": 1.0,
    "half": 0.5,
    "three": 3.0,
    "two": 2.0,
    "cubic": 0.044715,
    "k": (2 / pi) ** 0.5,
    "epsilon": 1e-5,
}

ERF_GELUS = {
    "x times (1 + erf), halved": "a = Div (x, root2) b = Erf (a) c = Add (b, one) d = Mul (x, c) "
    "y = Mul (d, half)",
    "(1 + erf) halved, times x": "a = Mul (inverse, x) b = Erf (a) c = Add (one, b) "
    "d = Mul (c, half) y = Mul (x, d)",
    "x halved, times (1 + erf)": "h = Mul (half, x) a = Div (x, root2) b = Erf (a) "
    "c = Add (b, one) y = Mul (h, c)",
}
TANH_GELUS = {
    "cube by Pow": "p = Pow (x, three) q = Mul (p, cubic) r = Add (x, q) s = Mul (r, k) "
    "t = Tanh (s) u = Add (t, one) v = Mul (x, u) y = Mul (v, half)",
    "cube by products": "o = Mul (x, x) p = Mul (x, o) q = Mul (cubic, p) r = Add (q, x) "
    "s = Mul (k, r) t = Tanh (s) u = Add (one, t) h = Mul (x, half) y = Mul (h, u)",
}
LINEARS = {
    "bias last": "m = MatMul (x, w) y = Add (m, bias)",
    "bias first": "m = MatMul (x, w) y = Add (bias, m)",
}
NORMS = {
    "variance by Pow": "m = ReduceMean <axes = [-1]> (x) d = Sub (x, m) p = Pow (d, two) "
    "v = ReduceMean <axes = [-1]> (p) e = Add (v, epsilon) r = Sqrt (e) q = Div (d, r) "
    "s = Mul (q, scale) y = Add (s, bias)",
    "variance by Mul": "m = ReduceMean <axes = [2]> (x) d = Sub (x, m) p = Mul (d, d) "
    "v = ReduceMean <axes = [2]> (p) e = Add (epsilon, v) r = Sqrt (e) q = Div (d, r) "
    "s = Mul (scale, q) y = Add (bias, s)",
}
GROUPS = ERF_GELUS | TANH_GELUS | LINEARS | NORMS

LEFT_ALONE = {
    "an inner tensor is an output": ("m = MatMul (x, w) y = Add (m, bias)", "m"),
    "an inner tensor is read elsewhere": (
        "m = MatMul (x, w) n = Add (m, bias) y = Sub (n, m)",
        None,
    ),
    "the number is another": ("a = Div (x, two) b = Erf (a) c = Add (b, one) d = Mul (x, c) "
    "y = Mul (d, half)", None),
    "the bias has another shape": ("m = MatMul (x, w) y = Add (m, w)", None),
    "the mean is over another axis": (
        "m = ReduceMean <axes = [1]> (x) d = Sub (x, m) p = Pow (d, two) "
        "v = ReduceMean <axes = [1]> (p) e = Add (v, epsilon) r = Sqrt (e) q = Div (d, r) "
        "s = Mul (q, scale) y = Add (s, bias)",
        None,
    ),
}  # fmt: skip


def random(*shape: int, seed: int = 0) -> Array:
    values: Array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return values


def model_of(body: str, *, also: str | None = None) -> onnx.ModelProto:
    """Nodes between x [n, 6, 6] and y, with the numbers, a weight, a scale and a bias at hand."""
    shape = f"float[n, {WIDTH}, {WIDTH}]"
    outputs = f"{shape} y" if also is None else f"{shape} y, {shape} {also}"
    text = f'<ir_version: 8, opset_import: ["" : 17]> net ({shape} x) => ({outputs}) {{ {body} }}'
    model = parser.parse_model(text)
    constants = {name: np.float32(value) for name, value in NUMBERS.items()}
    arrays = {
        "w": random(WIDTH, WIDTH, seed=1),
        "scale": random(WIDTH, seed=2),
        "bias": random(WIDTH, seed=3),
    }
    for name, value in (constants | arrays).items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    for node in model.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    return model


def steps(module: OnnxModule) -> list[str]:
    return str(module).splitlines()[1:-1]


@pytest.mark.parametrize("body", GROUPS.values(), ids=GROUPS)
def test_a_group_runs_as_one_step_and_computes_what_onnx_runtime_does(body: str) -> None:
    model = model_of(body)
    assert len(steps(to_torch(model))) == 1
    assert_agrees(model, {"x": random(3, WIDTH, WIDTH)})


@pytest.mark.parametrize(("body", "also"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_a_group_is_left_alone_where(body: str, also: str | None) -> None:
    model = model_of(body, also=also)
    assert len(steps(to_torch(model))) == len(model.graph.node)
    assert_agrees(model, {"x": random(3, WIDTH, WIDTH)})


def test_the_step_of_a_group_names_all_its_nodes() -> None:
    (step,) = steps(to_torch(model_of(ERF_GELUS["(1 + erf) halved, times x"])))
    assert step == "  Mul_a + Erf_b + Add_c + Mul_d + Mul_y: Gelu(x) -> y"


@pytest.mark.parametrize("body", (LINEARS | NORMS).values(), ids=LINEARS | NORMS)
def test_the_weights_of_a_group_learn_as_those_of_its_nodes(body: str) -> None:
    """Against torch's own gradients of the nodes one by one, which an extra output keeps apart."""
    x = torch.from_numpy(random(3, WIDTH, WIDTH))
    together = to_torch(model_of(body))
    apart = to_torch(model_of(body, also="m" if "MatMul" in body else "d"))
    together(x).square().sum().backward()
    apart(x)[0].square().sum().backward()
    names = [name for name, _ in together.named_parameters()]
    assert names == [name for name, _ in apart.named_parameters()]
    for name in names:
        torch.testing.assert_close(
            together.get_tensor(name).grad, apart.get_tensor(name).grad, rtol=1e-4, atol=1e-4
        )


def test_groups_in_a_branch_run_as_one_step_too() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n, 6] x, bool flag) => (float[n, m] y) {
        y = If (flag) <
            then_branch = yes () => (float[n, m] t) { p = MatMul (x, w) t = Add (p, bias) },
            else_branch = no () => (float[n, m] e) { e = Neg (x) }
        >
    }
    """
    model = parser.parse_model(text)
    for name, value in (("w", random(6, 6)), ("bias", random(6))):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    assert {name for name, _ in to_torch(model).named_parameters()} == {"w", "bias"}
    for flag in (True, False):
        assert_agrees(model, {"x": random(3, 6), "flag": np.array(flag)})


@pytest.mark.parametrize("body", GROUPS.values(), ids=GROUPS)
def test_the_graph_that_is_written_back_keeps_its_nodes(body: str) -> None:
    model = model_of(body)
    written: Graph = write_back(to_torch(model))
    assert [node.name for node in to_model(written).graph.node] == [
        node.name for node in model.graph.node
    ]


def test_a_scale_may_stretch_a_normalized_axis_of_one_element() -> None:
    model = model_of(NORMS["variance by Pow"])
    for formal, last in ((model.graph.input[0], 1), (model.graph.output[0], WIDTH)):
        formal.type.tensor_type.shape.dim[2].dim_value = last
    assert_agrees(model, {"x": random(3, WIDTH, 1)})
