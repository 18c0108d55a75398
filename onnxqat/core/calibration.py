"""Chosen ranges, and the one place where a range becomes a scale."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxqat.core.errors import PlacementError
from onnxqat.core.spec import QuantDtype

SCALE_FLOOR = 2.0**-24
"""Smallest scale written. Dead channels would give 0, which TensorRT refuses, and a scale below the
smallest FP16 subnormal (2**-24) turns into 0 when the network is cast to FP16 (TENSORRT.md, L4)."""


@dataclass(frozen=True)
class TensorRange:
    """The range of one tensor: |x| up to `amax` is kept.

    `amax` holds one value for per-tensor, else one for each channel, in the tensor's unit.
    """

    tensor: str
    amax: tuple[float, ...]
    method: str
    samples: int


@dataclass(frozen=True)
class Calibration:
    """The ranges of all tensors that a plan quantizes, sorted by tensor name."""

    ranges: tuple[TensorRange, ...] = ()

    @cached_property
    def by_tensor(self) -> dict[str, TensorRange]:
        """The ranges, by tensor name."""
        return {entry.tensor: entry for entry in self.ranges}

    def scale_of(self, tensor: str, dtype: QuantDtype) -> NDArray[np.float32]:
        """The scale of a tensor, float32: shape [] for one value, [C] for one a channel.

        Raises:
            PlacementError: The tensor was not calibrated.
        """
        entry = self.by_tensor.get(tensor)
        if entry is None:
            raise PlacementError(
                "the calibration has no range for a tensor that the plan quantizes",
                tensor=tensor,
                fix="calibrate the same graph and plan that you insert",
            )
        scale = amax_to_scale(np.asarray(entry.amax, np.float64), dtype)
        return scale.reshape(()) if len(entry.amax) == 1 else scale


def amax_to_scale(amax: NDArray[np.float64], dtype: QuantDtype) -> NDArray[np.float32]:
    """scale = amax / qmax, not below `SCALE_FLOOR`, rounded once to float32."""
    return np.maximum(amax / dtype.qmax, SCALE_FLOOR).astype(np.float32)


def scale_to_amax(scale: NDArray[np.float32], dtype: QuantDtype) -> NDArray[np.float64]:
    """The range that a scale stands for: the inverse of `amax_to_scale` above the floor."""
    amax: NDArray[np.float64] = scale.astype(np.float64) * dtype.qmax
    return amax
