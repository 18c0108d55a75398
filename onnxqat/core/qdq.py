"""Quantize, dequantize and both, in numpy: the ONNX formula to the letter.

This is the oracle for every other implementation in the package.
Source: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxqat.core.spec import QuantDtype

FloatArray = NDArray[np.float32]


def along(scale: FloatArray, axis: int | None, ndim: int) -> FloatArray:
    """Shape a scale to broadcast against a tensor of rank `ndim`.

    Args:
        scale: Shape [] for per-tensor, [C] for per-channel.
        axis: The channel axis, or None for per-tensor.
        ndim: Rank of the tensor that is quantized.
    """
    if axis is None:
        return scale.reshape(())
    shape = [1] * ndim
    shape[axis] = -1
    return scale.reshape(shape)


def quantize(
    x: FloatArray, scale: FloatArray, *, dtype: QuantDtype, axis: int | None = None
) -> NDArray[np.int8]:
    """Codes of `x`: saturate(round_half_to_even(x / scale)), in float32 like the runtimes."""
    rounded = np.rint(x / along(scale, axis, x.ndim))
    codes: NDArray[np.int8] = np.clip(rounded, dtype.qmin, dtype.qmax).astype(np.int8)
    return codes


def dequantize(
    codes: NDArray[np.int8], scale: FloatArray, *, axis: int | None = None
) -> FloatArray:
    """Values of the codes, float32."""
    values: FloatArray = codes.astype(np.float32) * along(scale, axis, codes.ndim)
    return values


def fake_quantize(
    x: FloatArray, scale: FloatArray, *, dtype: QuantDtype, axis: int | None = None
) -> FloatArray:
    """The values that `x` becomes through a Q/DQ pair, float32."""
    return dequantize(quantize(x, scale, dtype=dtype, axis=axis), scale, axis=axis)
