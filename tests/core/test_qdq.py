"""The numpy formula is ONNX's: to the bit as onnx.reference and ONNX Runtime have it."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnxqat.core.qdq import dequantize, fake_quantize, levels, quantize
from onnxqat.core.spec import QuantDtype

MODEL = """<ir_version: 10, opset_import: ["" : 21]>
qdq (float[a, b] x, float{RANK} s, int8{RANK} z) => (int8[a, b] q, float[a, b] y)
{{ q = QuantizeLinear <axis = {axis}> (x, s, z)  y = DequantizeLinear <axis = {axis}> (q, s, z) }}
"""
"""Opset 21: onnx.reference has no DequantizeLinear below 19."""

MODEL_FP8 = """<ir_version: 10, opset_import: ["" : 19]>
qdq (float[a, b] x, float s) => (float[a, b] y)
{ q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z) }
"""

Model = tuple[ReferenceEvaluator, ort.InferenceSession]


def _model(axis: int | None) -> Model:
    text = MODEL.replace("{RANK}", "" if axis is None else "[c]")
    proto = onnx.parser.parse_model(text.format(axis=1 if axis is None else axis))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return ReferenceEvaluator(proto), session


def _model_of_fp8() -> Model:
    proto = onnx.parser.parse_model(MODEL_FP8)
    zero = np.zeros((), ml_dtypes.float8_e4m3fn)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(zero, "z"))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return ReferenceEvaluator(proto), session


MODEL_OF_FP8 = _model_of_fp8()
MODELS = {axis: _model(axis) for axis in (None, 0, 1)}

FLOATS = st.floats(-1e6, 1e6, width=32)
SCALES = st.floats(2.0**-10, 1e6, width=32)
"""Not smaller: x / scale beyond 2**31 overflows inside onnx.reference, which then gives -128."""


@settings(max_examples=100, deadline=None)
@given(data=st.data(), axis=st.sampled_from([None, 0, 1]))
def test_codes_and_values_are_those_of_the_runtimes(data: st.DataObject, axis: int | None) -> None:
    shape = data.draw(stn.array_shapes(min_dims=2, max_dims=2, max_side=6))
    x = data.draw(stn.arrays(np.float32, shape, elements=FLOATS))
    scale_shape = () if axis is None else (shape[axis],)
    scale = data.draw(stn.arrays(np.float32, scale_shape, elements=SCALES))

    codes = quantize(x, scale, dtype=QuantDtype.INT8, axis=axis)
    values = dequantize(codes, scale, axis=axis)

    feeds = {"x": x, "s": scale, "z": np.zeros(scale_shape, np.int8)}
    reference, session = MODELS[axis]
    for expected in (reference.run(None, feeds), session.run(None, feeds)):
        np.testing.assert_array_equal(codes, expected[0])
        np.testing.assert_array_equal(values, expected[1])
    np.testing.assert_array_equal(fake_quantize(x, scale, dtype=QuantDtype.INT8, axis=axis), values)


@settings(max_examples=100, deadline=None)
@given(
    x=stn.arrays(np.float32, (3, 4), elements=st.floats(width=32)),
    scale=st.floats(2.0**-24, 1e6, width=32),
)
def test_fp8_values_are_those_of_the_runtimes(x: NDArray[np.float32], scale: float) -> None:
    values = fake_quantize(x, np.float32(scale).reshape(()), dtype=QuantDtype.FP8)

    for model in MODEL_OF_FP8:
        expected = model.run(None, {"x": x, "s": np.asarray(scale, np.float32)})[0]
        np.testing.assert_array_equal(values, expected)


def test_fp8_rounds_every_number_and_every_tie_as_ml_dtypes_does() -> None:
    bits = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    numbers = np.sort(bits[np.isfinite(bits)])
    ties = (numbers[1:] + numbers[:-1]) / 2
    x = np.concatenate([numbers, ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf)])

    codes = quantize(x, np.float32(1).reshape(()), dtype=QuantDtype.FP8)

    np.testing.assert_array_equal(codes, x.astype(ml_dtypes.float8_e4m3fn).astype(np.float32))


def test_levels_are_all_magnitudes_that_stay_as_they_are() -> None:
    finite = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)

    assert levels(QuantDtype.FP8).tolist() == finite.astype(np.float64).tolist()
    assert levels(QuantDtype.INT4).tolist() == list(range(8))


@pytest.mark.parametrize(
    ("x", "code"),
    [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (1e9, 127), (-1e9, -128), (np.inf, 127)],
)
def test_halves_go_to_the_even_code_and_what_is_too_large_to_the_limit(x: float, code: int) -> None:
    codes = quantize(np.float32([x]), np.float32(1), dtype=QuantDtype.INT8)

    assert codes.tolist() == [code]


def test_four_bit_codes_stay_within_four_bits_in_an_int8_array() -> None:
    x = np.float32([-100, -8.4, -7.5, 0, 6.5, 7.4, 100])

    codes = quantize(x, np.float32(1), dtype=QuantDtype.INT4_IN_INT8)

    assert codes.dtype == np.int8
    assert codes.tolist() == [-8, -8, -8, 0, 6, 7, 7]


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4, 5)])
def test_channels_have_their_own_scale_at_any_rank(shape: tuple[int, ...]) -> None:
    axis = min(1, len(shape) - 1)
    scale = np.arange(1, shape[axis] + 1, dtype=np.float32)
    x = np.full(shape, 12, np.float32)

    codes: NDArray[Any] = quantize(x, scale, dtype=QuantDtype.INT8, axis=axis)

    assert np.moveaxis(codes, axis, -1).reshape(-1, 3).tolist()[0] == [12, 6, 4]
