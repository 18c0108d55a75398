"""What only constants decide is computed once, unless it is large, random, or a format."""

from __future__ import annotations

import numpy as np
import pytest

from onnxqat.graph import Change, as_graph, prepare, to_model
from tests.support.onnx_text import model_of
from tests.support.runtime import run

X = {"x": np.float32([1, -2, 3])}


def ops(body: str, outputs: str = "float[n] y", **weights: np.ndarray) -> list[str]:
    model = model_of(f"g (float[3] x) => ({outputs}) {{ {body} }}", **weights)
    graph = prepare(as_graph(model))
    for old, new in zip(run(model, X), run(graph, X), strict=True):
        np.testing.assert_array_equal(new, old)
    return [node.op for node in graph.nodes]


VALUES = ["value = float {2}", "value_float = 2.0", "value_floats = [2.0]"]


@pytest.mark.parametrize("value", VALUES)
def test_constant_nodes_become_initializers(value: str) -> None:
    assert ops(f"c = Constant <{value}> ()  y = Mul (x, c)") == ["Mul"]


@pytest.mark.parametrize("value", ["value_int = 1", "value_ints = [1]"])
def test_integer_constant_nodes_become_initializers(value: str) -> None:
    assert ops(f"c = Constant <{value}> ()  y = Gather (x, c)", "float y") == ["Gather"]


def test_a_constant_that_is_an_output_stays_a_node() -> None:
    assert ops("y = Constant <value_floats = [1.0]> ()") == ["Constant"]


def test_a_chain_of_constants_becomes_one() -> None:
    changes: list[Change] = []
    text = "g (float[3] x) => (float[3] y) { a = Neg (w)  b = Exp (a)  y = Mul (x, b) }"

    graph = prepare(as_graph(model_of(text, w=np.float32([1, 2, 3]))), on_change=changes.append)

    assert [tensor.name for tensor in to_model(graph).graph.initializer] == ["b"]
    assert [(c.kind, c.node) for c in changes[:2]] == [
        ("fold constant", "Neg_a"), ("fold constant", "Exp_b"),
    ]  # fmt: skip


def test_several_outputs_are_folded_together() -> None:
    split = "a, b = Split <axis = 0> (w, s)  c = Mul (x, a)  y = Add (c, b)"

    assert ops(split, w=np.float32([2, 3]), s=np.int64([1, 1])) == ["Mul", "Add"]


def test_a_result_much_larger_than_its_source_is_not_stored() -> None:
    """4 MB out of 4 bytes."""
    text = "g (float[1048576] x) => (float[1048576] y) { a = Expand (w, s)  y = Add (x, a) }"
    model = model_of(text, w=np.float32([1]), s=np.int64([2**20]))

    graph = prepare(as_graph(model))

    assert [node.op for node in graph.nodes] == ["Expand", "Add"]


def test_a_huge_result_is_not_even_computed() -> None:
    """2**40 elements would end the process."""
    text = """g (int64[1] i) => (int64[1] y)
    { a = ConstantOfShape <value = int64[1] {1}> (s)  y = Gather (a, i) }"""

    graph = prepare(as_graph(model_of(text, s=np.int64([2**40]))))

    assert [node.op for node in graph.nodes] == ["ConstantOfShape", "Gather"]


def test_a_large_weight_may_be_transposed() -> None:
    text = "g (float[2, 1024] x) => (float[2, 1024] y) { t = Transpose (w)  y = MatMul (x, t) }"
    model = model_of(text, w=np.ones((1024, 1024), np.float32))

    assert [node.op for node in prepare(as_graph(model)).nodes] == ["MatMul"]


def test_random_numbers_stay_random() -> None:
    text = "g (float[3] x) => (float[3] y) { r = RandomNormalLike (w)  y = Add (x, r) }"

    graph = prepare(as_graph(model_of(text, w=np.float32([1, 2, 3]))))

    assert [node.op for node in graph.nodes] == ["RandomNormalLike", "Add"]


def test_operators_of_other_domains_stay() -> None:
    model = model_of("g (float[3] x) => (float[3] y) { a = Relu (w)  y = Add (x, a) }",
                     w=np.float32([1, 2, 3]))  # fmt: skip
    model.graph.node[0].domain = "com.acme"
    model.opset_import.add(domain="com.acme", version=1)

    assert [node.op for node in prepare(as_graph(model)).nodes] == ["Relu", "Add"]


def test_constants_inside_a_branch_are_folded() -> None:
    text = """g (float[3] x, bool c) => (float[3] y) { y = If (c) <
        then_branch = t () => (float[3] p) { a = Neg (w)  p = Add (x, a) },
        else_branch = e () => (float[3] q) { k = Constant <value_float = 2.0> ()  q = Mul (x, k) } >
    }"""
    model = model_of(text, w=np.float32([1, 2, 3]))

    graph = prepare(as_graph(model))

    (node,) = graph.nodes
    assert [n.op for n in node.attrs["then_branch"].nodes] == ["Add"]
    assert [n.op for n in node.attrs["else_branch"].nodes] == ["Mul"]
    for choice in (False, True):
        feeds = {**X, "c": np.array(choice)}
        np.testing.assert_array_equal(run(model, feeds)[0], run(graph, feeds)[0])


@pytest.mark.parametrize("opset", [9, 12, 13, 17])
def test_weights_that_are_normalized_by_their_own_statistics_become_constants(opset: int) -> None:
    mode = "<training_mode = 1>" if opset > 13 else ""
    further = "running_m, running_v" if opset > 13 else "running_m, running_v, m, v"
    draw = np.random.default_rng(0)
    weights = {"w": (1, 4, 9), "s": (4,), "b": (4,), "mean": (4,), "var": (4,)}
    model = model_of(
        f"""g (float[2, 4, 9] x) => (float[2, 4, 9] y) {{
            n, {further} = BatchNormalization {mode} (w, s, b, mean, var)  y = Mul (x, n) }}""",
        opset=opset,
        **{name: draw.uniform(0.5, 1, shape).astype(np.float32) for name, shape in weights.items()},
    )
    x = draw.standard_normal((2, 4, 9)).astype(np.float32)

    graph = prepare(as_graph(model))

    assert [node.op for node in graph.nodes] == ["Mul"]
    np.testing.assert_allclose(run(graph, {"x": x})[0], run(model, {"x": x})[0], atol=1e-5)
