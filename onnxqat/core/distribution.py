"""The values that a quantizer meets, and where it clips them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Distribution:
    """The magnitudes of one tensor on data, against the range that is kept of it."""

    tensor: str
    minimum: float
    """Smallest value seen."""
    maximum: float
    """Largest value seen."""
    amax: float
    """The clip point: magnitudes above it become the last code."""
    qmax: int
    """The last code, so that a step is `amax / qmax`."""
    clipped: float
    """Share (0 to 1) of the values whose magnitude is above the clip point."""
    sqnr_db: float
    """10·log10(Σ x² / Σ (x − fake_quantize(x))²) of this quantizer alone."""
    counts: tuple[int, ...]
    """How many magnitudes fell in each of equal bins from 0 to `extent`."""

    @property
    def extent(self) -> float:
        """Where the last bin ends: the largest magnitude, or the clip point if that is larger."""
        return max(-self.minimum, self.maximum, self.amax)
