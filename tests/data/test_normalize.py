"""From the values of a file to the values of an input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxqat.core.errors import ConfigError, DataError
from onnxqat.core.signature import InputSpec
from onnxqat.data import DataConfig
from onnxqat.data.normalize import InputReader

NCHW = InputSpec("x", "float32", ("n", 3, 2, 2))


def read(spec: InputSpec, array: NDArray[Any], **config: Any) -> NDArray[Any]:
    return InputReader((spec,), DataConfig(**config))({spec.name: array}, 7)[spec.name]


def test_pixels_are_divided_then_centred_then_scaled_for_each_channel() -> None:
    pixels = np.full((1, 3, 2, 2), 102, np.uint8)
    values = read(NCHW, pixels, divide_by=255, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[0, :, 0, 0], [0.6, 0.2, 0.05], rtol=1e-5)


def test_channels_are_found_in_the_last_place_too() -> None:
    spec = InputSpec("x", "float32", ("n", 2, 2, 3))
    values = read(spec, np.zeros((1, 2, 2, 3), np.uint8), mean=(1.0, 2.0, 3.0))
    np.testing.assert_array_equal(values[0, 0, 0], [-1, -2, -3])


@pytest.mark.parametrize(
    ("have", "want"), [("float16", "float32"), ("int32", "int64"), ("int16", "float32")]
)
def test_a_cast_that_changes_no_value_is_made(have: str, want: str) -> None:
    values = read(InputSpec("x", want, ("n",)), np.array([1, 2], have))
    assert values.dtype == want
    np.testing.assert_array_equal(values, [1, 2])


@pytest.mark.parametrize(
    ("have", "want"),
    [("float64", "float32"), ("int64", "int32"), ("float32", "int64"), ("int64", "float32")],
)
def test_a_cast_that_could_change_a_value_is_refused(have: str, want: str) -> None:
    with pytest.raises(DataError, match=f"input 'x' is given {have}, expected {want}"):
        read(InputSpec("x", want, ("n",)), np.array([1, 2], have))


def test_bytes_for_a_float_input_need_a_word_on_their_scale() -> None:
    pixels = np.full((1, 3, 2, 2), 200, np.uint8)
    with pytest.raises(DataError, match=r"given uint8, expected float32[\s\S]*divide_by"):
        read(NCHW, pixels)
    np.testing.assert_array_equal(read(NCHW, pixels, divide_by=1), pixels.astype(np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_its_input_and_batch(bad: float) -> None:
    values = np.zeros((1, 3, 2, 2), np.float32)
    values[0, 1, 1, 1] = bad
    with pytest.raises(DataError, match=r"input 'x' has 1 values that are NaN[\s\S]*at:  batch 7"):
        read(NCHW, values)


def test_a_wrong_shape_names_its_input_the_batch_and_what_was_expected() -> None:
    with pytest.raises(
        DataError, match=r"'x' is given shape \[1, 1, 2, 2\], expected \[n, 3, 2, 2\][\s\S]*batch 7"
    ):
        read(NCHW, np.zeros((1, 1, 2, 2), np.float32))


def test_with_several_inputs_it_must_be_said_which_are_normalized() -> None:
    specs = (NCHW, InputSpec("size", "float32", ("n", 2)))
    with pytest.raises(ConfigError, match="not said which"):
        InputReader(specs, DataConfig(divide_by=255))
    reader = InputReader(specs, DataConfig(divide_by=2, normalize=("x",)))
    arrays = {"x": np.ones((1, 3, 2, 2), np.float32), "size": np.ones((1, 2), np.float32)}
    values = reader(arrays, 0)
    assert (values["x"].max(), values["size"].max()) == (0.5, 1)


def test_a_mean_for_channels_that_the_input_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="no axis of 4 channels"):
        read(NCHW, np.zeros((1, 3, 2, 2), np.float32), mean=(1.0, 2.0, 3.0, 4.0))


@pytest.mark.parametrize(
    "wrong", [{"start": -1}, {"samples": 0}, {"divide_by": 0}, {"std": (1.0, 0.0)}, {"workers": -1}]
)
def test_settings_without_meaning_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DataConfig(**wrong)
