"""ONNX's own node tests, for every registered operator.

A case either gives ONNX's values or raises; the cases that raise are listed with the reason.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase

from onnxqat.bridge import to_torch
from onnxqat.bridge.coverage import refuse_unknown
from onnxqat.core.errors import OnnxqatError, UnsupportedOpError
from onnxqat.graph import as_graph

NO_TYPE = "torch has no such element type, or none with ONNX's rounding and saturation"
NO_KERNEL = "torch has no kernels for this operator on uint16, uint32 and uint64"
REFUSED = {
    r"_e4m3fn|_e5m2|float4e2m1|FLOAT8|FLOAT4|INT4|INT2\b|INT2_|int4|int2|e8m0": NO_TYPE,
    r"_string": NO_TYPE,
    r"^test_(add|sub|div|mod|max|min|(less|greater)(_equal)?)_uint(16|32|64)": NO_KERNEL,
    r"^test_bitwise_not_3d$": NO_KERNEL,
    r"^test_training_dropout": "a training graph",
    r"antialias": "Resize with antialias is not implemented",
}
"""Pattern of the case's name -> why it raises."""

DIFFERENT = {
    r"^test_resize_downsample_scales_(linear|cubic)_align_corners$": "ONNX's reference divides by "
    "the scaled length before rounding it, 2.4 instead of 2; ONNX Runtime and torch by the rounded",
    r"^test_attention_.*_(fp16|bf16)_expanded$": "sums of 16-bit floats in another order",
    r"^test_identity_(sequence|opt)$": "the case feeds a sequence as a graph input",
}
"""Pattern of the case's name -> why its values are not asked for."""


def collected() -> dict[str, TestCase]:
    """The cases whose operators are all registered; a second call of ONNX's collector is empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases("")
    return {case.name: case for case in cases if is_covered(case.model)}


def is_covered(model: onnx.ModelProto) -> bool:
    try:
        refuse_unknown(as_graph(model))
    except UnsupportedOpError:
        return False
    except OnnxqatError:
        return False
    return True


def listed(table: dict[str, str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in table)


CASES = collected()
REFUSED_CASES = [name for name in CASES if listed(REFUSED, name)]
RIGHT_CASES = [n for n in CASES if not listed(REFUSED, n) and not listed(DIFFERENT, n)]


def as_torch(value: Any) -> torch.Tensor:
    array = onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
    array = np.asarray(array)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def as_numpy(value: torch.Tensor) -> Any:
    value = value.detach()
    return value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()


def outputs_of(case: TestCase, inputs: Any) -> tuple[torch.Tensor, ...]:
    result = to_torch(case.model)(*map(as_torch, inputs))
    return result if isinstance(result, tuple) else (result,)


def check(got: torch.Tensor, want: torch.Tensor, case: TestCase) -> None:
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    np.testing.assert_allclose(as_numpy(got), as_numpy(want), rtol=case.rtol, atol=case.atol)


@pytest.mark.parametrize("name", RIGHT_CASES)
def test_the_values_are_onnxs(name: str) -> None:
    case = CASES[name]
    for inputs, expected in case.data_sets:
        for got, want in zip(outputs_of(case, inputs), expected, strict=True):
            check(got, as_torch(want), case)


@pytest.mark.parametrize("name", [n for n in RIGHT_CASES if len(CASES[n].model.graph.input) > 1])
def test_the_values_are_onnxs_with_all_inputs_but_the_first_as_initializers(name: str) -> None:
    case = CASES[name]
    inputs, expected = case.data_sets[0]
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = max(model.ir_version, 4)  # before, initializers are inputs as well
    for formal, value in list(zip(model.graph.input, inputs, strict=False))[1:]:
        is_proto = isinstance(value, onnx.TensorProto)
        array = onnx.numpy_helper.to_array(value) if is_proto else np.asarray(value)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, formal.name))
    del model.graph.input[1:]
    result = to_torch(model)(as_torch(inputs[0]))
    for got, want in zip(result if isinstance(result, tuple) else (result,), expected, strict=True):
        check(got, as_torch(want), case)


@pytest.mark.parametrize("name", REFUSED_CASES)
def test_what_torch_cannot_do_right_is_an_error(name: str) -> None:
    case = CASES[name]
    for inputs, _ in case.data_sets:
        with pytest.raises((OnnxqatError, TypeError)):
            outputs_of(case, inputs)


def test_every_exclusion_excludes_something() -> None:
    for pattern in (*REFUSED, *DIFFERENT):
        assert any(re.search(pattern, name) for name in CASES), pattern
