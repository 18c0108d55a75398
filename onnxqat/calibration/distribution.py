"""What quantizers meet on data: a histogram of each tensor with its clip point."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log10

import numpy as np

from onnxqat.calibration.collect import observe
from onnxqat.calibration.error import quantization_error
from onnxqat.calibration.histogram import TensorStatistics
from onnxqat.core.calibration import Calibration
from onnxqat.core.distribution import Distribution
from onnxqat.core.plan import QuantPlan
from onnxqat.core.spec import PerTensor, QuantDtype
from onnxqat.data import Dataset
from onnxqat.graph import Graph

BINS = 96
"""Bins of a picture: about what a column of text is wide."""
AT_ONCE = 16
"""Tensors observed in one pass over the data: 256 KB of counts each, and their activations."""


def distributions(
    graph: Graph,
    plan: QuantPlan,
    calibration: Calibration,
    data: Dataset,
    *,
    tensors: Sequence[str],
    samples: int,
    batch_size: int = 32,
) -> tuple[Distribution, ...]:
    """The distribution of each of `tensors` that the plan quantizes as a whole, noisiest first.

    Args:
        graph: The graph that computes the tensors: with Q/DQ, the values are those that the
            quantizers meet.
        plan: Tells the tensors' formats.
        calibration: Tells their clip points.
        data: Samples; only the first `samples` are read, `batch_size` at a time.
        tensors: Names of activations; others, and those quantized by channel, are left out.
        samples: How many samples to look at.
        batch_size: Samples a batch.

    Raises:
        DataError: The data makes an activation NaN or infinite.
        ModelError: ONNX Runtime cannot run the model.
    """
    formats = _formats(graph, plan)
    wanted = [name for name in tensors if name in formats and name in calibration.by_tensor]
    found: list[Distribution] = []
    for start in range(0, len(wanted), AT_ONCE):
        batches = data.batches(batch_size, samples=samples)
        for name, seen in observe(graph, wanted[start : start + AT_ONCE], batches).items():
            if seen.values:
                amax = calibration.by_tensor[name].amax[0]
                found.append(distribution_of(name, seen, amax=amax, dtype=formats[name]))
    return tuple(sorted(found, key=lambda entry: (entry.sqnr_db, entry.tensor)))


def _formats(graph: Graph, plan: QuantPlan) -> dict[str, QuantDtype]:
    """The datatype of every activation of the main graph that has one scale."""
    computed = {t.name for t in graph.inputs} | {t.name for n in graph.nodes for t in n.outputs}
    specs = {edge.tensor: plan.spec_of(edge) for edge in plan.by_edge if edge.tensor in computed}
    return {
        name: spec.dtype for name, spec in specs.items() if isinstance(spec.granularity, PerTensor)
    }


def distribution_of(
    name: str, seen: TensorStatistics, *, amax: float, dtype: QuantDtype
) -> Distribution:
    """The distribution of one tensor of which at least one value was seen."""
    noise = float(quantization_error(seen, np.array([amax]), dtype=dtype)[0])
    extent = max(seen.amax, amax)
    below = np.concatenate([[0.0], np.cumsum(seen.counts)])
    edges = seen.edges
    bounds = np.interp(np.linspace(0, extent, BINS + 1), edges, below)
    inside = float(np.interp(amax, edges, below))
    return Distribution(
        tensor=name,
        minimum=seen.minimum,
        maximum=seen.maximum,
        amax=amax,
        qmax=dtype.qmax,
        clipped=max(1 - inside / seen.values, 0.0) if amax < seen.amax else 0.0,
        sqnr_db=10 * log10(_power(seen) / noise) if noise > 0 else inf,
        counts=tuple(int(count) for count in np.diff(np.rint(bounds))),
    )


def _power(seen: TensorStatistics) -> float:
    """The mean of x², each value taken to lie in the middle of its bin; > 0 where noise is."""
    middles = (seen.edges[:-1] + seen.edges[1:]) / 2
    return max(float((seen.counts * middles**2).sum()) / seen.values, 1e-300)
