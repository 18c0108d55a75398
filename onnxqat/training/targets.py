"""Which parameters of a student train, and which scales follow their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import Parameter

from onnxqat.bridge import OnnxModule
from onnxqat.core.errors import TrainingError
from onnxqat.training.config import FinetuneConfig
from onnxqat.training.names import parameters_by_name
from onnxqat.training.parameters import Kind, Trained, bias_unit, weight_unit
from onnxqat.training.roles import roles
from onnxqat.training.weight_scales import Follower, followers


@dataclass(frozen=True, eq=False)
class Targets:
    """What moves in a run."""

    trained: tuple[Trained, ...]
    followers: tuple[Follower, ...]

    @property
    def changing(self) -> tuple[Parameter, ...]:
        """Every parameter that a run may change, in a fixed order."""
        trained = tuple(entry.parameter for entry in self.trained)
        return (*trained, *(follower.scale for follower in self.followers))

    def follow(self) -> None:
        """Recompute the scales that follow their weights."""
        for follower in self.followers:
            follower.follow()


def choose_targets(student: OnnxModule, config: FinetuneConfig) -> Targets:
    """Weights, biases and norms always train; scales as the config says.

    Everything else in the student (constants of formulas, limits of a Clip, running statistics)
    keeps its value. `requires_grad` of all the student's parameters is set accordingly.

    Raises:
        TrainingError: The student has no weight.
    """
    by_name = parameters_by_name(student)
    values = tuple(_choose_values(student, by_name))
    if not values:
        raise TrainingError(
            "the model has no weight to train", fix="give a model with Conv, Gemm or MatMul weights"
        )
    following = _choose_followers(student, by_name, config)
    scales = tuple(_choose_scales(student, following, config))
    moving = {id(entry.parameter) for entry in (*values, *scales)}
    for parameter in student.parameters():
        parameter.requires_grad_(id(parameter) in moving)
        parameter.grad = None
    return Targets((*values, *scales), following)


def weight_bits(student: OnnxModule) -> int:
    """Bits of the coarsest quantized weight; 8 where none is quantized."""
    limits = (quantizer.qmax for quantizer in student.quantizers.values() if quantizer.is_weight)
    return min((qmax.bit_length() + 1 for qmax in limits), default=8)


def _choose_values(student: OnnxModule, by_name: dict[str, Parameter]) -> Iterator[Trained]:
    kinds = roles(student.graph)
    for name, parameter in by_name.items():
        kind = kinds.get(name)
        if kind is Kind.WEIGHT:
            unit = weight_unit(parameter, student.quantizers.get(name))
            yield Trained(name, kind, parameter, unit)
        elif kind is Kind.BIAS:
            yield Trained(name, kind, parameter, bias_unit(parameter))


def _choose_followers(
    student: OnnxModule, by_name: dict[str, Parameter], config: FinetuneConfig
) -> tuple[Follower, ...]:
    if config.weight_scales not in ("auto", "recomputed"):
        return ()
    found = followers(student.quantizers, by_name)
    is_asked = config.weight_scales == "recomputed"
    return tuple(follower for follower in found if is_asked or follower.starts_so())


def _choose_scales(
    student: OnnxModule, following: tuple[Follower, ...], config: FinetuneConfig
) -> Iterator[Trained]:
    """Each learned scale once, however many quantizers share it."""
    taken = {id(follower.scale) for follower in following}
    for name, quantizer in student.quantizers.items():
        scale = quantizer.scale
        if id(scale) in taken or not quantizer.is_reached:
            continue
        if _is_learned(config, is_weight=quantizer.is_weight):
            taken.add(id(scale))
            kind = Kind.WEIGHT_SCALE if quantizer.is_weight else Kind.SCALE
            yield Trained(f"scale of {name}", kind, scale, torch.ones_like(scale))


def _is_learned(config: FinetuneConfig, *, is_weight: bool) -> bool:
    if is_weight and config.weight_scales in ("learned", "frozen"):
        return config.weight_scales == "learned"
    return config.scales == "learned"
