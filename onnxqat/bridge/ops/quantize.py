"""QuantizeLinear and DequantizeLinear that stand alone; pairs become fake quantizers instead."""

# ruff: noqa: D103 - an operator is documented by its ONNX page
from __future__ import annotations

import torch
from torch import Tensor

from onnxqat.bridge.ops.dtypes import converted, limits, torch_dtype, widened
from onnxqat.bridge.ops.registry import Moved, op

Versions = tuple[int, ...]


@op("QuantizeLinear", versions=(10, 13, 19, 21, 23, 24, 25, 28))
def quantize_linear(
    x: Moved,
    y_scale: Tensor,
    y_zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    if y_zero_point is None:
        kind = torch_dtype(output_dtype) if output_dtype else torch.uint8
    else:
        kind = y_zero_point.dtype
    scale = _along(y_scale, x, axis=axis, block_size=block_size)
    if precision:
        x, scale = x.to(torch_dtype(precision)), scale.to(torch_dtype(precision))
    ratio = x / scale
    if kind.is_floating_point:
        return converted(ratio, kind, saturate=bool(saturate))
    codes = torch.round(ratio)
    if y_zero_point is not None:
        zero_point = _along(widened(y_zero_point), x, axis=axis, block_size=block_size)
        codes = codes + zero_point.to(codes.dtype)
    return converted(codes.clamp(*limits(kind)), kind)


@op("DequantizeLinear", versions=(10, 13, 19, 21, 23, 24, 25, 28))
def dequantize_linear(
    x: Moved,
    x_scale: Tensor,
    x_zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    scale = _along(x_scale, x, axis=axis, block_size=block_size)
    codes = widened(x)
    if x_zero_point is not None and not codes.is_floating_point():
        zero_point = _along(widened(x_zero_point), x, axis=axis, block_size=block_size)
        codes = codes.to(torch.int32) - zero_point.to(torch.int32)
    result = codes.to(scale.dtype) * scale
    return result.to(torch_dtype(output_dtype)) if output_dtype else result


def _along(scale: Tensor, x: Tensor, *, axis: int, block_size: int) -> Tensor:
    """A scale or zero point shaped to broadcast against `x`."""
    if block_size:
        return scale.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    if scale.ndim == 0 or scale.numel() == 1:
        return scale.reshape(())
    shape = [1] * x.ndim
    shape[axis] = -1
    return scale.reshape(shape)
