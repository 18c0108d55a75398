"""Which parameters of a student train, and which scales follow their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import Parameter

from onnxqat.bridge import FakeQuantize, OnnxModule
from onnxqat.core.errors import ConfigError, TrainingError
from onnxqat.training.config import FinetuneConfig
from onnxqat.training.names import parameters_by_name
from onnxqat.training.parameters import Kind, Trained, bias_unit, weight_unit
from onnxqat.training.roles import readers_of_parameters, roles
from onnxqat.training.selection import EVERYTHING, Selection, readers_of_quantizers
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


def choose_targets(
    student: OnnxModule, config: FinetuneConfig, selection: Selection = EVERYTHING
) -> Targets:
    """Weights, biases and norms train, as far as they are selected; scales as the config says.

    Everything else in the student (constants of formulas, limits of a Clip, running statistics)
    keeps its value. `requires_grad` of all the student's parameters is set accordingly.

    Raises:
        TrainingError: The student has no weight.
        ConfigError: Nothing that could train is selected.
    """
    by_name = parameters_by_name(student)
    values = tuple(_choose_values(student, by_name))
    if not values:
        raise TrainingError(
            "the model has no weight to train", fix="give a model with Conv, Gemm or MatMul weights"
        )
    following = _choose_followers(student, by_name, config)
    scales = tuple(_choose_scales(student, following, config))
    if not selection.is_everything:
        values, following, scales = _selected(student, selection, values, following, scales)
    moving = {id(entry.parameter) for entry in (*values, *scales)}
    for parameter in student.parameters():
        parameter.requires_grad_(id(parameter) in moving)
        parameter.grad = None
    return Targets((*values, *scales), following)


def _selected(
    student: OnnxModule,
    selection: Selection,
    values: tuple[Trained, ...],
    following: tuple[Follower, ...],
    scales: tuple[Trained, ...],
) -> tuple[tuple[Trained, ...], tuple[Follower, ...], tuple[Trained, ...]]:
    """The same without what is not selected; scales of frozen weights need not follow them."""
    readers = readers_of_parameters(student.graph)
    values = tuple(x for x in values if selection.allows(x.name, readers[x.name]))
    moving = {id(x.parameter) for x in values}
    following = tuple(
        follower
        for follower in following
        if any(id(weight) in moving for weight, _ in follower.weights)
    )
    readers = readers_of_quantizers(student)
    allowed = {
        id(quantizer.scale)
        for name, quantizer in student.quantizers.items()
        if selection.allows(name, readers[name])
    }
    scales = tuple(x for x in scales if id(x.parameter) in allowed)
    if not (values or scales):
        raise ConfigError(
            "nothing is left to train", fix="let train_only match more names, or freeze fewer"
        )
    return values, following, scales


def weight_bits(student: OnnxModule) -> int:
    """Bits of the coarsest quantized weight; 8 where none is quantized, and of FP8."""
    weights = (quantizer for quantizer in student.quantizers.values() if quantizer.is_weight)
    bits = (8 if x.is_float8 else x.qmax.bit_length() + 1 for x in weights)
    return min(bits, default=8)


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
    return tuple(x for x in found if is_asked or (x.starts_so() and not x.is_float8))


def _choose_scales(
    student: OnnxModule, following: tuple[Follower, ...], config: FinetuneConfig
) -> Iterator[Trained]:
    """Each learned scale once, however many quantizers share it."""
    taken = {id(follower.scale) for follower in following}
    for name, quantizer in student.quantizers.items():
        scale = quantizer.scale
        if id(scale) in taken or not quantizer.is_reached:
            continue
        if _is_learned(config, quantizer):
            taken.add(id(scale))
            kind = Kind.WEIGHT_SCALE if quantizer.is_weight else Kind.SCALE
            yield Trained(f"scale of {name}", kind, scale, torch.ones_like(scale))


def _is_learned(config: FinetuneConfig, quantizer: FakeQuantize) -> bool:
    if quantizer.is_weight and config.weight_scales in ("learned", "frozen"):
        return config.weight_scales == "learned"
    if config.scales == "auto":
        return not quantizer.is_float8
    return config.scales == "learned"
