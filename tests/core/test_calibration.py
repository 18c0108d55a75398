"""Ranges become scales in one place, and never a scale that a runtime refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxqat.core.calibration import (
    SCALE_FLOOR,
    Calibration,
    TensorRange,
    amax_to_scale,
    scale_to_amax,
)
from onnxqat.core.errors import PlacementError
from onnxqat.core.spec import QuantDtype

DTYPES = st.sampled_from(QuantDtype)


def test_a_scale_is_the_range_over_the_largest_code() -> None:
    assert amax_to_scale(np.float64(12.7), QuantDtype.INT8) == np.float32(0.1)
    assert amax_to_scale(np.float64(14), QuantDtype.INT4_IN_INT8) == 2


@given(st.floats(0, 1e-30), DTYPES)
def test_a_dead_channel_gets_the_floor_not_zero(amax: float, dtype: QuantDtype) -> None:
    scale = amax_to_scale(np.float64(amax), dtype)

    assert scale == np.float32(SCALE_FLOOR)


def test_the_floor_survives_a_cast_of_the_network_to_fp16() -> None:
    assert np.float16(SCALE_FLOOR) > 0
    assert np.float16(SCALE_FLOOR / 2.1) == 0


@given(st.floats(2 * SCALE_FLOOR, 2.0**99, width=32), DTYPES)
def test_a_scale_stands_for_the_range_that_gives_it_back(scale: float, dtype: QuantDtype) -> None:
    value = np.asarray(scale, np.float32)

    assert amax_to_scale(scale_to_amax(value, dtype), dtype) == value


@given(st.floats(1e-4, 1e30), DTYPES)
def test_the_whole_range_is_kept(amax: float, dtype: QuantDtype) -> None:
    """To float32 rounding of the scale: amax lies within half a code of the largest one.

    From 1e-4 on: below, FP8's scale is at its floor.
    """
    scale = amax_to_scale(np.float64(amax), dtype)

    assert abs(amax / float(scale) - dtype.qmax) < 0.5


def test_scales_have_the_shape_that_onnx_wants() -> None:
    calibration = Calibration(
        (TensorRange("w", (127.0, 254.0), "max", 0), TensorRange("x", (127.0,), "max", 8))
    )

    assert calibration.scale_of("x", QuantDtype.INT8).shape == ()
    np.testing.assert_array_equal(calibration.scale_of("w", QuantDtype.INT8), np.float32([1, 2]))
    assert calibration.scale_of("w", QuantDtype.INT8).dtype == np.float32


def test_a_tensor_without_a_range_is_named() -> None:
    with pytest.raises(PlacementError) as caught:
        Calibration().scale_of("x", QuantDtype.INT8)

    assert caught.value.tensor == "x"
