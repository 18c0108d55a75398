"""The squared error that quantization makes in a tensor, from its histogram alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxqat.calibration.histogram import TensorStatistics
from onnxqat.core.qdq import levels
from onnxqat.core.spec import QuantDtype

Floats = NDArray[np.float64]


def quantization_error(statistics: TensorStatistics, amax: Floats, *, dtype: QuantDtype) -> Floats:
    """The mean squared error for each range in `amax`, shape [K], all > 0.

    The values that share a code q lie in one interval, so their error, the sum of (x - q·scale)²,
    follows from the running sums of 1, x and x² at the interval's ends. Values are taken to be
    evenly spread in a bin of the histogram, which is at most 1/16 of an INT8 step wide.
    """
    edges, sums = _running_moments(statistics)
    codes = levels(dtype)
    scale = amax[:, None] / dtype.qmax
    bounds = np.concatenate([np.zeros_like(scale), upper_bounds(dtype) * scale], axis=1)
    bounds[:, -1] = max(statistics.amax, float(bounds.max()))
    zeroth, first, second = (np.diff(np.interp(bounds, edges, s), axis=1) for s in sums)
    code_values = codes * scale
    error: Floats = (second - 2 * code_values * first + code_values**2 * zeroth).sum(axis=1)
    return np.maximum(error, 0) / max(statistics.values, 1)


def upper_bounds(dtype: QuantDtype) -> Floats:
    """Where the values end that each code of `levels` stands for, in scales."""
    codes = levels(dtype)
    return codes + np.diff(codes, append=2 * codes[-1] - codes[-2]) / 2


def _running_moments(statistics: TensorStatistics) -> tuple[Floats, tuple[Floats, Floats, Floats]]:
    """Edges, and the sums of 1, |x| and x² of all values below each edge."""
    edges = statistics.edges
    below, above = edges[:-1], edges[1:]
    counts = statistics.counts.astype(np.float64)
    moments = (
        counts,
        counts * (below + above) / 2,
        counts * (below * below + below * above + above * above) / 3,
    )
    sums = (np.concatenate([[0.0], np.cumsum(moment)]) for moment in moments)
    last = np.flatnonzero(np.append(np.diff(edges) > 0, True))
    zeroth, first, second = (s[last] for s in sums)
    return edges[last], (zeroth, first, second)
