"""Weights that swing between two codes, and how they are brought to rest.

A weight near the border of two codes crosses it with every step or two, and the straight-through
gradient pushes it back each time (Nagel et al. 2022, arXiv:2203.11086). They give two cures:

  * damping, a loss that draws weights to the values of their codes. Here the draw is decoupled from
    the gradient, as AdamW's decay is, so that its strength reads as a share of the way and does not
    hang on the loss;
  * freezing: a weight that swings too often stays for good at the code where it was most of the
    time (their algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from onnxqat.bridge import FakeQuantize, OnnxModule
from onnxqat.bridge.fake_quant import along
from onnxqat.training.parameters import Kind, Trained


@dataclass(frozen=True, eq=False)
class Damping:
    """Draws weights to the values of their codes."""

    weights: tuple[tuple[Parameter, FakeQuantize], ...]
    share: float
    """Of the way, in the last step of the run."""
    steps: int

    @torch.no_grad()
    def apply(self, step: int) -> None:
        """Draw after a step; hardly at first, since weights that cannot move cannot learn."""
        share = self.share * 0.5 * (1 - math.cos(math.pi * step / self.steps))
        for weight, quantizer in self.weights:
            weight.lerp_(quantizer(weight.detach()), share)


def make_damping(
    student: OnnxModule, trained: Sequence[Trained], *, share: float, steps: int
) -> Damping | None:
    """For all trained weights that are quantized; None where the share is 0."""
    weights = _quantized(student, trained)
    return Damping(weights, share, steps) if share > 0 and weights else None


def _quantized(
    student: OnnxModule, trained: Sequence[Trained]
) -> tuple[tuple[Parameter, FakeQuantize], ...]:
    return tuple(
        (entry.parameter, student.quantizers[entry.name])
        for entry in trained
        if entry.kind is Kind.WEIGHT and entry.name in student.quantizers
    )


MEMORY = 0.02
"""Share that the last step has in a weight's frequency of swings and in its usual code: some 50
steps are remembered, so that it serves in short runs as well."""


class Freezing:
    """Holds weights that swing too often at their usual codes, for good."""

    def __init__(
        self, weights: tuple[tuple[Parameter, FakeQuantize], ...], threshold: float
    ) -> None:
        """Begin with every weight free.

        Args:
            weights: With their quantizers.
            threshold: Swings a step, averaged over the last ones, from which a weight is frozen.
        """
        self._threshold = threshold
        self._weights = [_Watched(weight, quantizer) for weight, quantizer in weights]

    @property
    def values(self) -> tuple[Tensor, ...]:
        """All that it remembers, in a fixed order."""
        return tuple(value for watched in self._weights for value in watched.values)

    @property
    def frozen(self) -> int:
        """Numbers that do not move any more."""
        return sum(int(watched.is_frozen.sum()) for watched in self._weights)

    @torch.no_grad()
    def apply(self) -> None:
        """Watch what a step did, and put what is frozen back to its code."""
        for watched in self._weights:
            watched.apply(self._threshold)


class _Watched:
    """One weight, and what is remembered of each of its numbers."""

    def __init__(self, weight: Parameter, quantizer: FakeQuantize) -> None:
        self._weight, self._quantizer = weight, quantizer
        self.code = quantizer.codes(weight.detach())
        """After the last step; of frozen numbers, where they stay."""
        self.usual = self.code.clone()
        """The code, averaged over the last steps."""
        self.direction = torch.zeros_like(self.code)
        """Of the last change: 1, -1, or 0 before there was any."""
        self.frequency = torch.zeros_like(self.code)
        """Of changes against the one before, averaged over the last steps."""
        self.is_frozen = torch.zeros_like(self.code, dtype=torch.bool)

    @property
    def values(self) -> tuple[Tensor, ...]:
        return self.code, self.usual, self.direction, self.frequency, self.is_frozen

    def apply(self, threshold: float) -> None:
        code = self._quantizer.codes(self._weight)
        change = torch.sign(code - self.code)
        has_swung = (change * self.direction < 0).to(code.dtype)
        self.frequency.lerp_(has_swung, MEMORY)
        self.direction.copy_(torch.where(change == 0, self.direction, change))
        self.usual.lerp_(code, MEMORY)
        is_new = (self.frequency > threshold) & ~self.is_frozen
        scale = along(self._quantizer.scale, self._quantizer.axis, code.ndim)
        free = torch.where(is_new, self._quantizer.codes(self.usual * scale), code)
        self.code.copy_(torch.where(self.is_frozen, self.code, free))
        self.is_frozen |= is_new
        self._weight.copy_(torch.where(self.is_frozen, self.code * scale, self._weight))


def make_freezing(
    student: OnnxModule, trained: Sequence[Trained], *, threshold: float | None
) -> Freezing | None:
    """For all trained weights that are quantized; None where no threshold is given."""
    weights = _quantized(student, trained)
    return Freezing(weights, threshold) if threshold is not None and weights else None
