"""Scales whose range ends at the largest value that there can be."""

from __future__ import annotations

import numpy as np
import pytest

from onnxqat.bridge import to_torch
from onnxqat.graph import as_graph
from onnxqat.training import FinetuneConfig
from onnxqat.training.limits import largest_values, scales_at_limits
from onnxqat.training.targets import choose_targets
from tests.support.onnx_text import model_of

LOW, HIGH = np.array(0, np.float32), np.array(6, np.float32)
MATRIX = np.eye(4, dtype=np.float32)


def net(scale: float):
    """A product, Clip(0, 6), a quantizer of this scale, a product."""
    text = """g (float[n,4] x) => (float[n,4] y)
    {p = MatMul(x, a) q = Clip(p, low, high) c = QuantizeLinear(q, s, z)
     d = DequantizeLinear(c, s, z) y = MatMul(d, b)}"""
    constants = {"s": np.array(scale, np.float32), "z": np.array(0, np.int8)}
    return to_torch(model_of(text, a=MATRIX, b=MATRIX, low=LOW, high=HIGH, **constants))


def learned_scales(student) -> set[str]:
    targets = choose_targets(student, FinetuneConfig(scales="learned"))
    return {entry.name for entry in targets.trained if entry.kind.is_scale}


def test_a_scale_at_the_limit_of_a_clip_is_not_learned():
    assert learned_scales(net(6 / 127)) == set()


@pytest.mark.parametrize("range_end", [4.0, 5.8, 6.2])
def test_one_whose_range_ends_elsewhere_is(range_end):
    student = net(range_end / 127)
    assert not scales_at_limits(student)
    assert learned_scales(student) == {"scale of q"}


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("q = Clip(x, low, high)", 6.0),
        ("p = Clip(x, low, high) q = MaxPool<kernel_shape = [1]>(p)", 6.0),
        ("p = Clip(x, low, high) r = Relu(p) q = Transpose(r)", 6.0),
        ("q = Sigmoid(x)", 1.0),
        ("p = Clip(x, low, high) q = Neg(p)", None),
        ("q = Clip(x, low)", None),
        ("h = Neg(high) q = Clip(x, h, low)", None),
    ],
)
def test_the_largest_value_is_known_where_an_operator_sees_to_it(text, limit):
    graph = as_graph(
        model_of(f"g (float[1,1,4] x) => (float[1,1,4] q) {{{text}}}", low=LOW, high=HIGH)
    )
    assert largest_values(graph).get("q") == limit


def test_a_clip_of_an_old_opset_has_its_limits_as_attributes():
    text = "g (float[4] x) => (float[4] q) {q = Clip<min = -1.0, max = 2.5>(x)}"
    assert largest_values(as_graph(model_of(text, opset=10, ir=5))) == {"q": 2.5}
