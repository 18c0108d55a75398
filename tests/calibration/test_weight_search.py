"""Ranges of weights by the error that they make in a node's output."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxqat.calibration import weight_search
from onnxqat.calibration.groups import RangeGroup, constants_of
from onnxqat.calibration.weight_search import search_weights
from onnxqat.calibration.weights import weight_amax
from onnxqat.core.calibration import amax_to_scale
from onnxqat.core.plan import Placement, QuantPlan
from onnxqat.core.qdq import fake_quantize
from onnxqat.core.spec import Edge, PerChannel, QuantDtype, QuantSpec
from onnxqat.data import Batch
from onnxqat.graph import Graph
from tests.support.observed import INT8, parsed, weight_spec

every_format = pytest.mark.parametrize("dtype", QuantDtype)

NET = """
    <ir_version: 9, opset_import: ["" : 17]>
    net (float[n, 24] x) => (float[n, 16] y) <float[24, 16] w>
    {
        [multiply] y = MatMul(x, w)
    }
"""


def net(rows: int = 24) -> Graph:
    w = np.random.default_rng(0).normal(size=(rows, 16)).astype(np.float32)
    return parsed(NET.replace("24", str(rows)), w=w)


def batches(rows: int = 24, seed: int = 1) -> list[Batch]:
    """Inputs whose values are much alike, as neighbouring pixels are."""
    generator = np.random.default_rng(seed)
    level = generator.normal(size=(256, 1))
    x = (level + 0.2 * generator.normal(size=(256, rows))).astype(np.float32)
    return [Batch({"x": part}, None, len(part)) for part in np.split(x, 8)]


def plan_of(spec: QuantSpec) -> QuantPlan:
    return QuantPlan((Placement(Edge("w", "multiply", 1), spec, "test", ""),))


def searched(
    graph: Graph, spec: QuantSpec, data: list[Batch]
) -> dict[RangeGroup, NDArray[np.float64]]:
    return search_weights(graph, plan_of(spec), constants_of(graph), data)


def output_errors(
    graph: Graph, amax: NDArray[np.float64], dtype: QuantDtype, data: list[Batch]
) -> NDArray[np.float64]:
    """The squared error of each output channel, worked out on all the data."""
    w = constants_of(graph)["w"]
    x = np.concatenate([batch.inputs["x"] for batch in data])
    quantized = fake_quantize(w, amax_to_scale(amax, dtype), dtype=dtype, axis=1)
    return np.square(x @ (quantized - w), dtype=np.float64).sum(axis=0)


@every_format
@pytest.mark.parametrize("rows", [24, 1500], ids=["few values a row", "more values than rows"])
def test_outputs_of_unseen_data_have_less_error_than_by_the_weights_alone(
    dtype: QuantDtype, rows: int
) -> None:
    graph, spec = net(rows), weight_spec(dtype)
    (amax,) = searched(graph, spec, batches(rows)).values()
    alone, _ = weight_amax(constants_of(graph)["w"], spec)
    unseen = batches(rows, seed=9)
    found, before = (output_errors(graph, a, dtype, unseen) for a in (amax, alone))
    assert found.sum() < 0.5 * before.sum()


@every_format
def test_ranges_stay_near_the_largest_magnitude(dtype: QuantDtype) -> None:
    graph = net()
    (amax,) = searched(graph, weight_spec(dtype), batches()).values()
    share = amax / np.abs(constants_of(graph)["w"]).max(axis=0)
    # of FP8 one binade, in which every place of its numbers under the weights occurs
    limits = {QuantDtype.INT8: (0.9, 1.3), QuantDtype.FP8: (1.0, 2.0)}
    low, high = limits.get(dtype, (0.3, 1.15))
    assert np.all((share > low - 1e-6) & (share < high + 1e-6))
    assert len(np.unique(share)) > 4


def test_the_same_data_gives_the_same_ranges() -> None:
    one, again = (searched(net(), weight_spec(), batches()) for _ in range(2))
    np.testing.assert_array_equal(*one.values(), *again.values())


def test_a_dead_channel_keeps_no_range() -> None:
    w = np.random.default_rng(0).normal(size=(24, 16)).astype(np.float32)
    w[:, 5] = 0
    (amax,) = searched(parsed(NET, w=w), weight_spec(), batches()).values()
    assert amax[5] == 0
    assert np.all(np.delete(amax, 5) > 0)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(INT8, id="one range for the whole weight"),
        pytest.param(QuantSpec(QuantDtype.INT8, PerChannel(0)), id="ranges along the other axis"),
    ],
)
def test_other_granularities_are_left_to_the_weights_alone(spec: QuantSpec) -> None:
    assert searched(net(), spec, batches()) == {}


def test_a_weight_that_is_too_large_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_search, "_MOST_PRODUCTS", 256 * 24 * 16 * 4)
    assert searched(net(), weight_spec(), batches()) == {}


def test_with_less_work_allowed_fewer_ranges_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_search, "_MOST_PRODUCTS", 256 * 24 * 16 * 6)
    graph = net()
    (amax,) = searched(graph, weight_spec(), batches()).values()
    share = amax / np.abs(constants_of(graph)["w"]).max(axis=0)
    assert 1 < len(np.unique(share.round(4))) <= 6


def test_without_data_nothing_is_searched() -> None:
    assert searched(net(), weight_spec(), []) == {}


def test_one_weight_of_two_nodes_gets_one_range_for_both() -> None:
    graph = parsed(
        """
        <ir_version: 9, opset_import: ["" : 17]>
        net (float[n, 24] x, float[n, 24] z) => (float[n, 16] y, float[n, 16] v)
            <float[24, 16] w>
        {
            [one] y = MatMul(x, w)
            [other] v = MatMul(z, w)
        }
        """,
        w=np.random.default_rng(0).normal(size=(24, 16)).astype(np.float32),
    )
    plan = QuantPlan(
        tuple(Placement(Edge("w", n, 1), weight_spec(), "test", "") for n in ("one", "other"))
    )
    data = [Batch({**b.inputs, "z": b.inputs["x"]}, None, len(b)) for b in batches()]
    found = search_weights(graph, plan, constants_of(graph), data)
    assert [amax.shape for amax in found.values()] == [(16,)]
