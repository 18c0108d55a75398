"""Well-known architectures with random weights, written as ONNX: shapes and edges without files.

Weights are He-initialized, so that activations keep their size through the depth.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


@dataclass
class NetworkBuilder:
    """Adds nodes one behind the other; each method returns the name of its output."""

    seed: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, list(inputs), [f"{name}_out"], name=name, **attributes)
        )
        return f"{name}_out"

    def constant(self, values: np.ndarray) -> str:
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def weights(self, *shape: int, fan_in: int) -> str:
        drawn = self.generator.standard_normal(shape) * np.sqrt(2 / fan_in)
        return self.constant(drawn.astype(np.float32))

    def conv(
        self, x: str, sizes: tuple[int, int], *, kernel: int = 3, stride: int = 1, group: int = 1
    ) -> str:
        """Conv with bias, from sizes[0] to sizes[1] channels, padded to keep the size."""
        c_in, c_out = sizes
        fan_in = c_in // group * kernel * kernel
        w = self.weights(c_out, c_in // group, kernel, kernel, fan_in=fan_in)
        b = self.constant(np.zeros(c_out, np.float32))
        pads = [kernel // 2] * 4
        return self.node(
            "Conv",
            x,
            w,
            b,
            pads=pads,
            strides=[stride, stride],
            group=group,
            kernel_shape=[kernel] * 2,
        )

    def gemm(self, x: str, sizes: tuple[int, int]) -> str:
        w = self.weights(sizes[1], sizes[0], fan_in=sizes[0])
        return self.node("Gemm", x, w, self.constant(np.zeros(sizes[1], np.float32)), transB=1)

    def linear(self, x: str, sizes: tuple[int, int]) -> str:
        """MatMul and a bias, as exporters write a linear layer on [N, tokens, channels]."""
        y = self.node("MatMul", x, self.weights(*sizes, fan_in=sizes[0]))
        return self.node("Add", y, self.constant(np.zeros(sizes[1], np.float32)))

    def gelu(self, x: str) -> str:
        """GELU by Erf, as exporters write it below opset 20."""
        half, one, root = (self.constant(np.array(v, np.float32)) for v in (0.5, 1, 2**0.5))
        gate = self.node("Add", self.node("Erf", self.node("Div", x, root)), one)
        return self.node("Mul", self.node("Mul", x, gate), half)

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def model(self, shape: tuple[int, ...], output: str) -> onnx.ModelProto:
        """The model with one input `x` of this shape."""
        self.node("Identity", output)
        self.nodes[-1].output[0] = "y"
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 8
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def resnet18(size: int = 224) -> onnx.ModelProto:
    """ResNet-18 with BatchNormalization folded: 20 Conv, 1 Gemm (He et al. 2015)."""
    net = NetworkBuilder()
    x = net.node("Relu", net.conv("x", (3, 64), kernel=7, stride=2))
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for width in (64, 128, 256, 512):
        for _ in range(2):
            stride = 1 if width in (channels, 64) else 2
            y = net.node("Relu", net.conv(x, (channels, width), stride=stride))
            y = net.conv(y, (width, width))
            is_same = stride == 1 and width == channels
            skip = x if is_same else net.conv(x, (channels, width), kernel=1, stride=stride)
            x, channels = net.node("Relu", net.node("Add", y, skip)), width
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    return net.model((1, 3, size, size), net.gemm(x, (512, 1000)))


_MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks, stride: table 2 of Sandler et al. 2018."""


def mobilenet_v2(size: int = 224) -> onnx.ModelProto:
    """MobileNetV2 with BatchNormalization folded: 52 Conv, 1 Gemm."""
    net = NetworkBuilder()
    low, high = net.constant(np.array(0, np.float32)), net.constant(np.array(6, np.float32))

    def relu6(x: str) -> str:
        return net.node("Clip", x, low, high)

    x, channels = relu6(net.conv("x", (3, 32), stride=2)), 32
    for expansion, width, blocks, first_stride in _MOBILENET_V2:
        for block in range(blocks):
            stride, hidden, y = first_stride if block == 0 else 1, channels * expansion, x
            if expansion > 1:
                y = relu6(net.conv(y, (channels, hidden), kernel=1))
            y = relu6(net.conv(y, (hidden, hidden), stride=stride, group=hidden))
            y = net.conv(y, (hidden, width), kernel=1)
            x = net.node("Add", x, y) if stride == 1 and channels == width else y
            channels = width
    x = relu6(net.conv(x, (320, 1280), kernel=1))
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    return net.model((1, 3, size, size), net.gemm(x, (1280, 1000)))


