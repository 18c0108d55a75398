"""Q/DQ files as onnxruntime.quantization writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

Samples = dict[str, NDArray[np.float32]]
"""The calibration data, by input name."""

FOR_TENSORRT = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,
    "DedicatedQDQPair": True,
    "QuantizeBias": False,
}
"""The settings with which TensorRT takes the file."""


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, samples: NDArray[np.float32]) -> None:
        self._batches: Iterator[dict[str, NDArray[np.float32]]] = iter([{name: samples}])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


def quantize_for_tensorrt(
    source: Path, target: Path, samples: dict[str, NDArray[np.float32]]
) -> None:
    """INT8, symmetric, with the settings that TensorRT takes; per-channel weights."""
    _quantize(source, target, samples, QuantType.QInt8, FOR_TENSORRT)


def quantize_by_default(
    source: Path, target: Path, samples: dict[str, NDArray[np.float32]]
) -> None:
    """UINT8 activations with zero points, and int32 biases."""
    _quantize(source, target, samples, QuantType.QUInt8, {})


def _quantize(
    source: Path,
    target: Path,
    samples: Samples,
    activation: QuantType,
    extra: dict[str, bool],
) -> None:
    ((name, array),) = samples.items()
    quantize_static(
        source,
        target,
        _Reader(name, array),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=activation,
        weight_type=QuantType.QInt8,
        extra_options=extra,
    )
