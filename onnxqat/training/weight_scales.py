"""Weight scales that follow their weights: scale = amax / qmax after every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from onnxqat.bridge import FakeQuantize
from onnxqat.core.calibration import SCALE_FLOOR

MATCH = 1e-4
"""Relative difference up to which a scale counts as amax / qmax of its weight."""


@dataclass(frozen=True, eq=False)
class Follower:
    """One scale and the weights that it is recomputed from."""

    scale: Parameter
    weights: tuple[tuple[Parameter, FakeQuantize], ...]

    @property
    def is_float8(self) -> bool:
        """Whether a weight is quantized to FP8."""
        return any(quantizer.is_float8 for _, quantizer in self.weights)

    @torch.no_grad()
    def computed(self) -> Tensor:
        """amax / qmax over all its weights, not below the floor; shape of the scale."""
        scales = [_scale_of(weight, quantizer) for weight, quantizer in self.weights]
        return torch.stack(scales).amax(0).clamp_min(SCALE_FLOOR).reshape(self.scale.shape)

    @torch.no_grad()
    def follow(self) -> None:
        """Set the scale."""
        self.scale.copy_(self.computed())

    def starts_so(self) -> bool:
        """Whether the scale is amax / qmax already, so that recomputing changes nothing."""
        return torch.allclose(self.scale.detach(), self.computed(), rtol=MATCH, atol=0.0)


def followers(
    quantizers: Mapping[str, FakeQuantize], weights: Mapping[str, Parameter]
) -> tuple[Follower, ...]:
    """One for each scale whose quantized tensors are all parameters, in the quantizers' order."""
    groups: dict[int, list[tuple[str, FakeQuantize]]] = {}
    for name, quantizer in quantizers.items():
        groups.setdefault(id(quantizer.scale), []).append((name, quantizer))
    return tuple(
        Follower(members[0][1].scale, tuple((weights[name], q) for name, q in members))
        for members in groups.values()
        if all(q.is_weight and name in weights for name, q in members)
    )


def _scale_of(weight: Parameter, quantizer: FakeQuantize) -> Tensor:
    magnitude = weight.detach().abs()
    if quantizer.axis is None:
        return magnitude.amax() / float(quantizer.qmax)
    others = [axis for axis in range(weight.ndim) if axis != quantizer.axis % weight.ndim]
    return (magnitude.amax(others) if others else magnitude) / float(quantizer.qmax)
