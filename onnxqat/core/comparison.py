"""How far a candidate model is from its reference: plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

from onnxqat.core.interval import Interval, paired_change


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
    lost: int | None = None
    """Samples whose top-1 class only the reference has right; None without labels."""
    gained: int | None = None
    """The same of the candidate."""

    @property
    def metric_change(self) -> float | None:
        """Of the metric, from the reference to the candidate."""
        if self.reference_metric is None or self.candidate_metric is None:
            return None
        return self.candidate_metric - self.reference_metric

    @property
    def metric_change_interval(self) -> Interval | None:
        """Where that lies, 95 % sure."""
        return paired_change(self.lost, self.gained, self.samples)

    @property
    def sqnr_db(self) -> float:
        """The worst output's signal-to-quantization-noise ratio in dB."""
        return min((error.sqnr_db for error in self.outputs), default=float("inf"))
