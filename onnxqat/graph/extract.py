"""Read the plan and the calibration out of a Q/DQ graph: the inverse of `insert`.

Files of other tools are read by their structure. Files of ours also hold the plan and calibration
as JSON, which keep reasons, skips and methods; where the two disagree, the structure is right.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.core.calibration import Calibration, TensorRange, scale_to_amax
from onnxqat.core.codec import decode
from onnxqat.core.errors import ConfigError, ModelError
from onnxqat.core.plan import Placement, QuantPlan, Skip
from onnxqat.core.spec import (
    Edge,
    Granularity,
    PerChannel,
    PerTensor,
    QuantDtype,
    QuantSpec,
    SharedSpec,
)
from onnxqat.graph.graph import Graph, own_tensors
from onnxqat.graph.insert import CALIBRATION_KEY, PLAN_KEY, scale_groups
from onnxqat.graph.qdq_pairs import CODE_TYPES, QdqPair, qdq_pairs
from onnxqat.graph.query import constant_value

EXTRACTED = "extracted"
"""The rule and the method of what the structure of a file alone tells."""

T = TypeVar("T")


def extract(graph: gs.Graph) -> tuple[QuantPlan, Calibration]:
    """The plan and the calibration of a Q/DQ graph; edges name the tensors before quantization.

    Codes that no format of ours has (int32 biases, per-block scales) become skips with a reason. A
    zero point other than zero is read as the symmetric range that keeps all its values.

    Raises:
        ModelError: The file's own plan or calibration entry is damaged.
    """
    found = _Found.in_graph(graph)
    plan = found.plan()
    metadata = graph.metadata if isinstance(graph, Graph) else {}
    stored_plan = _stored(metadata, PLAN_KEY, QuantPlan)
    stored = _stored(metadata, CALIBRATION_KEY, Calibration) or Calibration()
    if stored_plan is not None:
        plan = _reconcile(stored_plan, plan)
    return plan, _calibration(plan, stored, found)


@dataclass(frozen=True)
class _Reading:
    """One pair with the values of its scale and zero point."""

    pair: QdqPair
    scale: NDArray[np.float32] | None
    zero_point: NDArray[Any] | None

    @property
    def problem(self) -> str | None:
        """Why no spec of ours describes the pair; None if one does."""
        if self.scale is None:
            return "the scale is computed at run time"
        if self.pair.dtype == "int32":
            return "int32 codes through DequantizeLinear, as of a bias: TensorRT refuses them"
        if self.dtype is None:
            return f"{self.pair.dtype} codes are in no format that is written here"
        if self.scale.ndim > 1:
            return "per-block scales are in no format that is written here"
        return None

    @property
    def dtype(self) -> QuantDtype | None:
        """The type that the structure shows; None if it is none of ours."""
        if self.pair.dtype == "int4" and self.pair.q_node is None:
            return None  # stored INT4 is TensorRT's way for weights alone, not what is written here
        return CODE_TYPES.get(self.pair.dtype)

    @property
    def spec(self) -> QuantSpec:
        axis = self.pair.axis
        assert self.dtype is not None
        return QuantSpec(self.dtype, PerTensor() if axis is None else PerChannel(axis))

    @property
    def offset(self) -> NDArray[np.float64]:
        """The zero point's distance from the one that makes the codes symmetric."""
        zero = 0 if self.zero_point is None else self.zero_point.astype(np.float64)
        return np.asarray(zero - (128 if self.pair.dtype == "uint8" else 0), np.float64)

    @property
    def reason(self) -> str:
        if not self.offset.any():
            note = "uint8 with zero point 128" if self.pair.dtype == "uint8" else None
        elif self.pair.dtype == "uint8" and (self.offset == -128).all():
            note = "uint8 with zero point 0"
        else:
            note = f"an asymmetric zero point ({self.pair.dtype})"
        if note is None:
            return "Q/DQ read from the file"
        return f"Q/DQ read from the file: {note}, which TensorRT refuses or misreads"

    def amax(self) -> NDArray[np.float64]:
        """The range of symmetric codes that keeps every value these codes can take."""
        assert self.scale is not None
        assert self.dtype is not None
        scale, offset, dtype = self.scale.reshape(-1), self.offset, self.dtype
        if not offset.any():
            return scale_to_amax(scale, dtype)
        largest = np.maximum(dtype.qmax - offset, offset - dtype.qmin)
        return np.asarray(scale.astype(np.float64) * largest, np.float64)


