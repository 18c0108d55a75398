"""Weights that swing between two codes, and how they are brought to rest.

A weight near the border of two codes crosses it with every step or two, and the straight-through
gradient pushes it back each time (Nagel et al. 2022, arXiv:2203.11086). Their cure is a loss that
draws weights to the values of their codes. Here the draw is decoupled from the gradient, as AdamW's
decay is, so that its strength reads as a share of the way and does not hang on the loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import Parameter

from onnxqat.bridge import FakeQuantize, OnnxModule
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
    weights = [
        (entry.parameter, student.quantizers[entry.name])
        for entry in trained
        if entry.kind is Kind.WEIGHT and entry.name in student.quantizers
    ]
    return Damping(tuple(weights), share, steps) if share > 0 and weights else None
