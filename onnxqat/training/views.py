"""The two models as a step runs them: with the inner tensors that a loss looks at as outputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import torch

from onnxqat.bridge import OnnxModule
from onnxqat.core.errors import ConfigError
from onnxqat.training.batches import TensorBatch
from onnxqat.training.config import FinetuneConfig
from onnxqat.training.features import TERM, find_features
from onnxqat.training.heads import Head, find_heads
from onnxqat.training.losses import Facts, observe_outputs, parse_terms
from onnxqat.training.run import run_module

OBSERVED_BATCHES = 4
"""Whose inner tensors tell the variance."""


@dataclass(frozen=True, eq=False)
class View:
    """Student and teacher, each with the same inner tensors after its outputs."""

    student: OnnxModule
    teacher: OnnxModule
    inner: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Views:
    """The models as they are, as a step runs them, and as a validation does."""

    whole: View
    step: View
    judged: View
    """It need not look at features, unless a loss of the user's does."""
    features: tuple[str, ...]
    heads: tuple[Head, ...]
    """What stands for the outputs in the term `auto`; none where no term asks."""


def make_views(student: OnnxModule, teacher: OnnxModule, config: FinetuneConfig) -> Views:
    """Views of the two models, with their very parameters.

    Raises:
        ConfigError: No feature is found, or nothing asks for those that are named.
    """
    whole = View(student, teacher)
    names = [name for _, name in parse_terms(config.loss)]
    is_auto = "auto" in names or names == [TERM]  # features alone are judged so
    heads = find_heads(student.graph, teacher.graph) if is_auto else ()
    of_heads = [head.tensor for head in heads if head.tensor not in student.output_names]
    is_own = has_own_loss(config)
    features = _features(whole, config, is_wanted=TERM in names, has_own_loss=is_own)
    step = _view(whole, (*of_heads, *features))
    judged = step if is_own else _view(whole, of_heads)
    return Views(whole, step, judged, features, heads)


def has_own_loss(config: FinetuneConfig) -> bool:
    """Whether a term of the loss is the user's."""
    return any(":" in name for _, name in parse_terms(config.loss))


def _features(
    whole: View, config: FinetuneConfig, *, is_wanted: bool, has_own_loss: bool
) -> tuple[str, ...]:
    if config.features and not (is_wanted or has_own_loss):
        raise ConfigError(
            "features are named, and no term of the loss looks at them",
            at=f"loss = '{config.loss}'",
            fix=f"write '{config.loss}+0.5*{TERM}', or leave features out",
        )
    if not (is_wanted or config.features):
        return ()
    return find_features(whole.student.graph, whole.teacher.graph, config.features)


def _view(whole: View, inner: Iterable[str]) -> View:
    names = tuple(dict.fromkeys(inner))
    if not names:
        return whole
    return View(whole.student.with_outputs(names), whole.teacher.with_outputs(names), names)


@torch.no_grad()
def observe_inner(view: View, batches: Iterable[TensorBatch]) -> Facts:
    """Facts about the teacher's inner tensors."""
    if not view.inner:
        return {}
    seen = []
    for batch in islice(batches, OBSERVED_BATCHES):
        outputs = run_module(view.teacher, batch.inputs)
        seen.append({name: outputs[name] for name in view.inner})
    return observe_outputs(seen)
