"""What is trained, and in which unit each tensor moves.

One learning rate must fit every tensor of every model, while BatchNorm folding and exporters spread
weights over orders of magnitude. So the optimizer does not see a parameter p but a coordinate u of
about 1: p = unit · u for weights and biases, p = start · exp(u) for scales, which therefore stay
positive. An Adam step of rate lr then moves a weight by about lr of its own size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor
from torch.nn import Parameter


class Kind(Enum):
    """Parameter groups, each with its own rate and decay."""

    WEIGHT = "weight"
    BIAS = "bias"
    """Biases, and the scales and biases of norms."""
    SCALE = "scale"


@dataclass(frozen=True, eq=False)
class Trained:
    """One trained parameter and its unit, a power of two (exact) that broadcasts against it."""

    name: str
    kind: Kind
    parameter: Parameter
    unit: Tensor


def size_unit(values: Tensor) -> Tensor:
    """The power of two next to the tensor's root mean square, shape []; 1 if it is all zero."""
    rms = values.detach().float().square().mean().sqrt()
    rms = torch.where(rms > 0, rms, torch.ones_like(rms))
    return torch.exp2(torch.log2(rms).round()).to(values.dtype)


class Coordinates:
    """The optimizer's view: leaf tensors u, their gradients, and the way back to the parameters."""

    def __init__(self, trained: Sequence[Trained]) -> None:
        self.trained = tuple(trained)
        self._starts = [t.parameter.detach().clone() for t in trained if t.kind is Kind.SCALE]
        self._linear = [t for t in trained if t.kind is not Kind.SCALE]
        self._scales = [t for t in trained if t.kind is Kind.SCALE]
        self._u_linear = [t.parameter.detach() / t.unit for t in self._linear]
        self._u_scales = [torch.zeros_like(start) for start in self._starts]

    def leaves(self, kind: Kind) -> list[Tensor]:
        """The coordinates of one kind, in the order of `trained`."""
        if kind is Kind.SCALE:
            return self._u_scales
        pairs = zip(self._linear, self._u_linear, strict=True)
        return [u for entry, u in pairs if entry.kind is kind]

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Move the parameters' gradients over, by the chain rule; they are gone from there."""
        for entry, u in zip(self._linear, self._u_linear, strict=True):
            u.grad = _take(entry.parameter, entry.unit)
        for entry, u in zip(self._scales, self._u_scales, strict=True):
            u.grad = _take(entry.parameter, entry.parameter)

    @torch.no_grad()
    def write(self) -> None:
        """Set the parameters to what the coordinates stand for."""
        for entry, u in zip(self._linear, self._u_linear, strict=True):
            torch.mul(u, entry.unit, out=entry.parameter)
        for entry, u, start in zip(self._scales, self._u_scales, self._starts, strict=True):
            torch.mul(start, u.exp(), out=entry.parameter)


def _take(parameter: Parameter, factor: Tensor) -> Tensor | None:
    gradient, parameter.grad = parameter.grad, None
    return None if gradient is None else gradient.mul_(factor)
