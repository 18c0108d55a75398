"""Quantize, dequantize and both, in numpy: the ONNX formula to the letter.

This is the oracle for every other implementation in the package.
Source: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxqat.core.spec import QuantDtype

FloatArray = NDArray[np.float32]

_E4M3_MANTISSA_BITS, _E4M3_MIN_EXPONENT = 3, -6
"""Of FP8's E4M3: below 2^-6 its numbers are subnormal, a fixed 2^-9 apart.

Source: Micikevicius et al. 2022, "FP8 formats for deep learning", arXiv:2209.05433, table 1.
"""


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
) -> NDArray[Any]:
    """Codes of `x`: saturate(round_half_to_even(x / scale)), in float32 like the runtimes.

    Integers are int8; FP8 numbers are float32 that FP8 holds exactly, for numpy has no FP8.
    """
    ratio = x / along(scale, axis, x.ndim)
    if dtype.is_float:
        return _round_to_e4m3(np.clip(ratio, dtype.qmin, dtype.qmax))
    codes: NDArray[np.int8] = np.clip(np.rint(ratio), dtype.qmin, dtype.qmax).astype(np.int8)
    return codes


def _round_to_e4m3(x: FloatArray) -> FloatArray:
    """The nearest numbers of E4M3, ties to the even mantissa; |x| is at most its largest."""
    exponent = np.maximum(np.frexp(x)[1] - 1, _E4M3_MIN_EXPONENT)
    step = np.ldexp(np.float32(1), exponent - _E4M3_MANTISSA_BITS)
    rounded: FloatArray = np.rint(x / step) * step
    return rounded


def levels(dtype: QuantDtype) -> NDArray[np.float64]:
    """The codes from 0 on, ascending: `scale * levels` are the magnitudes that stay as they are."""
    if not dtype.is_float:
        return np.arange(dtype.qmax + 1, dtype=np.float64)
    bits = np.arange(2 ** (4 + _E4M3_MANTISSA_BITS) - 1)  # the last would be NaN
    exponent, mantissa = bits >> _E4M3_MANTISSA_BITS, bits & (2**_E4M3_MANTISSA_BITS - 1)
    leading = np.where(exponent > 0, 2**_E4M3_MANTISSA_BITS, 0)
    shift = np.maximum(exponent, 1) - 1 + _E4M3_MIN_EXPONENT - _E4M3_MANTISSA_BITS
    return np.asarray(np.ldexp((leading + mantissa).astype(np.float64), shift))


def dequantize(codes: NDArray[Any], scale: FloatArray, *, axis: int | None = None) -> FloatArray:
    """Values of the codes, float32."""
    values: FloatArray = codes.astype(np.float32) * along(scale, axis, codes.ndim)
    return values


def fake_quantize(
    x: FloatArray, scale: FloatArray, *, dtype: QuantDtype, axis: int | None = None
) -> FloatArray:
    """The values that `x` becomes through a Q/DQ pair, float32."""
    return dequantize(quantize(x, scale, dtype=dtype, axis=axis), scale, axis=axis)
