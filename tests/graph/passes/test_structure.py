"""Names, unused parts, branches that are always taken, and model-local functions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxqat.core.errors import ModelError
from onnxqat.graph import Change, Graph, as_graph, prepare, to_model
from onnxqat.graph.graph import all_nodes
from tests.support.onnx_text import model_of
from tests.support.runtime import run

X = {"x": np.float32([1, -2])}


def prepared(model: onnx.ModelProto) -> tuple[Graph, list[Change]]:
    changes: list[Change] = []
    return prepare(as_graph(model), on_change=changes.append), changes


# Names


def test_nodes_without_a_name_or_with_another_s_get_one() -> None:
    model = model_of("g (float[2] x) => (float[2] y) { a = Neg (x)  b = Relu (a)  y = Exp (b) }")
    for node, name in zip(model.graph.node, ("", "same", "same"), strict=True):
        node.name = name

    graph, changes = prepared(model)

    assert [node.name for node in graph.nodes] == ["Neg_a", "same", "same_2"]
    assert [(c.kind, c.node) for c in changes] == [("name node", "Neg_a"), ("name node", "same_2")]


def test_new_names_do_not_take_those_of_later_nodes() -> None:
    model = model_of("g (float[2] x) => (float[2] y) { a = Neg (x)  y = Neg (a) }")
    model.graph.node[0].name, model.graph.node[1].name = "", "Neg_a"

    graph, _ = prepared(model)

    assert [node.name for node in graph.nodes] == ["Neg_a_2", "Neg_a"]


def test_nodes_in_branches_are_named_too() -> None:
    model = model_of("""g (float[2] x, bool c) => (float[2] y) { y = If (c) <
        then_branch = t () => (float[2] p) { p = Neg (x) },
        else_branch = e () => (float[2] q) { q = Relu (x) } > }""")

    graph, _ = prepared(model)

    assert sorted(node.name for node in all_nodes(graph)) == ["If_y", "Neg_p", "Relu_q"]


# Initializers that are inputs


def _restated() -> onnx.ModelProto:
    model = model_of("g (float[2] x) => (float[2] y) { y = Add (x, w) }", w=np.float32([1, 2]))
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))
    model.ir_version = 3
    onnx.checker.check_model(model)
    return model


def test_initializers_are_no_inputs_afterwards_and_that_is_told() -> None:
    graph, changes = prepared(_restated())

    assert [entry.name for entry in to_model(graph).graph.input] == ["x"]
    assert [(c.kind, c.node) for c in changes] == [("drop initializer input", "w")]
    onnx.checker.check_model(to_model(graph))  # which needs IR version 4 for that


# What nothing depends on


def test_unused_nodes_and_initializers_go_and_unused_inputs_stay() -> None:
    text = """g (float[2] x, float[2] spare) => (float[2] y)
    { a = Neg (x)  b = Add (a, w)  y = Relu (x) }"""
    model = model_of(text, w=np.float32([1, 2]), v=np.float32([3]))

    graph, changes = prepared(model)

    assert [node.op for node in graph.nodes] == ["Relu"]
    assert [tensor.name for tensor in graph.inputs] == ["x", "spare"]
    assert len(to_model(graph).graph.initializer) == 0
    assert {c.node for c in changes if c.kind == "drop unused"} == {"Add_b", "Neg_a", "v"}


def test_what_only_a_branch_reads_stays() -> None:
    text = """g (float[2] x, bool c) => (float[2] y) { a = Neg (x)  y = If (c) <
        then_branch = t () => (float[2] p) { p = Add (a, w) },
        else_branch = e () => (float[2] q) { q = Relu (x) } > }"""
    model = model_of(text, w=np.float32([1, 2]))

    graph, _ = prepared(model)

    feeds = {**X, "c": np.array(True)}
    assert [node.op for node in graph.nodes] == ["Neg", "If"]
    np.testing.assert_array_equal(run(model, feeds)[0], run(graph, feeds)[0])


def test_what_only_an_unused_branch_reads_goes() -> None:
    text = """g (float[2] x, bool c) => (float[2] y) { a = Neg (x)  u = If (c) <
        then_branch = t () => (float[2] p) { p = Exp (a) },
        else_branch = e () => (float[2] q) { q = Relu (a) } >  y = Relu (x) }"""

    graph, _ = prepared(model_of(text))

    assert [node.op for node in graph.nodes] == ["Relu"]


# Branches

BRANCHES = """g (float[2] x) => (float[2] y) <bool c = {CHOICE}> { a = Neg (x)  u = If (c) <
    then_branch = t () => (float[2] p) { k = Exp (a)  p = Add (k, x) },
    else_branch = e () => (float[2] p) { k = Relu (a)  p = Mul (k, w) } >  y = Abs (u) }"""


@pytest.mark.parametrize(
    ("choice", "ops"), [(1, ["Neg", "Exp", "Add", "Abs"]), (0, ["Neg", "Relu", "Mul", "Abs"])]
)
def test_a_branch_that_is_always_taken_moves_into_the_graph(choice: int, ops: list[str]) -> None:
    model = model_of(BRANCHES.replace("CHOICE", str(choice)), w=np.float32([3, 4]))

    graph, changes = prepared(model)

    assert [node.op for node in graph.nodes] == ops
    assert ("inline branch", "If_u") in [(c.kind, c.node) for c in changes]
    np.testing.assert_allclose(run(graph, X)[0], run(model, X)[0])


def test_two_inlined_branches_may_have_used_the_same_names() -> None:
    text = """g (float[2] x) => (float[2] y) <bool c = {1}> {
    a = If (c) < then_branch = t () => (float[2] p) { k = Exp (x)  p = Neg (k) },
                 else_branch = e () => (float[2] q) { q = Relu (x) } >
    y = If (c) < then_branch = t () => (float[2] p) { k = Abs (a)  p = Neg (k) },
                 else_branch = e () => (float[2] q) { q = Relu (a) } > }"""
    model = model_of(text)

    graph, _ = prepared(model)

    assert [node.op for node in graph.nodes] == ["Exp", "Neg", "Abs", "Neg"]
    onnx.checker.check_model(to_model(graph))
    np.testing.assert_allclose(run(graph, X)[0], run(model, X)[0])


def test_a_branch_inside_a_branch_is_inlined() -> None:
    text = """g (float[2] x) => (float[2] y) <bool c = {1}> { y = If (c) <
        then_branch = t () => (float[2] p) { k = Exp (x)  p = If (c) <
            then_branch = tt () => (float[2] pp) { pp = Neg (k) },
            else_branch = ee () => (float[2] qq) { qq = Abs (k) } > },
        else_branch = e () => (float[2] q) { q = Relu (x) } > }"""
    model = model_of(text)

    graph, _ = prepared(model)

    assert [node.op for node in graph.nodes] == ["Exp", "Neg"]
    np.testing.assert_allclose(run(graph, X)[0], run(model, X)[0])


# Functions


def _with_function(opset: int = 17) -> onnx.ModelProto:
    model = model_of("g (float[2] x) => (float[2] y) { a = Neg (x)  y = Add (a, w) }",
                     w=np.zeros(2, np.float32))  # fmt: skip
    body = [helper.make_node("Mul", ["p", "p"], ["t"]), helper.make_node("Exp", ["t"], ["q"])]
    opsets = [helper.make_opsetid("", opset)]
    model.functions.append(helper.make_function("local", "F", ["p"], ["q"], body, opsets))
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[0].CopyFrom(helper.make_node("F", ["x"], ["a"], domain="local", name="call"))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.float32([1, 2]), "w"))
    return model


def test_functions_become_nodes_of_the_graph() -> None:
    model = _with_function()

    graph, changes = prepared(model)

    assert [node.op for node in graph.nodes] == ["Mul", "Exp", "Add"]
    assert changes[0] == Change("inline function", "F", changes[0].detail)
    np.testing.assert_allclose(run(graph, X)[0], run(model, X)[0])


def test_big_weights_survive_the_inlining_of_functions() -> None:
    text = "g (float[2, 64] x) => (float[2, 64] y) { a = Neg (x)  y = MatMul (a, w) }"
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    model = model_of(text, w=weight)
    model.functions.extend(_with_function().functions)
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[0].CopyFrom(helper.make_node("F", ["x"], ["a"], domain="local", name="call"))

    graph, _ = prepared(model)

    feeds = {"x": np.ones((2, 64), np.float32)}
    assert [tensor.name for tensor in graph.inputs] == ["x"]
    np.testing.assert_allclose(run(graph, feeds)[0], run(model, feeds)[0], rtol=1e-6)


def test_a_function_for_another_opset_is_refused() -> None:
    with pytest.raises(ModelError, match="'F' is written for opset 15"):
        prepared(_with_function(opset=15))
