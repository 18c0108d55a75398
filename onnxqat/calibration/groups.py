"""The sets of tensors that get one range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.calibration.histogram import TensorStatistics
from onnxqat.core.errors import DataError, PlacementError
from onnxqat.core.plan import QuantPlan
from onnxqat.core.spec import PerTensor, QuantSpec
from onnxqat.graph import Graph

Constants = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class RangeGroup:
    """Tensors that get one range, and its format."""

    spec: QuantSpec
    tensors: tuple[str, ...]

    def is_weights(self, constants: Constants) -> bool:
        """Whether all tensors are constants, so that no data is needed."""
        return all(tensor in constants for tensor in self.tensors)


def constants_of(graph: Graph) -> Constants:
    """The graph's constant tensors by name."""
    tensors = graph.tensors().items()
    return {name: tensor.values for name, tensor in tensors if isinstance(tensor, gs.Constant)}


def range_groups(plan: QuantPlan) -> tuple[RangeGroup, ...]:
    """The sets of tensors that get one range: those with a common scale, or a common tensor.

    Raises:
        PlacementError: The plan gives one tensor two formats.
    """
    group_of: dict[str, RangeGroup] = {}
    for leader, tensors in plan.groups.items():
        merged = RangeGroup(plan.spec_of(leader), tensors)
        for met in dict.fromkeys(group_of[tensor] for tensor in tensors if tensor in group_of):
            merged = _merged(merged, met)
        group_of |= dict.fromkeys(merged.tensors, merged)
    return tuple(dict.fromkeys(group_of.values()))


def _merged(one: RangeGroup, other: RangeGroup) -> RangeGroup:
    if one.spec != other.spec:
        raise PlacementError(
            f"the plan gives one tensor two formats, {one.spec} and {other.spec}",
            tensor=min(set(one.tensors) & set(other.tensors)),
            fix="exclude one of its consumers",
        )
    return RangeGroup(one.spec, tuple(sorted({*one.tensors, *other.tensors})))


def together(
    group: RangeGroup, constants: Constants, statistics: Mapping[str, TensorStatistics]
) -> TensorStatistics:
    """The statistics of all values that an activation group's range is for.

    Raises:
        PlacementError: The group is quantized per-channel.
        DataError: There are no statistics of one of its tensors.
    """
    if not isinstance(group.spec.granularity, PerTensor):
        raise PlacementError(
            "the plan quantizes an activation per-channel, which TensorRT does not run in INT8",
            tensor=group.tensors[0],
            fix="quantize activations per-tensor",
        )
    total = TensorStatistics()
    for tensor in group.tensors:
        if tensor in constants:
            total.observe(constants[tensor])
        else:
            total.add(_found(tensor, statistics))
    return total


def _found(tensor: str, statistics: Mapping[str, TensorStatistics]) -> TensorStatistics:
    found = statistics.get(tensor)
    if found is None or found.values == 0:
        raise DataError(
            "there are no statistics of a tensor that the plan quantizes",
            tensor=tensor,
            fix="collect statistics for this plan, from data that reaches the tensor",
        )
    return found
