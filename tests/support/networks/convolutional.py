"""Convolutional networks: classifiers, a detector's neck, a segmenter."""

from __future__ import annotations

from itertools import pairwise

import onnx

from tests.support.networks.builder import NetworkBuilder


def _head(net: NetworkBuilder, x: str, sizes: tuple[int, int]) -> str:
    return net.gemm(net.node("Flatten", net.node("GlobalAveragePool", x)), sizes)


def resnet18(size: int = 224) -> onnx.ModelProto:
    """ResNet-18, v1, BatchNormalization folded, identity and projection shortcuts: 20 Conv, 1 Gemm
    (He et al. 2015).
    """
    net = NetworkBuilder()
    x = net.relu(net.conv("x", (3, 64), kernel=7, stride=2))
    x = net.max_pool(x, kernel=3)
    channels = 64
    for width in (64, 128, 256, 512):
        for _ in range(2):
            stride = 1 if width in (channels, 64) else 2
            y = net.relu(net.conv(x, (channels, width), stride=stride))
            y = net.conv(y, (width, width))
            is_same = stride == 1 and width == channels
            skip = x if is_same else net.conv(x, (channels, width), kernel=1, stride=stride)
            x, channels = net.relu(net.node("Add", y, skip)), width
    return net.model((1, 3, size, size), _head(net, x, (512, 1000)))


