"""Writes a network with random weights as ONNX, node behind node.

Weights are He-initialized, so that activations keep their size through the depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass
class NetworkBuilder:
    """Adds nodes one behind the other; each method returns the name of its output."""

    seed: int = 0
    opset: int = 17
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        return self.several(op, *inputs, count=1, **attributes)[0]

    def several(self, op: str, *inputs: str, count: int, **attributes: Any) -> list[str]:
        """A node of several outputs."""
        name = f"{op}_{len(self.nodes)}"
        ends = [f"{name}_out{i or ''}" for i in range(count)]
        self.nodes.append(helper.make_node(op, list(inputs), ends, name=name, **attributes))
        return ends

    def constant(self, values: Any) -> str:
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def weights(self, *shape: int, fan_in: int) -> str:
        drawn = self.generator.standard_normal(shape) * np.sqrt(2 / fan_in)
        return self.constant(drawn.astype(np.float32))

    def filled(self, value: float, *shape: int) -> str:
        return self.constant(np.full(shape, value, np.float32))

    # Convolutions ---------------------------------------------------------------------------------

    def conv(
        self,
        x: str,
        sizes: tuple[int, int],
        *,
        kernel: int = 3,
        stride: int = 1,
        group: int = 1,
        dilation: int = 1,
        dimensions: int = 2,
    ) -> str:
        """Conv with bias, from sizes[0] to sizes[1] channels, padded to keep the size."""
        c_in, c_out = sizes
        space = [kernel] * dimensions
        w = self.weights(c_out, c_in // group, *space, fan_in=c_in // group * kernel**dimensions)
        return self.node(
            "Conv",
            x,
            w,
            self.filled(0, c_out),
            pads=[kernel // 2 * dilation] * 2 * dimensions,
            strides=[stride] * dimensions,
            dilations=[dilation] * dimensions,
            group=group,
            kernel_shape=space,
        )

    def conv_transpose(self, x: str, sizes: tuple[int, int]) -> str:
        """ConvTranspose that doubles the size."""
        w = self.weights(*sizes, 2, 2, fan_in=sizes[0])
        return self.node("ConvTranspose", x, w, self.filled(0, sizes[1]), strides=[2, 2])

    def batch_norm(self, x: str, channels: int) -> str:
        scale, shift, mean, variance = (self.filled(v, channels) for v in (1.1, 0.1, 0.05, 1.2))
        return self.node("BatchNormalization", x, scale, shift, mean, variance)

    def max_pool(self, x: str, *, kernel: int = 2, stride: int = 2) -> str:
        pads = [kernel // 2 if kernel % 2 else 0] * 4
        return self.node("MaxPool", x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)

    def upsample(self, x: str, mode: str = "nearest") -> str:
        return self.node(
            "Resize", x, "", self.constant(np.array([1, 1, 2, 2], np.float32)), mode=mode
        )

    # Activation functions -------------------------------------------------------------------------

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def relu6(self, x: str) -> str:
        return self.node("Clip", x, self.number(0), self.number(6))

    def silu(self, x: str) -> str:
        return self.node("Mul", x, self.node("Sigmoid", x))

    def hard_swish(self, x: str) -> str:
        """As exporters write it below opset 14: x · clip(x + 3, 0, 6) / 6."""
        gate = self.relu6(self.node("Add", x, self.number(3)))
        return self.node("Div", self.node("Mul", x, gate), self.number(6))

    def gelu(self, x: str, form: str = "erf") -> str:
        """GELU by Erf as exporters write it below opset 20, by Tanh, or as the op."""
        if form == "op":
            return self.node("Gelu", x)
        half, one = self.number(0.5), self.number(1)
        if form == "erf":
            gate = self.node("Erf", self.node("Div", x, self.number(2**0.5)))
        else:
            cube = self.node("Mul", self.node("Pow", x, self.number(3)), self.number(0.044715))
            inner = self.node("Mul", self.node("Add", x, cube), self.number((2 / np.pi) ** 0.5))
            gate = self.node("Tanh", inner)
        return self.node("Mul", self.node("Mul", x, self.node("Add", gate, one)), half)

    # Linear layers and norms ----------------------------------------------------------------------

    def gemm(self, x: str, sizes: tuple[int, int]) -> str:
        w = self.weights(sizes[1], sizes[0], fan_in=sizes[0])
        return self.node("Gemm", x, w, self.filled(0, sizes[1]), transB=1)

    def linear(self, x: str, sizes: tuple[int, int]) -> str:
        """MatMul and a bias, as exporters write a linear layer on [N, tokens, channels]."""
        y = self.node("MatMul", x, self.weights(*sizes, fan_in=sizes[0]))
        return self.node("Add", y, self.filled(0, sizes[1]))

    def layer_norm(self, x: str, size: int, form: str = "op") -> str:
        """LayerNormalization as the op, or decomposed as exporters write it below opset 17."""
        scale, shift = self.filled(1, size), self.filled(0, size)
        if form == "op":
            return self.node("LayerNormalization", x, scale, shift, axis=-1)
        centred = self.node("Sub", x, self.mean(x))
        variance = self.mean(self.node("Pow", centred, self.number(2)))
        deviation = self.node("Sqrt", self.node("Add", variance, self.number(1e-5)))
        normed = self.node("Div", centred, deviation)
        return self.node("Add", self.node("Mul", normed, scale), shift)

    def mean(self, x: str) -> str:
        """The mean over the last axis, kept; opset 17 and older have the axes as an attribute."""
        return self.node("ReduceMean", x, axes=[-1], keepdims=1)

    def reshape(self, x: str, *shape: int) -> str:
        return self.node("Reshape", x, self.ints(*shape))

    def transpose(self, x: str, *perm: int) -> str:
        return self.node("Transpose", x, perm=list(perm))

    # The model ------------------------------------------------------------------------------------

    def model(
        self,
        shape: Sequence[int],
        *outputs: str,
        inputs: Mapping[str, tuple[int, Sequence[int]]] = MappingProxyType({}),
    ) -> onnx.ModelProto:
        """The model with a float input `x` of this shape, and more of type and shape by name.

        Its outputs are `y`, or `y0`, `y1`, … where there are several.
        """
        names = ["y"] if len(outputs) == 1 else [f"y{i}" for i in range(len(outputs))]
        for name, output in zip(names, outputs, strict=True):
            self.node("Identity", output)
            self.nodes[-1].output[0] = name
        kinds = {"x": (TensorProto.FLOAT, shape), **inputs}
        read = {name for node in self.nodes for name in node.input}
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info(n, *kind) for n, kind in kinds.items() if n in read],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8 if self.opset < 19 else 9
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)