@dataclass(frozen=True)
class _Found:
    """What the structure of a graph says."""

    readings: tuple[_Reading, ...]

    @staticmethod
    def in_graph(graph: gs.Graph) -> _Found:
        constants = {t.name: t for t in own_tensors(graph) if isinstance(t, gs.Constant)}

        def value(name: str | None) -> NDArray[Any] | None:
            return constant_value(constants[name]) if name in constants else None

        pairs = qdq_pairs(graph)
        return _Found(tuple(_Reading(p, value(p.scale), value(p.zero_point)) for p in pairs))

    def plan(self) -> QuantPlan:
        """Placements, and skips for what has no spec, both with the rule `extracted`."""
        placements, skips = [], []
        leaders = self._leaders()
        for reading in self.readings:
            for edge in _source_edges(reading.pair):
                if reading.problem is not None:
                    skips.append(Skip(edge, EXTRACTED, reading.problem))
                    continue
                leader = leaders[reading.pair.scale]
                shared = leader.tensor != edge.tensor
                spec = SharedSpec(leader) if shared else reading.spec
                placements.append(Placement(edge, spec, EXTRACTED, reading.reason))
        return QuantPlan(_by_edge(placements), _by_edge(skips))

    def _leaders(self) -> dict[str, Edge]:
        """Scale -> the first edge that uses it: the others share its scale."""
        leaders: dict[str, Edge] = {}
        for reading in self.readings:
            if reading.problem is None:
                for edge in _source_edges(reading.pair):
                    name = reading.pair.scale
                    leaders[name] = min(leaders.get(name, edge), edge)
        return leaders

    def by_tensor(self) -> dict[str, list[_Reading]]:
        readings: dict[str, list[_Reading]] = {}
        for reading in self.readings:
            if reading.problem is None and reading.pair.consumers:
                readings.setdefault(reading.pair.tensor, []).append(reading)
        return readings


def _source_edges(pair: QdqPair) -> tuple[Edge, ...]:
    """The pair's edges as they are without the pair."""
    return tuple(Edge(pair.tensor, edge.node, edge.index) for edge in pair.consumers)


Decision = TypeVar("Decision", Placement, Skip)


def _by_edge(decisions: Iterable[Decision]) -> tuple[Decision, ...]:
    return tuple(sorted(decisions, key=lambda decision: decision.edge))


def _reconcile(stored: QuantPlan, found: QuantPlan) -> QuantPlan:
    """The stored plan if the structure agrees, else the structure's, with the reasons that fit."""
    if _shape_of(stored) == _shape_of(found):
        return stored
    placements = tuple(_with_reason(placement, stored, found) for placement in found.placements)
    placed = set(found.by_edge)
    known = {skip.edge for skip in found.skips}
    skips = [s for s in stored.skips if s.edge not in placed | known]
    return QuantPlan(placements, _by_edge((*found.skips, *skips)))


def _shape_of(plan: QuantPlan) -> tuple[Any, ...]:
    """What of a plan shows in a file: the types of codes, their granularity, and which tensors
    share a scale.
    """
    formats = {edge: _visible(plan.spec_of(edge)) for edge in plan.by_edge}
    members: dict[str, set[str]] = {}
    for tensor, leader in scale_groups(plan).items():
        members.setdefault(leader, set()).add(tensor)
    return formats, {frozenset(group) for group in members.values()}


def _visible(spec: QuantSpec) -> tuple[str, Granularity]:
    return spec.dtype.container, spec.granularity


def _with_reason(placement: Placement, stored: QuantPlan, found: QuantPlan) -> Placement:
    old = stored.by_edge.get(placement.edge)
    if old is None or _visible(stored.spec_of(old.edge)) != _visible(found.spec_of(old.edge)):
        return placement
    spec = placement.spec
    if isinstance(spec, QuantSpec):
        spec = stored.spec_of(old.edge)
    return replace(old, spec=spec)


def _calibration(plan: QuantPlan, stored: Calibration, found: _Found) -> Calibration:
    """The stored ranges where the scales in the file are still theirs, else what these say."""
    ranges = dict(stored.by_tensor)
    readings = found.by_tensor()
    for tensor, dtype in {edge.tensor: plan.spec_of(edge).dtype for edge in plan.by_edge}.items():
        ranges[tensor] = _range(tensor, readings[tensor], dtype, ranges.get(tensor))
    return Calibration(tuple(ranges[tensor] for tensor in sorted(ranges)))


def _range(
    tensor: str, readings: list[_Reading], dtype: QuantDtype, stored: TensorRange | None
) -> TensorRange:
    if stored is not None:
        expected = Calibration((stored,)).scale_of(tensor, dtype).reshape(-1)
        if all(_same(expected, reading.scale) for reading in readings):
            return stored
    amax = np.max([_amax(reading, dtype) for reading in readings], axis=0)
    return TensorRange(tensor, tuple(float(value) for value in amax), EXTRACTED, 0)


def _amax(reading: _Reading, dtype: QuantDtype) -> NDArray[np.float64]:
    if dtype is not QuantDtype.INT4_IN_INT8 or reading.scale is None:
        return reading.amax()
    return scale_to_amax(reading.scale.reshape(-1), dtype)


def _same(expected: NDArray[np.float32], scale: NDArray[np.float32] | None) -> bool:
    return scale is not None and np.array_equal(expected, scale.reshape(-1))


def _stored(metadata: dict[str, str], key: str, kind: type[T]) -> T | None:
    if key not in metadata:
        return None
    try:
        return decode(kind, json.loads(metadata[key]))
    except (ConfigError, ValueError) as error:
        raise ModelError(
            f"the model's metadata entry '{key}' is damaged: {error}",
            fix="remove the entry: the plan is then read from the Q/DQ nodes alone",
        ) from error
