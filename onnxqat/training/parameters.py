"""What is trained, and in which unit each tensor moves.

One learning rate must fit every tensor of every model, while folded norms and exporters spread
weights over five orders of magnitude, from channel to channel even. So the optimizer does not see a
parameter p but a coordinate u:

  * weights: p = unit · u, the unit being the weight's own quantization step, one a channel. It is
    codes that a weight must change, be they of 8 bits or of 4, so a rate of 0.005 reads: in some
    200 steps of Adam a weight can cross to the next code. FP8, whose steps differ, moves as INT8.
  * biases and norms: p = unit · u, the unit being the tensor's root mean square.
  * scales: p = start · exp(u), so that they move by shares of themselves and stay positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor
from torch.nn import Parameter

from onnxqat.bridge import FakeQuantize
from onnxqat.core.spec import QuantDtype

FLOAT_STEPS = 32.0
"""Steps in the root mean square of a weight that is not quantized: what INT8 weights have."""
ZERO_UNIT = 0.125
"""Unit of a tensor that is all zero and so does not tell its size."""


class Kind(Enum):
    """Parameter groups, each with its own rate and decay."""

    WEIGHT = "weight"
    BIAS = "bias"
    """Biases, and the scales and biases of norms."""
    SCALE = "scale"
    """Scales of activations."""
    WEIGHT_SCALE = "weight scale"

    @property
    def is_scale(self) -> bool:
        """Whether it moves by shares of itself."""
        return self in (Kind.SCALE, Kind.WEIGHT_SCALE)


@dataclass(frozen=True, eq=False)
class Trained:
    """One trained parameter."""

    name: str
    kind: Kind
    parameter: Parameter
    unit: Tensor
    """A power of two, so that p = unit · u is exact; it broadcasts against p. Unused for scales."""


def weight_unit(weight: Tensor, quantizer: FakeQuantize | None) -> Tensor:
    """The quantization step of a weight, for each channel that has its own."""
    if quantizer is None:
        return _power_of_two(_size(weight) / FLOAT_STEPS)
    scale = quantizer.scale.detach()
    if quantizer.is_float8:
        scale = scale * (
            quantizer.qmax / QuantDtype.INT8.qmax
        )  # a step of INT8 over the same range
    if quantizer.axis is not None:
        shape = [1] * weight.ndim
        shape[quantizer.axis] = -1
        scale = scale.reshape(shape)
    return _power_of_two(scale)


def bias_unit(bias: Tensor) -> Tensor:
    """The root mean square of a bias or norm, shape []."""
    return _power_of_two(_size(bias))


def _size(values: Tensor) -> Tensor:
    size = values.detach().square().mean().sqrt()
    return torch.where(size > 0, size, ZERO_UNIT)


def _power_of_two(x: Tensor) -> Tensor:
    """The nearest one, on a logarithmic scale."""
    return torch.exp2(torch.log2(x).round())


class Coordinates:
    """The optimizer's view: leaf tensors u, their gradients, and the way back to the parameters."""

    def __init__(self, trained: Sequence[Trained]) -> None:
        """Begin where the parameters are."""
        self._linear = [entry for entry in trained if not entry.kind.is_scale]
        self._scales = [entry for entry in trained if entry.kind.is_scale]
        self._starts = [entry.parameter.detach().clone() for entry in self._scales]
        self._u_linear = [entry.parameter.detach() / entry.unit for entry in self._linear]
        self._u_scales = [torch.zeros_like(start) for start in self._starts]

    @property
    def entries(self) -> list[Trained]:
        """What is trained, in the order of `all`."""
        return [*self._linear, *self._scales]

    @property
    def all(self) -> list[Tensor]:
        """Every coordinate, in a fixed order."""
        return [*self._u_linear, *self._u_scales]

    def leaves(self, kind: Kind) -> list[Tensor]:
        """The coordinates of one kind, in the order in which they were given."""
        pairs = zip(self.entries, self.all, strict=True)
        return [u for entry, u in pairs if entry.kind is kind]

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Move the parameters' gradients over, by the chain rule; they are gone from there."""
        for entry, u in zip(self._linear, self._u_linear, strict=True):
            u.grad = _take(entry.parameter, entry.unit)
        for entry, u in zip(self._scales, self._u_scales, strict=True):
            u.grad = _take(entry.parameter, entry.parameter)

    @torch.no_grad()
    def read(self) -> None:
        """Set the coordinates to what stands for the parameters as they are now."""
        for entry, u in zip(self._linear, self._u_linear, strict=True):
            torch.div(entry.parameter, entry.unit, out=u)
        for entry, start, u in zip(self._scales, self._starts, self._u_scales, strict=True):
            torch.log(entry.parameter / start, out=u)

    @torch.no_grad()
    def write(self) -> None:
        """Set the parameters to what the coordinates stand for."""
        for entry, u in zip(self._linear, self._u_linear, strict=True):
            torch.mul(u, entry.unit, out=entry.parameter)
        for entry, start, u in zip(self._scales, self._starts, self._u_scales, strict=True):
            torch.mul(start, u.exp(), out=entry.parameter)


def _take(parameter: Parameter, factor: Tensor) -> Tensor | None:
    gradient, parameter.grad = parameter.grad, None
    return None if gradient is None else gradient.mul_(factor)
