"""How far a candidate model is from its reference: plain numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerError:
    """Error of one tensor between reference and candidate.

    `sqnr_db` is 10·log10(Σ reference² / Σ (reference − candidate)²) over all samples: infinite when
    both are equal, so larger is better.
    """

    tensor: str
    sqnr_db: float
    max_abs: float
    """Largest absolute difference, in the tensor's unit."""


@dataclass(frozen=True)
class Comparison:
    """Reference against candidate on the same data."""

    samples: int
    outputs: tuple[LayerError, ...]
    agreement: float | None
    """Share (0 to 1) of samples with the same top-1 class; None if no output is class scores."""
    metric: str | None
    """Name of the task metric, as `top1`; None without labels."""
    reference_metric: float | None
    candidate_metric: float | None
    layers: tuple[LayerError, ...] = ()
    """Inner tensors, where they were asked for."""

    @property
    def sqnr_db(self) -> float:
        """The worst output's signal-to-quantization-noise ratio in dB."""
        return min((error.sqnr_db for error in self.outputs), default=float("inf"))
