"""Sizes, limits and the small arithmetic of the plain types."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import ml_dtypes
import pytest

from onnxqat.core.calibration import Calibration, TensorRange
from onnxqat.core.comparison import Comparison, LayerError
from onnxqat.core.engine_plan import EngineLayer, EnginePlan, TensorView, dense_bytes
from onnxqat.core.plan import QuantPlan
from onnxqat.core.spec import FORMATS, QuantDtype


@pytest.mark.parametrize(
    ("dtype", "qmin", "qmax"), [(QuantDtype.INT8, -128, 127), (QuantDtype.INT4_IN_INT8, -8, 7)]
)
def test_limits_are_those_of_the_integer_type(dtype: QuantDtype, qmin: int, qmax: int) -> None:
    """As ONNX has them for int8 and int4."""
    assert (dtype.qmin, dtype.qmax) == (qmin, qmax)


def test_four_bits_in_an_int8_container_alone_saturate_elsewhere_than_it_does() -> None:
    narrow = [dtype for dtype in QuantDtype if not dtype.fills_container]
    assert narrow == [QuantDtype.INT4_IN_INT8]


def test_fp8_reaches_as_far_as_e4m3_does() -> None:
    largest = float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)
    assert (QuantDtype.FP8.qmin, QuantDtype.FP8.qmax) == (-largest, largest)


def test_only_activations_of_less_than_8_bits_are_a_simulation() -> None:
    assert [name for name, entry in FORMATS.items() if entry.is_simulation] == ["w4a4"]
    assert all(f.activation.fills_container for f in FORMATS.values())


def view(name: str, nbytes: int) -> TensorView:
    return TensorView(name, (nbytes,), "Int8", nbytes)


def layer(name: str, *nodes: str, read: int = 0, written: int = 0) -> EngineLayer:
    return EngineLayer(
        name, "kgen", (view("in", read),), (view("w", 1000),), (view("out", written),), nodes
    )


def test_activation_bytes_count_what_is_read_and_written_but_no_constants() -> None:
    plan = EnginePlan("rtx", "SM89", (layer("a", read=3, written=4), layer("b", read=5)))

    assert plan.activation_bytes == 12


def test_layers_are_found_by_the_node_that_they_came_from() -> None:
    plan = EnginePlan("rtx", "SM89", (layer("a", "conv"), layer("b", "conv", "relu"), layer("c")))

    assert [found.name for found in plan.layers_of("conv")] == ["a", "b"]


@pytest.mark.parametrize(
    ("shape", "bits", "expected"), [((2, 3), 8, 6), ((3,), 4, 2), ((), 32, 4), ((0, 5), 8, 0)]
)
def test_a_tensor_s_bytes_are_rounded_up_to_whole_ones(
    shape: tuple[int, ...], bits: int, expected: int
) -> None:
    assert dense_bytes(shape, bits) == expected


def test_a_comparison_is_as_good_as_its_worst_output() -> None:
    outputs = (LayerError("a", 30.0, 0.1), LayerError("b", 20.0, 0.2))

    assert Comparison(8, outputs, None, None, None, None).sqnr_db == 20.0


@pytest.mark.parametrize("value", [QuantPlan(), Calibration(), TensorRange("x", (1.0,), "max", 1)])
def test_data_is_frozen(value: object) -> None:
    field = dataclasses.fields(value)[0].name

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)


def test_core_needs_the_standard_library_and_numpy_only() -> None:
    script = """
import pkgutil, sys, importlib, onnxqat.core
for module in pkgutil.iter_modules(onnxqat.core.__path__):
    importlib.import_module(f"onnxqat.core.{module.name}")
sys.exit(any(name in sys.modules for name in ("onnx", "torch", "onnx_graphsurgeon", "pydantic")))
"""

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
