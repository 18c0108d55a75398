"""Inserting a plan adds the Q/DQ pairs that it names, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxqat.core.calibration import Calibration, TensorRange
from onnxqat.core.errors import PlacementError
from onnxqat.core.plan import Edge, Placement, QuantPlan
from onnxqat.core.qdq import fake_quantize
from onnxqat.core.spec import PerChannel, PerTensor, QuantDtype, QuantSpec, SharedSpec
from onnxqat.graph import Graph, as_graph, insert, qdq_pairs, structural_diff
from tests.support.onnx_text import model_of
from tests.support.plans import net, plans
from tests.support.runtime import run

INT8 = QuantSpec(QuantDtype.INT8, PerTensor())
NET = net()
X = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((8, 3)).astype(np.float32)


def matmul() -> Graph:
    """y = x · w, and a second reader of x."""
    text = (
        "net (float[n, 8] x) => (float[n, 3] y, float[n, 8] z) { y = MatMul (x, w) z = Relu (x) }"
    )
    return as_graph(model_of(text, w=W))


def plan_of(*placements: tuple[Edge, QuantSpec | SharedSpec]) -> QuantPlan:
    return QuantPlan(
        tuple(Placement(edge, spec, "P1", "test") for edge, spec in sorted(placements))
    )


def ranges(**amax: float | tuple[float, ...]) -> Calibration:
    return Calibration(
        tuple(
            TensorRange(name, value if isinstance(value, tuple) else (value,), "max", 1)
            for name, value in sorted(amax.items())
        )
    )


DATA = Edge("x", "MatMul_y", 0)
WEIGHT = Edge("w", "MatMul_y", 1)


def channels(dtype: QuantDtype = QuantDtype.INT8, axis: int = 1) -> QuantSpec:
    return QuantSpec(dtype, PerChannel(axis))


AMAX = tuple(float(value) for value in np.abs(W).max(0))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_only_pairs_their_initializers_and_edges_through_them_differ(data: st.DataObject) -> None:
    plan, calibration = data.draw(plans(NET))
    edges = plan.by_edge

    differences = structural_diff(NET, insert(NET, plan, calibration))

    stored = {e.tensor for e in edges if not plan.spec_of(e).dtype.fills_container}
    tensors = {edge.tensor for edge in edges}
    expected = {f"metadata 'onnxqat.{name}' added" for name in ("plan", "calibration")}
    expected |= {
        f"input {e.index} of node '{e.node}' was '{e.tensor}', is '{e.tensor}_dequantized'"
        for e in edges
    }
    for name in tensors:
        expected.add(f"initializer '{name}_zero_point' added")
        expected.add(f"node '{name}_DequantizeLinear' (DequantizeLinear) added")
        if name not in stored:
            expected.add(f"node '{name}_QuantizeLinear' (QuantizeLinear) added")
    expected |= {f"initializer '{tensors[0]}_scale' added" for tensors in _scale_tensors(plan)}
    values = {f"initializer '{name}' was" for name in stored}
    assert {d for d in differences if not any(d.startswith(v) for v in values)} == expected
    assert sum(any(d.startswith(v) for v in values) for d in differences) == len(stored)


def _scale_tensors(plan: QuantPlan) -> list[tuple[str, ...]]:
    """The tensors of each scale, first the one that names it: here a chain's first tensor."""
    leaders: dict[str, list[str]] = {}
    for edge in plan.by_edge:
        leaders.setdefault(plan.leader_of(edge).tensor, []).append(edge.tensor)
    return [(leader, *tensors) for leader, tensors in leaders.items()]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_tensor_and_its_scale_have_one_pair(data: st.DataObject) -> None:
    plan, calibration = data.draw(plans(NET))

    pairs = qdq_pairs(insert(NET, plan, calibration))

    assert sorted(p.tensor for p in pairs) == sorted({e.tensor for e in plan.by_edge})


def test_the_arguments_are_not_changed() -> None:
    graph = matmul()
    plan = plan_of((DATA, INT8), (WEIGHT, channels(QuantDtype.INT4_IN_INT8)))

    insert(graph, plan, ranges(x=2.0, w=AMAX))

    assert structural_diff(matmul(), graph) == ()


def test_a_float_weight_and_its_data_are_fake_quantized_as_the_formula_says() -> None:
    """ONNX Runtime on the file against the formula in numpy; float32 sums differ in their order."""
    plan = plan_of((DATA, INT8), (WEIGHT, channels()))
    calibration = ranges(x=2.0, w=AMAX)

    y, z = run(insert(matmul(), plan, calibration), {"x": X})

    x_scale = calibration.scale_of("x", QuantDtype.INT8)
    w_scale = calibration.scale_of("w", QuantDtype.INT8)
    expected = fake_quantize(X, x_scale, dtype=QuantDtype.INT8) @ fake_quantize(
        W, w_scale, dtype=QuantDtype.INT8, axis=1
    )
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(z, np.maximum(X, 0))  # the other reader of x stays in float


def test_a_four_bit_weight_is_stored_as_codes_under_its_own_name() -> None:
    plan = plan_of((WEIGHT, channels(QuantDtype.INT4_IN_INT8)))
    calibration = ranges(w=AMAX)

    graph = insert(matmul(), plan, calibration)

    (pair,) = qdq_pairs(graph)
    assert (pair.tensor, pair.q_node, pair.dtype, pair.axis) == ("w", None, "int8", 1)
    codes = next(node for node in graph.nodes if node.op == "DequantizeLinear").inputs[0]
    assert codes.values.dtype == np.int8
    assert (codes.values.min(), codes.values.max()) >= (-8, 7)
    y, _ = run(graph, {"x": X})
    scale = calibration.scale_of("w", QuantDtype.INT4_IN_INT8)
    weight = fake_quantize(W, scale, dtype=QuantDtype.INT4_IN_INT8, axis=1)
    np.testing.assert_allclose(y, X @ weight, rtol=1e-5, atol=1e-6)


