"""Every kind of difference between two graphs is told in a sentence, and equal graphs have none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxqat.graph import Graph, as_graph, structural_diff
from tests.support.onnx_text import model_of


def graph() -> Graph:
    text = """net (float[n, 2] x, bool c) => (float[n, 2] y)
    { a = Add (x, w)  b = LeakyRelu <alpha = 0.5> (a)  y = If (c) <
        then_branch = t () => (float[n, 2] p) { p = Neg (b) },
        else_branch = e () => (float[n, 2] q) { q = Relu (b) } > }"""
    return as_graph(model_of(text, w=np.float32([1, 2])))


def rename_node(g: Graph) -> None:
    g.nodes[0].name = "other"


def change_op(g: Graph) -> None:
    g.nodes[0].op = "Sub"


def change_attribute(g: Graph) -> None:
    g.nodes[1].attrs["alpha"] = 0.25


def drop_attribute(g: Graph) -> None:
    del g.nodes[1].attrs["alpha"]


def swap_nodes(g: Graph) -> None:
    g.nodes[0], g.nodes[1] = g.nodes[1], g.nodes[0]


def change_value(g: Graph) -> None:
    g.nodes[0].inputs[1].values = np.float32([1, 2.0000002])


def change_sign_of_zero(g: Graph) -> None:
    g.nodes[0].inputs[1].values = np.float32([1, -0.0])


def change_dtype(g: Graph) -> None:
    g.nodes[0].inputs[1].values = np.float64([1, 2])


def rename_initializer(g: Graph) -> None:
    g.nodes[0].inputs[1].name = "v"


def swap_inputs(g: Graph) -> None:
    x, w = g.nodes[0].inputs
    g.nodes[0].inputs = [w, x]


def add_input(g: Graph) -> None:
    g.nodes[1].inputs.append(gs.Variable.empty())


def rename_output(g: Graph) -> None:
    g.outputs[0].name = "z"


def change_input_shape(g: Graph) -> None:
    g.inputs[0].shape = [1, 2]


def change_branch(g: Graph) -> None:
    g.nodes[2].attrs["else_branch"].nodes[0].op = "Abs"


def raise_opset(g: Graph) -> None:
    g.opset = 18


def add_metadata(g: Graph) -> None:
    g.metadata["key"] = "value"


def hold_more(g: Graph) -> None:
    g.held.append(gs.Constant("spare", np.float32([1])))


CHANGES: dict[Callable[[Graph], None], list[str]] = {
    rename_node: ["node 'Add_a' (Add) removed", "node 'other' (Add) added"],
    change_op: ["node 'Add_a' was Add, is Sub"],
    change_attribute: ["node 'LeakyRelu_b': attribute 'alpha' differs"],
    drop_attribute: ["node 'LeakyRelu_b': attribute 'alpha' differs"],
    swap_nodes: ["the order of the nodes differs"],
    change_value: ["initializer 'w': values differ"],
    change_sign_of_zero: ["initializer 'w': values differ"],
    change_dtype: ["initializer 'w' was float32[2], is float64[2]"],
    rename_initializer: [
        "input 1 of node 'Add_a' was 'w', is 'v'",
        "initializer 'w' removed", "initializer 'v' added",
    ],
    swap_inputs: [
        "input 0 of node 'Add_a' was 'x', is 'w'", "input 1 of node 'Add_a' was 'w', is 'x'",
    ],
    add_input: ["node 'LeakyRelu_b' had 1 inputs, has 2"],
    rename_output: [
        "graph outputs were (y: float32[n, 2]), are (z: float32[n, 2])",
        "output 0 of node 'If_y' was 'y', is 'z'",
    ],
    change_input_shape: [
        "graph inputs were (x: float32[n, 2], c: bool[]), are (x: float32[1, 2], c: bool[])"
    ],
    change_branch: ["in 'else_branch' of node 'If_y': node 'node_of_q' was Relu, is Abs"],
    raise_opset: ["opset was 17, is 18"],
    add_metadata: ["metadata 'key' added"],
    hold_more: ["initializer 'spare' added"],
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_told(change: Callable[[Graph], None]) -> None:
    after = graph()

    change(after)

    told = structural_diff(graph(), after)
    assert list(told) == CHANGES[change]


def test_equal_graphs_differ_in_nothing() -> None:
    assert structural_diff(graph(), graph()) == ()
    assert structural_diff(graph(), graph().copy()) == ()


def test_an_array_that_holds_nan_equals_itself() -> None:
    one, two = graph(), graph()
    for g in (one, two):
        g.nodes[0].inputs[1].values = np.float32([np.nan, 1])

    assert structural_diff(one, two) == ()
