"""Which parameters of a student train, which follow, and how each begins."""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn import Parameter

from onnxqat.bridge import OnnxModule
from onnxqat.core.errors import TrainingError
from onnxqat.training.config import FinetuneConfig
from onnxqat.training.names import parameters_by_name
from onnxqat.training.parameters import Kind, Trained, size_unit
from onnxqat.training.roles import roles
from onnxqat.training.weight_scales import Follower, followers


@dataclass(frozen=True, eq=False)
class Targets:
    """What moves in a run."""

    trained: tuple[Trained, ...]
    followers: tuple[Follower, ...]
    weight_bits: int
    """Of the coarsest weight quantizer; 8 without one."""

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
    keeps its value. The student's `requires_grad` and `learn_scale` flags are set accordingly.

    Raises:
        TrainingError: The student has no weight.
    """
    by_name = parameters_by_name(student)
    kinds = roles(student.graph)
    trained = [
        Trained(name, kinds[name], parameter, size_unit(parameter))
        for name, parameter in by_name.items()
        if name in kinds
    ]
    if not trained:
        raise TrainingError(
            "the model has no weight to train", fix="give a model with Conv, Gemm or MatMul weights"
        )
    following = _choose_followers(student, by_name, config)
    trained += _choose_scales(student, following, config)
    _set_flags(student, trained)
    return Targets(tuple(trained), following, _weight_bits(student))


def _weight_bits(student: OnnxModule) -> int:
    limits = [q.qmax for q in student.quantizers.values() if q.is_weight]
    return min(limits, default=127).bit_length() + 1


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
) -> list[Trained]:
    """Each learned scale once, however many quantizers share it."""
    taken = {id(follower.scale) for follower in following}
    chosen = []
    for quantizer in student.quantizers.values():
        is_learned = _is_learned(config, is_weight=quantizer.is_weight)
        quantizer.learn_scale = is_learned and id(quantizer.scale) not in taken
    for name, quantizer in student.quantizers.items():
        if quantizer.learn_scale and id(quantizer.scale) not in taken:
            taken.add(id(quantizer.scale))
            scale = quantizer.scale
            chosen.append(Trained(f"scale of {name}", Kind.SCALE, scale, size_unit(scale)))
    return chosen


def _is_learned(config: FinetuneConfig, *, is_weight: bool) -> bool:
    if not is_weight or config.weight_scales in ("auto", "recomputed"):
        return config.scales == "learned"
    return config.weight_scales == "learned"


def _set_flags(student: OnnxModule, trained: list[Trained]) -> None:
    moving = {id(entry.parameter) for entry in trained}
    for parameter in student.parameters():
        parameter.requires_grad_(id(parameter) in moving)
        parameter.grad = None
