"""The networks of `bench_bridge.py`: by hand in torch, and as ONNX files have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx import parser as onnx_parser
from torch import Tensor, nn
from torch.nn import functional

Weights = dict[str, NDArray[np.float32]]


class Block(nn.Module):
    """Two convolutions and a shortcut that pads its channels with zeros."""

    def __init__(self, channels: int, wider: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, wider, 3, stride, 1)
        self.second = nn.Conv2d(wider, wider, 3, 1, 1)
        self.stride, self.extra = stride, (wider - channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H / stride, W / stride]."""
        y = self.second(functional.relu(self.first(x)))
        if self.stride != 1:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))
        return functional.relu(y + x)


class ResNet20(nn.Module):
    """The network as one writes it in torch, BatchNorm folded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        widths = [16, 16, 16, 32, 32, 32, 64, 64, 64]
        pairs = zip([16, *widths], widths, strict=False)
        self.blocks = nn.Sequential(*(Block(a, b, 1 if a == b else 2) for a, b in pairs))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, 32, 32] to logits [N, 10]."""
        x = self.blocks(functional.relu(self.stem(x)))
        return self.head(functional.avg_pool2d(x, x.shape[3]).flatten(1))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Sizes:
    """Of a transformer encoder; the defaults are a twelfth of BERT-base's weights."""

    layers: int = 12
    width: int = 256
    heads: int = 4
    inner: int = 1024
    classes: int = 10

    @property
    def head(self) -> int:
        """Features of one attention head."""
        return self.width // self.heads


class EncoderLayer(nn.Module):
    """Self-attention and two linear layers, each behind a norm and with a shortcut."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.norm1, self.norm2 = nn.LayerNorm(sizes.width), nn.LayerNorm(sizes.width)
        self.q, self.k, self.v, self.o = (nn.Linear(sizes.width, sizes.width) for _ in range(4))
        self.up = nn.Linear(sizes.width, sizes.inner)
        self.down = nn.Linear(sizes.inner, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, D] to the same."""
        x = x + self.o(self.attention(self.norm1(x)))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))  # type: ignore[no-any-return]

    def attention(self, x: Tensor) -> Tensor:
        """As written out in the paper: softmax(q kᵀ / √d) v, head by head."""
        q, k, v = (self.split(linear(x)) for linear in (self.q, self.k, self.v))
        scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
        mixed = torch.softmax(scores, -1) @ v
        return mixed.transpose(1, 2).reshape(x.shape)

    def split(self, x: Tensor) -> Tensor:
        """[N, L, D] to [N, heads, L, D / heads]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class FusedEncoderLayer(EncoderLayer):
    """The same with torch's one kernel for attention."""

    def attention(self, x: Tensor) -> Tensor:
        """The same."""
        q, k, v = (self.split(linear(x)) for linear in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).reshape(x.shape)


