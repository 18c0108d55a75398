"""Chooses the range of every tensor that a plan quantizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.calibration.calibrators import CALIBRATORS, Calibrator, Percentile
from onnxqat.calibration.collect import Progress, collect
from onnxqat.calibration.config import CalibrationConfig
from onnxqat.calibration.histogram import TensorStatistics
from onnxqat.calibration.statistics import Statistics
from onnxqat.calibration.weights import weight_amax
from onnxqat.core.calibration import SCALE_FLOOR, Calibration, TensorRange
from onnxqat.core.errors import DataError, PlacementError
from onnxqat.core.plan import QuantPlan
from onnxqat.core.spec import PerTensor, QuantSpec
from onnxqat.data import Dataset
from onnxqat.graph import Graph

_DEFAULTS = CalibrationConfig()


@dataclass(frozen=True)
class RangeGroup:
    """Tensors that get one range, and its format."""

    spec: QuantSpec
    tensors: tuple[str, ...]


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
        data: Samples; not read where `statistics` are given.
        config: The method, and how much data.
        statistics: What `collect` returned for this graph before.
        on_progress: Called after each batch.

    Raises:
        DataError: The data does not fit the model, or the statistics are of another model.
        PlacementError: The plan does not fit the graph.
    """
    constants = constants_of(graph)
    groups = range_groups(plan)
    wanted = [t for group in groups for t in group.tensors if t not in constants]
    if statistics is None:
        statistics = collect(graph, wanted, data, config=config, on_progress=on_progress)
    else:
        statistics.check_model(graph)
    ranges = [r for group in groups for r in _ranges(group, constants, statistics, config)]
    return Calibration(tuple(sorted(ranges, key=lambda r: r.tensor)))


def constants_of(graph: Graph) -> dict[str, NDArray[np.float32]]:
    """The graph's constant tensors by name."""
    constants: dict[str, NDArray[np.float32]] = {
        name: tensor.values
        for name, tensor in graph.tensors().items()
        if isinstance(tensor, gs.Constant)
    }
    return constants


def range_groups(plan: QuantPlan) -> tuple[RangeGroup, ...]:
    """The sets of tensors that get one range: those with a common scale, or a common tensor.

    Raises:
        PlacementError: The plan gives one tensor two formats.
    """
    groups: list[RangeGroup] = []
    for leader, tensors in plan.groups.items():
        merged = RangeGroup(plan.spec_of(leader), tensors)
        for group in [g for g in groups if set(g.tensors) & set(tensors)]:
            groups.remove(group)
            merged = _merged(merged, group)
        groups.append(merged)
    return tuple(groups)


def _merged(one: RangeGroup, other: RangeGroup) -> RangeGroup:
    if one.spec != other.spec:
        tensor = min(set(one.tensors) & set(other.tensors))
        raise PlacementError(
            f"the plan gives one tensor two formats, {one.spec} and {other.spec}",
            tensor=tensor,
            fix="exclude one of its consumers",
        )
    return RangeGroup(one.spec, tuple(sorted({*one.tensors, *other.tensors})))


def _ranges(
    group: RangeGroup,
    constants: dict[str, NDArray[np.float32]],
    statistics: Statistics,
    config: CalibrationConfig,
) -> Iterable[TensorRange]:
    weights = [constants[tensor] for tensor in group.tensors if tensor in constants]
    if len(weights) == len(group.tensors):
        amax, method = _weights_amax(weights, group.spec)
        samples = 0
    else:
        amax, method = _activation_amax(group, _together(group, constants, statistics), config)
        samples = statistics.samples
    floor = SCALE_FLOOR * group.spec.dtype.qmax
    kept = tuple(np.maximum(amax, floor).tolist())
    return [TensorRange(tensor, kept, method, samples) for tensor in group.tensors]


def _weights_amax(
    weights: Sequence[NDArray[np.float32]], spec: QuantSpec
) -> tuple[NDArray[np.float64], str]:
    chosen = [weight_amax(weight, spec) for weight in weights]
    return np.max([amax for amax, _ in chosen], axis=0), chosen[0][1]


def _together(
    group: RangeGroup, constants: dict[str, NDArray[np.float32]], statistics: Statistics
) -> TensorStatistics:
    """The statistics of all values that the group's range is for."""
    if not isinstance(group.spec.granularity, PerTensor):
        raise PlacementError(
            "the plan quantizes an activation per-channel, which TensorRT does not run in INT8",
            tensor=group.tensors[0],
            fix="quantize activations per-tensor",
        )
    together = TensorStatistics()
    for tensor in group.tensors:
        if tensor in constants:
            together.observe(constants[tensor])
        else:
            together.add(_found(tensor, statistics))
    return together


def _found(tensor: str, statistics: Statistics) -> TensorStatistics:
    found = statistics.tensors.get(tensor)
    if found is None or found.values == 0:
        raise DataError(
            "there are no statistics of a tensor that the plan quantizes",
            tensor=tensor,
            fix="collect statistics for this plan, from data that reaches the tensor",
        )
    return found


def _activation_amax(
    group: RangeGroup, together: TensorStatistics, config: CalibrationConfig
) -> tuple[NDArray[np.float64], str]:
    method = "mse" if config.method == "auto" else config.method
    calibrator: Calibrator = CALIBRATORS[method](together, dtype=group.spec.dtype)
    if isinstance(calibrator, Percentile):
        calibrator.percentile = config.percentile
    return np.array([calibrator.amax()]), method
