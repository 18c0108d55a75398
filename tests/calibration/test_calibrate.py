"""A range for every tensor in a plan."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxqat.calibration import CalibrationConfig, calibrate, collect
from onnxqat.calibration.config import METHODS
from onnxqat.core.calibration import SCALE_FLOOR
from onnxqat.core.errors import ConfigError, DataError, PlacementError
from onnxqat.core.plan import Placement, QuantPlan
from onnxqat.core.spec import Edge, QuantDtype
from tests.support.observed import (
    INT8,
    TWO_LAYERS_PLAN,
    ListData,
    parsed,
    plan_of,
    two_layers,
    weight_spec,
)


def samples(count: int = 50) -> ListData:
    return ListData({"x": np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)})


def max_config() -> CalibrationConfig:
    return CalibrationConfig(method="max")


@pytest.mark.parametrize("method", METHODS)
def test_every_tensor_in_the_plan_gets_one_range(method: str) -> None:
    calibration = calibrate(
        two_layers(), TWO_LAYERS_PLAN, samples(), config=CalibrationConfig(method=method)
    )
    assert [r.tensor for r in calibration.ranges] == ["a", "w1", "w2", "x"]
    assert [len(r.amax) for r in calibration.ranges] == [1, 8, 3, 1]
    assert all(amax > 0 for r in calibration.ranges for amax in r.amax)
    activations = [calibration.by_tensor[tensor] for tensor in ("a", "x")]
    assert [r.samples for r in activations] == [50, 50]


def test_a_scale_is_the_range_in_int8_steps() -> None:
    data = samples()
    calibration = calibrate(two_layers(), TWO_LAYERS_PLAN, data, config=max_config())
    scale = calibration.scale_of("x", QuantDtype.INT8)
    np.testing.assert_allclose(scale, np.abs(data.arrays["x"]).max() / 127, rtol=1e-6)


def test_the_method_is_kept_with_the_range() -> None:
    config = CalibrationConfig(method="percentile", percentile=90)
    calibration = calibrate(two_layers(), TWO_LAYERS_PLAN, samples(), config=config)
    largest = calibrate(two_layers(), TWO_LAYERS_PLAN, samples(), config=max_config())
    assert [r.method for r in calibration.ranges] == ["percentile", "max", "max", "percentile"]
    assert calibration.by_tensor["x"].amax < largest.by_tensor["x"].amax


def concat_of(left: float, right: float) -> tuple[QuantPlan, ListData]:
    x = np.array([[left, right, 0, 0]], np.float32)
    follow = {"b": Edge("a", "join", 0)}
    return plan_of(("a", "join", 0), ("b", "join", 1), follow=follow), ListData({"x": x})


CONCAT = """
    <ir_version: 9, opset_import: ["" : 17]>
    net (float[n, 4] x) => (float[n, 8] y)
    {
        [left] a = Relu(x)
        [negate] m = Neg(x)
        [right] b = Relu(m)
        [join] y = Concat <axis = 1> (a, b)
    }
"""


@pytest.mark.parametrize(("left", "right"), [(3, -5), (7, -2)])
def test_tensors_that_share_a_scale_get_the_largest_range_among_them(
    left: float, right: float
) -> None:
    plan, data = concat_of(left, right)
    calibration = calibrate(parsed(CONCAT), plan, data, config=max_config())
    expected = max(left, -right)
    assert [(r.tensor, r.amax) for r in calibration.ranges] == [
        ("a", (expected,)),
        ("b", (expected,)),
    ]


@pytest.mark.parametrize("method", METHODS)
def test_tensors_that_share_a_scale_get_equal_ranges_by_any_method(method: str) -> None:
    plan, _ = concat_of(0, 0)
    calibration = calibrate(
        parsed(CONCAT), plan, samples(), config=CalibrationConfig(method=method)
    )
    assert calibration.by_tensor["a"].amax == calibration.by_tensor["b"].amax


def test_a_tensor_that_nothing_moves_gets_the_smallest_scale() -> None:
    w = np.ones((4, 8), np.float32)
    w[:, 3] = 0
    data = ListData({"x": np.zeros((5, 4), np.float32)})
    calibration = calibrate(two_layers(weight=w), TWO_LAYERS_PLAN, data, config=max_config())
    assert calibration.by_tensor["x"].amax == (SCALE_FLOOR * 127,)
    assert calibration.by_tensor["w1"].amax[3] == SCALE_FLOOR * 127
    assert calibration.scale_of("w1", QuantDtype.INT8).min() == np.float32(SCALE_FLOOR)


class Untouchable(ListData):
    """Data that must not be read."""

    def batches(self, *_: object, **__: object) -> NDArray[np.float32]:  # type: ignore[override]
        raise AssertionError("the data was read")


def test_statistics_serve_another_plan_over_the_same_model_without_data() -> None:
    statistics = collect(two_layers(), ("x", "a"), samples())
    less = plan_of(("a", "second", 0), ("w2", "second", 1))
    config = CalibrationConfig(method="mse")
    again = calibrate(two_layers(), less, Untouchable({}), statistics=statistics, config=config)
    anew = calibrate(two_layers(), less, samples(), config=config)
    assert again == anew


def test_statistics_of_another_model_are_refused() -> None:
    statistics = collect(two_layers(), ("x", "a"), samples())
    other = two_layers(weight=np.ones((4, 8), np.float32))
    with pytest.raises(DataError, match="of another model"):
        calibrate(other, TWO_LAYERS_PLAN, samples(), statistics=statistics)


def test_a_tensor_without_statistics_is_named() -> None:
    statistics = collect(two_layers(), ("x",), samples())
    with pytest.raises(DataError, match=r"no statistics[\s\S]*tensor 'a'"):
        calibrate(two_layers(), TWO_LAYERS_PLAN, samples(), statistics=statistics)


def test_extremes_alone_serve_no_other_method() -> None:
    statistics = collect(two_layers(), ("x", "a"), samples(), histograms=False)
    calibrate(two_layers(), TWO_LAYERS_PLAN, samples(), statistics=statistics, config=max_config())
    with pytest.raises(DataError, match=r"only extremes[\s\S]*tensor"):
        calibrate(two_layers(), TWO_LAYERS_PLAN, samples(), statistics=statistics)


def test_an_activation_per_channel_is_refused() -> None:
    plan = QuantPlan((Placement(Edge("x", "first", 0), weight_spec(), "test", ""),))
    with pytest.raises(PlacementError, match=r"per-channel[\s\S]*tensor 'x'"):
        calibrate(two_layers(), plan, samples())


def test_two_formats_for_one_tensor_are_refused() -> None:
    graph = parsed(
        """
        <ir_version: 9, opset_import: ["" : 17]>
        net (float[n, 4] x) => (float[n, 4] y, float[n, 4] z) <float[4, 4] w>
        {
            [one] y = MatMul(x, w)
            [other] z = MatMul(x, w)
        }
        """,
        w=np.eye(4, dtype=np.float32),
    )
    plan = QuantPlan(
        (
            Placement(Edge("w", "one", 1), weight_spec(), "test", ""),
            Placement(Edge("w", "other", 1), INT8, "test", ""),
        )
    )
    with pytest.raises(PlacementError, match=r"two formats[\s\S]*tensor 'w'"):
        calibrate(graph, plan, samples())


@pytest.mark.parametrize(
    "wrong",
    [{"method": "guess"}, {"percentile": 0}, {"percentile": 101}, {"samples": 0}, {"threads": 0}],
)
def test_settings_without_meaning_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        CalibrationConfig(**wrong)  # type: ignore[arg-type]
