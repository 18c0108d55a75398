"""What is kept of a tensor's values: extremes, counts, and a histogram of magnitudes.

The histogram's bins are the float32 numbers themselves with their low mantissa bits cut off. So the
grid is the same for every tensor and every batch: it needs no range beforehand, adding values is
exact integer counting, and two histograms add up, in any order, to the histogram of all values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MANTISSA_BITS = 11
"""2048 bins an octave: a bin is at most 1/16 of an INT8 step wide, wherever the range ends."""
OCTAVES = 16
"""Octaves below the largest value that are told apart. What lies below is less than 1/4 of an INT8
step, even for a range 64 times smaller than the largest value."""
BINS = (OCTAVES << MANTISSA_BITS) + 1
"""Bin 0 holds all that is smaller."""

_SHIFT = 23 - MANTISSA_BITS
_MAGNITUDE = np.int32(0x7FFFFFFF)
_INFINITY = 0x7F800000
_CHUNK = 1 << 17
"""Values binned at a time: small enough to stay in the processor's second-level cache."""

Counts = NDArray[np.int64]


@dataclass(eq=False)
class TensorStatistics:
    """All that the calibrators need to know of one tensor, however many values it had."""

    minimum: float = float("inf")
    maximum: float = float("-inf")
    values: int = 0
    """How many values were observed."""
    top: int = 0
    """The octave (biased float32 exponent) of the largest magnitude."""
    counts: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))
    """How many magnitudes fell in each bin; the last bin ends at 2**(top - 126). Of no length where
    only extremes are kept."""

    @staticmethod
    def of_extremes() -> TensorStatistics:
        """Statistics that keep extremes and no histogram: faster, and enough for `max`."""
        return TensorStatistics(counts=np.zeros(0, np.int64))

    @property
    def has_histogram(self) -> bool:
        """Whether magnitudes are counted."""
        return len(self.counts) > 0

    @property
    def amax(self) -> float:
        """The largest magnitude; 0 where nothing was observed."""
        return max(-self.minimum, self.maximum, 0.0)

    def observe(self, x: NDArray[Any]) -> bool:
        """Count a batch of values of any shape; False if one is NaN or infinite."""
        if x.size == 0:
            return True
        flat = np.ascontiguousarray(x, np.float32).reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            return False
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self.values += flat.size
        if not self.has_histogram:
            return True
        self._raise_top(_octave(max(-low, high)))
        for start in range(0, flat.size, _CHUNK):
            self.counts += _binned(flat[start : start + _CHUNK], self.top)
        return True

    def add(self, other: TensorStatistics) -> None:
        """Count another tensor's values too."""
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self.values += other.values
        if not (self.has_histogram and other.has_histogram):
            self.counts = np.zeros(0, np.int64)
            return
        self._raise_top(other.top)
        self.counts += _moved(other.counts, self.top - other.top)

    def _raise_top(self, top: int) -> None:
        if top > self.top:
            self.counts = _moved(self.counts, top - self.top)
            self.top = top

    @property
    def edges(self) -> NDArray[np.float64]:
        """The bins' edges, [BINS + 1], cut at amax: bin i is [edges[i], edges[i + 1])."""
        first = (self.top - OCTAVES + 1) << MANTISSA_BITS
        bits = np.arange(max(first, 0), first + BINS, dtype=np.int64) << _SHIFT
        edges = np.zeros(BINS + 1)
        edges[BINS + 1 - len(bits) :] = bits.astype(np.int32).view(np.float32)
        return np.minimum(edges, self.amax)


def _octave(magnitude: float) -> int:
    return int(np.float32(magnitude).view(np.int32)) >> 23


def _binned(values: NDArray[np.float32], top: int) -> Counts:
    bins = values.view(np.int32) & _MAGNITUDE
    bins >>= _SHIFT
    bins -= ((top - OCTAVES + 1) << MANTISSA_BITS) - 1
    np.maximum(bins, 0, out=bins)
    return np.bincount(bins, minlength=BINS)


def _moved(counts: Counts, octaves: int) -> Counts:
    """The counts in a window that many octaves higher: what falls out joins bin 0."""
    bins = min(octaves << MANTISSA_BITS, BINS - 1)
    moved = np.zeros_like(counts)
    moved[1 : BINS - bins] = counts[1 + bins :]
    moved[0] = counts[: 1 + bins].sum()
    return moved
