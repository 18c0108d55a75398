"""Raising the opset changes the form of operators and never what they compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import defs

from onnxqat.core.errors import ConfigError, ModelError
from onnxqat.graph import as_graph, prepare, structural_diff, to_model
from onnxqat.graph.passes.opset import NEWEST, OLDEST, UPGRADES
from tests.support.onnx_text import model_of
from tests.support.runtime import run

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Case:
    opset: int
    text: str
    feeds: dict[str, np.ndarray]
    ops: tuple[str, ...] | None = None
    """The operators afterwards at opset 13, where their number matters."""


X234 = {"x": normal(2, 3, 4)}
CASES = {
    "softmax, rest of the axes 1": Case(
        7, "g (float[2,4,1,1] x) => (float[2,4,1,1] y) { y = Softmax (x) }",
        {"x": normal(2, 4, 1, 1)}, ("Softmax",),
    ),
    "softmax over channels and positions": Case(
        7, "g (float[2,4,3,2] x) => (float[2,4,3,2] y) { y = Softmax (x) }",
        {"x": normal(2, 4, 3, 2)}, ("Flatten", "Softmax", "Reshape"),
    ),
    "softmax of a dynamic shape": Case(
        11, "g (float[n,3,m] x) => (float[n,3,m] y) { y = Softmax (x) }", X234,
    ),
    "softmax of the last axis": Case(
        11, "g (float[n,3,m] x) => (float[n,3,m] y) { y = Softmax <axis = -1> (x) }",
        X234, ("Softmax",),
    ),
    "softmax of the last but one axis": Case(
        11, "g (float[n,3,4] x) => (float[n,3,4] y) { y = Softmax <axis = -2> (x) }", X234,
    ),
    "log softmax": Case(
        9, "g (float[2,3,4] x) => (float[2,3,4] y) { y = LogSoftmax (x) }", X234,
    ),
    "hardmax": Case(11, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Hardmax (x) }", X234),
    "upsample by attribute": Case(
        7, """g (float[1,1,2,3] x) => (float[1,1,4,9] y)
        { y = Upsample <mode = "nearest", scales = [1.0, 1.0, 2.0, 3.0]> (x) }""",
        {"x": normal(1, 1, 2, 3)}, ("Resize",),
    ),
    "upsample by input, linear": Case(
        9, """g (float[1,1,2,3] x) => (float[1,1,4,6] y) <float[4] s = {1, 1, 2, 2}>
        { y = Upsample <mode = "linear"> (x, s) }""",
        {"x": normal(1, 1, 2, 3)},
    ),
    "resize of opset 10, linear": Case(
        10, """g (float[1,1,3,3] x) => (float[1,1,h,w] y) <float[4] s = {1, 1, 2, 2.5}>
        { y = Resize <mode = "linear"> (x, s) }""",
        {"x": normal(1, 1, 3, 3)},
    ),
    "resize of opset 10, nearest, larger": Case(
        10, """g (float[1,1,3,3] x) => (float[1,1,h,w] y) <float[4] s = {1, 1, 1.7, 2.2}>
        { y = Resize (x, s) }""",
        {"x": normal(1, 1, 3, 3)},
    ),
    "resize of opset 10, nearest, smaller": Case(
        10, """g (float[1,1,7,5] x) => (float[1,1,h,w] y) <float[4] s = {1, 1, 0.4, 0.6}>
        { y = Resize (x, s) }""",
        {"x": normal(1, 1, 7, 5)},
    ),
    "clip": Case(
        7, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Clip <max = 0.5, min = -0.25> (x) }", X234,
    ),
    "clip above only": Case(
        7, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Clip <max = 0.5> (x) }", X234,
    ),
    "clip of nothing": Case(7, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Clip (x) }", X234),
    "pad by a value": Case(
        7, """g (float[2,3,4] x) => (float[2,3,7] y)
        { y = Pad <pads = [0, 0, 1, 0, 0, 2], value = 2.5> (x) }""", X234,
    ),
    "pad by reflection": Case(
        7, """g (float[2,3,4] x) => (float[2,3,7] y)
        { y = Pad <mode = "reflect", pads = [0, 0, 1, 0, 0, 2]> (x) }""", X234,
    ),
    "slice": Case(
        7, """g (float[2,3,4] x) => (float[a,b,c] y)
        { y = Slice <starts = [1, -2], ends = [3, 9223372036854775807], axes = [1, 2]> (x) }""",
        X234,
    ),
    "slice of the first axes": Case(
        7, "g (float[2,3,4] x) => (float[a,b,c] y) { y = Slice <starts = [1], ends = [2]> (x) }",
        X234,
    ),
    "top k": Case(
        7, "g (float[2,3,4] x) => (float[2,3,2] y, int64[2,3,2] i) { y, i = TopK <k = 2> (x) }",
        X234,
    ),
    "dropout": Case(
        7, "g (float[2,3,4] x) => (float[2,3,4] y) { a = Dropout <ratio = 0.3> (x) y = Relu (a) }",
        X234, ("Relu",),
    ),
    "dropout of opset 12": Case(
        12, "g (float[2,3,4] x) => (float[2,3,4] y) { a = Dropout (x) y = Relu (a) }", X234,
        ("Relu",),
    ),
    "split": Case(
        11, """g (float[2,3,4] x) => (float[2,3,1] y, float[2,3,3] z)
        { y, z = Split <axis = 2, split = [1, 3]> (x) }""", X234,
    ),
    "split evenly": Case(
        11, """g (float[2,3,4] x) => (float[2,3,2] y, float[2,3,2] z)
        { y, z = Split <axis = 2> (x) }""", X234,
    ),
    "squeeze and unsqueeze": Case(
        11, """g (float[2,1,4] x) => (float[1,2,4] y)
        { a = Squeeze <axes = [1]> (x)  y = Unsqueeze <axes = [0]> (a) }""",
        {"x": normal(2, 1, 4)},
    ),
    "squeeze of all": Case(
        11, "g (float[2,1,4] x) => (float[2,4] y) { y = Squeeze (x) }", {"x": normal(2, 1, 4)},
    ),
    "reduce sum": Case(
        11, "g (float[2,3,4] x) => (float[2,4] y) { y = ReduceSum <axes = [1], keepdims = 0> (x) }",
        X234,
    ),
    "reduce sum of all": Case(
        11, "g (float[2,3,4] x) => (float[1,1,1] y) { y = ReduceSum (x) }", X234,
    ),
    "reduce mean": Case(
        11, "g (float[2,3,4] x) => (float[2,1,4] y) { y = ReduceMean <axes = [1]> (x) }", X234,
    ),
    "scatter": Case(
        10, """g (float[3,3] x, int64[1,3] i, float[1,3] u) => (float[3,3] y)
        { y = Scatter (x, i, u) }""",
        {"x": normal(3, 3), "i": np.array([[1, 0, 2]]), "u": normal(1, 3)},
    ),
    "batch normalization": Case(
        7, """g (float[1,2,3] x, float[2] s, float[2] b, float[2] m, float[2] v) => (float[1,2,3] y)
        { y = BatchNormalization <spatial = 1> (x, s, b, m, v) }""",
        {"x": normal(1, 2, 3), **{name: np.abs(normal(2)) for name in "sbmv"}},
    ),
    "roi align": Case(
        13, """g (float[1,1,4,4] x, float[1,4] r, int64[1] i) => (float[1,1,2,2] y)
        { y = RoiAlign <output_height = 2, output_width = 2> (x, r, i) }""",
        {"x": normal(1, 1, 4, 4), "r": np.float32([[0.3, 0.2, 2.9, 3.1]]), "i": np.int64([0])},
    ),
    "grid sample": Case(
        16, """g (float[1,1,4,4] x, float[1,2,2,2] p) => (float[1,1,2,2] y)
        { y = GridSample <mode = "bicubic"> (x, p) }""",
        {"x": normal(1, 1, 4, 4), "p": normal(1, 2, 2, 2) / 4},
    ),
    "inside a branch": Case(
        11, """g (float[1,3] x, bool c) => (float[n] y) { y = If (c) <
        then_branch = t () => (float[n] a) { a = Squeeze <axes = [0]> (x) },
        else_branch = e () => (float[n] b) { k = Neg (x)  b = Squeeze <axes = [0]> (k) } > }""",
        {"x": normal(1, 3), "c": np.array(False)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("target", [13, 18, 21])
@pytest.mark.parametrize("name", CASES)
def test_a_raised_graph_computes_the_same(name: str, target: int) -> None:
    """ONNX Runtime runs both, with the old operators and with the new."""
    case = CASES[name]
    model = model_of(case.text, opset=case.opset, ir=8)

    raised = to_model(prepare(as_graph(model), min_opset=target))

    onnx.checker.check_model(raised, full_check=True)
    expected = run(model, case.feeds)
    for old, new in zip(expected, run(raised, case.feeds), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-6, atol=1e-6)
    if target == 13 and case.ops is not None:
        assert tuple(node.op_type for node in raised.graph.node) == case.ops


def test_the_opset_is_never_lowered() -> None:
    graph = as_graph(model_of("g (float[2] x) => (float[2] y) { y = Relu (x) }", opset=17))

    assert prepare(graph, min_opset=13).opset == 17


def test_the_ir_version_follows_the_opset() -> None:
    graph = as_graph(model_of("g (float[2] x) => (float[2] y) { y = Relu (x) }", opset=9, ir=4))

    raised = to_model(prepare(graph, min_opset=19))

    assert (raised.opset_import[0].version, raised.ir_version) == (19, 9)


def test_the_raise_is_reported() -> None:
    graph = as_graph(
        model_of("g (float[2] x) => (float[2] y) { y = Clip <max = 1.0> (x) }", opset=9)
    )
    changes = []

    prepare(graph, on_change=changes.append)

    assert changes[0].kind == "rewrite for opset"
    assert changes[0].node == "Clip_y"
    assert any(c.detail == "the opset was 9, is 13" for c in changes)


REFUSED = {
    "spatial=0": Case(
        7, """g (float[1,2,3] x, float[2,3] s) => (float[1,2,3] y)
        { y = BatchNormalization <spatial = 0> (x, s, s, s, s) }""", {},
    ),
    "scales are computed": Case(
        10, "g (float[1,1,3,3] x, float[4] s) => (float[1,1,h,w] y) { y = Resize (x, s) }", {},
    ),
    "rounds down along one axis": Case(
        10, """g (float[1,1,3,3] x) => (float[1,1,h,w] y) <float[4] s = {1, 1, 0.5, 2}>
        { y = Resize (x, s) }""", {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("problem", REFUSED)
def test_what_has_no_equal_is_refused_with_its_node(problem: str) -> None:
    case = REFUSED[problem]

    with pytest.raises(ModelError, match=problem) as caught:
        prepare(as_graph(model_of(case.text, opset=case.opset)))

    assert caught.value.node


def test_an_opset_too_old_is_refused() -> None:
    graph = as_graph(model_of("g (float[2] x) => (float[2] y) { y = Relu (x) }", opset=6))

    with pytest.raises(ModelError, match=f"{OLDEST} is the oldest"):
        prepare(graph)


def test_an_opset_too_new_is_refused() -> None:
    graph = as_graph(model_of("g (float[2] x) => (float[2] y) { y = Relu (x) }"))

    with pytest.raises(ConfigError, match="newer than"):
        prepare(graph, min_opset=NEWEST + 1)


def _changed_forms() -> Iterator[tuple[int, str]]:
    """(opset, operator) where, by ONNX's schemas, a node may not be taken over as it is."""
    versions: dict[str, dict[int, defs.OpSchema]] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "":
            versions.setdefault(schema.name, {})[schema.since_version] = schema
    for name, schemas in sorted(versions.items()):
        ordered = sorted(schemas)
        for before, since in pairwise(ordered):
            if OLDEST < since <= NEWEST and _differs(schemas[before], schemas[since]):
                yield since, name


def _differs(old: defs.OpSchema, new: defs.OpSchema) -> bool:
    shared = old.attributes.keys() & new.attributes.keys()
    return (
        bool(old.attributes.keys() - new.attributes.keys())
        or any(_default(old, key) != _default(new, key) for key in shared)
        or any(new.attributes[key].required for key in new.attributes.keys() - shared)
        or new.min_input > old.min_input
        or (new.deprecated and not old.deprecated)
        or new.max_output < old.max_output
    )


def _default(schema: defs.OpSchema, key: str) -> str:
    return str(schema.attributes[key].default_value)


def test_every_operator_whose_form_changed_is_rewritten() -> None:
    rewritten = {(since, op) for since, ops, _ in UPGRADES for op in ops}

    assert set(_changed_forms()) <= rewritten


def test_a_graph_of_the_wished_opset_is_not_changed() -> None:
    graph = prepare(as_graph(model_of("g (float[2] x) => (float[2] y) { y = Relu (x) }")))

    assert structural_diff(graph, prepare(graph, min_opset=graph.opset)) == ()
