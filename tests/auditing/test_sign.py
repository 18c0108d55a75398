"""What is proven never to be negative, and what is not."""

from __future__ import annotations

import numpy as np
import pytest

from onnxqat.auditing.sign import is_never_negative
from tests.support.placement import graph_of
from tests.support.runtime import run

PROVEN = {
    "a Relu": "y = Relu (x)",
    "a Sigmoid behind what is negative": "a = Neg (x)  y = Sigmoid (a)",
    "a square": "y = Mul (x, x)",
    "a Clip from 0": "y = Clip (x, zero, six)",
    "a Max with 0": "y = Max (x, zero)",
    "moves": "a = Relu (x)  b = Transpose <perm = [0, 1, 3, 2]> (a)  y = Reshape (b, shape)",
    "pools": """a = Abs (x)  b = MaxPool <kernel_shape = [2, 2]> (a)
                y = GlobalAveragePool (b)""",
    "a Pad by 0": "a = Relu (x)  y = Pad (a, pads, zero)",
    "sums and products": "a = Relu (x)  b = Exp (x)  c = Mul (a, b)  y = Add (c, a)",
    "a Concat": "a = Relu (x)  b = Sigmoid (x)  y = Concat <axis = 1> (a, b)",
    "linear interpolation": 'a = Relu (x)  y = Resize <mode = "linear"> (a, none, twice)',
    "UINT8 codes": "a = QuantizeLinear (x, s, u)  y = DequantizeLinear (a, s, u)",
    "INT8 codes of what is not": """a = Relu (x)  b = QuantizeLinear (a, s, i)
                                    y = DequantizeLinear (b, s, i)""",
}
NOT_PROVEN = {
    "an input": "y = Identity (x)",
    "a Tanh": "y = Tanh (x)",
    "a Clip from below 0": "y = Clip (x, minus, six)",
    "a Clip without end": "y = Clip (x)",
    "a Max of inputs": "a = Tanh (x)  y = Max (x, a)",
    "a product": "a = Sigmoid (x)  y = Mul (a, x)",
    "a Concat with an input": "a = Relu (x)  y = Concat <axis = 1> (a, x)",
    "a Pad by -1": "a = Relu (x)  y = Pad (a, pads, minus)",
    "a difference": "a = Relu (x)  b = Sigmoid (x)  y = Sub (a, b)",
    "cubic interpolation": 'a = Relu (x)  y = Resize <mode = "cubic"> (a, none, twice)',
    "INT8 codes": "a = QuantizeLinear (x, s, i)  y = DequantizeLinear (a, s, i)",
}
VALUES = {
    "zero": np.float32(0), "six": np.float32(6), "minus": np.float32(-1), "s": np.float32(0.02),
    "u": np.uint8(0), "i": np.int8(0), "shape": np.array([1, 2, 16]), "none": np.float32([]),
    "twice": np.float32([1, 1, 2, 2]), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
}  # fmt: skip


def smallest(nodes: str) -> tuple[bool, float]:
    """What is told of `y`, and its smallest value for a random input."""
    rank = "a, b, c" if "Reshape" in nodes else "a, b, c, d"
    used = {name: value for name, value in VALUES.items() if f" {name}" in nodes}
    graph = graph_of(f"g (float[1, 2, 4, 4] x) => (float[{rank}] y) {{ {nodes} }}", {}, **used)
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)
    return is_never_negative(graph.outputs[0]), float(run(graph, {"x": x})[0].min())


@pytest.mark.parametrize("case", PROVEN)
def test_what_is_proven_never_to_be_negative_is_not(case: str) -> None:
    is_proven, least = smallest(PROVEN[case])
    assert is_proven
    assert least >= 0


@pytest.mark.parametrize("case", NOT_PROVEN)
def test_what_is_negative_is_not_proven_otherwise(case: str) -> None:
    is_proven, least = smallest(NOT_PROVEN[case])
    assert not is_proven
    assert least < 0
