"""The best calibrator for each tensor.

On networks of every kind the least squared error of the tensor itself (`mse`) is the best rule,
with two exceptions that its error does not show:

- Probabilities. Where attention looks at one place, a Softmax output is near 1; most of its values
  are near 0. Clipping the few large ones costs little squared error, and much of the output. Their
  range is [0, 1] anyway, so they keep their maximum.
- Tensors whose large values do not matter, as the loudness in a spectrogram when a normalization
  follows. No statistic of the tensor tells; the calibrators then disagree by a factor of two or
  more. Only for these tensors each calibrator's range is tried, by what it does to the model's
  outputs on a few samples, with all other activations quantized too.

Trying more, finer or everywhere was measured to gain nothing on unseen data: the differences are
smaller than the chance that a few samples bring in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxqat.calibration.calibrators import CALIBRATORS, Choice, chosen_by
from onnxqat.calibration.config import CalibrationConfig
from onnxqat.calibration.groups import RangeGroup
from onnxqat.calibration.histogram import TensorStatistics
from onnxqat.calibration.switches import SwitchedGraph
from onnxqat.core.plan import QuantPlan
from onnxqat.data import Batch, Dataset
from onnxqat.graph import Graph

_DISAGREEMENT = 2.0
"""Ratio of the largest to the smallest range proposed, from which on the ranges are tried."""
_ALIKE = 1.2
"""Ranges closer than this factor are not worth a trial of their own."""
_GAIN = 0.7
"""A range is taken when it brings the output error below this share of what it was."""
_TRIAL_SAMPLES = 16
_LONGEST_SEARCH = 512
"""Samples that all trials of a model may run together: as many as calibration itself uses."""

_SHAPE_OPS = frozenset(
    {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)

Values = Mapping[RangeGroup, TensorStatistics]
Choices = dict[RangeGroup, Choice]


def choose(
    graph: Graph,
    plan: QuantPlan,
    values: Values,
    data: Dataset,
    *,
    samples: int,
    config: CalibrationConfig,
) -> Choices:
    """The range of each group of activations.

    Args:
        graph: The FP32 graph.
        plan: What is quantized.
        values: What was seen of each group.
        data: Where a few samples for the trials are read.
        samples: How many samples were seen.
        config: The share that `percentile` keeps, and the threads.
    """
    probabilities = _probabilities(graph)
    is_fixed = {group: not probabilities.isdisjoint(group.tensors) for group in values}
    choices = {
        group: chosen_by("max" if is_fixed[group] else "mse", seen, config)
        for group, seen in values.items()
    }
    trials = _trials({g: seen for g, seen in values.items() if not is_fixed[g]}, config)
    batches = _spread(data, samples) if trials else []
    if not batches:
        return choices
    measure = _OutputError(
        SwitchedGraph(graph, plan, tuple(values), threads=config.threads), batches
    )
    return _search(choices, trials, measure)


def _probabilities(graph: Graph) -> frozenset[str]:
    """Tensors that hold a Softmax output, perhaps in another shape."""
    found: set[str] = set()
    for node in graph.nodes:
        is_reshaped = node.op in _SHAPE_OPS and node.inputs[0].name in found
        if node.op == "Softmax" or is_reshaped:
            found.update(output.name for output in node.outputs)
    return frozenset(found)


def _trials(values: Values, config: CalibrationConfig) -> dict[RangeGroup, list[Choice]]:
    """What to try for each group whose calibrators disagree, the greatest disagreement first."""
    proposed = {
        group: [chosen_by(method, seen, config) for method in CALIBRATORS]
        for group, seen in values.items()
        if seen.amax > 0
    }
    spread = {group: _ratio_of_extremes(choices) for group, choices in proposed.items()}
    contested = [group for group in proposed if spread[group] >= _DISAGREEMENT]
    return {group: proposed[group] for group in sorted(contested, key=lambda g: -spread[g])}


def _ratio_of_extremes(choices: list[Choice]) -> float:
    return max(choice.amax for choice in choices) / min(choice.amax for choice in choices)


def _spread(data: Dataset, samples: int) -> list[Batch]:
    """A few samples from all over the first `samples`, in batches as small as the model takes."""
    step = max(samples // _TRIAL_SAMPLES, 1)
    batches = islice(data.batches(1, samples=samples), 0, None, step)
    return list(islice(batches, _TRIAL_SAMPLES))


class _OutputError:
    """How far the outputs are from the float ones, for a choice of ranges.

    The geometric mean over samples of the relative squared error: so that each sample counts, and
    not only the few on which a network reacts by leaps.
    """

    def __init__(self, model: SwitchedGraph, batches: list[Batch]) -> None:
        self._model, self._batches = model, batches
        self._reference = [model(batch.inputs, {}) for batch in batches]
        self.samples = sum(map(len, batches))

    def __call__(self, choices: Choices) -> float:
        amax = {group: choice.amax for group, choice in choices.items()}
        logs = [
            np.log(_relative_error(reference, self._model(batch.inputs, amax)))
            for batch, reference in zip(self._batches, self._reference, strict=True)
        ]
        return float(np.exp(np.mean(logs)))


def _relative_error(reference: list[NDArray[Any]], outputs: list[NDArray[Any]]) -> float:
    """The sum over float outputs of squared error by squared value; above 0."""
    return 1e-12 + sum(
        float(np.square(y - x, dtype=np.float64).sum())
        / max(float(np.square(x, dtype=np.float64).sum()), 1e-30)
        for x, y in zip(reference, outputs, strict=True)
        if x.dtype.kind == "f"
    )


def _search(
    choices: Choices, trials: Mapping[RangeGroup, list[Choice]], measure: _OutputError
) -> Choices:
    """The choices, each replaced by the trial that makes the outputs clearly better."""
    runs = max(_LONGEST_SEARCH // measure.samples, 1)
    best = measure(choices)
    for group, choice in islice(_distinct(choices, trials), runs):
        error = measure({**choices, group: choice})
        if error < best * _GAIN:
            choices, best = {**choices, group: choice}, error
    return choices


def _distinct(
    choices: Choices, trials: Mapping[RangeGroup, list[Choice]]
) -> Iterator[tuple[RangeGroup, Choice]]:
    """The trials that differ from the first choice and from each other."""
    for group, proposed in trials.items():
        tried = [choices[group].amax]
        for choice in proposed:
            if all(max(choice.amax / a, a / choice.amax) >= _ALIKE for a in tried):
                tried.append(choice.amax)
                yield group, choice
