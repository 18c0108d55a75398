"""Chooses the range of every tensor that a plan quantizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    constants = constants_of(graph)
    groups = range_groups(plan)
    weights = [group for group in groups if group.is_weights(constants)]
    activations = [group for group in groups if not group.is_weights(constants)]
    if statistics is None:
        wanted = [t for group in activations for t in group.tensors if t not in constants]
        statistics = collect(
            graph,
            wanted,
            data,
            config=config,
            histograms=config.method != "max",
            on_progress=on_progress,
        )
    else:
        statistics.check_model(graph)
    values = {group: together(group, constants, statistics.tensors) for group in activations}
    if config.method != "max":
        _check_histograms(values)
    searched: Mapping[RangeGroup, Floats] = {}
    if config.method == "auto":
        batches = _spread(data, statistics.samples)
        choices = choose(graph, plan, values, batches, config=config)
        searched = search_weights(graph, plan, constants, batches, threads=config.threads)
    else:
        choices = {group: chosen_by(config.method, v, config) for group, v in values.items()}
    ranges = [
        *(r for group in weights for r in _weight_ranges(group, constants, searched)),
        *_activation_ranges(choices, statistics.samples),
    ]
    return Calibration(tuple(sorted(ranges, key=lambda r: r.tensor)))


def _check_histograms(values: Mapping[RangeGroup, TensorStatistics]) -> None:
    for group, seen in values.items():
        if not seen.has_histogram:
            raise DataError(
                "of this tensor only extremes were collected, which serve the method max alone",
                tensor=group.tensors[0],
                fix="collect statistics with histograms",
            )


def _spread(data: Dataset, samples: int) -> list[Batch]:
    """A few samples from all over the first `samples`, in batches as small as the model takes."""
    step = max(samples // _TRIAL_SAMPLES, 1)
    batches = islice(data.batches(1, samples=samples), 0, None, step)
    return list(islice(batches, _TRIAL_SAMPLES))


def _weight_ranges(
    group: RangeGroup, constants: Constants, searched: Mapping[RangeGroup, Floats]
) -> Iterable[TensorRange]:
    if group in searched:
        return _ranges(group, searched[group], method="output", samples=_TRIAL_SAMPLES)
    chosen = [weight_amax(constants[tensor], group.spec) for tensor in group.tensors]
    amax = np.max([amax for amax, _ in chosen], axis=0)
    return _ranges(group, amax, method=chosen[0][1], samples=0)


def _activation_ranges(choices: Mapping[RangeGroup, Choice], samples: int) -> Iterable[TensorRange]:
    for group, choice in choices.items():
        amax = np.array([choice.amax])
        yield from _ranges(group, amax, method=choice.method, samples=samples)


def _ranges(
    group: RangeGroup, amax: NDArray[np.float64], *, method: str, samples: int
) -> Iterable[TensorRange]:
    """One entry a tensor, not below what the smallest scale stands for."""
    kept = tuple(np.maximum(amax, SCALE_FLOOR * group.spec.dtype.qmax).tolist())
    return [TensorRange(tensor, kept, method, samples) for tensor in group.tensors]
