"""ONNX Runtime's own operators that exporters and its optimizer commonly write.

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

# ruff: noqa: D103 - an operator is documented by its page
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from onnxqat.bridge.ops.activation import softmax_of_matrix, swish
from onnxqat.bridge.ops.constant import trilu
from onnxqat.bridge.ops.conv import conv
from onnxqat.bridge.ops.indexing import gather_nd
from onnxqat.bridge.ops.matmul import gemm
from onnxqat.bridge.ops.norm import layer_normalization
from onnxqat.bridge.ops.quantize import dequantize_linear, quantize_linear
from onnxqat.bridge.ops.recurrent import activation as activation_of
from onnxqat.bridge.ops.region import grid_sample_16
from onnxqat.bridge.ops.registry import Ints, Outputs, Scalar, Weight, op
from onnxqat.bridge.ops.window import Sizes

DOMAIN = "com.microsoft"
FIRST = (1,)


@op("Gelu", domain=DOMAIN, versions=FIRST)
def gelu(X: Tensor) -> Tensor:
    return functional.gelu(X)


@op("FastGelu", domain=DOMAIN, versions=FIRST)
def fast_gelu(X: Tensor, bias: Weight | None = None) -> Tensor:
    return functional.gelu(X if bias is None else X + bias, approximate="tanh")


@op("BiasGelu", domain=DOMAIN, versions=FIRST)
def bias_gelu(A: Tensor, B: Weight) -> Tensor:
    return functional.gelu(A + B)


@op("QuickGelu", domain=DOMAIN, versions=FIRST)
def quick_gelu(X: Tensor, *, alpha: float = 1.702) -> Tensor:
    return swish(X, alpha=alpha)


@op("BiasSplitGelu", domain=DOMAIN, versions=FIRST)
def bias_split_gelu(X: Tensor, bias: Weight) -> Tensor:
    left, right = (X + bias).chunk(2, -1)
    return left * functional.gelu(right)


@op("BiasAdd", domain=DOMAIN, versions=FIRST)
def bias_add(X: Tensor, bias: Weight, skip: Tensor) -> Tensor:
    return X + bias + skip


@op("BiasSoftmax", domain=DOMAIN, versions=FIRST)
def bias_softmax(data: Tensor, bias: Tensor, *, axis: int = 1, is_inner_broadcast: int) -> Tensor:
    return softmax_of_matrix(data + bias, axis=axis % data.ndim)


@op("SkipLayerNormalization", domain=DOMAIN, versions=FIRST)
def skip_layer_normalization(
    input: Tensor,
    skip: Tensor,
    gamma: Weight,
    beta: Weight | None = None,
    bias: Weight | None = None,
    *,
    epsilon: float = 1e-12,
    outputs: Outputs = 1,
) -> Tensor | tuple[Tensor, ...]:
    total = input + skip if bias is None else input + skip + bias
    if outputs == 1:
        return layer_normalization(total, gamma, beta, epsilon=epsilon)
    normalized = layer_normalization(total, gamma, beta, epsilon=epsilon, outputs=3)
    return (*normalized, total)[:outputs]


@op("SkipSimplifiedLayerNormalization", domain=DOMAIN, versions=FIRST)
def skip_simplified_layer_normalization(
    input: Tensor,
    skip: Tensor,
    gamma: Weight,
    bias: Weight | None = None,
    *,
    epsilon: float = 1e-12,
    outputs: Outputs = 1,
) -> Tensor | tuple[Tensor, ...]:
    total = input + skip if bias is None else input + skip + bias
    square = total.square().mean(-1, keepdim=True)
    inverse = torch.rsqrt(square + epsilon)
    y = total * inverse * gamma
    return y if outputs == 1 else (y, torch.zeros_like(square), inverse, total)[:outputs]


@op("EmbedLayerNormalization", domain=DOMAIN, versions=FIRST)
def embed_layer_normalization(
    input_ids: Tensor,
    segment_ids: Tensor | None,
    word_embedding: Weight,
    position_embedding: Weight,
    segment_embedding: Weight | None,
    gamma: Weight,
    beta: Weight,
    mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int = 0,
    outputs: Outputs = 1,
) -> Tensor | tuple[Tensor, ...]:
    length = input_ids.shape[1]
    places = torch.arange(length, device=input_ids.device) if position_ids is None else position_ids
    total = functional.embedding(input_ids, word_embedding)
    total = total + functional.embedding(places, position_embedding)
    if segment_ids is not None and segment_embedding is not None:
        total = total + functional.embedding(segment_ids, segment_embedding)
    y = functional.layer_norm(total, total.shape[-1:], gamma, beta, epsilon)
    if mask is None:
        counts = torch.zeros(input_ids.shape[0], dtype=torch.int32, device=y.device)
    else:
        counts = mask.sum(1, dtype=torch.int32)
    return y if outputs == 1 else (y, counts, total)[:outputs]


def _activated(x: Tensor, name: str | None, *parameters: float | None) -> Tensor:
    """An activation that a kernel ends with; `parameters` as its file has them."""
    if not name:
        return x
    given = [value for value in parameters if value is not None]
    if name == "Clip":
        return x.clamp(*given)
    function: Callable[[Tensor], Tensor] = activation_of(name, *(iter((v,)) for v in given))
    return function(x)


@op("FusedConv", domain=DOMAIN, versions=FIRST)
def fused_conv(
    X: Tensor,
    W: Weight,
    B: Weight | None = None,
    Z: Tensor | None = None,
    *,
    activation: str | None = None,
    activation_params: tuple[float, ...] | None = None,
    auto_pad: str = "NOTSET",
    dilations: Sizes | None = None,
    group: int = 1,
    kernel_shape: Sizes | None = None,
    pads: Sizes | None = None,
    strides: Sizes | None = None,
) -> Tensor:
    y = conv(
        X, W, B, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides
    )
    return _activated(y if Z is None else y + Z, activation, *(activation_params or ()))


@op("FusedGemm", domain=DOMAIN, versions=FIRST)
def fused_gemm(
    A: Weight,
    B: Weight,
    C: Weight | None = None,
    *,
    activation: str | None = None,
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    y = gemm(A, B, C, alpha=alpha, beta=beta, transA=transA, transB=transB)
    return _activated(y, activation, activation_alpha, activation_beta, activation_gamma)


@op("FusedMatMul", domain=DOMAIN, versions=FIRST)
def fused_matmul(
    A: Weight,
    B: Weight,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Tensor:
    left = _transposed(A, bool(transA), bool(transBatchA))
    right = _transposed(B, bool(transB), bool(transBatchB))
    y = torch.matmul(left, right)
    return y if alpha == 1.0 else y * alpha


@op("TransposeMatMul", domain=DOMAIN, versions=FIRST)
def transpose_matmul(
    A: Weight, B: Weight, *, alpha: float = 1.0, transA: int = 0, transB: int = 0
) -> Tensor:
    return fused_matmul(A, B, alpha=alpha, transA=transA, transB=transB)


def _transposed(x: Tensor, inner: bool, batch: bool) -> Tensor:
    x = x.movedim(0, -2) if batch and x.ndim > 2 else x
    return x.transpose(-1, -2) if inner and x.ndim > 1 else x


@op("Trilu", domain=DOMAIN, versions=FIRST)
def trilu_of_runtime(X: Tensor, k: Ints | None = None, *, upper: int = 1) -> Tensor:
    return trilu(X, k, upper=upper)


@op("GridSample", domain=DOMAIN, versions=FIRST)
def grid_sample(
    X: Tensor,
    Grid: Tensor,
    *,
    align_corners: int = 0,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
) -> Tensor:
    return grid_sample_16(
        X, Grid, align_corners=align_corners, mode=mode, padding_mode=padding_mode
    )


@op("GatherND", domain=DOMAIN, versions=FIRST)
def gather_nd_of_runtime(data: Tensor, indices: Tensor) -> Tensor:
    return gather_nd(data, indices)


@op("ExpandDims", domain=DOMAIN, versions=FIRST)
def expand_dims(X: Tensor, axis: Scalar) -> Tensor:
    return X.unsqueeze(int(axis))


@op("QuantizeLinear", domain=DOMAIN, versions=FIRST)
def quantize_linear_of_runtime(
    x: Tensor, y_scale: Tensor, y_zero_point: Tensor | None = None, *, axis: int = 1
) -> Tensor:
    return quantize_linear(x, y_scale, y_zero_point, axis=axis)


@op("DequantizeLinear", domain=DOMAIN, versions=FIRST)
def dequantize_linear_of_runtime(
    x: Tensor, x_scale: Tensor, x_zero_point: Tensor | None = None, *, axis: int = 1
) -> Tensor:
    return dequantize_linear(x, x_scale, x_zero_point, axis=axis)
