"""Ranges of weights."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxqat.calibration.weights import weight_amax
from onnxqat.core.calibration import amax_to_scale
from onnxqat.core.qdq import fake_quantize
from onnxqat.core.spec import PerChannel, PerTensor, QuantDtype, QuantSpec

INT4 = QuantDtype.INT4_IN_INT8


def weight(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_8_bit_weights_keep_the_largest_magnitude_of_each_channel(axis: int) -> None:
    w = weight(5, 6, 3, 2)
    amax, method = weight_amax(w, QuantSpec(QuantDtype.INT8, PerChannel(axis)))
    others = tuple(i for i in range(4) if i != axis)
    np.testing.assert_array_equal(amax, np.abs(w).max(axis=others))
    assert method == "max"


def test_one_range_for_all_is_one_value() -> None:
    w = weight(5, 6)
    amax, _ = weight_amax(w, QuantSpec(QuantDtype.INT8, PerTensor()))
    np.testing.assert_array_equal(amax, [np.abs(w).max()])


def test_4_bit_weights_have_less_error_in_every_channel_than_with_their_maximum() -> None:
    w = weight(16, 40)
    spec = QuantSpec(INT4, PerChannel(0))
    amax, method = weight_amax(w, spec)

    def errors(ranges: NDArray[np.float64]) -> NDArray[np.float64]:
        quantized = fake_quantize(w, amax_to_scale(ranges, INT4), dtype=INT4, axis=0)
        return np.square(quantized - w, dtype=np.float64).sum(axis=1)

    largest = np.abs(w).max(axis=1).astype(np.float64)
    assert np.all(errors(amax) <= errors(largest))
    assert errors(amax).sum() < 0.8 * errors(largest).sum()
    assert method == "mse"


def test_a_dead_channel_has_no_range_of_its_own() -> None:
    w = weight(3, 4)
    w[1] = 0
    for dtype in QuantDtype:
        amax, _ = weight_amax(w, QuantSpec(dtype, PerChannel(0)))
        assert amax[1] == 0
        assert np.all(amax[[0, 2]] > 0)
