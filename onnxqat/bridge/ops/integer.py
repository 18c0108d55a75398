"""Integer arithmetic on quantized codes, as deployed by ONNX Runtime; no gradient flows through.

Sums of products run in float64, which is exact up to 2^53 and has fast kernels everywhere.
"""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

import torch
from torch import Tensor

from onnxqat.bridge.ops.conv import conv
from onnxqat.bridge.ops.dtypes import limits
from onnxqat.bridge.ops.registry import op
from onnxqat.bridge.ops.window import Sizes

UINT8_MAX = 255


def _centred(codes: Tensor, zero_point: Tensor | None, *, axis: int) -> Tensor:
    """Codes less their zero point, which is one number, or one a slice of `axis`, or fits."""
    wide = codes.double()
    if zero_point is None:
        return wide
    return wide - _along(zero_point.double(), wide.ndim, axis=axis)


def _along(values: Tensor, rank: int, *, axis: int) -> Tensor:
    """One value a slice of an axis, shaped to broadcast."""
    if values.ndim != 1 or values.numel() == 1:
        return values.reshape(()) if values.numel() == 1 else values
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def _requantized(sums: Tensor, multiplier: Tensor, zero_point: Tensor) -> Tensor:
    """Sums times a float32 multiplier, as codes of the zero point's type."""
    low, high = limits(zero_point.dtype)
    codes = torch.round(sums.float() * multiplier) + zero_point.float()
    return codes.clamp(low, high).to(zero_point.dtype)


@op("DynamicQuantizeLinear", versions=(11,))
def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = torch.where(high == low, torch.ones_like(high), (high - low) / UINT8_MAX)
    zero_point = torch.round((-low / scale).clamp(0, UINT8_MAX))
    codes = (torch.round(x / scale) + zero_point).clamp(0, UINT8_MAX)
    return codes.to(torch.uint8), scale, zero_point.to(torch.uint8)


@op("MatMulInteger", versions=(10,))
def matmul_integer(
    A: Tensor, B: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None
) -> Tensor:
    left, right = _centred(A, a_zero_point, axis=-2), _centred(B, b_zero_point, axis=-1)
    return (left @ right).to(torch.int32)


@op("ConvInteger", versions=(10,))
def conv_integer(
    x: Tensor,
    w: Tensor,
    x_zero_point: Tensor | None = None,
    w_zero_point: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sizes | None = None,
    group: int = 1,
    kernel_shape: Sizes | None = None,
    pads: Sizes | None = None,
    strides: Sizes | None = None,
) -> Tensor:
    sums = conv(
        _centred(x, x_zero_point, axis=1),
        _centred(w, w_zero_point, axis=0),
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        pads=pads,
        strides=strides,
    )
    return sums.to(torch.int32)


@op("QLinearConv", versions=(10,))
def qlinear_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    B: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sizes | None = None,
    group: int = 1,
    kernel_shape: Sizes | None = None,
    pads: Sizes | None = None,
    strides: Sizes | None = None,
) -> Tensor:
    sums = conv(
        _centred(x, x_zero_point, axis=1),
        _centred(w, w_zero_point, axis=0),
        None if B is None else B.double(),
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        pads=pads,
        strides=strides,
    )
    multiplier = x_scale * w_scale / y_scale
    return _requantized(sums, _along(multiplier, sums.ndim, axis=1), y_zero_point)


@op("QLinearMatMul", versions=(10, 21))
def qlinear_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
) -> Tensor:
    sums = _centred(a, a_zero_point, axis=-2) @ _centred(b, b_zero_point, axis=-1)
    left, right = _along(a_scale, a.ndim, axis=-2), _along(b_scale, b.ndim, axis=-1)
    return _requantized(sums, (left * right / y_scale).float(), y_zero_point)
