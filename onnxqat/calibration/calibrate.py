"""Chooses the range of every tensor that a plan quantizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from onnxqat.calibration.auto import choose
from onnxqat.calibration.calibrators import Choice, chosen_by
from onnxqat.calibration.collect import Progress, collect
from onnxqat.calibration.config import CalibrationConfig
from onnxqat.calibration.groups import Constants, RangeGroup, constants_of, range_groups, together
from onnxqat.calibration.histogram import TensorStatistics
from onnxqat.calibration.statistics import Statistics
from onnxqat.calibration.weight_search import search_weights
from onnxqat.calibration.weights import weight_amax
from onnxqat.core.calibration import SCALE_FLOOR, Calibration, TensorRange
from onnxqat.core.errors import DataError
from onnxqat.core.plan import QuantPlan
from onnxqat.data import Batch, Dataset
from onnxqat.graph import Graph

_DEFAULTS = CalibrationConfig()

_TRIAL_SAMPLES = 64
"""Samples on which `auto` tries ranges."""

Floats = NDArray[np.float64]
Values = Mapping[RangeGroup, TensorStatistics]


def calibrate(
    graph: Graph,
    plan: QuantPlan,
    data: Dataset,
    *,
    config: CalibrationConfig = _DEFAULTS,
    statistics: Statistics | None = None,
    on_progress: Progress | None = None,
) -> Calibration:
    """A range for every tensor in the plan; tensors that share a scale get the same one.

    Args:
        graph: The prepared FP32 graph that the plan is for.
        plan: What is quantized.
        data: Samples. Where `statistics` are given, only `auto` reads some of them.
        config: The method, and how much data.
        statistics: What `collect` returned for this graph before.
        on_progress: Called after each batch.

    Raises:
        DataError: The data does not fit the model, or the statistics are of another model.
        PlacementError: The plan does not fit the graph.
    """
    task = _Task(graph, plan, config)
    if statistics is None:
        statistics = task.collected(data, on_progress)
    else:
        statistics.check_model(graph)
    values = task.values(statistics)
    batches = _spread(data, statistics.samples) if config.method == "auto" else []
    ranges = [
        *task.weight_ranges(batches),
        *task.activation_ranges(values, batches, samples=statistics.samples),
    ]
    return Calibration(tuple(sorted(ranges, key=lambda r: r.tensor)))


def _spread(data: Dataset, samples: int) -> list[Batch]:
    """A few samples from all over the first `samples`, in batches as small as the model takes."""
    step = max(samples // _TRIAL_SAMPLES, 1)
    batches = islice(data.batches(1, samples=samples), 0, None, step)
    return list(islice(batches, _TRIAL_SAMPLES))


@dataclass(frozen=True, eq=False)
class _Task:
    """What is to be calibrated, and how."""

    graph: Graph
    plan: QuantPlan
    config: CalibrationConfig

    @cached_property
    def constants(self) -> Constants:
        return constants_of(self.graph)

    @cached_property
    def groups(self) -> tuple[RangeGroup, ...]:
        return range_groups(self.plan)

    def collected(self, data: Dataset, on_progress: Progress | None) -> Statistics:
        """Statistics that serve the method: for `max`, extremes are enough."""
        tensors = {tensor for group in self.groups for tensor in group.tensors}
        return collect(
            self.graph,
            sorted(tensors - set(self.constants)),
            data,
            config=self.config,
            histograms=self.config.method != "max",
            on_progress=on_progress,
        )

    def values(self, statistics: Statistics) -> Values:
        """What was seen of each group of activations."""
        values = {
            group: together(group, self.constants, statistics.tensors)
            for group in self.groups
            if not group.is_weights(self.constants)
        }
        for group, seen in values.items():
            if self.config.method != "max" and not seen.has_histogram:
                raise DataError(
                    "of this tensor only extremes were collected, which serve max alone",
                    tensor=group.tensors[0],
                    fix="collect statistics with histograms",
                )
        return values

    def weight_ranges(self, batches: Sequence[Batch]) -> Iterable[TensorRange]:
        """By search where there are batches to search with, else by the weights alone."""
        searched = search_weights(
            self.graph, self.plan, self.constants, batches, threads=self.config.threads
        )
        samples = sum(map(len, batches))
        for group in self.groups:
            if group in searched:
                yield from _ranges(group, searched[group], method="search", samples=samples)
            elif group.is_weights(self.constants):
                weights = [self.constants[tensor] for tensor in group.tensors]
                amax, methods = zip(*(weight_amax(w, group.spec) for w in weights), strict=True)
                yield from _ranges(group, np.max(amax, axis=0), method=methods[0], samples=0)

    def activation_ranges(
        self, values: Values, batches: Sequence[Batch], *, samples: int
    ) -> Iterable[TensorRange]:
        """By the method of the config."""
        for group, choice in self._choices(values, batches).items():
            amax = np.array([choice.amax])
            yield from _ranges(group, amax, method=choice.method, samples=samples)

    def _choices(self, values: Values, batches: Sequence[Batch]) -> Mapping[RangeGroup, Choice]:
        if self.config.method == "auto":
            return choose(self.graph, self.plan, values, batches, config=self.config)
        method = self.config.method
        return {
            group: chosen_by(method, seen, self.config, dtype=group.spec.dtype)
            for group, seen in values.items()
        }


def _ranges(group: RangeGroup, amax: Floats, *, method: str, samples: int) -> Iterable[TensorRange]:
    """One entry a tensor, not below what the smallest scale stands for."""
    kept = tuple(np.maximum(amax, SCALE_FLOOR * group.spec.dtype.qmax).tolist())
    return [TensorRange(tensor, kept, method, samples) for tensor in group.tensors]
