"""The loss that a recipe names, made of terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import Tensor

from onnxqat.core.errors import ConfigError, OnnxqatError, TrainingError
from onnxqat.core.user_code import load_callable, place_of_failure
from onnxqat.training.config import FinetuneConfig
from onnxqat.training.losses import Facts, Loss, Outputs, cross_entropy, kl, mse, parse_terms

_NONE: Facts = MappingProxyType({})


def make_loss(config: FinetuneConfig, facts: Facts, features: Facts = _NONE) -> Loss:
    """The weighted sum of the terms in `config.loss`.

    Args:
        config: With the terms.
        facts: About the outputs.
        features: About the inner tensors that the term `features` compares.

    Raises:
        ConfigError: A term is unknown or cannot be imported.
    """
    known = {
        "mse": lambda: mse(facts),
        "kl": lambda: kl(facts, temperature=config.temperature),
        "labels": lambda: cross_entropy(facts),
        "features": lambda: mse(features),
    }
    terms = []
    for factor, name in parse_terms(config.loss):
        if ":" not in name and name not in known:
            raise ConfigError(
                f"there is no loss '{name}'",
                at=f"loss = '{config.loss}'",
                fix=f"use {', '.join(known)} or module:callable, joined by +",
            )
        terms.append((factor, known[name]() if name in known else _own(name)))

    def loss(student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        first, *rest = (factor * term(student, teacher, labels) for factor, term in terms)
        return sum(rest, start=first)

    return loss


def make_judge(config: FinetuneConfig, facts: Facts) -> Loss:
    """What the best step is chosen by: the terms that look at the outputs; `mse` without any."""
    terms = [(factor, name) for factor, name in parse_terms(config.loss) if name != "features"]
    text = "+".join(f"{factor}*{name}" for factor, name in terms) or "mse"
    return make_loss(replace(config, loss=text), facts)


def _own(name: str) -> Loss:
    return users_loss(load_callable(name), name)


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
