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

_DOMINANT = 0.3
"""Share of the output error from which on a tensor's range is tried."""
_ENOUGH_GAIN = 0.7
"""A range is taken when it brings the output error below this share of what it was."""
_LADDER = tuple(2 ** (-i / 2) for i in range(1, 9))
"""Ranges tried besides the calibrators' own, relative to the maximum: down to 1/16."""
_TRIAL_SAMPLES = 16
_LONGEST_SEARCH = 64
"""Runs over the trial samples: twice the work of calibrating on 512 samples."""

_SHAPE_OPS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})

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
    choices = {
        group: chosen_by("mse" if probabilities.isdisjoint(group.tensors) else "max", seen, config)
        for group, seen in values.items()
    }
    batches = _spread(data, samples)
    if not (choices and batches):
        return choices
    model = SwitchedGraph(graph, plan, tuple(values), threads=config.threads)
    search = _Search(_OutputError(model, batches), values, config)
    return search.improved(choices)


def _probabilities(graph: Graph) -> frozenset[str]:
    """Tensors that hold a Softmax output, perhaps in another shape."""
    found: set[str] = set()
    for node in graph.nodes:
        is_reshaped = node.op in _SHAPE_OPS and node.inputs[0].name in found
        if node.op == "Softmax" or is_reshaped:
            found.update(output.name for output in node.outputs)
    return frozenset(found)


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
        self.runs = 0

    def __call__(self, choices: Mapping[RangeGroup, Choice]) -> float:
        self.runs += 1
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


class _Search:
    """Finds the tensors that make most of the output error, and better ranges for them."""

    def __init__(self, error: _OutputError, values: Values, config: CalibrationConfig) -> None:
        self._error, self._values, self._config = error, values, config

    def improved(self, choices: Choices) -> Choices:
        """The choices, with another range wherever that makes the outputs clearly better."""
        error = self._error(choices)
        for group in self._dominant(choices, list(choices), threshold=_DOMINANT * error):
            trials = {self._error({**choices, group: c}): c for c in self._proposals(group)}
            least = min(trials)
            if least < _ENOUGH_GAIN * error:
                return self.improved({**choices, group: trials[least]})
        return choices

    def _dominant(
        self, choices: Choices, groups: list[RangeGroup], *, threshold: float
    ) -> Iterator[RangeGroup]:
        """The groups that, quantized alone, still make an error above the threshold."""
        if self._error.runs >= _LONGEST_SEARCH:
            return
        if self._error({group: choices[group] for group in groups}) < threshold:
            return
        if len(groups) == 1:
            yield groups[0]
            return
        middle = len(groups) // 2
        for half in (groups[:middle], groups[middle:]):
            yield from self._dominant(choices, half, threshold=threshold)

    def _proposals(self, group: RangeGroup) -> list[Choice]:
        """Every calibrator's range, and a ladder of ranges below the maximum."""
        seen = self._values[group]
        return [
            *(chosen_by(method, seen, self._config) for method in CALIBRATORS),
            *(Choice(seen.amax * share, "ladder") for share in _LADDER),
        ]
