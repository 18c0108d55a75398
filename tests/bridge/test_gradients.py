"""Gradients through the operators that fake quantizers sit among, by finite differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from onnxqat.bridge import to_torch
from tests.support.bridge import Array, node_model

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
}


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_the_slope(name: str) -> None:
    op, feeds, attributes = CASES[name]
    constants, inputs = {}, None
    if op == "Resize":
        constants = {"scales": np.array([1, 1, 2, 1.5], np.float32)}
        inputs = ["x", "", "scales"]
    model = node_model(op, feeds, opset=17, constants=constants, inputs=inputs, **attributes)
    module = to_torch(model)
    leaves = tuple(torch.from_numpy(value).requires_grad_() for value in feeds.values())
    assert torch.autograd.gradcheck(module, leaves, atol=1e-6)


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
