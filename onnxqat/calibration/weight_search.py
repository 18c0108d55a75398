"""Ranges of weights by the error that they make in a node's output.

What a rounding error in a weight does depends on what it is multiplied with: neighbouring pixels
are alike, so errors of one sign add up. The error of the output, over rows x of the input, is
E[((Q(w) - w)·x)²]. It jumps from range to range, as each weight is rounded up or down; among many
ranges near the maximum there is one whose rounding errors nearly cancel. Measured against the
maximum: +4 dB on the logits of MobileNet v1, and +4 to +6 dB with 4-bit weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.calibration.groups import Constants, RangeGroup, range_groups
from onnxqat.calibration.receptive import Rows, sample_rows
from onnxqat.calibration.runtime import TensorReader
from onnxqat.core.calibration import amax_to_scale
from onnxqat.core.plan import QuantPlan
from onnxqat.core.qdq import fake_quantize
from onnxqat.core.spec import Edge, PerChannel, QuantDtype
from onnxqat.data import Batch
from onnxqat.graph import Graph

Floats = NDArray[np.float64]

SHARES = {
    QuantDtype.INT8: np.linspace(0.9, 1.3, 25),
    QuantDtype.INT4_IN_INT8: np.linspace(0.3, 1.15, 86),
    QuantDtype.INT4: np.linspace(0.3, 1.15, 86),
    QuantDtype.FP8: np.linspace(1.0, 2.0, 33),
}
"""Ranges tried, relative to the largest magnitude of a channel. Between one and two times as large
every place of FP8's numbers under the weights occurs, but for the smallest ones."""
ROWS = {
    QuantDtype.INT8: 256,
    QuantDtype.INT4_IN_INT8: 1024,
    QuantDtype.INT4: 1024,
    QuantDtype.FP8: 256,
}
_FEWEST_SHARES = 5
_MOST_PRODUCTS = 20e9
"""Multiplications spent on one node, a second or less. A weight too large for a search within this
gains little from one: many rounding errors cancel by themselves."""
_EVEN = 0.03
"""Weight of the plain squared error beside that of the output: directions of the input that the few
rows do not show count too."""


