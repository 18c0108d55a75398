"""The loss that a recipe names, made of terms."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from onnxqat.core.errors import ConfigError
from onnxqat.training.config import FinetuneConfig
from onnxqat.training.losses import Facts, Loss, Outputs, cross_entropy, kl, mse, parse_terms
from onnxqat.training.user_code import load_callable


def make_loss(config: FinetuneConfig, facts: Facts) -> Loss:
    """The weighted sum of the terms in `config.loss`.

    Raises:
        ConfigError: A term is unknown or cannot be imported.
    """
    terms = [(factor, _make_term(name, config, facts)) for factor, name in parse_terms(config.loss)]

    def loss(student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        first, *rest = (factor * term(student, teacher, labels) for factor, term in terms)
        return sum(rest, start=first)

    return loss


def _make_term(name: str, config: FinetuneConfig, facts: Facts) -> Loss:
    if ":" in name:
        return cast(Loss, load_callable(name))
    if name == "mse":
        return mse(facts)
    if name == "kl":
        return kl(facts, temperature=config.temperature)
    if name == "labels":
        return cross_entropy(facts)
    raise ConfigError(
        f"there is no loss '{name}'",
        at=f"loss = '{config.loss}'",
        fix="use mse, kl, labels or module:callable, joined by +",
    )
