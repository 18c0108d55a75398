"""ONNX names survive torch's rules for parameter names."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from onnxqat.bridge import to_torch
from onnxqat.bridge.names import onnx_name, torch_name
from tests.support.onnx_text import model_of


@given(st.text(max_size=20))
def test_a_name_comes_back_as_it_was(name: str) -> None:
    assert onnx_name(torch_name(name)) == name


@given(st.sets(st.text("aF.%25", max_size=6), max_size=20))
def test_different_names_stay_different(names: set[str]) -> None:
    assert len({torch_name(name) for name in names}) == len(names)


def test_most_names_stay_as_they_are() -> None:
    for name in ("conv1_weight", "/layer1/Conv_output_0", "serving_default_input_2:0", "85"):
        assert torch_name(name) == name


@pytest.mark.parametrize("name", ["fc.weight", "", ".", "%2E", "forward", "training", "_buffers"])
def test_torch_takes_every_name(name: str) -> None:
    module = nn.Module()
    module.register_parameter(torch_name(name), nn.Parameter(torch.zeros(1)))
    assert [onnx_name(key) for key in module.state_dict()] == [name]


def test_no_attribute_of_the_module_is_a_torch_name() -> None:
    module = to_torch(model_of("g (float[n] x) => (float[n] y) {y = Relu(x)}"))
    for attribute in dir(module):
        assert torch_name(attribute) != attribute
