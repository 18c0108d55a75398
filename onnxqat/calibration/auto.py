"""The best calibrator for each tensor.

On networks of every kind the least squared error of the tensor itself (`mse`) is the best rule,
with two exceptions that this error does not show:

- Probabilities. Where attention looks at one place, a Softmax output is near 1; most of its values
  are near 0. Clipping the few large ones costs little squared error, and much of the output. Their
  range is [0, 1] anyway, so they keep their maximum.
- Tensors whose large values do not matter, as the loudness in a spectrogram when a normalization
  follows. No statistic of the tensor tells. But one such tensor makes most of the error of the
  model's outputs, and halving again and again what is quantized finds it with few runs. Only for
  such a tensor other ranges are tried, by what they do to the outputs on a few samples.

Trying every tensor, or taking smaller gains, was measured to gain nothing on unseen data: such
differences are smaller than the chance that a few samples bring in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxqat.calibration.calibrators import CALIBRATORS, Choice, chosen_by
from onnxqat.calibration.config import CalibrationConfig
from onnxqat.calibration.groups import RangeGroup
from onnxqat.calibration.histogram import TensorStatistics
from onnxqat.calibration.switches import SwitchedGraph
from onnxqat.core.plan import QuantPlan
from onnxqat.data import Batch
from onnxqat.graph import Graph

_DOMINANT = 0.3
"""Share of the output error from which on a tensor's range is tried."""
_ENOUGH_GAIN = 0.7
"""A range is taken when it brings the output error below this share of what it was."""
_LADDER = tuple(2 ** (-i / 2) for i in range(1, 9))
"""Ranges tried besides the calibrators' own, relative to the maximum: down to 1/16."""
_LONGEST_SEARCH = 64
"""Runs over the trial samples after which no further tensor is looked for."""

_SHAPE_OPS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})

Floats = NDArray[np.float64]
Values = Mapping[RangeGroup, TensorStatistics]
Choices = dict[RangeGroup, Choice]


def choose(
    graph: Graph,
    plan: QuantPlan,
    values: Values,
    batches: Sequence[Batch],
    *,
    config: CalibrationConfig,
) -> Choices:
    """The range of each group of activations.

    Args:
        graph: The FP32 graph.
        plan: What is quantized.
        values: What was seen of each group.
        batches: A few samples to try ranges on.
        config: The share that `percentile` keeps, and the threads.
    """
    probabilities = _probabilities(graph)
    choices = {
        group: chosen_by("mse" if probabilities.isdisjoint(group.tensors) else "max", seen, config)
        for group, seen in values.items()
    }
    if not (choices and batches):
        return choices
    model = SwitchedGraph(graph, plan, tuple(values), threads=config.threads)
    search = _Search(_OutputErrors(model, batches), values, config)
    return search.improved(choices)


def _probabilities(graph: Graph) -> frozenset[str]:
    """Tensors that hold a Softmax output, perhaps in another shape."""
    found: set[str] = set()
    for node in graph.nodes:
        is_reshaped = node.op in _SHAPE_OPS and node.inputs[0].name in found
        if node.op == "Softmax" or is_reshaped:
            found.update(output.name for output in node.outputs)
    return frozenset(found)


class _OutputErrors:
    """How far the outputs of each sample are from the float ones, for a choice of ranges."""

    def __init__(self, model: SwitchedGraph, batches: Sequence[Batch]) -> None:
        self._model, self._batches = model, batches
        self._reference = [model(batch.inputs, {}) for batch in batches]
        self.runs = 0

    def __call__(self, choices: Mapping[RangeGroup, Choice]) -> Floats:
        """Relative squared errors, [batches], above 0."""
        self.runs += 1
        amax = {group: choice.amax for group, choice in choices.items()}
        pairs = zip(self._batches, self._reference, strict=True)
        return np.array([_relative_error(y, self._model(x.inputs, amax)) for x, y in pairs])


def _typical(errors: Floats) -> float:
    """The geometric mean: not ruled by the few samples on which a network reacts by leaps."""
    return float(np.exp(np.log(errors).mean()))


def _ratio(errors: Floats, before: Floats) -> float:
    """How much of the error is left, typically and in the mean, whichever is more.

    The mean counts too since what clipping spoils are few samples.
    """
    return max(_typical(errors) / _typical(before), float(errors.mean() / before.mean()))


def _relative_error(reference: list[NDArray[Any]], outputs: list[NDArray[Any]]) -> float:
    """The sum over float outputs of squared error by squared value; above 0."""
    return 1e-12 + sum(
        float(np.square(y - x, dtype=np.float64).sum())
        / max(float(np.square(x, dtype=np.float64).sum()), 1e-30)
        for x, y in zip(reference, outputs, strict=True)
        if x.dtype.kind == "f"
    )


class _Search:
    """Finds the tensors that make most of the output error, and better ranges for them."""

    def __init__(self, errors: _OutputErrors, values: Values, config: CalibrationConfig) -> None:
        self._errors, self._values, self._config = errors, values, config

    def improved(self, choices: Choices) -> Choices:
        """The choices, with another range wherever that makes the outputs clearly better."""
        before = self._errors(choices)
        for group in self._dominant(choices, list(choices), above=_DOMINANT * _typical(before)):
            proposals = [{**choices, group: choice} for choice in self._proposals(group)]
            ratios = [_ratio(self._errors(proposal), before) for proposal in proposals]
            if min(ratios) < _ENOUGH_GAIN:
                return self.improved(proposals[int(np.argmin(ratios))])
        return choices

    def _dominant(
        self, choices: Choices, groups: list[RangeGroup], *, above: float
    ) -> Iterator[RangeGroup]:
        """The groups that typically make an error above a threshold when quantized alone."""
        if self._errors.runs >= _LONGEST_SEARCH:
            return
        if _typical(self._errors({group: choices[group] for group in groups})) < above:
            return
        if len(groups) == 1:
            yield groups[0]
            return
        middle = len(groups) // 2
        for half in (groups[:middle], groups[middle:]):
            yield from self._dominant(choices, half, above=above)

    def _proposals(self, group: RangeGroup) -> list[Choice]:
        """Every calibrator's range, and a ladder of ranges below the maximum."""
        seen = self._values[group]
        return [
            *(chosen_by(method, seen, self._config) for method in CALIBRATORS),
            *(Choice(seen.amax * share, "ladder") for share in _LADDER),
        ]
