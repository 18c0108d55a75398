"""A graph whose ranges can be set and switched off at run time."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from onnxqat.calibration.groups import RangeGroup, range_groups
from onnxqat.calibration.switches import SwitchedGraph
from onnxqat.core.calibration import Calibration, TensorRange
from onnxqat.core.plan import QuantPlan
from onnxqat.graph import Graph, insert, to_model
from tests.support.observed import plan_of, two_layers

PLAN = plan_of(("x", "first", 0), ("a", "second", 0))
AMAX = {"x": 2.0, "a": 1.5}


def inputs() -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    return {"x": np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)}


def run(graph: Graph) -> list[np.ndarray]:  # type: ignore[type-arg]
    session = ort.InferenceSession(to_model(graph).SerializeToString())
    outputs: list[np.ndarray] = session.run(None, inputs())  # type: ignore[type-arg]
    return outputs


def switched() -> tuple[SwitchedGraph, tuple[RangeGroup, ...]]:
    groups = range_groups(PLAN)
    return SwitchedGraph(two_layers(), PLAN, groups), groups


def test_with_all_switches_off_it_is_the_float_model() -> None:
    model, _ = switched()
    np.testing.assert_allclose(model(inputs(), {})[0], run(two_layers())[0], rtol=1e-5)


@pytest.mark.parametrize("tensors", [("x",), ("a",), ("a", "x")])
def test_with_switches_on_it_is_the_model_with_these_q_dq_pairs(tensors: tuple[str, ...]) -> None:
    model, groups = switched()
    some = QuantPlan(tuple(p for p in PLAN.placements if p.edge.tensor in tensors))
    ranges = tuple(TensorRange(tensor, (AMAX[tensor],), "test", 1) for tensor in tensors)
    amax = {g: AMAX[g.tensors[0]] for g in groups if g.tensors[0] in tensors}
    expected = run(insert(two_layers(), some, Calibration(ranges)))[0]
    np.testing.assert_allclose(model(inputs(), amax)[0], expected, rtol=1e-5, atol=1e-6)


def test_a_tensor_that_two_nodes_read_is_switched_for_the_planned_edge_alone() -> None:
    plan = plan_of(("h", "rectify", 0))
    group = range_groups(plan)[0]
    model = SwitchedGraph(two_layers(), plan, (group,))
    expected = run(insert(two_layers(), plan, Calibration((TensorRange("h", (0.5,), "test", 1),))))
    np.testing.assert_allclose(model(inputs(), {group: 0.5})[0], expected[0], rtol=1e-5)
