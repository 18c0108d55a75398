"""What is kept of a tensor's values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from onnxqat.calibration.histogram import TensorStatistics

FLOATS = hnp.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
)


def observed(*batches: NDArray[np.float32]) -> TensorStatistics:
    statistics = TensorStatistics()
    for batch in batches:
        assert statistics.observe(batch)
    return statistics


def assert_equal(one: TensorStatistics, other: TensorStatistics) -> None:
    assert (one.minimum, one.maximum, one.values) == (other.minimum, other.maximum, other.values)
    assert one.top == other.top
    np.testing.assert_array_equal(one.counts, other.counts)


@settings(deadline=None, max_examples=60)
@given(st.lists(FLOATS, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_order_and_division_into_batches_change_nothing(
    batches: list[NDArray[np.float32]], random: object
) -> None:
    whole = observed(np.concatenate(batches))
    assert_equal(observed(*batches), whole)
    assert_equal(observed(*reversed(batches)), whole)


@settings(deadline=None, max_examples=60)
@given(FLOATS, FLOATS)
def test_two_statistics_add_up_to_those_of_all_values(
    one: NDArray[np.float32], other: NDArray[np.float32]
) -> None:
    total = observed(one)
    total.add(observed(other))
    assert_equal(total, observed(one, other))


@settings(deadline=None, max_examples=60)
@given(FLOATS)
def test_every_value_lies_between_the_edges_of_its_bin(values: NDArray[np.float32]) -> None:
    statistics = observed(values)
    assert statistics.counts.sum() == len(values)
    magnitudes = np.sort(np.abs(values)).astype(np.float64)
    filled = np.repeat(np.arange(len(statistics.counts)), statistics.counts)
    assert np.all(statistics.edges[filled] <= magnitudes)
    assert np.all(magnitudes <= statistics.edges[filled + 1])


def test_counts_equal_numpys_histogram_over_the_same_edges() -> None:
    values = np.random.default_rng(0).laplace(size=300_000).astype(np.float32)
    statistics = observed(*np.array_split(values, 7))
    below_top = statistics.edges < statistics.amax
    edges = np.append(statistics.edges[below_top], np.inf)
    expected, _ = np.histogram(np.abs(values), edges)
    np.testing.assert_array_equal(statistics.counts[: len(expected)], expected)


def test_bins_are_finer_than_a_sixteenth_of_an_int8_step() -> None:
    statistics = observed(np.linspace(-3, 3, 1000, dtype=np.float32))
    assert np.diff(statistics.edges).max() <= 3 / 127 / 16 * 1.25  # amax 3 is 1.5 times its octave


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_told(bad: float) -> None:
    assert not TensorStatistics().observe(np.array([1.0, bad], np.float32))


def test_an_empty_batch_changes_nothing() -> None:
    assert_equal(
        observed(np.ones(3, np.float32), np.empty((0, 4), np.float32)),
        observed(np.ones(3, np.float32)),
    )


def test_extremes_alone_are_kept_where_no_histogram_is_wanted() -> None:
    statistics = TensorStatistics.of_extremes()
    statistics.observe(np.array([-3.0, 2.0], np.float32))
    assert (statistics.amax, statistics.minimum, statistics.maximum) == (3, -3, 2)
    assert not statistics.has_histogram


def test_half_precision_activations_are_counted() -> None:
    assert observed(np.array([0.5, -1.5], np.float16)).amax == 1.5  # type: ignore[arg-type]
