"""The node tests that ONNX 1.12 shipped, the last release of opset 17, which most files are of."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

from onnxqat.bridge import to_torch
from onnxqat.core.errors import OnnxqatError
from tests.support.onnx_cases import Case, as_torch, assert_passes, is_float_inference, saved

FOLDER = Path(__file__).parents[3] / "build" / "onnx_cases" / "1.12.0"
FOLDERS = sorted(FOLDER.iterdir()) if FOLDER.exists() else []
pytestmark = pytest.mark.skipif(
    not FOLDERS, reason="not fetched: python tools/fetch_onnx_cases.py (13 MB)"
)

REFUSED = {
    r"^test_(adagrad|adam|momentum|nesterov_momentum)": "an optimizer as a graph: a training graph",
    r"^test_maxunpool_export_with_output_shape$": "its indices count in the windows' "
    "cells, those of ONNX Runtime and torch in the cells of output_shape",
    r"^test_cast(like)?_FLOAT_to_STRING": "runtimes write numbers as strings differently",
}
"""Pattern of the case's name -> why it raises."""
DIFFERENT = {
    r"^test_resize_downsample_scales_(linear|cubic)_align_corners$": "ONNX's reference divides by "
    "the scaled length before rounding it, 2.4 instead of 2; ONNX Runtime and torch by the rounded",
    r"^test_cast.*BFLOAT16": "its data has the bits of bfloat16 numbers as uint16",
    r"^test_bernoulli": "random: ONNX names no generator",
    r"^test_training_dropout(_default)?(_mask)?$": "random: ONNX names no generator",
}
"""Pattern of the case's name -> why its values are not asked for."""
FLOAT_PASS = 0.99


def is_right(folder: Path) -> bool:
    return not any(re.search(pattern, folder.name) for pattern in (*REFUSED, *DIFFERENT))


def name_of(folder: Path) -> str:
    return folder.name


@pytest.mark.parametrize("folder", filter(is_right, FOLDERS), ids=name_of)
def test_the_values_are_onnxs(folder: Path) -> None:
    assert_passes(Case(folder.name, lambda: saved(folder)))


def test_what_torch_cannot_do_right_is_an_error() -> None:
    for folder in FOLDERS:
        if any(re.search(pattern, folder.name) for pattern in REFUSED):
            model, ((inputs, _),) = saved(folder)
            with pytest.raises(OnnxqatError):
                to_torch(model)(*map(as_torch, inputs))


def test_nearly_all_cases_of_float_inference_give_the_values() -> None:
    cases = [f for f in FOLDERS if is_float_inference(f.name, onnx.load(f / "model.onnx"))]
    assert len(cases) > 590
    assert sum(map(is_right, cases)) >= FLOAT_PASS * len(cases)


def test_every_exclusion_excludes_something() -> None:
    for pattern in (*REFUSED, *DIFFERENT):
        assert any(re.search(pattern, folder.name) for folder in FOLDERS), pattern
