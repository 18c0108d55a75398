"""How a range is chosen for a tensor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxqat.calibration.calibrators import CALIBRATORS, Entropy, Mse, Percentile, chosen_by
from onnxqat.calibration.config import CalibrationConfig
from onnxqat.calibration.histogram import TensorStatistics
from onnxqat.core.calibration import amax_to_scale
from onnxqat.core.qdq import fake_quantize
from onnxqat.core.spec import QuantDtype

every_calibrator = pytest.mark.parametrize("method", CALIBRATORS)

SHAPES = {
    "normal": lambda g: g.normal(size=20_000),
    "rectified": lambda g: np.maximum(g.normal(size=20_000), 0),
    "heavy tails": lambda g: g.standard_t(3, size=20_000),
    "clipped": lambda g: np.clip(g.normal(size=20_000) * 4, 0, 6),
    "one value": lambda g: np.full(50, 0.5),
    "almost all zero": lambda g: np.append(np.zeros(20_000), 7.0),
}
every_shape = pytest.mark.parametrize("shape", SHAPES)


def values_of(shape: str, seed: int = 0) -> NDArray[np.float32]:
    return np.asarray(SHAPES[shape](np.random.default_rng(seed)), np.float32)


def amax_of(method: str, *batches: NDArray[np.float32]) -> float:
    calibrator = CALIBRATORS[method]()
    for batch in batches:
        calibrator.observe(batch)
    return calibrator.amax()


def mean_squared_error(values: NDArray[np.float32], amax: float) -> float:
    """By quantizing every value: the oracle for what histograms estimate."""
    scale = amax_to_scale(np.array(amax), QuantDtype.INT8)
    error = fake_quantize(values, scale, dtype=QuantDtype.INT8) - values
    return float(np.square(error, dtype=np.float64).mean())


@every_calibrator
@every_shape
def test_the_range_is_positive_and_not_above_the_maximum(method: str, shape: str) -> None:
    values = values_of(shape)
    assert 0 < amax_of(method, values) <= np.abs(values).max()


@every_calibrator
@settings(deadline=None, max_examples=10)
@given(st.permutations(range(5)))
def test_the_order_of_batches_does_not_matter(method: str, order: list[int]) -> None:
    batches = np.array_split(values_of("heavy tails"), 5)
    assert amax_of(method, *(batches[i] for i in order)) == amax_of(method, *batches)


@every_calibrator
@pytest.mark.parametrize("position", range(4))
def test_every_batch_counts(method: str, position: int) -> None:
    batches = np.array_split(values_of("normal"), 4)
    before = amax_of(method, *batches)
    batches[position] = batches[position] * np.float32(4)
    assert amax_of(method, *batches) > before * 1.2


@every_calibrator
@every_shape
def test_the_sign_does_not_matter(method: str, shape: str) -> None:
    values = values_of(shape)
    assert amax_of(method, values) == amax_of(method, -values)


@every_calibrator
@every_shape
def test_doubling_the_values_doubles_the_range(method: str, shape: str) -> None:
    values = values_of(shape)
    assert amax_of(method, 2 * values) == pytest.approx(2 * amax_of(method, values), rel=1e-12)


@every_calibrator
def test_a_tensor_of_zeros_has_the_range_zero(method: str) -> None:
    assert amax_of(method, np.zeros(10, np.float32)) == 0


@every_calibrator
def test_values_on_an_int8_grid_keep_their_maximum(method: str) -> None:
    assert amax_of(method, np.arange(-127, 128, dtype=np.float32)) == pytest.approx(127, rel=0.01)


def test_max_is_the_largest_magnitude() -> None:
    assert amax_of("max", np.array([1, -5], np.float32), np.array([3], np.float32)) == 5


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.0, 100.0])
def test_a_percentile_is_that_of_the_magnitudes_to_a_bins_width(percentile: float) -> None:
    values = values_of("normal")
    calibrator = Percentile()
    calibrator.percentile = percentile
    calibrator.observe(values)
    expected = np.percentile(np.abs(values), percentile)
    assert calibrator.amax() == pytest.approx(expected, rel=2e-3)


@every_shape
def test_mse_is_as_good_as_the_best_of_a_fine_grid(shape: str) -> None:
    values = values_of(shape)
    largest = float(np.abs(values).max())
    grid = min(mean_squared_error(values, largest * r) for r in np.linspace(0.02, 1, 400))
    chosen = mean_squared_error(values, amax_of("mse", values))
    assert chosen <= grid * 1.02 + 1e-12 * largest**2


def test_mse_gives_up_an_outlier_that_costs_more_than_it_is_worth() -> None:
    values = np.append(np.linspace(-1, 1, 100_000), [1.5]).astype(np.float32)
    assert amax_of("mse", values) < 1.1


def test_mse_with_four_bits_clips_more() -> None:
    values = values_of("normal")
    ranges = []
    for dtype in (QuantDtype.INT8, QuantDtype.INT4_IN_INT8):
        calibrator = Mse(dtype=dtype)
        calibrator.observe(values)
        ranges.append(calibrator.amax())
    assert ranges[1] < 0.8 * ranges[0]


def reference_entropy(magnitudes: NDArray[np.float64], *, bins: int, levels: int) -> float:
    """The published procedure step by step, one candidate and one group at a time."""
    largest = magnitudes.max()
    counts = np.histogram(magnitudes, bins, (0, largest))[0].astype(float)
    counts[0] = counts[1]
    divergences = {}
    for kept in range(levels, bins + 1):
        p = counts[:kept].copy()
        p[-1] += counts[kept:].sum()
        q = np.zeros(kept)
        for level in range(levels):
            group = slice(kept * level // levels, kept * (level + 1) // levels)
            is_filled = p[group] > 0
            if is_filled.any():
                q[group] = np.where(is_filled, counts[:kept][group].sum() / is_filled.sum(), 0)
        p, q = p / p.sum(), q / q.sum()
        if np.any((p > 0) & (q == 0)):
            continue
        divergences[kept] = (p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum()
    return min(divergences, key=lambda kept: divergences[kept]) / bins * largest


@pytest.mark.parametrize("shape", ["normal", "rectified", "heavy tails"])
def test_entropy_follows_the_published_procedure(shape: str) -> None:
    # Values in the middles of equal bins, so that both histograms hold the same counts.
    values = np.abs(values_of(shape)).astype(np.float64)
    largest, bins = values.max(), 512
    middles = (np.floor(values / largest * bins).clip(0, bins - 1) + 0.5) / bins
    middles[0] = 1 - 2**-20
    calibrator = Entropy()
    calibrator.bins, calibrator.levels = bins, 64
    calibrator.observe(middles.astype(np.float32))
    expected = reference_entropy(middles.astype(np.float32).astype(float), bins=bins, levels=64)
    assert calibrator.amax() == pytest.approx(expected, abs=2.01 / bins)


def test_entropy_gives_up_far_outliers() -> None:
    values = np.append(values_of("normal"), np.full(2, 60, np.float32))
    assert amax_of("entropy", values) < 10


def test_the_error_of_fp8_hardly_depends_on_the_range_so_that_outliers_are_kept() -> None:
    """Half of the range is one binade less at the small end; INT8 gains by clipping the tail."""
    statistics = TensorStatistics()
    statistics.observe(np.random.default_rng(0).laplace(size=100_000).astype(np.float32))
    int8, fp8 = (Mse(statistics, dtype=dtype) for dtype in (QuantDtype.INT8, QuantDtype.FP8))
    assert int8.amax() < 0.9 * statistics.amax
    assert fp8.amax() > 0.95 * statistics.amax


@pytest.mark.parametrize("dtype", [QuantDtype.FP8, QuantDtype.INT4])
@pytest.mark.parametrize("method", CALIBRATORS)
def test_every_calibrator_serves_every_type_of_activations(method: str, dtype: QuantDtype) -> None:
    statistics = TensorStatistics()
    statistics.observe(np.random.default_rng(0).laplace(size=10_000).astype(np.float32))
    choice = chosen_by(method, statistics, CalibrationConfig(), dtype=dtype)
    assert 0.1 * statistics.amax < choice.amax <= statistics.amax


def test_calibrate_measures_with_the_format_of_the_plan() -> None:
    """A calibrator that took INT8's levels for 4 bits would clip far too little."""
    statistics = TensorStatistics()
    statistics.observe(np.random.default_rng(0).normal(size=100_000).astype(np.float32))
    amax = {
        dtype: chosen_by("mse", statistics, CalibrationConfig(), dtype=dtype).amax
        for dtype in (QuantDtype.INT8, QuantDtype.INT4)
    }
    # the optimum for a normal distribution and 15 levels: 2.6 to 2.8 standard deviations
    assert 2.4 < amax[QuantDtype.INT4] < 3.0
    assert amax[QuantDtype.INT8] > 3.5
