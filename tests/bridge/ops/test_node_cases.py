"""ONNX's own node tests: each gives ONNX's values, or raises, or is listed with the reason."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

from onnxqat.bridge import to_torch
from onnxqat.core.errors import OnnxqatError
from tests.support.onnx_cases import (
    as_torch,
    assert_outputs,
    assert_passes,
    cases_of_nodes,
    is_float_inference,
    node_cases,
)

REFUSED = {
    r"FLOAT4E2M1|float4e2m1": "torch has no such element type",
    r"^test_maxunpool_export_with_output_shape$": "its indices count in the windows' "
    "cells, those of ONNX Runtime and torch in the cells of output_shape",
    r"^test_image_decoder": "reads image files: that belongs before the model",
    r"^test_regex_full_match": "Python has no safe engine for patterns of untrusted models",
    r"^test_ai_onnx_ml": "classical machine learning: nothing that is trained by gradients",
    r"^test_(adagrad|adam|momentum|nesterov_momentum)": "an optimizer as a graph: a training graph",
    r"^test_flexattention(?!.*_expanded)": "of ONNX's preview domain, which is not stable",
}
"""Pattern of the case's name -> why it raises."""

DIFFERENT = {
    r"^test_resize_downsample_scales_(linear|cubic)_align_corners$": "ONNX's reference divides by "
    "the scaled length before rounding it, 2.4 instead of 2; ONNX Runtime and torch by the rounded",
    r"^test_attention_4d(_causal)?_fp16(_expanded)?$": "16-bit sums in another order, one ulp off",
    r"^test_dft_inverse(_opset19)?$": "numpy's own rounding noise, 2e-7 where ours is 0, is more "
    "than the absolute tolerance",
    r"^test_bernoulli": "random: ONNX names no generator",
    r"^test_training_dropout(_default)?(_mask)?$": "random: ONNX names no generator",
}
"""Pattern of the case's name -> why its values are not asked for."""

FLOAT_PASS, ALL_PASS = 0.99, 0.92
"""The least part of the cases that must give ONNX's values."""


def listed(table: dict[str, str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in table)


CASES = cases_of_nodes()
REFUSED_CASES = [name for name in CASES if listed(REFUSED, name)]
RIGHT_CASES = [n for n in CASES if not listed(REFUSED, n) and not listed(DIFFERENT, n)]


@pytest.mark.parametrize("name", RIGHT_CASES)
def test_the_values_are_onnxs(name: str) -> None:
    assert_passes(CASES[name])


def has_tensors_to_fix(model: onnx.ModelProto) -> bool:
    """Whether the inputs but the first can be initializers: tensors, and no captured names."""
    kinds = [formal.type.WhichOneof("value") for formal in model.graph.input[1:]]
    return bool(kinds) and set(kinds) == {"tensor_type"}


FIXABLE = [c.name for c in node_cases() if c.name in RIGHT_CASES and has_tensors_to_fix(c.model)]


@pytest.mark.parametrize("name", FIXABLE)
def test_the_values_are_onnxs_with_all_inputs_but_the_first_as_initializers(name: str) -> None:
    case = CASES[name]
    source, data_sets = case.load()
    inputs, wanted = data_sets[0]
    model = onnx.ModelProto()
    model.CopyFrom(source)
    model.ir_version = max(model.ir_version, 4)  # before, initializers are inputs as well
    for formal, value in list(zip(model.graph.input, inputs, strict=False))[1:]:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), formal.name))
    del model.graph.input[1:]
    assert_outputs(to_torch(model)(as_torch(inputs[0])), wanted, case)


@pytest.mark.parametrize("name", REFUSED_CASES)
def test_what_torch_cannot_do_right_is_an_error(name: str) -> None:
    model, data_sets = CASES[name].load()
    for inputs, _ in data_sets:
        with pytest.raises(OnnxqatError):
            to_torch(model)(*map(as_torch, inputs))


def test_every_exclusion_excludes_something() -> None:
    for pattern in (*REFUSED, *DIFFERENT):
        assert any(re.search(pattern, name) for name in CASES), pattern


def test_nearly_all_cases_of_float_inference_give_the_values() -> None:
    cases = [case.name for case in node_cases() if is_float_inference(case.name, case.model)]
    assert len(cases) > 900
    assert sum(name in RIGHT_CASES for name in cases) >= FLOAT_PASS * len(cases)


def test_most_cases_of_any_kind_give_the_values() -> None:
    assert len(RIGHT_CASES) >= ALL_PASS * len(CASES)
