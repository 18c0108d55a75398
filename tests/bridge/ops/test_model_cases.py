"""ONNX's own tests of whole models: small graphs, PyTorch's early exports, well-known nets."""

from __future__ import annotations

import pytest

from onnxqat.bridge import to_torch
from onnxqat.core.errors import UnsupportedOpError
from tests.support.onnx_cases import LIGHT, assert_passes, cases_of_models

KINDS = ("simple", "pytorch-operator", "pytorch-converted", LIGHT)
CASES = {f"{kind}/{n}": case for kind in KINDS for n, case in cases_of_models(kind).items()}
REFUSED = {
    f"simple/test_gradient_of_{what}": "the Gradient operator of ONNX's training preview"
    for what in ("add", "add_and_mul")
}


@pytest.mark.parametrize("name", [name for name in CASES if name not in REFUSED])
def test_the_values_are_onnxs(name: str) -> None:
    assert_passes(CASES[name])


@pytest.mark.parametrize("name", REFUSED)
def test_a_training_graph_is_an_error(name: str) -> None:
    model, _ = CASES[name].load()
    with pytest.raises(UnsupportedOpError, match="Gradient"):
        to_torch(model)
