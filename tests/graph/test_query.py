"""Questions about graphs and their answers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxqat.core.errors import ModelError
from onnxqat.core.signature import InputSpec
from onnxqat.core.spec import Edge
from onnxqat.graph import as_graph
from onnxqat.graph.query import (
    constant_value,
    consumers,
    edges_of,
    input_specs,
    is_float,
    is_output,
    is_weight,
    nodes_by_name,
    producer,
)
from tests.support.onnx_text import model_of

GRAPH = as_graph(
    model_of(
        """net (float[n, 2] x, bool c) => (float[n, 2] y, float[n, 2] a)
        { a = Add (x, x)  y = If (c) <
          then_branch = t () => (float[n, 2] p) { p = Neg (a) },
          else_branch = e () => (float[n, 2] q) { q = MatMul (a, w) } > }""",
        w=np.eye(2, dtype=np.float32),
    )
)
X, A = GRAPH.inputs[0], GRAPH.outputs[1]
ADD, IF = GRAPH.nodes
W = IF.attrs["else_branch"].nodes[0].inputs[1]


def test_a_node_that_reads_a_tensor_twice_is_two_edges() -> None:
    assert edges_of(X) == (Edge("x", "Add_a", 0), Edge("x", "Add_a", 1))


def test_consumers_in_branches_are_found() -> None:
    assert {node.op for node, _ in consumers(A)} == {"Neg", "MatMul"}


def test_the_producer_is_the_node_that_writes_a_tensor() -> None:
    assert producer(A) is ADD
    assert producer(X) is None
    assert producer(W) is None


def test_outputs_are_known_by_the_tensor_itself() -> None:
    assert is_output(GRAPH, A)
    assert not is_output(GRAPH, X)


def test_weights_are_float_constants_of_two_dimensions_or_more() -> None:
    assert is_weight(W)
    assert not is_weight(X)
    assert not is_float(GRAPH.inputs[1])


def test_only_constants_have_a_value() -> None:
    np.testing.assert_array_equal(constant_value(W), np.eye(2))
    assert constant_value(X) is None


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_constants_have_their_full_value(flat: bool) -> None:
    model = model_of("net (float[2, 3] x) => (float[2, 3] y) { y = Relu (x) }")
    values = helper.make_tensor("s", TensorProto.FLOAT, [2], [5.0, 7.0])
    indices = [4, 5] if flat else [1, 1, 1, 2]
    places = helper.make_tensor("i", TensorProto.INT64, [2] if flat else [2, 2], indices)
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2, 3]))

    (sparse,) = as_graph(model).held

    np.testing.assert_array_equal(constant_value(sparse), np.float32([[0, 0, 0], [0, 5, 7]]))


def test_inputs_tell_names_types_and_dimensions() -> None:
    assert input_specs(GRAPH) == (
        InputSpec("x", "float32", ("n", 2)), InputSpec("c", "bool", ()),
    )  # fmt: skip


def test_dimensions_without_a_name_or_below_zero_are_none() -> None:
    model = model_of("net (float[n, m, 2] x) => (float[n, m, 2] y) { y = Relu (x) }")
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[0].Clear()
    dims[1].dim_value = -1

    assert input_specs(as_graph(model))[0].shape == (None, None, 2)


def test_an_input_that_is_no_tensor_is_named() -> None:
    model = model_of("net (float[2] x) => (float[2] y) { y = Relu (x) }")
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [2]))
    model.graph.input.append(helper.make_value_info("seq", kind))
    onnx.checker.check_model(model)

    with pytest.raises(ModelError) as caught:
        input_specs(as_graph(model))

    assert caught.value.tensor == "seq"


def test_two_nodes_of_one_name_are_an_error() -> None:
    model = model_of("net (float[2] x) => (float[2] y) { a = Relu (x)  y = Neg (a) }")
    for node in model.graph.node:
        node.name = "same"

    with pytest.raises(ModelError, match="unique names"):
        nodes_by_name(as_graph(model))
