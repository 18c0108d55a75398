"""Identity and inference-time Dropout go, and graph inputs and outputs keep their names."""

from __future__ import annotations

import numpy as np
import pytest

from onnxqat.graph import as_graph, prepare
from tests.support.onnx_text import model_of
from tests.support.runtime import run

X = np.float32([1, -2])

CASES = {
    "inside": ("y", "a = Relu (x)  b = Identity (a)  y = Neg (b)", ["Relu", "Neg"]),
    "behind an input": ("y", "a = Identity (x)  y = Neg (a)", ["Neg"]),
    "before an output": ("y", "a = Neg (x)  y = Identity (a)", ["Neg"]),
    "before an output, read elsewhere": (
        "y, z", "a = Neg (x)  y = Identity (a)  z = Relu (a)", ["Neg", "Relu"],
    ),
    "in a row before an output": (
        "y", "a = Neg (x)  b = Identity (a)  y = Identity (b)", ["Neg"],
    ),
    "from input to output": ("y", "y = Identity (x)", ["Identity"]),
    "from an initializer to an output": ("y", "y = Identity (w)", ["Identity"]),
    "between two outputs": ("a, y", "a = Neg (x)  y = Identity (a)", ["Neg", "Identity"]),
    "two outputs of one tensor": (
        "y, z", "a = Neg (x)  y = Identity (a)  z = Identity (a)", ["Neg", "Identity"],
    ),
    "of an initializer": ("y", "a = Identity (w)  y = Add (x, a)", ["Add"]),
    "dropout": ("y", "a = Dropout (x)  y = Neg (a)", ["Neg"]),
    "dropout, said to be inference": ("y", "a = Dropout (x, r, no)  y = Neg (a)", ["Neg"]),
    "dropout in training": ("y", "a = Dropout (x, r, yes)  y = Neg (a)", ["Dropout", "Neg"]),
    "dropout whose mask is read": (
        "y, z", "a, m = Dropout (x)  y = Neg (a)  z = Not (m)", ["Dropout", "Neg", "Not"],
    ),
    "in a branch": (
        "y", """y = If (c) < then_branch = t () => (float[2] p) { p = Identity (x) },
        else_branch = e () => (float[2] q) { k = Identity (x)  q = Neg (k) } >""", ["If"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_passes_its_input_on_goes_where_names_allow(name: str) -> None:
    outputs, body, ops = CASES[name]
    kinds = {"z": "bool[2] z"} if "mask" in name else {}
    declared = ", ".join(kinds.get(o, f"float[2] {o}") for o in outputs.split(", "))
    condition = ", bool c" if "branch" in name else ""
    model = model_of(
        f"g (float[2] x{condition}) => ({declared}) {{ {body} }}",
        w=np.float32([3, 4]), r=np.float32(0), yes=np.array(True), no=np.array(False),
    )  # fmt: skip

    graph = prepare(as_graph(model))

    feeds = {"x": X} | ({"c": np.array(False)} if condition else {})
    assert [node.op for node in graph.nodes] == ops
    assert [t.name for t in graph.outputs] == outputs.split(", ")
    for old, new in zip(run(model, feeds), run(graph, feeds), strict=True):
        np.testing.assert_array_equal(new, old)


def test_a_branch_loses_the_identities_inside_it() -> None:
    outputs, body, _ = CASES["in a branch"]
    model = model_of(f"g (float[2] x, bool c) => (float[2] {outputs}) {{ {body} }}")

    (node,) = prepare(as_graph(model)).nodes

    assert [n.op for n in node.attrs["then_branch"].nodes] == ["Identity"]  # its output needs it
    assert [n.op for n in node.attrs["else_branch"].nodes] == ["Neg"]