def resnet_padded(size: int = 32) -> onnx.ModelProto:
    """CIFAR's ResNet-8, v1, with norms: its shortcuts subsample and pad channels by zeros, option A
    of He et al. 2015.
    """
    net, channels = NetworkBuilder(), 16
    x = net.relu(net.batch_norm(net.conv("x", (3, 16)), 16))
    for width in (16, 32, 64):
        stride = 1 if width == channels else 2
        y = net.relu(net.batch_norm(net.conv(x, (channels, width), stride=stride), width))
        y = net.batch_norm(net.conv(y, (width, width)), width)
        skip = x if stride == 1 else _padded(net, x, (width - channels) // 2)
        x, channels = net.relu(net.node("Add", y, skip)), width
    return net.model((1, 3, size, size), _head(net, x, (64, 10)))


def _padded(net: NetworkBuilder, x: str, channels: int) -> str:
    starts, ends, axes, steps = (net.ints(v, v) for v in (0, 2**31, 2, 2))
    axes = net.ints(2, 3)
    part = net.node("Slice", x, starts, ends, axes, steps)
    return net.node("Pad", part, net.ints(0, channels, 0, 0, 0, channels, 0, 0), net.number(0))


def resnet_v2(size: int = 32) -> onnx.ModelProto:
    """Pre-activation bottlenecks (He et al. 2016): the norm stands before the Convs, the projection
    reads behind the first norm, the identity before it.
    """
    net, channels = NetworkBuilder(), 16
    x = net.conv("x", (3, 16))
    for width, stride in ((32, 1), (32, 1), (64, 2), (64, 1)):
        y = skip = net.relu(net.batch_norm(x, channels))
        for sizes, kernel, step in (
            ((channels, width // 4), 1, 1),
            ((width // 4, width // 4), 3, stride),
        ):
            y = net.relu(net.batch_norm(net.conv(y, sizes, kernel=kernel, stride=step), sizes[1]))
        y = net.conv(y, (width // 4, width), kernel=1)
        is_same = stride == 1 and width == channels
        skip = x if is_same else net.conv(skip, (channels, width), kernel=1, stride=stride)
        x, channels = net.node("Add", skip, y), width
    return net.model((1, 3, size, size), _head(net, net.relu(net.batch_norm(x, 64)), (64, 10)))


def mobilenet_v1(size: int = 32) -> onnx.ModelProto:
    """Depthwise and pointwise Convs, each with its norm and ReLU6 (Howard et al. 2017)."""
    net, channels = NetworkBuilder(), 16

    def step(x: str, sizes: tuple[int, int], **how: int) -> str:
        return net.relu6(net.batch_norm(net.conv(x, sizes, **how), sizes[1]))

    x = step("x", (3, 16), stride=2)
    for width, stride in ((32, 1), (64, 2), (64, 1)):
        x = step(x, (channels, channels), group=channels, stride=stride)
        x, channels = step(x, (channels, width), kernel=1), width
    x = net.node("AveragePool", x, kernel_shape=[size // 4] * 2)
    return net.model((1, 3, size, size), net.gemm(net.node("Flatten", x), (64, 10)))


def shufflenet(size: int = 64, units: int = 3) -> onnx.ModelProto:
    """A v2 stage: half of the channels goes by, then both halves are shuffled (Ma et al. 2018)."""
    net, width = NetworkBuilder(), 24

    def branch(x: str, channels: int, stride: int = 1) -> str:
        x = net.relu(net.conv(x, (channels, width), kernel=1))
        x = net.conv(x, (width, width), group=width, stride=stride)
        return net.relu(net.conv(x, (width, width), kernel=1))

    def shuffled(x: str, y: str, side: int) -> str:
        x = net.reshape(net.node("Concat", x, y, axis=1), 1, 2, width, side, side)
        return net.reshape(net.transpose(x, 0, 2, 1, 3, 4), 1, 2 * width, side, side)

    x = net.max_pool(net.relu(net.conv("x", (3, 24), stride=2)), kernel=3)
    aside = net.relu(net.conv(net.conv(x, (24, 24), group=24, stride=2), (24, width), kernel=1))
    x = shuffled(aside, branch(x, 24, stride=2), size // 8)
    for _ in range(units):
        aside, x = net.several("Split", x, count=2, axis=1)
        x = shuffled(aside, branch(x, width), size // 8)
    x = net.relu(net.conv(x, (2 * width, 64), kernel=1))
    return net.model((1, 3, size, size), _head(net, x, (64, 10)))


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
    x, channels = net.relu6(net.conv("x", (3, 32), stride=2)), 32
    for expansion, width, blocks, first_stride in _MOBILENET_V2:
        for block in range(blocks):
            stride, hidden, y = first_stride if block == 0 else 1, channels * expansion, x
            if expansion > 1:
                y = net.relu6(net.conv(y, (channels, hidden), kernel=1))
            y = net.relu6(net.conv(y, (hidden, hidden), stride=stride, group=hidden))
            y = net.conv(y, (hidden, width), kernel=1)
            x = net.node("Add", x, y) if stride == 1 and channels == width else y
            channels = width
    x = net.relu6(net.conv(x, (320, 1280), kernel=1))
    return net.model((1, 3, size, size), _head(net, x, (1280, 1000)))


def mobilenet_v3(size: int = 32) -> onnx.ModelProto:
    """Blocks with ReLU or HardSwish and SE by HardSigmoid (Howard et al. 2019); HardSwish is
    written out in one half of them, and the op in the other.
    """
    net = NetworkBuilder()

    def swish(x: str) -> str:
        return net.node("HardSwish", x)

    x, channels = swish(net.conv("x", (3, 16), stride=2)), 16
    for width, stride, act in ((16, 1, net.relu), (32, 2, net.hard_swish), (32, 1, swish)):
        hidden = 2 * channels
        y = act(net.conv(x, (channels, hidden), kernel=1))
        y = act(net.conv(y, (hidden, hidden), kernel=5, stride=stride, group=hidden))
        y = _squeeze(net, y, hidden, (net.relu, lambda g: net.node("HardSigmoid", g, alpha=1 / 6)))
        y = net.conv(y, (hidden, width), kernel=1)
        x = net.node("Add", x, y) if stride == 1 and channels == width else y
        channels = width
    x = swish(net.conv(x, (32, 64), kernel=1))
    x = swish(net.conv(net.node("GlobalAveragePool", x), (64, 64), kernel=1))
    return net.model((1, 3, size, size), net.gemm(net.node("Flatten", x), (64, 10)))


def _squeeze(net: NetworkBuilder, x: str, channels: int, gates: tuple) -> str:  # type: ignore[type-arg]
    """Squeeze and excitation: channels weighted by what their means say (Hu et al. 2017)."""
    small = channels // 4
    inner, outer = gates
    s = inner(net.conv(net.node("GlobalAveragePool", x), (channels, small), kernel=1))
    return net.node("Mul", x, outer(net.conv(s, (small, channels), kernel=1)))


def efficientnet(size: int = 32) -> onnx.ModelProto:
    """MBConv blocks: depthwise, SiLU, SE by Sigmoid (Tan and Le 2019)."""
    net = NetworkBuilder()
    x, channels = net.silu(net.conv("x", (3, 16), stride=2)), 16
    for width, stride, kernel in ((16, 1, 3), (32, 2, 5), (32, 1, 3)):
        hidden = 4 * channels
        y = net.silu(net.conv(x, (channels, hidden), kernel=1))
        y = net.silu(net.conv(y, (hidden, hidden), kernel=kernel, stride=stride, group=hidden))
        y = _squeeze(net, y, hidden, (net.silu, lambda gate: net.node("Sigmoid", gate)))
        y = net.conv(y, (hidden, width), kernel=1)
        x = net.node("Add", y, x) if stride == 1 and channels == width else y
        channels = width
    x = net.silu(net.conv(x, (32, 64), kernel=1))
    return net.model((1, 3, size, size), _head(net, x, (64, 10)))


def unet(size: int = 64, up: str = "nearest") -> onnx.ModelProto:
    """Three scales with skips (Ronneberger et al. 2015): each is pooled and concatenated.

    Args:
        size: Pixels a side.
        up: `nearest` or `linear` Resize, or `transposed` for ConvTranspose.
    """
    net = NetworkBuilder()

    def step(x: str, sizes: tuple[int, int]) -> str:
        return net.relu(net.conv(x, sizes))

    def grown(x: str, channels: int) -> str:
        if up == "transposed":
            return net.conv_transpose(x, (channels, channels))
        return net.upsample(x, up)

    def joined(x: str, channels: int, skip: str) -> str:
        return net.node("Concat", grown(x, channels), skip, axis=1)

    fine = step("x", (3, 16))
    middle = step(net.max_pool(fine), (16, 32))
    coarse = step(net.max_pool(middle), (32, 64))
    x = step(joined(step(joined(coarse, 64, middle), (96, 32)), 32, fine), (48, 16))
    return net.model((1, 3, size, size), net.conv(x, (16, 4), kernel=1))


def fpn(size: int = 64) -> onnx.ModelProto:
    """A pyramid: each map is enlarged and added to the next finer one (Lin et al. 2016)."""
    net = NetworkBuilder()
    maps, channels = ["x"], (3, 16, 32, 64)
    for sizes in pairwise(channels):
        maps.append(net.relu(net.conv(maps[-1], sizes, stride=2)))
    x = net.conv(maps[3], (64, 32), kernel=1)
    outputs = [net.conv(x, (32, 32))]
    for level in (2, 1):
        lateral = net.conv(maps[level], (channels[level], 32), kernel=1)
        x = net.node("Add", lateral, net.upsample(x))
        outputs.append(net.conv(x, (32, 32)))
    return net.model((1, 3, size, size), *outputs)


def densenet(size: int = 32, layers: int = 4) -> onnx.ModelProto:
    """One dense block with norms before its Convs (Huang et al. 2016)."""
    net = NetworkBuilder()

    def norm(x: str, channels: int) -> str:
        return net.relu(net.batch_norm(x, channels))

    x, channels = net.conv("x", (3, 16)), 16
    for _ in range(layers):
        y = net.relu(net.conv(norm(x, channels), (channels, 32), kernel=1))
        x, channels = net.node("Concat", x, net.conv(y, (32, 16)), axis=1), channels + 16
    return net.model((1, 3, size, size), net.conv(norm(x, channels), (channels, 16), kernel=1))


def inception(size: int = 32) -> onnx.ModelProto:
    """Four branches, two of them pooled (Szegedy et al. 2014), then a reduction by stride."""
    net = NetworkBuilder()

    def step(x: str, sizes: tuple[int, int], kernel: int, stride: int = 1) -> str:
        return net.relu(net.conv(x, sizes, kernel=kernel, stride=stride))

    x = step("x", (3, 64), 3)
    for _ in range(2):
        pooled = net.node("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        wide = step(step(x, (64, 32), 1), (32, 16), 3)
        best = step(net.max_pool(x, kernel=3, stride=1), (64, 16), 1)
        x = net.node("Concat", step(x, (64, 16), 1), wide, step(pooled, (64, 16), 1), best, axis=1)
    x = net.node("Concat", step(x, (64, 32), 3, stride=2), net.max_pool(x, kernel=3), axis=1)
    return net.model((1, 3, size, size), net.conv(x, (96, 16), kernel=1))


def yolo(size: int = 64) -> onnx.ModelProto:
    """A detector's backbone and neck: SiLU, blocks that split and concatenate, pooling pyramid, and
    a pyramid up by Resize and down by stride, with three heads (YOLOv5 and v8).
    """
    net = NetworkBuilder()

    def step(x: str, sizes: tuple[int, int], kernel: int = 3, stride: int = 1) -> str:
        return net.silu(net.conv(x, sizes, kernel=kernel, stride=stride))

    def block(x: str, sizes: tuple[int, int]) -> str:
        """C2f: of two halves one goes on through a bottleneck, and all are concatenated."""
        half = sizes[1] // 2
        parts = net.several("Split", step(x, sizes, 1), net.ints(half, half), count=2, axis=1)
        deep = step(step(parts[1], (half, half)), (half, half))
        deep = net.node("Add", parts[1], deep)
        return step(net.node("Concat", *parts, deep, axis=1), (3 * half, sizes[1]), 1)

    def pyramid(x: str, channels: int) -> str:
        """SPPF: three pools one behind the other, all concatenated."""
        parts = [step(x, (channels, channels // 2), 1)]
        for _ in range(3):
            parts.append(net.max_pool(parts[-1], kernel=5, stride=1))
        return step(net.node("Concat", *parts, axis=1), (2 * channels, channels), 1)

    p3 = block(step(step("x", (3, 16), stride=2), (16, 32), stride=2), (32, 32))
    p4 = block(step(p3, (32, 64), stride=2), (64, 64))
    p5 = pyramid(block(step(p4, (64, 128), stride=2), (128, 128)), 128)
    n4 = block(net.node("Concat", net.upsample(p5), p4, axis=1), (192, 64))
    n3 = block(net.node("Concat", net.upsample(n4), p3, axis=1), (96, 32))
    m4 = block(net.node("Concat", step(n3, (32, 32), stride=2), n4, axis=1), (96, 64))
    m5 = block(net.node("Concat", step(m4, (64, 64), stride=2), p5, axis=1), (192, 128))
    heads = [
        net.reshape(net.conv(step(m, (c, c)), (c, 24), kernel=1), 1, 24, -1)
        for m, c in ((n3, 32), (m4, 64), (m5, 128))
    ]
    joined = net.node("Concat", *heads, axis=2)
    boxes, scores = net.several("Split", joined, net.ints(4, 20), count=2, axis=1)
    return net.model((1, 3, size, size), boxes, net.node("Sigmoid", scores))
