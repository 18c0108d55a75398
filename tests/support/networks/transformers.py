"""Transformers: ViT, BERT, and Swin with its shifted windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from tests.support.networks.builder import NetworkBuilder


@dataclass(frozen=True)
class _Attention:
    """Sizes and the way of writing an attention block."""

    tokens: int
    heads: int
    head_size: int
    batch: int = 1
    """Sequences at a time: of a Swin, its windows."""
    fused: bool = False
    """One MatMul computes query, key and value."""
    divides: bool = False
    """The scale is a Div of the scores, else a Mul."""

    @property
    def dim(self) -> int:
        return self.heads * self.head_size


def _attend(net: NetworkBuilder, h: str, how: _Attention, *masks: str) -> str:
    """Attention and its output layer on [batch, tokens, dim]; masks are added to the scores."""
    q, k, v = (_fused_qkv if how.fused else _split_qkv)(net, h, how)
    root = how.head_size**0.5
    scores = net.node("MatMul", q, k)
    scores = (
        net.node("Div", scores, net.number(root))
        if how.divides
        else net.node("Mul", scores, net.number(1 / root))
    )
    for mask in masks:
        scores = net.node("Add", scores, mask)
    mixed = net.node("MatMul", net.node("Softmax", scores, axis=-1), v)
    mixed = net.reshape(net.transpose(mixed, 0, 2, 1, 3), how.batch, how.tokens, how.dim)
    return net.linear(mixed, (how.dim, how.dim))


def _split_qkv(net: NetworkBuilder, h: str, how: _Attention) -> tuple[str, ...]:
    def head(perm: tuple[int, ...]) -> str:
        projected = net.linear(h, (how.dim, how.dim))
        shape = (how.batch, how.tokens, how.heads, how.head_size)
        return net.transpose(net.reshape(projected, *shape), *perm)

    return head((0, 2, 1, 3)), head((0, 2, 3, 1)), head((0, 2, 1, 3))


def _fused_qkv(net: NetworkBuilder, h: str, how: _Attention) -> tuple[str, ...]:
    """As timm's models export: [batch, tokens, 3, heads, head size], taken apart by Gather."""
    shape = (how.batch, how.tokens, 3, how.heads, how.head_size)
    qkv = net.transpose(net.reshape(net.linear(h, (how.dim, 3 * how.dim)), *shape), 2, 0, 3, 1, 4)
    q, k, v = (net.node("Gather", qkv, net.constant(np.int64(i)), axis=0) for i in range(3))
    return q, net.transpose(k, 0, 1, 3, 2), v


def vit(
    *,
    blocks: int = 1,
    tokens: int = 196,
    heads: int = 3,
    head_size: int = 64,
    fused: bool = False,
    gelu: str = "erf",
) -> onnx.ModelProto:
    """Pre-norm transformer blocks (Dosovitskiy et al. 2020): 8 MatMuls each, 6 with weights, of
    which three are one where they are fused.
    """
    net = NetworkBuilder(opset=20 if gelu == "op" else 17)
    how, x = _Attention(tokens, heads, head_size, fused=fused), "x"
    for _ in range(blocks):
        x = _pre_norm_block(net, x, how, gelu=gelu)
    return net.model((1, tokens, how.dim), x)


def _pre_norm_block(net: NetworkBuilder, x: str, how: _Attention, *, gelu: str) -> str:
    dim = how.dim
    x = net.node("Add", x, _attend(net, net.layer_norm(x, dim), how))
    wide = net.gelu(net.linear(net.layer_norm(x, dim), (dim, 4 * dim)), gelu)
    return net.node("Add", x, net.linear(wide, (4 * dim, dim)))