class Encoder(nn.Module):
    """The network as one writes it in torch."""

    def __init__(self, sizes: Sizes, layer: type[EncoderLayer] = EncoderLayer) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(layer(sizes) for _ in range(sizes.layers)))
        self.norm = nn.LayerNorm(sizes.width)
        self.head = nn.Linear(sizes.width, sizes.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [N, L, D] to logits [N, classes]."""
        return self.head(self.norm(self.layers(x)).mean(1))  # type: ignore[no-any-return]


def encoder_model(net: Encoder, sizes: Sizes, *, opset: int = 17) -> onnx.ModelProto:
    """The ONNX form of the network, node for node as torch's exporter writes it.

    Linear layers are MatMul with a transposed weight and Add, GELU is made of Erf, and the shapes
    of the heads are computed from the input's.
    """
    weights: Weights = {}
    body = "\n".join(_nodes(net, sizes, weights))
    model: onnx.ModelProto = onnx_parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> encoder '
        f"(float[batch, length, {sizes.width}] x) => (float[batch, {sizes.classes}] logits) "
        f"{{ {body} }}"
    )
    constants = {
        "root": np.float32(sizes.head**0.5),
        "root2": np.float32(2**0.5),
        "one": np.float32(1),
        "half": np.float32(0.5),
        "i0": np.int64(0),
        "i1": np.int64(1),
        "axis": np.array([0], np.int64),
        "heads": np.array([sizes.heads], np.int64),
        "rest": np.array([sizes.head], np.int64),
        "width": np.array([sizes.width], np.int64),
    }
    for name, value in (constants | weights).items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    for node in model.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    onnx.checker.check_model(model, full_check=True)
    return model


def _nodes(net: Encoder, sizes: Sizes, weights: Weights) -> Iterator[str]:
    x = "x"
    for i, layer in enumerate(net.layers):
        yield from _layer(f"l{i}", x, layer, weights)  # type: ignore[arg-type]
        x = f"l{i}_y"
    yield from _norm("norm", x, net.norm, weights)
    yield "mean = ReduceMean <axes = [1], keepdims = 0> (norm_y)"
    weights["head_w"] = net.head.weight.detach().numpy()
    weights["head_b"] = net.head.bias.detach().numpy()
    yield "logits = Gemm <transB = 1> (mean, head_w, head_b)"


def _layer(p: str, x: str, layer: EncoderLayer, weights: Weights) -> Iterator[str]:
    yield from _norm(f"{p}_n1", x, layer.norm1, weights)
    shape, out = f"{p}_split", f"{p}_joined"
    yield f"{p}_s = Shape ({p}_n1_y)"
    yield f"{p}_n = Gather ({p}_s, i0)"
    yield f"{p}_l = Gather ({p}_s, i1)"
    yield f"{p}_n1d = Unsqueeze ({p}_n, axis)"
    yield f"{p}_l1d = Unsqueeze ({p}_l, axis)"
    yield f"{shape} = Concat <axis = 0> ({p}_n1d, {p}_l1d, heads, rest)"
    yield f"{out} = Concat <axis = 0> ({p}_n1d, {p}_l1d, width)"
    for name, order in (("q", "0, 2, 1, 3"), ("k", "0, 2, 3, 1"), ("v", "0, 2, 1, 3")):
        yield from _linear(f"{p}_{name}", f"{p}_n1_y", getattr(layer, name), weights)
        yield f"{p}_{name}4 = Reshape ({p}_{name}_y, {shape})"
        yield f"{p}_{name}t = Transpose <perm = [{order}]> ({p}_{name}4)"
    yield f"{p}_qk = MatMul ({p}_qt, {p}_kt)"
    yield f"{p}_scaled = Div ({p}_qk, root)"
    yield f"{p}_soft = Softmax <axis = -1> ({p}_scaled)"
    yield f"{p}_mix = MatMul ({p}_soft, {p}_vt)"
    yield f"{p}_mixt = Transpose <perm = [0, 2, 1, 3]> ({p}_mix)"
    yield f"{p}_mix3 = Reshape ({p}_mixt, {out})"
    yield from _linear(f"{p}_o", f"{p}_mix3", layer.o, weights)
    yield f"{p}_h = Add ({x}, {p}_o_y)"
    yield from _norm(f"{p}_n2", f"{p}_h", layer.norm2, weights)
    yield from _linear(f"{p}_up", f"{p}_n2_y", layer.up, weights)
    yield f"{p}_g1 = Div ({p}_up_y, root2)"
    yield f"{p}_g2 = Erf ({p}_g1)"
    yield f"{p}_g3 = Add ({p}_g2, one)"
    yield f"{p}_g4 = Mul ({p}_up_y, {p}_g3)"
    yield f"{p}_g = Mul ({p}_g4, half)"
    yield from _linear(f"{p}_down", f"{p}_g", layer.down, weights)
    yield f"{p}_y = Add ({p}_h, {p}_down_y)"


def _linear(p: str, x: str, linear: nn.Linear, weights: Weights) -> Iterator[str]:
    weights[f"{p}_w"] = np.ascontiguousarray(linear.weight.detach().numpy().T)
    weights[f"{p}_b"] = linear.bias.detach().numpy()
    yield f"{p}_m = MatMul ({x}, {p}_w)"
    yield f"{p}_y = Add ({p}_b, {p}_m)"


def _norm(p: str, x: str, norm: nn.LayerNorm, weights: Weights) -> Iterator[str]:
    weights[f"{p}_w"] = norm.weight.detach().numpy()
    weights[f"{p}_b"] = norm.bias.detach().numpy()
    yield f"{p}_y = LayerNormalization <axis = -1, epsilon = {norm.eps}> ({x}, {p}_w, {p}_b)"
