"""Random graphs of convolutions, residuals, Concats, pools and attention, for properties."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import strategies as st

from onnxqat.graph import Graph, as_graph
from tests.support.networks.builder import NetworkBuilder

SHAPE = (1, 4, 6, 6)
"""Of every activation, so that any may follow any."""


def _conv(net: NetworkBuilder, x: str) -> str:
    return net.conv(x, (SHAPE[1], SHAPE[1]))


def _norm(net: NetworkBuilder, x: str) -> str:
    ones = [net.constant(np.ones(SHAPE[1], np.float32)) for _ in range(4)]
    return net.node("BatchNormalization", x, *ones)


def _linear(net: NetworkBuilder, x: str) -> str:
    return net.linear(x, (SHAPE[-1], SHAPE[-1]))


UNARY = {
    "conv": _conv,
    "linear": _linear,
    "norm": _norm,
    "relu": lambda net, x: net.node("Relu", x),
    "sigmoid": lambda net, x: net.node("Sigmoid", x),
    "softmax": lambda net, x: net.node("Softmax", x),
    "transpose": lambda net, x: net.node("Transpose", x, perm=[0, 1, 3, 2]),
    "max": lambda net, x: net.node("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4),
    "average": lambda net, x: net.node("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4),
}
BINARY = {
    "add": lambda net, x, y: net.node("Add", x, y),
    "mul": lambda net, x, y: net.node("Mul", x, y),
    "matmul": lambda net, x, y: net.node("MatMul", x, y),
    "concat": lambda net, x, y: net.conv(net.node("Concat", x, y, axis=1), (8, 4), kernel=1),
}


@st.composite
def models(draw: st.DrawFn, max_steps: int = 14) -> onnx.ModelProto:
    """A model of random steps, each on earlier tensors, recent ones preferred."""
    net, tensors = NetworkBuilder(), ["x"]
    for _ in range(draw(st.integers(1, max_steps))):
        recent = st.sampled_from(tensors[-3:])
        step = draw(st.sampled_from([*UNARY, *BINARY]))
        if step in UNARY:
            tensors.append(UNARY[step](net, draw(recent)))
        else:
            tensors.append(BINARY[step](net, draw(recent), draw(st.sampled_from(tensors))))
    return net.model(SHAPE, tensors[-1])


def graphs(max_steps: int = 14) -> st.SearchStrategy[Graph]:
    """The graphs of random models."""
    return models(max_steps).map(as_graph)
