"""The loss that a recipe names, made of terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from onnxqat.core.errors import ConfigError, OnnxqatError, TrainingError
from onnxqat.core.user_code import load_callable, place_of_failure
from onnxqat.training.config import FinetuneConfig
from onnxqat.training.losses import Facts, Loss, Outputs, cross_entropy, kl, mse, parse_terms


@dataclass(frozen=True)
class Compared:
    """What the terms of a loss compare, with facts about the teacher's side of it."""

    outputs: Facts
    heads: Facts = field(default_factory=dict)
    """What stands for the outputs in `auto`; none: the outputs themselves."""
    features: Facts = field(default_factory=dict)
    """Inner tensors."""


def make_loss(config: FinetuneConfig, compared: Compared) -> Loss:
    """The weighted sum of the terms in `config.loss`.

    Raises:
        ConfigError: A term is unknown or cannot be imported.
    """
    return _sum(_make_terms(config, compared))


def make_losses(config: FinetuneConfig, compared: Compared) -> tuple[Loss, Loss]:
    """The loss of a step, and what the best step is chosen by: the terms that look at the outputs,
    or `auto` where there are none.

    Raises:
        ConfigError: A term is unknown or cannot be imported.
    """
    terms = _make_terms(config, compared)
    judging = [term for term in terms if term.name != "features"]
    if not judging:
        judging = _make_terms(replace(config, loss="auto"), compared)
    return _sum(terms), _sum(judging)


@dataclass(frozen=True)
class _Term:
    name: str
    factor: float
    loss: Loss


def _sum(terms: Sequence[_Term]) -> Loss:
    def loss(student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        first, *rest = (term.factor * term.loss(student, teacher, labels) for term in terms)
        return sum(rest, start=first)

    return loss


def _make_terms(config: FinetuneConfig, compared: Compared) -> list[_Term]:
    known: dict[str, Callable[[], Loss]] = {
        "auto": lambda: mse(compared.heads or compared.outputs),
        "mse": lambda: mse(compared.outputs),
        "kl": lambda: kl(compared.outputs, temperature=config.temperature),
        "labels": lambda: cross_entropy(compared.outputs),
        "features": lambda: mse(compared.features),
    }
    terms = []
    for factor, name in parse_terms(config.loss):
        if ":" not in name and name not in known:
            raise ConfigError(
                f"there is no loss '{name}'",
                at=f"loss = '{config.loss}'",
                fix=f"use {', '.join(known)} or module:callable, joined by +",
            )
        made = known[name]() if name in known else users_loss(load_callable(name), name)
        terms.append(_Term(name, factor, made))
    return terms


def users_loss(function: Callable[..., Any], name: str) -> Loss:
    """A loss of the user's; where it fails, or returns what is no loss, a TrainingError says so."""

    def loss(student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        try:
            value = function(student, teacher, labels)
        except OnnxqatError:
            raise
        except Exception as error:
            raise TrainingError(
                f"the loss '{name}' failed: {type(error).__name__}: {error}",
                at=place_of_failure(error),
                fix="correct it; it is called with the student's outputs by name, the teacher's "
                "outputs by name, and labels or None",
            ) from error
        is_trained = any(output.requires_grad for output in student.values())
        return _as_loss(value, name, is_trained=is_trained)

    return loss


def _as_loss(value: object, name: str, *, is_trained: bool) -> Tensor:
    """One number that gradients flow back from, shape []."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TrainingError(
            f"the loss '{name}' returns {what}", fix="return one number, as a torch tensor"
        )
    if is_trained and not value.requires_grad:
        raise TrainingError(
            f"the loss '{name}' does not depend on the student's outputs",
            fix="compute it from `student` by torch operations, without detach or numpy",
        )
    return value.reshape(())
