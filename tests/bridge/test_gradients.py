"""Gradients through the operators that fake quantizers sit among, by finite differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from onnxqat.bridge import to_torch
from tests.support.bridge import Array, node_model
from tests.support.onnx_text import model_of

RNG = np.random.default_rng(0)


def draw(*shape: int) -> Array:
    values: Array = RNG.normal(size=shape)
    return values


CASES: dict[str, tuple[str, Mapping[str, Array], dict[str, Any]]] = {
    "conv": ("Conv", {"x": draw(1, 2, 5, 4), "w": draw(3, 2, 3, 3), "b": draw(3)}, {}),
    "conv with uneven pads": (
        "Conv",
        {"x": draw(1, 2, 5, 4), "w": draw(4, 1, 3, 2)},
        {"pads": [0, 1, 2, 0], "group": 2, "strides": [2, 1]},
    ),
    "conv transpose": (
        "ConvTranspose",
        {"x": draw(1, 2, 3, 3), "w": draw(2, 2, 3, 3), "b": draw(2)},
        {"pads": [0, 1, 1, 0], "strides": [2, 2]},
    ),
    "matmul": ("MatMul", {"a": draw(2, 3, 4), "b": draw(4, 2)}, {}),
    "gemm": (
        "Gemm",
        {"a": draw(4, 2), "b": draw(3, 4), "c": draw(3)},
        {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0},
    ),
    "layer norm": (
        "LayerNormalization",
        {"x": draw(2, 3, 4), "scale": draw(4), "b": draw(4)},
        {},
    ),
    "batch norm": (
        "BatchNormalization",
        {"x": draw(2, 3, 4), "scale": draw(3), "b": draw(3), "m": draw(3), "v": draw(3) ** 2 + 1},
        {},
    ),
    "max pool": ("MaxPool", {"x": draw(1, 2, 5, 5)}, {"kernel_shape": [2, 2], "ceil_mode": 1}),
    "average pool": (
        "AveragePool",
        {"x": draw(1, 2, 5, 5)},
        {"kernel_shape": [3, 3], "pads": [1, 0, 0, 1], "strides": [2, 2], "ceil_mode": 1},
    ),
    "global average pool": ("GlobalAveragePool", {"x": draw(2, 3, 4, 4)}, {}),
    "softmax": ("Softmax", {"x": draw(2, 3, 4)}, {"axis": 1}),
    "sigmoid": ("Sigmoid", {"x": draw(5)}, {}),
    "tanh": ("Tanh", {"x": draw(5)}, {}),
    "erf": ("Erf", {"x": draw(5)}, {}),
    "reduce mean": ("ReduceMean", {"x": draw(2, 3, 4)}, {"axes": [1, 2]}),
    "transpose": ("Transpose", {"x": draw(2, 3, 4)}, {"perm": [2, 0, 1]}),
    "concat": ("Concat", {"x": draw(2, 3), "y": draw(2, 2)}, {"axis": 1}),
    "linear resize": (
        "Resize",
        {"x": draw(1, 1, 3, 4)},
        {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
    ),
    "lstm": (
        "LSTM",
        {"x": draw(3, 2, 4), "w": draw(2, 8, 4), "r": draw(2, 8, 2), "b": draw(2, 16)},
        {"hidden_size": 2, "direction": "bidirectional"},
    ),
    "lstm step by step": (
        "LSTM",
        {"x": draw(3, 2, 4), "w": draw(1, 8, 4), "r": draw(1, 8, 2), "b": draw(1, 16)},
        {"hidden_size": 2, "direction": "reverse"},
    ),
    "gru": (
        "GRU",
        {"x": draw(3, 2, 4), "w": draw(1, 6, 4), "r": draw(1, 6, 2), "b": draw(1, 12)},
        {"hidden_size": 2, "linear_before_reset": 1},
    ),
    "rnn": (
        "RNN",
        {"x": draw(3, 2, 4), "w": draw(1, 2, 4), "r": draw(1, 2, 2), "b": draw(1, 4)},
        {"hidden_size": 2},
    ),
    "lstm with peepholes and clipped": (
        "LSTM",
        {
            "x": draw(3, 2, 4),
            "w": draw(1, 8, 4),
            "r": draw(1, 8, 2),
            "b": draw(1, 16),
            "lens": np.array([3, 2], np.int32),
            "h": draw(1, 2, 2),
            "c": draw(1, 2, 2),
            "p": draw(1, 6),
        },
        {"hidden_size": 2, "clip": 2.0},
    ),
    "einsum": ("Einsum", {"a": draw(2, 3, 4), "b": draw(4, 3)}, {"equation": "bij,jk->bki"}),
    "instance norm": (
        "InstanceNormalization",
        {"x": draw(2, 3, 4), "scale": draw(3), "b": draw(3)},
        {},
    ),
    "group norm": (
        "GroupNormalization",
        {"x": draw(2, 4, 3), "scale": draw(4), "b": draw(4)},
        {"num_groups": 2, "opset": 21, "ranks": (3,)},
    ),
    "rms norm": ("RMSNormalization", {"x": draw(2, 3, 4), "scale": draw(4)}, {"opset": 23}),
    "local response norm": ("LRN", {"x": draw(1, 4, 2, 2)}, {"size": 3}),
    "lp norm": ("LpNormalization", {"x": draw(2, 3)}, {}),
    "lp pool": ("LpPool", {"x": draw(1, 2, 4, 4)}, {"kernel_shape": [2, 2]}),
    "global max pool": ("GlobalMaxPool", {"x": draw(2, 3, 4)}, {}),
    "log softmax": ("LogSoftmax", {"x": draw(2, 3)}, {}),
    "gelu": ("Gelu", {"x": draw(5)}, {"opset": 20}),
    "tanh gelu": ("Gelu", {"x": draw(5)}, {"opset": 20, "approximate": "tanh"}),
    "hard swish": ("HardSwish", {"x": draw(5)}, {}),
    "mish": ("Mish", {"x": draw(5)}, {"opset": 18}),
    "swish": ("Swish", {"x": draw(5)}, {"opset": 24, "alpha": 0.5}),
    "gated swish": ("SwiGLU", {"a": draw(5), "b": draw(5)}, {"opset": 28}),
    "leaky relu": ("LeakyRelu", {"x": draw(5)}, {}),
    "prelu": ("PRelu", {"x": draw(2, 3), "slope": draw(3)}, {}),
    "softplus": ("Softplus", {"x": draw(5)}, {}),
    "add with broadcast": ("Add", {"x": draw(2, 3), "y": draw(3)}, {}),
    "mul with broadcast": ("Mul", {"x": draw(2, 1), "y": draw(3)}, {}),
    "div": ("Div", {"x": draw(3), "y": np.abs(draw(3)) + 1}, {}),
    "pow": ("Pow", {"x": np.abs(draw(3)) + 1, "y": draw(3)}, {}),
    "where": ("Where", {"c": draw(3) > 0, "x": draw(3), "y": draw(3)}, {"outputs": ("f8",)}),
    "gather": ("Gather", {"x": draw(4, 2), "i": np.array([1, 1, 3])}, {}),
    "scatter": (
        "ScatterND",
        {"x": draw(4, 2), "i": np.array([[1], [3]]), "u": draw(2, 2)},
        {"reduction": "add"},
    ),
    "pad by reflection": ("Pad", {"x": draw(2, 4)}, {"mode": "reflect"}),
    "depth to space": ("DepthToSpace", {"x": draw(1, 4, 2, 2)}, {"blocksize": 2}),
    "attention": (
        "Attention",
        {"q": draw(1, 4, 2, 3), "k": draw(1, 2, 4, 3), "v": draw(1, 2, 4, 3)},
        {"opset": 23},
    ),
    "attention that is masked, and blind in one row": (
        "Attention",
        {
            "q": draw(1, 2, 3, 4),
            "k": draw(1, 2, 3, 4),
            "v": draw(1, 2, 3, 4),
            "m": np.array([[True, True, True], [False, False, False], [True, False, True]]),
        },
        {"opset": 23, "is_causal": 1},
    ),
    "attention with capped scores": (
        "Attention",
        {"q": draw(1, 2, 6), "k": draw(1, 3, 6), "v": draw(1, 3, 6)},
        {"opset": 23, "q_num_heads": 2, "kv_num_heads": 2, "softcap": 2.0},
    ),
    "rotary embedding": (
        "RotaryEmbedding",
        {"x": draw(1, 2, 3, 4), "cos": draw(1, 3, 2), "sin": draw(1, 3, 2)},
        {"opset": 23},
    ),
    "sampling on a grid": (
        "GridSample",
        {"x": draw(1, 2, 3, 3), "grid": RNG.uniform(-0.9, 0.9, size=(1, 2, 2, 2))},
        {},
    ),
    "pooled regions": (
        "RoiAlign",
        {
            "x": draw(1, 2, 5, 5),
            "rois": np.array([[0.3, 0.6, 3.7, 3.1]]),
            "image": np.array([0]),
        },
        {"output_height": 2, "output_width": 2, "sampling_ratio": 2},
    ),
    "deformable conv": (
        "DeformConv",
        {
            "x": draw(1, 2, 4, 4),
            "w": draw(2, 1, 2, 2),
            "offset": RNG.uniform(0.1, 0.4, size=(1, 8, 3, 3)),
            "b": draw(2),
            "mask": draw(1, 4, 3, 3),
        },
        {"opset": 19, "group": 2},
    ),
    "max unpool": (
        "MaxUnpool",
        {"x": draw(1, 1, 2, 2), "i": np.array([[[[0, 3], [9, 14]]]])},
        {"kernel_shape": [2, 2], "strides": [2, 2]},
    ),
    "columns to image": (
        "Col2Im",
        {"x": draw(1, 4, 4)},
        {"opset": 18},
    ),
    "causal conv": (
        "CausalConvWithState",
        {"x": draw(1, 2, 4), "w": draw(2, 1, 3), "b": draw(2), "s": draw(1, 2, 2)},
        {"opset": 27, "activation": "silu", "outputs": ("f8", "f8")},
    ),
    "fourier transform": ("DFT", {"x": draw(1, 5, 1)}, {"onesided": 1}),
    "loss": (
        "SoftmaxCrossEntropyLoss",
        {"x": draw(3, 4), "y": np.array([0, 3, 2])},
        {"ignore_index": 3},
    ),
}
CONSTANTS: dict[str, dict[str, Array]] = {
    "linear resize": {"scales": np.array([1, 1, 2, 1.5], np.float32)},
    "columns to image": {"image": np.array([3, 3]), "block": np.array([2, 2])},
    "pad by reflection": {"pads": np.array([0, 2, 0, 1])},
    "loss": {"w": np.array([0.5, 1.0, 2.0, 1.0])},
}
INPUTS = {"linear resize": ["x", "", "scales"]}


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_the_slope(name: str) -> None:
    op, feeds, attributes = CASES[name]
    model = node_model(
        op,
        feeds,
        constants=CONSTANTS.get(name),
        inputs=INPUTS.get(name),
        **{"opset": 17, **attributes},
    )
    check_gradients(model, feeds.values())


def check_gradients(model: onnx.ModelProto, values: Iterable[Array]) -> None:
    """By finite differences of every float input; the others stay."""
    leaves = tuple(torch.from_numpy(value) for value in values)
    for leaf in leaves:
        leaf.requires_grad_(leaf.is_floating_point())
    assert torch.autograd.gradcheck(to_torch(model), leaves, atol=1e-6)


IF = """branches (double[2, 3] x, double[2, 3] y, bool flag) => (double[2, 3] z) {
    z = If (flag) <
        then_branch = yes () => (double[2, 3] a) { a = Mul (x, y) },
        else_branch = no () => (double[2, 3] b) { b = Sub (x, y) }
    >
}"""
LOOP = """recurrence (double[2, 3] h, double[3, 3] w, int64 n)
    => (double[2, 3] last, double[k, 2, 3] all) {
    yes = Constant <value = bool {1}> ()
    last, all = Loop (n, yes, h) <
        body = step (int64 i, bool c, double[2, 3] s) => (bool d, double[2, 3] t, double[2, 3] u) {
            d = Identity (c)
            p = MatMul (s, w)
            t = Tanh (p)
            u = Add (t, s)
        }
    >
}"""
SCAN = """recurrence (double[2, 3] h, double[4, 2, 3] x, double[3, 3] w)
    => (double[2, 3] last, double[4, 2, 3] all) {
    last, all = Scan <
        num_scan_inputs = 1, scan_input_directions = [1],
        body = step (double[2, 3] s, double[2, 3] v) => (double[2, 3] t, double[2, 3] u) {
            p = MatMul (s, w)
            q = Add (p, v)
            t = Tanh (q)
            u = Mul (t, v)
        }
    > (h, x)
}"""
CONTROL_FLOW: dict[str, tuple[str, tuple[Array, ...]]] = {
    "then": (IF, (draw(2, 3), draw(2, 3), np.array(True))),
    "else": (IF, (draw(2, 3), draw(2, 3), np.array(False))),
    "loop": (LOOP, (draw(2, 3), draw(3, 3), np.array(3))),
    "scan": (SCAN, (draw(2, 3), draw(4, 2, 3), draw(3, 3))),
}


@pytest.mark.parametrize("name", CONTROL_FLOW)
def test_the_gradient_flows_through_control_flow(name: str) -> None:
    text, values = CONTROL_FLOW[name]
    check_gradients(model_of(text), values)


def test_weights_get_the_gradient_too() -> None:
    model = node_model(
        "Gemm", {"x": draw(2, 3)}, opset=17, constants={"w": draw(4, 3), "b": draw(4)}, transB=1
    )
    module = to_torch(model)
    x = torch.from_numpy(draw(2, 3))
    module(x).sum().backward()
    gradients = {name: p.grad for name, p in module.named_parameters()}
    assert gradients["b"] is not None
    assert gradients["w"] is not None
    assert gradients["b"].tolist() == [2.0] * 4
    np.testing.assert_allclose(gradients["w"].numpy(), x.sum(0).expand(4, 3).numpy())