@dataclass(frozen=True, eq=False)
class _Job:
    """A weight, and the nodes that multiply with it."""

    group: RangeGroup
    weight: NDArray[np.float32]
    nodes: tuple[gs.Node, ...]

    @property
    def matrix(self) -> NDArray[np.float32]:
        """The weight as [output channels, values of a row]."""
        assert isinstance(self.group.spec.granularity, PerChannel)
        first = np.moveaxis(self.weight, self.group.spec.granularity.axis, 0)
        return np.ascontiguousarray(first).reshape(len(first), -1)

    @property
    def shares(self) -> Floats:
        """The ranges to try, as many as the work allows, spread over all of them."""
        shares, rows = SHARES[self.group.spec.dtype], ROWS[self.group.spec.dtype]
        affordable = int(_MOST_PRODUCTS / (rows * max(self.weight.size, 1)))
        if affordable < _FEWEST_SHARES:
            return shares[:0]
        return shares[:: -(-len(shares) // affordable)]


def search_weights(
    graph: Graph,
    plan: QuantPlan,
    constants: Constants,
    batches: Sequence[Batch],
    *,
    threads: int | None = None,
) -> dict[RangeGroup, Floats]:
    """The ranges, [channels], of all weights that a search can be made for.

    Left out are weights that are too large, that share their range with another tensor, or that are
    not the second input of a Conv, Gemm or MatMul.

    Args:
        graph: The FP32 graph.
        plan: What is quantized.
        constants: The graph's constants.
        batches: A few samples.
        threads: Threads of ONNX Runtime.
    """
    jobs = _jobs(graph, plan, constants)
    rows = _read_rows(graph, jobs, batches, threads=threads)
    return {job.group: _least_error(job, rows[job]) for job in jobs if job in rows}


def _jobs(graph: Graph, plan: QuantPlan, constants: Constants) -> list[_Job]:
    nodes = {node.name: node for node in graph.nodes}
    edges: dict[str, list[Edge]] = {}
    for placement in plan.placements:
        edges.setdefault(placement.edge.tensor, []).append(placement.edge)
    jobs = []
    for group in range_groups(plan):
        if not group.is_weights(constants) or len(group.tensors) > 1:
            continue
        weight, readers = constants[group.tensors[0]], edges[group.tensors[0]]
        readers_nodes = tuple(nodes[edge.node] for edge in readers)
        if all(edge.index == 1 for edge in readers) and all(
            _output_axis(node, weight) == group.spec.granularity for node in readers_nodes
        ):
            jobs.append(_Job(group, weight, readers_nodes))
    return [job for job in jobs if len(job.shares)]


def _output_axis(node: gs.Node, weight: NDArray[np.float32]) -> PerChannel | None:
    """The axis of a weight that counts output channels, where rows can be sampled for it."""
    if node.op == "Conv":
        return PerChannel(0)
    if node.op in ("Gemm", "MatMul") and weight.ndim == 2:
        return PerChannel(0 if node.attrs.get("transB", 0) else 1)
    return None


def _read_rows(
    graph: Graph, jobs: Sequence[_Job], batches: Sequence[Batch], *, threads: int | None
) -> dict[_Job, Rows]:
    """Random rows from all batches for each job."""
    if not (jobs and batches):
        return {}
    names = {node.inputs[0].name for job in jobs for node in job.nodes}
    reader = TensorReader(graph, tuple(sorted(names)), threads=threads)
    generator = np.random.default_rng(0)
    rows: dict[_Job, list[Rows]] = {job: [] for job in jobs}
    for batch in batches:
        values = reader(batch.inputs)
        for job in jobs:
            count = -(-ROWS[job.group.spec.dtype] // (len(batches) * len(job.nodes)))
            for node in job.nodes:
                x = values[node.inputs[0].name]
                if x.size:
                    rows[job].append(sample_rows(node, x, count, generator))
    return {job: np.concatenate(parts) for job, parts in rows.items() if parts}


def _least_error(job: _Job, rows: Rows) -> Floats:
    """The range of each channel whose rounding errors do least in the output."""
    matrix, dtype = job.matrix, job.group.spec.dtype
    largest = np.asarray(np.abs(matrix).max(axis=1), np.float64)
    measure = OutputError(rows)
    best, least = largest.copy(), np.full(len(matrix), np.inf)
    for share in job.shares:
        scale = amax_to_scale(largest * share, dtype)
        error = measure(fake_quantize(matrix, scale, dtype=dtype, axis=0) - matrix)
        is_better = error < least
        best[is_better], least[is_better] = (largest * share)[is_better], error[is_better]
    return best


class OutputError:
    """The squared error in each output channel that an error in the weights makes."""

    def __init__(self, rows: Rows, drift: NDArray[np.float32] | None = None) -> None:
        """By rows of the input, and what else is wrong in the output, [rows, groups, channels of a
        group]: an error in the weights may make up for it.
        """
        count, _, values = rows.shape
        if drift is None:
            drift = np.zeros((count, rows.shape[1], 1), np.float32)
        self._drift = drift.transpose(1, 0, 2) / np.float32(np.sqrt(count))
        self._rows = rows.transpose(1, 0, 2) / np.float32(np.sqrt(count))
        self._even = np.float32(_EVEN * np.square(rows).mean())
        # With more rows than values in one, their products with each other are the shorter way.
        turned = self._rows.transpose(0, 2, 1)
        self._gram = turned @ self._rows if values <= count else None
        self._cross = 2 * (turned @ self._drift).transpose(0, 2, 1)
        self._constant = np.square(self._drift).sum(axis=1)

    def __call__(self, error: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shape [channels], for an error [channels, values of a row]."""
        grouped = error.reshape(len(self._rows), -1, error.shape[1])
        if self._gram is not None:
            squares = ((grouped @ self._gram + self._cross) * grouped).sum(axis=2) + self._constant
        else:
            output = self._rows @ grouped.transpose(0, 2, 1) + self._drift
            squares = np.square(output).sum(axis=1)
        total: NDArray[np.float32] = squares + self._even * np.square(grouped).sum(axis=2)
        return total.reshape(-1)