def vit(
    *, blocks: int = 1, tokens: int = 196, heads: int = 3, head_size: int = 64
) -> onnx.ModelProto:
    """Pre-norm transformer blocks (Dosovitskiy et al. 2020): 8 MatMuls each, 6 with weights."""
    net, x = NetworkBuilder(), "x"
    for _ in range(blocks):
        x = _vit_block(net, x, tokens=tokens, heads=heads, head_size=head_size)
    return net.model((1, tokens, heads * head_size), x)


def _vit_block(net: NetworkBuilder, x: str, *, tokens: int, heads: int, head_size: int) -> str:
    dim = heads * head_size

    def norm(x: str) -> str:
        ones, zeros = np.ones(dim, np.float32), np.zeros(dim, np.float32)
        return net.node("LayerNormalization", x, net.constant(ones), net.constant(zeros), axis=-1)

    def head(x: str, perm: list[int]) -> str:
        split = net.node(
            "Reshape", net.linear(x, (dim, dim)), net.ints(1, tokens, heads, head_size)
        )
        return net.node("Transpose", split, perm=perm)

    h = norm(x)
    q, k, v = head(h, [0, 2, 1, 3]), head(h, [0, 2, 3, 1]), head(h, [0, 2, 1, 3])
    scale = net.constant(np.array(head_size**-0.5, np.float32))
    scores = net.node("Softmax", net.node("Mul", net.node("MatMul", q, k), scale), axis=-1)
    mixed = net.node("Transpose", net.node("MatMul", scores, v), perm=[0, 2, 1, 3])
    mixed = net.node("Reshape", mixed, net.ints(1, tokens, dim))
    x = net.node("Add", x, net.linear(mixed, (dim, dim)))
    return net.node(
        "Add", x, net.linear(net.gelu(net.linear(norm(x), (dim, 4 * dim))), (4 * dim, dim))
    )


def unet(size: int = 64) -> onnx.ModelProto:
    """Three scales with skips (Ronneberger et al. 2015): each is pooled and concatenated."""
    net = NetworkBuilder()
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))

    def step(x: str, sizes: tuple[int, int]) -> str:
        return net.node("Relu", net.conv(x, sizes))

    def down(x: str) -> str:
        return net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])

    def up(x: str, skip: str) -> str:
        return net.node("Concat", net.node("Resize", x, "", scales, mode="nearest"), skip, axis=1)

    fine = step("x", (3, 16))
    middle = step(down(fine), (16, 32))
    coarse = step(down(middle), (32, 64))
    x = step(up(step(up(coarse, middle), (96, 32)), fine), (48, 16))
    return net.model((1, 3, size, size), net.conv(x, (16, 4), kernel=1))


def densenet(size: int = 32, layers: int = 4) -> onnx.ModelProto:
    """One dense block with norms before its Convs (Huang et al. 2016)."""
    net = NetworkBuilder()

    def norm(x: str, channels: int) -> str:
        ones = [net.constant(np.ones(channels, np.float32)) for _ in range(4)]
        return net.node("Relu", net.node("BatchNormalization", x, *ones))

    x, channels = net.conv("x", (3, 16)), 16
    for _ in range(layers):
        y = net.node("Relu", net.conv(norm(x, channels), (channels, 32), kernel=1))
        x, channels = net.node("Concat", x, net.conv(y, (32, 16)), axis=1), channels + 16
    return net.model((1, 3, size, size), net.conv(norm(x, channels), (channels, 16), kernel=1))


def inception(size: int = 32) -> onnx.ModelProto:
    """Three branches, one of them pooled (Szegedy et al. 2014)."""
    net = NetworkBuilder()

    def step(x: str, sizes: tuple[int, int], kernel: int) -> str:
        return net.node("Relu", net.conv(x, sizes, kernel=kernel))

    x = step("x", (3, 64), 3)
    for _ in range(2):
        pooled = net.node("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        wide = step(step(x, (64, 32), 1), (32, 32), 3)
        branches = step(x, (64, 16), 1), wide, step(pooled, (64, 16), 1)
        x = net.node("Concat", *branches, axis=1)
    return net.model((1, 3, size, size), net.conv(x, (64, 16), kernel=1))
