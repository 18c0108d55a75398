"""The squared error of quantization, from a histogram alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxqat.calibration.error import quantization_error
from onnxqat.calibration.histogram import TensorStatistics
from onnxqat.core.calibration import amax_to_scale
from onnxqat.core.qdq import fake_quantize
from onnxqat.core.spec import QuantDtype


def direct(values: NDArray[np.float32], amax: float, dtype: QuantDtype) -> float:
    quantized = fake_quantize(values, amax_to_scale(np.array(amax), dtype), dtype=dtype)
    return float(np.square(quantized - values, dtype=np.float64).mean())


@pytest.mark.parametrize("dtype", QuantDtype)
@pytest.mark.parametrize("share", [1.3, 1.0, 0.5, 0.1, 0.02])
def test_it_is_the_error_of_quantizing_every_value(dtype: QuantDtype, share: float) -> None:
    values = np.abs(np.random.default_rng(0).laplace(size=100_000)).astype(np.float32)
    statistics = TensorStatistics()
    statistics.observe(values)
    amax = share * statistics.amax
    (error,) = quantization_error(statistics, np.array([amax]), dtype=dtype)
    # Bins a sixteenth of a step wide, and 1e5 samples of the rounding error: 2 %.
    assert error == pytest.approx(direct(values, amax, dtype), rel=0.02)


def test_each_range_has_its_own_error() -> None:
    statistics = TensorStatistics()
    statistics.observe(np.linspace(0, 1, 1001, dtype=np.float32))
    errors = quantization_error(statistics, np.array([0.5, 1.0, 2.0]), dtype=QuantDtype.INT8)
    assert errors[0] > errors[2] > errors[1] > 0


def test_a_tensor_of_zeros_has_no_error() -> None:
    statistics = TensorStatistics()
    statistics.observe(np.zeros(9, np.float32))
    assert quantization_error(statistics, np.array([1.0]), dtype=QuantDtype.INT8)[0] == 0
