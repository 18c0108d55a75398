"""The best parameters so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Copies of parameters at one step; whole or not there at all."""

    step: int
    loss: float
    """Validation loss, by which the best is chosen."""
    values: tuple[Tensor, ...]

    @staticmethod
    def take(parameters: Sequence[Parameter], *, step: int, loss: float) -> Snapshot:
        """Copy the parameters, on their device."""
        return Snapshot(step, loss, tuple(p.detach().clone() for p in parameters))

    @torch.no_grad()
    def restore(self, parameters: Sequence[Parameter]) -> None:
        """Put the copies back, in the same order."""
        for parameter, value in zip(parameters, self.values, strict=True):
            parameter.copy_(value)