def test_shared_edges_use_one_scale_initializer() -> None:
    text = "net (float[n, 8] x, float[n, 8] v) => (float[n, 8] y) { y = Add (x, v) }"
    leader, follower = Edge("x", "Add_y", 0), Edge("v", "Add_y", 1)
    plan = plan_of((leader, INT8), (follower, SharedSpec(leader)))

    pairs = qdq_pairs(insert(as_graph(model_of(text)), plan, ranges(x=2.0, v=2.0)))

    assert [(p.tensor, p.scale) for p in pairs] == [("x", "x_scale"), ("v", "x_scale")]


def test_one_branch_of_an_add_can_stay_in_float() -> None:
    text = "net (float[n, 8] x) => (float[n, 8] y) { y = Add (x, x) }"
    plan = plan_of((Edge("x", "Add_y", 1), INT8))

    graph = insert(as_graph(model_of(text)), plan, ranges(x=2.0))

    assert [tensor.name for tensor in graph.nodes[-1].inputs] == ["x", "x_dequantized"]


def test_pairs_stand_right_before_their_first_reader() -> None:
    plan = plan_of((DATA, INT8), (Edge("x", "Relu_z", 0), INT8), (WEIGHT, channels()))

    graph = insert(matmul(), plan, ranges(x=2.0, w=AMAX))

    assert [node.name for node in graph.nodes] == [
        "x_QuantizeLinear", "x_DequantizeLinear", "w_QuantizeLinear", "w_DequantizeLinear",
        "MatMul_y", "Relu_z",
    ]  # fmt: skip


def test_names_that_are_taken_get_a_number() -> None:
    text = "net (float[n, 8] x) => (float[n, 8] y) { x_scale = Relu (x)  y = Neg (x_scale) }"
    graph = as_graph(model_of(text))

    result = insert(graph, plan_of((Edge("x", "Relu_x_scale", 0), INT8)), ranges(x=2.0))

    (pair,) = qdq_pairs(result)
    assert pair.scale == "x_scale_2"


def test_per_channel_scales_say_their_axis_even_for_one_channel() -> None:
    text = "net (float[n, 8] x) => (float[n, 1] y) { y = MatMul (x, w) }"
    graph = as_graph(model_of(text, w=np.ones((8, 1), np.float32)))

    result = insert(graph, plan_of((WEIGHT, channels())), ranges(w=3.0))

    (pair,) = qdq_pairs(result)
    assert pair.axis == 1


BAD = {
    "no node 'none'": (plan_of((Edge("x", "none", 0), INT8)), ranges(x=1.0)),
    "the node has 2 inputs": (plan_of((Edge("x", "MatMul_y", 2), INT8)), ranges(x=1.0)),
    "reads 'x'": (plan_of((Edge("w", "MatMul_y", 0), INT8)), ranges(w=1.0)),
    "no range": (plan_of((DATA, INT8)), ranges(w=1.0)),
    "3 ranges": (plan_of((WEIGHT, INT8)), ranges(w=AMAX)),
    "2 scales for 3 channels": (plan_of((WEIGHT, channels())), ranges(w=(1.0, 2.0))),
    "axis 2 is outside": (plan_of((WEIGHT, channels(axis=2))), ranges(w=AMAX)),
    "per-channel scales are for weights": (plan_of((DATA, channels())), ranges(x=(1.0,) * 8)),
    "for constants only": (
        plan_of((DATA, replace(INT8, dtype=QuantDtype.INT4_IN_INT8))),
        ranges(x=1.0),
    ),
    "different formats": (
        plan_of((DATA, INT8), (Edge("x", "Relu_z", 0), channels())),
        ranges(x=1.0),
    ),
    "their ranges differ": (
        plan_of((DATA, INT8), (WEIGHT, SharedSpec(DATA))),
        ranges(x=1.0, w=2.0),
    ),
    "no placement": (plan_of((DATA, SharedSpec(WEIGHT))), ranges(x=1.0)),
}


@pytest.mark.parametrize("problem", BAD)
def test_a_plan_that_does_not_fit_is_refused(problem: str) -> None:
    plan, calibration = BAD[problem]

    with pytest.raises(PlacementError) as caught:
        insert(matmul(), plan, calibration)

    assert problem in caught.value.problem


def test_an_edge_that_does_not_fit_is_named() -> None:
    with pytest.raises(PlacementError, match=r"edge w -> MatMul_y\[0\]"):
        insert(matmul(), plan_of((Edge("w", "MatMul_y", 0), INT8)), ranges(w=1.0))


def test_a_weight_stored_as_codes_that_another_node_reads_in_float_is_refused() -> None:
    text = (
        "net (float[8, 8] x) => (float[8, 3] y, float[8, 3] z) { y = MatMul (x, w) z = Relu (w) }"
    )
    plan = plan_of((WEIGHT, channels(QuantDtype.INT4_IN_INT8)))

    with pytest.raises(PlacementError, match=r"also read as float(.|\n)*w -> Relu_z\[0\]"):
        insert(as_graph(model_of(text, w=W)), plan, ranges(w=AMAX))


def test_a_tensor_that_is_not_float_is_refused() -> None:
    text = "net (int64[3] i) => (int64[3] y) { y = Neg (i) }"

    with pytest.raises(PlacementError, match="this one is int64"):
        insert(as_graph(model_of(text)), plan_of((Edge("i", "Neg_y", 0), INT8)), ranges(i=1.0))
