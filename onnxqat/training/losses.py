"""Losses between a student's and a teacher's outputs, by ONNX output name.

A loss of your own is named `module:callable` (or `file.py:callable`) and is called as

    def loss(
        student: dict[str, torch.Tensor],   # outputs by name, with gradients
        teacher: dict[str, torch.Tensor],   # outputs of the FP32 model for the same batch
        labels: torch.Tensor | None,        # as the data gives them
    ) -> torch.Tensor: ...                  # one finite number, the mean over the batch
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from onnxqat.core.errors import ConfigError

Outputs = dict[str, Tensor]
Loss = Callable[[Outputs, Outputs, Tensor | None], Tensor]


@dataclass(frozen=True)
class OutputFacts:
    """What the teacher's output was seen to be, over the validation samples."""

    variance: float
    """Mean square distance from the mean, over samples and elements."""
    is_probability: bool
    """Not negative, and sums to 1 over the class axis."""


Facts = Mapping[str, OutputFacts]
"""By output name; only outputs of floats that can be compared are in it."""


def class_axis(output: Tensor) -> int:
    """Where the classes are: 1 in [N, C] and [N, C, H, W, …], the last in [N, T, C]."""
    return output.ndim - 1 if output.ndim == 3 else min(1, output.ndim - 1)


def scores_name(facts: Facts, outputs: Outputs) -> str | None:
    """The first output that looks like class scores, [N, C] with C > 1; None if there is none."""
    for name in facts:
        if outputs[name].ndim == 2 and outputs[name].shape[1] > 1:
            return name
    return None


def mse(facts: Facts) -> Loss:
    """Squared error over the variance of the teacher's output, mean over outputs.

    0.001 stands for about 30 dB whatever the output's unit, so one learning rate and one clipping
    norm fit all models, and no output drowns another.
    """
    weights = {name: 1 / (fact.variance or 1.0) / len(facts) for name, fact in facts.items()}

    def loss(student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        terms = [w * functional.mse_loss(student[n], teacher[n]) for n, w in weights.items()]
        return torch.stack(terms).sum()

    return loss


def kl(facts: Facts, *, temperature: float) -> Loss:
    """KL(teacher ‖ student) over the class axis, times temperature² (Hinton 2015), mean over the
    samples and positions, mean over outputs. Outputs that already are probabilities are taken so.
    """

    def of_output(name: str, student: Tensor, teacher: Tensor) -> Tensor:
        axis = class_axis(teacher)
        is_probability = facts[name].is_probability
        target = _log_probability(teacher, is_probability, temperature=temperature, axis=axis)
        guess = _log_probability(student, is_probability, temperature=temperature, axis=axis)
        divergence = (target.exp() * (target - guess)).sum(axis)
        return divergence.mean() * temperature**2

    def loss(student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        return torch.stack([of_output(n, student[n], teacher[n]) for n in facts]).mean()

    return loss


def cross_entropy(facts: Facts) -> Loss:
    """Cross-entropy of the class scores (logits or probabilities) against integer labels [N]."""

    def loss(student: Outputs, teacher: Outputs, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise ConfigError(
                "the loss wants labels, and the data has none",
                fix='use loss = "mse" or "kl", or add labels to the data',
            )
        name = scores_name(facts, student)
        if name is None:
            raise ConfigError(
                "the loss wants labels, and no output is class scores [N, C]",
                fix='use loss = "mse", or a loss of your own as "module:callable"',
            )
        scores = student[name]
        guess = _log_probability(scores, facts[name].is_probability, temperature=1.0, axis=1)
        return functional.nll_loss(guess, labels.long())

    return loss


def _log_probability(
    output: Tensor, is_probability: bool, *, temperature: float, axis: int
) -> Tensor:
    """Log-probabilities at a temperature; the logarithm of a probability is a logit."""
    logits = output.clamp_min(1e-12).log() if is_probability else output
    return torch.log_softmax(logits / temperature, axis)


def observe_outputs(batches: list[Outputs]) -> Facts:
    """Facts about the teacher's outputs by name; outputs that are not float are left out."""
    names = [name for name, output in batches[0].items() if output.is_floating_point()]
    return {name: _observe([batch[name] for batch in batches]) for name in names}


def _observe(outputs: list[Tensor]) -> OutputFacts:
    count = sum(output.numel() for output in outputs)
    mean = sum(float(output.double().sum()) for output in outputs) / count
    square = sum(float((output.double() - mean).square().sum()) for output in outputs)
    return OutputFacts(
        variance=square / count,
        is_probability=all(_is_probability(output) for output in outputs),
    )


def _is_probability(output: Tensor) -> bool:
    axis = class_axis(output)
    if output.ndim == 0 or output.shape[axis] < 2 or float(output.min()) < 0:
        return False
    total = output.sum(axis)
    return bool(torch.allclose(total, torch.ones_like(total), atol=1e-3))


def parse_terms(text: str) -> tuple[tuple[float, str], ...]:
    """Factor and name of each term of a loss, as `mse+0.1*labels`.

    Raises:
        ConfigError: A factor is no positive number, or a name is empty.
    """
    return tuple(_parse_term(term.strip(), text) for term in text.split("+"))


def _parse_term(term: str, text: str) -> tuple[float, str]:
    factor, star, name = term.rpartition("*")
    try:
        value = float(factor) if star else 1.0
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)) or not name.strip():
        raise ConfigError(
            f"'{term}' is no term of a loss", at=f"loss = '{text}'", fix="write 'mse+0.1*labels'"
        )
    return value, name.strip()
