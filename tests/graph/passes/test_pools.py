"""Pools in the form that TensorRT compiles: the values stay the same."""

from __future__ import annotations

import numpy as np
import pytest

from onnxqat.graph import as_graph, prepare
from tests.support.onnx_text import model_of
from tests.support.runtime import needs_good_oracle, run

CASES = {
    "no padding": ("kernel_shape = [2,2]", [1, 1, 4, 4], True),
    "padding of zero": ("kernel_shape = [2,2], pads = [0,0,0,0]", [1, 1, 4, 4], True),
    "only whole windows": ("kernel_shape = [2,2], auto_pad = 'VALID'", [1, 1, 4, 4], True),
    "padding": ("kernel_shape = [2,2], pads = [1,1,0,0]", [1, 1, 5, 5], False),
    "padding by rule": ("kernel_shape = [2,2], auto_pad = 'SAME_UPPER'", [1, 1, 5, 5], False),
    "rounded up": ("kernel_shape = [2,2], strides = [2,2], ceil_mode = 1", [1, 1, 3, 3], False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_pool_counts_padding_where_it_has_none_and_computes_the_same(name: str) -> None:
    attributes, shape, is_changed = CASES[name]
    attributes = attributes.replace("'", '"')
    model = model_of(
        f"g (float[1,1,5,5] x) => (float{shape} y) {{ y = AveragePool <{attributes}> (x) }}"
    )
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 1, 5, 5)).astype(np.float32)}

    graph = prepare(as_graph(model))

    assert bool(graph.nodes[0].attrs.get("count_include_pad", 0)) == is_changed
    np.testing.assert_array_equal(run(graph, feeds)[0], run(model, feeds)[0])


WINDOWS = {  # of an input of 2 x 3
    "beyond both": ("kernel_shape = [9,9], strides = [9,9], ceil_mode = 1", [2, 3], [1, 1]),
    "beyond one": ("kernel_shape = [2,9], strides = [2,9], ceil_mode = 1", [2, 3], [1, 1]),
    "as large": ("kernel_shape = [2,3], ceil_mode = 1", [2, 3], [1, 1]),
    "rounded up": ("kernel_shape = [2,2], strides = [2,2], ceil_mode = 1", [2, 2], [1, 2]),
    "padded": ("kernel_shape = [3,4], pads = [1,1,0,0], strides = [9,9]", [3, 4], [1, 1]),
}


@needs_good_oracle
@pytest.mark.parametrize("op", ["AveragePool", "AveragePool counting", "MaxPool"])
@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_beyond_the_input_is_clipped_and_computes_the_same(name: str, op: str) -> None:
    attributes, window, shape = WINDOWS[name]
    op, *counting = op.split()
    attributes += ", count_include_pad = 1" * len(counting)
    model = model_of(
        f"g (float[1,1,2,3] x) => (float{[1, 1, *shape]} y) {{ y = {op} <{attributes}> (x) }}"
    )
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 1, 2, 3)).astype(np.float32)}

    graph = prepare(as_graph(model))

    assert graph.nodes[0].attrs["kernel_shape"] == window
    np.testing.assert_array_equal(run(graph, feeds)[0], run(model, feeds)[0])


def test_a_window_that_may_fit_a_dynamic_input_stays() -> None:
    model = model_of(
        "g (float[1,1,H,W] x) => (float[1,1,h,w] y) "
        "{ y = MaxPool <kernel_shape = [9,9], strides = [9,9], ceil_mode = 1> (x) }"
    )

    assert prepare(as_graph(model)).nodes[0].attrs["kernel_shape"] == [9, 9]
