"""How a range is chosen for a tensor: max, percentile, entropy, mse.

A calibrator is a class of two methods, `observe(x)` and `amax()`, and a line in `CALIBRATORS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxqat.calibration.config import CalibrationConfig
from onnxqat.calibration.error import quantization_error, upper_bounds
from onnxqat.calibration.histogram import TensorStatistics
from onnxqat.core import qdq
from onnxqat.core.spec import QuantDtype

Floats = NDArray[np.float64]


class Calibrator:
    """What all calibrators share: the statistics that they choose by."""

    def __init__(
        self, statistics: TensorStatistics | None = None, *, dtype: QuantDtype = QuantDtype.INT8
    ) -> None:
        """Begin with statistics that were collected before, or with none."""
        self.statistics = TensorStatistics() if statistics is None else statistics
        self.dtype = dtype

    def observe(self, x: NDArray[Any]) -> None:
        """Take a batch of values of any shape into account."""
        self.statistics.observe(x)

    def amax(self) -> float:
        """The largest magnitude to keep, in the tensor's unit; 0 for a tensor of zeros."""
        raise NotImplementedError


class Max(Calibrator):
    """Keeps everything."""

    def amax(self) -> float:
        """The largest magnitude."""
        return self.statistics.amax


class Percentile(Calibrator):
    """Keeps a share of the values: outliers beyond it are clipped."""

    percentile = 99.99

    def amax(self) -> float:
        """The magnitude that `percentile` percent of the values do not exceed."""
        counts = self.statistics.counts
        below = np.concatenate([[0], np.cumsum(counts)]) / max(self.statistics.values, 1)
        kept = int(np.searchsorted(below, self.percentile / 100))
        edges = self.statistics.edges
        return float(edges[min(kept, len(edges) - 1)])


class Mse(Calibrator):
    """Minimizes the mean squared quantization error of the tensor."""

    candidates = 128
    smallest = 1 / 64
    """The smallest range tried, relative to the largest magnitude."""

    def amax(self) -> float:
        """The range with the least error: a geometric grid, then a finer one around its best."""
        largest = self.statistics.amax
        if largest == 0:
            return 0.0
        ratio = self.smallest ** (1 / (self.candidates - 1))
        coarse = largest * ratio ** np.arange(self.candidates)
        best = coarse[np.argmin(self._errors(coarse))]
        fine = np.minimum(best * ratio ** np.linspace(-1, 1, 33), largest)
        return float(fine[np.argmin(self._errors(fine))])

    def _errors(self, amax: Floats) -> Floats:
        return quantization_error(self.statistics, amax, dtype=self.dtype)


class Entropy(Calibrator):
    """Minimizes the Kullback-Leibler divergence from the values to the quantized ones.

    Source: Migacz, "8-bit inference with TensorRT", GTC 2017: 2048 equal bins over the magnitudes,
    128 levels, every number of bins from 128 on is tried, and what is clipped joins the last bin.
    Other formats than INT8 have their own levels, of FP8 the unequal ones that it has.
    """

    bins = 2048

    @cached_property
    def levels(self) -> int:
        """How many magnitudes the codes tell apart."""
        return len(qdq.levels(self.dtype))

    def amax(self) -> float:
        """The upper edge of the last bin that is kept."""
        largest = self.statistics.amax
        if largest == 0:
            return 0.0
        kept = np.arange(self.levels, self.bins + 1)
        divergence = _divergence(self._equal_bins(), kept, bounds=self._bounds(kept))
        best = kept[np.argmin(divergence)]
        return float(best / self.bins * largest)

    def _bounds(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the groups of bins end that one level each stands for, [len(kept), levels + 1]."""
        if not self.dtype.is_float:
            equal: NDArray[np.int64] = kept[:, None] * np.arange(self.levels + 1) // self.levels
            return equal
        ends = np.append(0, upper_bounds(self.dtype))
        bounds: NDArray[np.int64] = np.floor(kept[:, None] * (ends / ends[-1])).astype(np.int64)
        return bounds

    def _equal_bins(self) -> Floats:
        """Counts of magnitudes in equal bins up to the largest.

        Zero has a code of its own, so the first bin says nothing of the range: it takes the count
        of the second.
        """
        cumulative = np.concatenate([[0], np.cumsum(self.statistics.counts)])
        edges = np.linspace(0, self.statistics.amax, self.bins + 1)
        counts = np.diff(_interpolate(edges, self.statistics.edges, cumulative))
        counts[0] = counts[1]
        return counts


def _interpolate(at: Floats, edges: Floats, cumulative: Floats) -> Floats:
    """A cumulative count between the edges, where edges that coincide count as one step up."""
    last = np.flatnonzero(np.append(np.diff(edges) > 0, True))
    return np.asarray(np.interp(at, edges[last], cumulative[last]), np.float64)


def _divergence(counts: Floats, kept: NDArray[np.int64], *, bounds: NDArray[np.int64]) -> Floats:
    """KL(P || Q) for each number of bins kept, [len(kept)].

    P holds the first `kept` counts, with all further ones added to the last. Q spreads the counts
    of each group of adjacent bins evenly over those of its bins that are not empty. As Q is
    constant in a group, sums over groups are enough: differences of running sums.
    """
    total = counts.sum()
    outliers = total - np.cumsum(counts)[kept - 1]
    last = counts[kept - 1]
    mass = np.diff(_running(counts)[bounds], axis=1)
    filled = np.diff(_running(counts > 0)[bounds], axis=1)
    filled[:, -1] += (last == 0) & (outliers > 0)
    p_log_p = _running(_x_log_x(counts))[kept] - _x_log_x(last) + _x_log_x(last + outliers)
    p_mass = mass.copy()
    p_mass[:, -1] += outliers
    is_lost = (mass == 0) & (p_mass > 0)  # P where Q has nothing: infinitely far
    log_q = np.log(np.where(mass > 0, mass, 1.0) / np.maximum(filled, 1))
    cross = (np.where(mass > 0, p_mass, 0.0) * log_q).sum(axis=1)
    divergence = (p_log_p - cross) / total + np.log(np.maximum(mass.sum(axis=1), 1) / total)
    return np.where(is_lost.any(axis=1), np.inf, divergence)


def _running(values: NDArray[Any]) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _x_log_x(x: Floats) -> Floats:
    return x * np.log(np.where(x > 0, x, 1.0))


CALIBRATORS: dict[str, Callable[..., Calibrator]] = {
    "max": Max,
    "percentile": Percentile,
    "entropy": Entropy,
    "mse": Mse,
}


@dataclass(frozen=True)
class Choice:
    """A range, and the calibrator that chose it."""

    amax: float
    method: str


def chosen_by(
    method: str,
    statistics: TensorStatistics,
    config: CalibrationConfig,
    *,
    dtype: QuantDtype = QuantDtype.INT8,
) -> Choice:
    """The range that a calibrator chooses for codes of a type."""
    calibrator = CALIBRATORS[method](statistics, dtype=dtype)
    if isinstance(calibrator, Percentile):
        calibrator.percentile = config.percentile
    return Choice(calibrator.amax(), method)
