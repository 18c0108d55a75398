"""The optimizer over coordinates, and its recommended rates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.optim import SGD, AdamW, Optimizer

from onnxqat.training.config import FinetuneConfig
from onnxqat.training.parameters import Coordinates, Kind


@dataclass(frozen=True)
class Rates:
    """Learning rates in units of each tensor's own size."""

    weight: float
    bias: float
    scale: float

    def of(self, kind: Kind) -> float:
        """The rate of one kind."""
        return {Kind.WEIGHT: self.weight, Kind.BIAS: self.bias, Kind.SCALE: self.scale}[kind]


RECOMMENDED = {8: Rates(1e-3, 1e-3, 1e-3), 4: Rates(3e-3, 3e-3, 3e-3)}


def choose_rates(config: FinetuneConfig, *, weight_bits: int) -> Rates:
    """The user's rates, and recommended ones for what the user left open."""
    rates = RECOMMENDED[4 if weight_bits <= 4 else 8]
    lr = rates.weight if config.lr is None else config.lr
    ratio = lr / rates.weight
    return Rates(
        weight=lr,
        bias=rates.bias * ratio if config.bias_lr is None else config.bias_lr,
        scale=rates.scale * ratio if config.scale_lr is None else config.scale_lr,
    )


def make_optimizer(config: FinetuneConfig, coordinates: Coordinates, rates: Rates) -> Optimizer:
    """AdamW or SGD with one group for each kind that has a parameter; only weights decay."""
    groups = [
        {
            "params": leaves,
            "lr": rates.of(kind),
            "recommended": rates.of(kind),
            "weight_decay": config.weight_decay if kind is Kind.WEIGHT else 0.0,
        }
        for kind in Kind
        if (leaves := coordinates.leaves(kind))
    ]
    if config.optimizer == "sgd":
        return SGD(groups, momentum=config.momentum, nesterov=config.momentum > 0)
    return AdamW(groups, eps=1e-12)


def set_rates(optimizer: Optimizer, factor: float) -> None:
    """Every group's rate, as a factor on where it started."""
    for group in optimizer.param_groups:
        group["lr"] = group["recommended"] * factor


def clip(coordinates: Coordinates, largest: float | None) -> None:
    """Scale all gradients down together if their norm is above `largest`."""
    if largest is None:
        return
    leaves = [leaf for kind in Kind for leaf in coordinates.leaves(kind)]
    torch.nn.utils.clip_grad_norm_(leaves, largest)