def vit_classifier(*, image: int = 56, heads: int = 3) -> onnx.ModelProto:
    """A whole ViT: patches by a Conv, class token, positions, two blocks, head."""
    dim, patches = heads * 64, (image // 8) ** 2
    how = _Attention(patches + 1, heads, 64, fused=True)
    net = NetworkBuilder()
    w = net.weights(dim, 3, 8, 8, fan_in=192)
    x = net.node("Conv", "x", w, net.filled(0, dim), strides=[8, 8], kernel_shape=[8, 8])
    x = net.transpose(net.reshape(x, 1, dim, patches), 0, 2, 1)
    x = net.node("Concat", net.weights(1, 1, dim, fan_in=1), x, axis=1)
    x = net.node("Add", x, net.weights(1, patches + 1, dim, fan_in=1))
    for _ in range(2):
        x = _pre_norm_block(net, x, how, gelu="tanh")
    first = net.node("Gather", net.layer_norm(x, dim), net.constant(np.int64(0)), axis=1)
    return net.model((1, 3, image, image), net.gemm(first, (dim, 10)))


def bert(
    *, blocks: int = 2, tokens: int = 64, heads: int = 2, embedded: bool = False
) -> onnx.ModelProto:
    """Post-norm blocks on embeddings (Devlin et al. 2018), with an attention mask, decomposed
    LayerNormalization, GELU by Erf, and query, key and value apart.

    Where it is embedded, it reads the sum of the embeddings, and its mask is a constant.
    """
    how = _Attention(tokens, heads, 64, divides=True)
    net, dim = NetworkBuilder(), how.dim
    x, mask = ("x", net.filled(0, 1, 1, 1, tokens)) if embedded else _embedded(net, how)
    x = net.layer_norm(x, dim, "decomposed")
    for _ in range(blocks):
        x = net.layer_norm(net.node("Add", _attend(net, x, how, mask), x), dim, "decomposed")
        wide = net.gelu(net.linear(x, (dim, 4 * dim)))
        x = net.layer_norm(net.node("Add", net.linear(wide, (4 * dim, dim)), x), dim, "decomposed")
    first = net.node("Gather", x, net.constant(np.int64(0)), axis=1)
    pooled = net.node("Tanh", net.gemm(first, (dim, dim)))
    ids = (TensorProto.INT64, (1, tokens))
    inputs = {"ids": ids, "mask": ids}
    return net.model((1, tokens, dim), net.gemm(pooled, (dim, 3)), inputs=inputs)


def _embedded(net: NetworkBuilder, how: _Attention) -> tuple[str, str]:
    """The sum of the embeddings of words and places, and what is added to the scores."""
    words = net.node("Gather", net.weights(100, how.dim, fan_in=1), "ids", axis=0)
    x = net.node("Add", words, net.weights(1, how.tokens, how.dim, fan_in=1))
    seen = net.node("Cast", net.node("Unsqueeze", "mask", net.ints(1, 2)), to=TensorProto.FLOAT)
    return x, net.node("Mul", net.node("Sub", net.number(1), seen), net.number(-10000))


def swin(*, size: int = 14, window: int = 7, heads: int = 2) -> onnx.ModelProto:
    """Two blocks of windows, the second shifted, and the merging of patches (Liu et al. 2021)."""
    net = NetworkBuilder(opset=20)
    how = _Attention(window**2, heads, 32, batch=(size // window) ** 2, fused=True)
    x = "x"
    for shift in (0, window // 2):
        windows = _windows(net, net.layer_norm(x, how.dim), window=window, size=size, shift=shift)
        bias = net.weights(1, heads, window**2, window**2, fan_in=1)
        masks = [net.weights(how.batch, 1, window**2, window**2, fan_in=1)] if shift else []
        mixed = _attend(net, windows, how, bias, *masks)
        x = net.node("Add", x, _image(net, mixed, window=window, size=size, shift=shift))
        wide = net.gelu(net.linear(net.layer_norm(x, how.dim), (how.dim, 4 * how.dim)), "op")
        x = net.node("Add", x, net.linear(wide, (4 * how.dim, how.dim)))
    merged = net.node("MatMul", _merged(net, x, how.dim), net.weights(256, 128, fan_in=256))
    return net.model((1, size, size, how.dim), merged)


def _windows(net: NetworkBuilder, x: str, *, window: int, size: int, shift: int) -> str:
    """[1, size, size, C] -> [windows, tokens, C]."""
    n = size // window
    x = net.reshape(_rolled(net, x, shift, size), 1, n, window, n, window, -1)
    return net.reshape(net.transpose(x, 0, 1, 3, 2, 4, 5), n * n, window * window, -1)


def _image(net: NetworkBuilder, x: str, *, window: int, size: int, shift: int) -> str:
    n = size // window
    x = net.transpose(net.reshape(x, 1, n, n, window, window, -1), 0, 1, 3, 2, 4, 5)
    return _rolled(net, net.reshape(x, 1, size, size, -1), (size - shift) % size, size)


def _rolled(net: NetworkBuilder, x: str, shift: int, size: int) -> str:
    """As torch.roll exports: two slices, concatenated the other way round, for each axis."""
    for axis in (1, 2) if shift else ():
        parts = [
            net.node("Slice", x, net.ints(start), net.ints(end), net.ints(axis))
            for start, end in ((shift, size), (0, shift))
        ]
        x = net.node("Concat", *parts, axis=axis)
    return x


def _merged(net: NetworkBuilder, x: str, dim: int) -> str:
    """Every second pixel four times, concatenated and normed."""
    parts = []
    for row, column in ((0, 0), (1, 0), (0, 1), (1, 1)):
        part = x
        for axis, start in ((1, row), (2, column)):
            ends = net.ints(start), net.ints(2**31), net.ints(axis), net.ints(2)
            part = net.node("Slice", part, *ends)
        parts.append(part)
    return net.layer_norm(net.node("Concat", *parts, axis=-1), 4 * dim)
