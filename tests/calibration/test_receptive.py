"""What a node multiplies its weights with."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper

from onnxqat.calibration.receptive import sample_rows


def node_and_output(
    op: str, x: NDArray[np.float32], w: NDArray[np.float32], **attributes: Any
) -> tuple[gs.Node, NDArray[np.float32]]:
    """A node as graphsurgeon holds it, and what ONNX Runtime makes of it."""
    shape = [None] * x.ndim
    info = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    out = onnx.ValueInfoProto(name="y")
    constant = onnx.numpy_helper.from_array(w, "w")
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    graph = helper.make_graph([node], "one", [info], [out], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    output = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    return gs.import_onnx(model).nodes[0], output


def floats(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def assert_products_are_outputs(
    rows: NDArray[np.float32], matrix: NDArray[np.float32], outputs: NDArray[np.float32]
) -> None:
    """Each row times the weights is one place of the output; outputs are [places, channels]."""
    groups = rows.shape[1]
    grouped = matrix.reshape(groups, -1, matrix.shape[1])
    products = np.einsum("ngk,gck->ngc", rows, grouped).reshape(len(rows), -1)
    for product in products:
        assert np.abs(outputs - product).max(axis=1).min() < 1e-4


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        pytest.param((2, 4, 7, 9), (6, 4, 3, 3), {"pads": [1] * 4}, id="3x3"),
        pytest.param((2, 4, 7, 9), (6, 4, 1, 1), {}, id="1x1"),
        pytest.param((2, 4, 7, 9), (4, 1, 3, 3), {"pads": [1] * 4, "group": 4}, id="depthwise"),
        pytest.param((2, 4, 7, 9), (6, 2, 3, 3), {"pads": [1] * 4, "group": 2}, id="grouped"),
        pytest.param(
            (1, 2, 11, 12), (3, 2, 3, 3), {"pads": [2] * 4, "dilations": [2, 2]}, id="dilated"
        ),
        pytest.param((2, 3, 20), (5, 3, 5), {"pads": [2, 2]}, id="one dimension"),
        pytest.param((1, 2, 2, 2), (3, 2, 5, 5), {"pads": [2] * 4}, id="larger than the input"),
    ],
)
def test_rows_of_a_conv_times_its_weights_are_outputs(
    x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    weight = floats(*w)
    node, output = node_and_output("Conv", floats(*x), weight, **attributes)
    rows = sample_rows(node, floats(*x), 40, np.random.default_rng(1))
    places = np.moveaxis(output, 1, -1).reshape(-1, len(weight))
    assert_products_are_outputs(rows, weight.reshape(len(weight), -1), places)
    assert len(np.unique(rows.reshape(40, -1), axis=0)) > 2


@pytest.mark.parametrize(
    ("op", "x", "w", "attributes"),
    [
        pytest.param("MatMul", (2, 5, 8), (8, 3), {}, id="MatMul"),
        pytest.param("Gemm", (6, 8), (8, 3), {}, id="Gemm"),
        pytest.param("Gemm", (6, 8), (3, 8), {"transB": 1}, id="Gemm of transposed weights"),
        pytest.param("Gemm", (8, 6), (8, 3), {"transA": 1}, id="Gemm of a transposed input"),
    ],
)
def test_rows_of_a_product_times_its_weights_are_outputs(
    op: str, x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    weight = floats(*w)
    node, output = node_and_output(op, floats(*x), weight, **attributes)
    rows = sample_rows(node, floats(*x), 20, np.random.default_rng(1))
    matrix = weight if attributes.get("transB") else weight.T
    assert_products_are_outputs(rows, matrix, output.reshape(-1, 3))


def test_the_generator_chooses_the_rows() -> None:
    x, weight = floats(2, 4, 7, 9), floats(6, 4, 3, 3)
    node, _ = node_and_output("Conv", x, weight)
    one, again, other = (sample_rows(node, x, 9, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
