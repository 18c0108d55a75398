"""Declared dimensions are constants; dynamic ones stay computed."""

from __future__ import annotations

import numpy as np
import pytest

from onnxqat.graph import as_graph, prepare
from tests.support.onnx_text import model_of
from tests.support.runtime import run

CASES = {
    "the shape of a fixed input": ("2, 3", "y = Shape (x)", True),
    "the shape of a dynamic input": ("n, 3", "y = Shape (x)", False),
    "part of a shape": ("n, 3", "y = Shape <start = 1> (x)", True),
    "a fixed dimension of a dynamic input": ("n, 3", "s = Shape (x)  y = Gather (s, one)", True),
    "a dynamic dimension": ("n, 3", "s = Shape (x)  y = Gather (s, zero)", False),
    "a slice of fixed dimensions": ("n, 3, 4", "s = Shape (x)  y = Slice (s, one, end)", True),
    "a slice with a dynamic one": ("n, 3, 4", "s = Shape (x)  y = Slice (s, zero, end)", False),
    "a slice backwards": (
        "n, 3, 4", "s = Shape (x)  y = Slice (s, last, zero, zero, minus)", True,
    ),
    "pieces put together": (
        "n, 3, 4", """s = Shape (x)  a = Gather (s, two)  b = Gather (s, one)
        y = Concat <axis = 0> (a, b)""", True,
    ),
    "by way of other types and ranks": (
        "n, 3", """s = Shape (x)  a = Gather (s, i)  b = Unsqueeze (a, zero)
        c = Cast <to = 6> (b)  d = Squeeze (c)  e = Cast <to = 7> (d)  y = Unsqueeze (e, zero)""",
        True,
    ),
    "the number of elements": ("2, 3", "a = Size (x)  y = Unsqueeze (a, zero)", True),
    "a dynamic number of elements": ("n, 3", "a = Size (x)  y = Unsqueeze (a, zero)", False),
}  # fmt: skip

NUMBERS = {
    "zero": [0], "one": [1], "two": [2], "last": [-1], "minus": [-1], "end": [2**31], "i": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_follows_from_declared_dimensions_is_folded(name: str) -> None:
    shape, body, folds = CASES[name]
    numbers = {key: np.array(value, np.int64) for key, value in NUMBERS.items()}
    model = model_of(f"g (float[{shape}] x) => (int64[k] z) {{ {body}  z = Neg (y) }}", **numbers)

    graph = prepare(as_graph(model))

    computed = [node.op for node in graph.nodes if node.op in ("Shape", "Size")]
    assert (computed == []) == folds
    sizes = [int(dim) if dim.isdigit() else 5 for dim in shape.split(", ")]
    feeds = {"x": np.zeros(sizes, np.float32)}
    np.testing.assert_array_equal(run(model, feeds)[0], run(graph, feeds)[0])


@pytest.mark.parametrize("dimension", [-1, 0])
def test_a_dimension_that_an_exporter_wrote_as_no_number_is_dynamic(dimension: int) -> None:
    model = model_of("g (float[1, 3] x) => (int64[2] z) { y = Shape (x)  z = Neg (y) }")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = dimension

    graph = prepare(as_graph(model))

    assert [node.op for node in graph.nodes] == ["Shape", "Neg"]
