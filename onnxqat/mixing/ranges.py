"""The ranges of a plan in mixed precision: those of its tensors in the plans of one format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxqat.calibration import CalibrationConfig, calibrate
from onnxqat.calibration.groups import RangeGroup, range_groups
from onnxqat.core.calibration import Calibration, TensorRange
from onnxqat.core.plan import QuantPlan
from onnxqat.core.spec import Edge
from onnxqat.data import Dataset
from onnxqat.graph import Graph
from onnxqat.mixing.costs import Quantization


def ranges_for(
    graph: Graph,
    plan: QuantPlan,
    formats: Sequence[Quantization],
    data: Dataset,
    config: CalibrationConfig,
) -> Calibration:
    """A range for every tensor of the plan; what no plan of one format has is calibrated now."""
    known = {
        placement.edge.tensor: found
        for placement in plan.placements
        if (found := _known(plan, placement.edge, formats)) is not None
    }
    missing = tuple(x for x in plan.placements if x.edge.tensor not in known)
    if missing:
        rest = calibrate(graph, QuantPlan(plan.placements), data, config=config)
        known |= {x.edge.tensor: rest.by_tensor[x.edge.tensor] for x in missing}
    ranges = [one for group in range_groups(plan) for one in _together(group, known)]
    return Calibration(tuple(sorted(ranges, key=lambda one: one.tensor)))


def _known(plan: QuantPlan, edge: Edge, formats: Sequence[Quantization]) -> TensorRange | None:
    spec = plan.spec_of(edge)
    for one in formats:
        if edge in one.plan.by_edge and one.plan.spec_of(edge) == spec:
            return one.calibration.by_tensor[edge.tensor]
    return None


def _together(group: RangeGroup, known: dict[str, TensorRange]) -> list[TensorRange]:
    """One range for tensors of one scale, the widest: they may have come from several groups."""
    amax = np.max([known[tensor].amax for tensor in group.tensors], axis=0)
    kept = tuple(float(value) for value in amax)
    return [replace(known[tensor], amax=kept) for tensor in group.tensors]
