"""The optimizer over coordinates, and its recommended rates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from onnxqat.bridge import OnnxModule
from onnxqat.graph.insert import INITIALIZATION_KEY
from onnxqat.training.config import FinetuneConfig
from onnxqat.training.parameters import Coordinates, Kind

MOST_OF_FEW_BITS = 5
"""Bits up to which weights are so coarse that scales have to look for new places."""


@dataclass(frozen=True)
class Rates:
    """Learning rates of coordinates, see `parameters`."""

    weight: float
    bias: float
    scale: float
    weight_scale: float

    def of(self, kind: Kind) -> float:
        """The rate of one kind."""
        return {
            Kind.WEIGHT: self.weight,
            Kind.BIAS: self.bias,
            Kind.SCALE: self.scale,
            Kind.WEIGHT_SCALE: self.weight_scale,
        }[kind]


RECOMMENDED = {
    8: Rates(weight=5e-3, bias=1e-3, scale=5e-3, weight_scale=5e-4),
    4: Rates(weight=5e-3, bias=3e-4, scale=2e-2, weight_scale=2e-3),
}
"""By the bits of the weights. With 8 there is little to win and much to lose: activation scales
that move as far as those around 4-bit weights need to cost MobileNet v1 3 dB before they find back;
ones that hardly move cost ResNet-20 a third of a dB."""


REBUILT = Rates(weight=1e-3, bias=3e-4, scale=1e-3, weight_scale=1e-4)
"""For a model that an initialization stage has trained: it is near its best, and what moves as far
as above leaves it before it comes back (ResNet-20 with 4-bit weights)."""
REBUILT_AVERAGE = 0.97
"""Of its parameters: their average gains from step to step what they themselves lose."""
REBUILDING = frozenset({"adaround", "brecq", "reconstruct"})
"""Those stages."""


def is_rebuilt(student: OnnxModule) -> bool:
    """Whether such a stage was kept, here or before the file was written."""
    found = {**student.graph.metadata, **student.notes}.get(INITIALIZATION_KEY, "")
    return not REBUILDING.isdisjoint(found.split(","))


def choose_average(config: FinetuneConfig, *, rebuilt: bool) -> float | None:
    """What the running average keeps of itself in a step; None where there is none."""
    if config.average is None:
        return REBUILT_AVERAGE if rebuilt else None
    return config.average or None


def choose_rates(config: FinetuneConfig, *, bits: int = 8, rebuilt: bool = False) -> Rates:
    """The user's rates, and recommended ones for what the user left open.

    Args:
        config: The user's choice.
        bits: Of the student's coarsest weights.
        rebuilt: Whether the student was trained part after part before.
    """
    rates = REBUILT if rebuilt else RECOMMENDED[4 if bits <= MOST_OF_FEW_BITS else 8]
    lr = rates.weight if config.lr is None else config.lr
    bias = rates.bias * lr / rates.weight if config.bias_lr is None else config.bias_lr
    scale = rates.scale * lr / rates.weight if config.scale_lr is None else config.scale_lr
    weight_scale = rates.weight_scale * scale / rates.scale
    return Rates(weight=lr, bias=bias, scale=scale, weight_scale=weight_scale)


def make_optimizer(config: FinetuneConfig, coordinates: Coordinates, rates: Rates) -> Optimizer:
    """AdamW or SGD with one group for each kind that has a parameter; only weights decay."""
    groups = [
        {
            "params": leaves,
            "lr": rates.of(kind),
            "recommended": rates.of(kind),
            "is_scale": kind.is_scale,
            "weight_decay": config.weight_decay if kind is Kind.WEIGHT else 0.0,
        }
        for kind in Kind
        if (leaves := coordinates.leaves(kind))
    ]
    if config.optimizer == "sgd":
        return SGD(groups, momentum=config.momentum, nesterov=config.momentum > 0)
    return AdamW(groups, eps=1e-12)


def set_rates(optimizer: Optimizer, factor: float, *, only_scales: bool = False) -> None:
    """Every group's rate, as a factor on where it started; 0 for what is not to move."""
    for group in optimizer.param_groups:
        moves = group["is_scale"] or not only_scales
        group["lr"] = group["recommended"] * factor if moves else 0.0


def clip(coordinates: Coordinates, largest: float | None) -> Tensor | None:
    """Scale all gradients down together if their norm, which is returned, is above `largest`."""
    if largest is None:
        return None
    leaves = [leaf for kind in Kind for leaf in coordinates.leaves(kind)]
    return torch.nn.utils.clip_grad_norm_(leaves, largest)
