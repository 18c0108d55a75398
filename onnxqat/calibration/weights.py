"""Ranges of weights, from their values alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxqat.core.calibration import amax_to_scale
from onnxqat.core.qdq import fake_quantize
from onnxqat.core.spec import PerChannel, QuantDtype, QuantSpec

Floats = NDArray[np.float64]

_CANDIDATES = np.linspace(1.0, 0.3, 71)
"""Ranges tried for 4-bit weights, relative to the largest magnitude of the channel."""


def weight_amax(weight: NDArray[np.float32], spec: QuantSpec) -> tuple[Floats, str]:
    """The range of each channel (or of the whole tensor), [C] or [1], and how it was chosen.

    8-bit weights keep everything: one outlier costs little there, in FP8 nothing. With 4 bits the
    least squared
    error of each channel is better, since a smaller range makes every other weight finer.
    """
    axis = spec.granularity.axis if isinstance(spec.granularity, PerChannel) else None
    if spec.dtype in (QuantDtype.INT8, QuantDtype.FP8):
        return _largest(weight, axis), "max"
    return _least_error(weight, axis, spec.dtype), "mse"


def _largest(weight: NDArray[np.float32], axis: int | None) -> Floats:
    magnitudes = np.abs(_channels_first(weight, axis))
    return np.asarray(magnitudes.max(axis=1, initial=0), np.float64)


def _channels_first(values: NDArray[np.float32], axis: int | None) -> NDArray[np.float32]:
    """The values as [channels, values of a channel]."""
    if axis is None:
        return values.reshape(1, -1)
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def _least_error(weight: NDArray[np.float32], axis: int | None, dtype: QuantDtype) -> Floats:
    channels = _channels_first(weight, axis)
    largest = _largest(weight, axis)
    best, least = largest.copy(), np.full(len(channels), np.inf)
    for ratio in _CANDIDATES:
        scale = amax_to_scale(largest * ratio, dtype)
        errors = np.square(fake_quantize(channels, scale, dtype=dtype, axis=0) - channels)
        error = errors.sum(axis=1, dtype=np.float64)
        better = error < least
        best[better], least[better] = (largest * ratio)[better], error[better]
    return best
