"""A running average of the parameters, which is steadier than the parameters themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from onnxqat.training.targets import Targets


class Average:
    """An exponential moving average of all that a run changes (Polyak and Juditsky 1992)."""

    def __init__(self, targets: Targets, decay: float) -> None:
        """Begin at the parameters as they are.

        Args:
            targets: What changes.
            decay: Share of the average that stays in each step, below 1.
        """
        self._targets = targets
        self._decay = decay
        self.values: tuple[Tensor, ...] = _copies(targets)

    @torch.no_grad()
    def take(self, step: int) -> None:
        """Add the parameters after a step; the first steps count more, as the start is no step."""
        keep = min(self._decay, step / (step + 9))
        for value, parameter in zip(self.values, self._targets.changing, strict=True):
            value.lerp_(parameter.detach(), 1 - keep)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The student with the averaged parameters; afterwards with its own again."""
        own = _copies(self._targets)
        self._put(self.values)
        self._targets.follow()
        try:
            yield
        finally:
            self._put(own)

    def restart(self) -> None:
        """Begin again at the parameters as they are."""
        self.values = _copies(self._targets)

    @torch.no_grad()
    def _put(self, values: tuple[Tensor, ...]) -> None:
        for parameter, value in zip(self._targets.changing, values, strict=True):
            parameter.copy_(value)


def _copies(targets: Targets) -> tuple[Tensor, ...]:
    return tuple(parameter.detach().clone() for parameter in targets.changing)
