"""Which nodes of a graph are fake quantizers, and their formats."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onnxqat.bridge.fake_quant import FakeQuantize, along
from onnxqat.core.codec import decode
from onnxqat.core.finding import Finding
from onnxqat.core.module_findings import qdq_as_written
from onnxqat.core.plan import QuantPlan
from onnxqat.core.spec import QuantDtype
from onnxqat.graph import Graph
from onnxqat.graph.graph import all_graphs
from onnxqat.graph.insert import PLAN_KEY
from onnxqat.graph.qdq_pairs import QdqPair, qdq_pairs
from onnxqat.graph.query import constant_value, is_output, producer


@dataclass(frozen=True)
class Format:
    """The codes of a pair: limits and zero point, as the file has them."""

    qmin: int
    qmax: int
    zero_point: int
    is_float8: bool = False


@dataclass(frozen=True)
class Quantizer:
    """One Q/DQ pair that becomes a fake quantizer."""

    pair: QdqPair
    format: Format
    source: gs.Tensor
    """Q's input, or the codes initializer."""
    scale: gs.Constant
    """DQ's."""
    twin_scale: gs.Constant | None = None
    """Q's, where the file keeps the value twice."""

    @property
    def holds_codes(self) -> bool:
        """Whether the file stores codes and no float weights."""
        return self.pair.q_node is None

    def weight(self, scale: Tensor) -> Tensor:
        """The float weight that stored codes stand for."""
        array = _array(self.source).astype(np.float32 if self.format.is_float8 else np.int64)
        codes = torch.from_numpy(array) - self.format.zero_point
        shaped = along(scale.detach(), self.pair.axis, codes.ndim)
        return codes.to(scale.dtype) * shaped


@dataclass(frozen=True)
class Codes:
    """How a float parameter is stored: as the codes of a quantizer, from a zero point."""

    module: FakeQuantize
    zero_point: int
    weight: Tensor
    """As the file says, before any training."""
    scale: Tensor

    def is_unchanged(self, weight: Tensor) -> bool:
        """Whether this weight and the scale are still the file's."""
        scale = self.module.scale.detach().cpu()
        return torch.equal(weight, self.weight) and torch.equal(scale, self.scale)


def quantizers(graph: Graph, stored: Collection[int]) -> dict[str, Quantizer | str]:
    """The pairs of the main graph by the DQ's output: a fake quantizer, or why it cannot be one.

    One wants constant scales > 0, the same for Q and DQ, and one constant zero point for all
    channels, and all constants stored in the source graph. Other pairs run as they stand.
    """
    narrow = narrow_weights(graph)
    makers = {t.name: node for node in graph.nodes for t in node.outputs}
    return {
        pair.output: _why_not_stored(makers[pair.output], stored)
        or _quantizer(graph, makers[pair.output], pair, narrow)
        for pair in qdq_pairs(graph)
    }


def _why_not_stored(dq: gs.Node, stored: Collection[int]) -> str | None:
    """Which constant of a pair cannot be written back."""
    inside = [t for t in dq.inputs[:2] if isinstance(t, gs.Constant) and id(t) not in stored]
    return f"'{inside[0].name}' is a constant of a model-local function" if inside else None


def _as_written(graph: Graph, found: dict[str, Quantizer | str]) -> Iterator[Finding]:
    """What there is to say of the DequantizeLinear nodes that are in no fake quantizer."""
    for inner in all_graphs(graph):
        for dq in (node for node in inner.nodes if node.op == "DequantizeLinear"):
            entry = found.get(dq.outputs[0].name) if inner is graph else "it lies in a subgraph"
            maker = producer(dq.inputs[0])
            made_by = "is a graph input" if maker is None else f"is made by {maker.op}"
            reason = f"'{dq.inputs[0].name}' {made_by}" if entry is None else entry
            if isinstance(reason, str):
                quantized = maker is not None and maker.op == "QuantizeLinear"
                tensor = maker.inputs[0] if maker is not None and quantized else dq.inputs[0]
                yield qdq_as_written(dq.name, tensor.name, reason)


def narrow_weights(graph: Graph) -> frozenset[str]:
    """Names of weights whose 4-bit codes lie in an INT8 initializer, by the plan in the file."""
    text = graph.metadata.get(PLAN_KEY)
    if text is None:
        return frozenset()
    plan = decode(QuantPlan, json.loads(text))
    return frozenset(
        placement.edge.tensor
        for placement in plan.placements
        if plan.spec_of(placement.edge).dtype is QuantDtype.INT4_IN_INT8
    )


def _quantizer(graph: Graph, dq: gs.Node, pair: QdqPair, narrow: frozenset[str]) -> Quantizer | str:
    q = dq.inputs[0].inputs[0] if pair.q_node is not None else None
    scale, zero_point, limits = dq.inputs[1], _zero_point(dq), _limits(pair, narrow)
    reason = _why_not(graph, dq, q) or (f"codes of type {pair.dtype}" if limits is None else None)
    if reason is not None or zero_point is None or limits is None:
        return reason or "the zero points differ from channel to channel, or are computed"
    assert isinstance(scale, gs.Constant)
    source = dq.inputs[0] if q is None else q.inputs[0]
    twin = None if q is None or q.inputs[1] is scale else q.inputs[1]
    kind = Format(*limits, zero_point, is_float8=pair.dtype == _FLOAT8)
    return Quantizer(pair, kind, source, scale, twin)


def _why_not(graph: Graph, dq: gs.Node, q: gs.Node | None) -> str | None:
    """What keeps two nodes from being one fake quantizer."""
    scales = constant_value(dq.inputs[1])
    if scales is None:
        return f"the scale '{dq.inputs[1].name}' is computed in the graph"
    if not (scales > 0).all():
        return f"the scale '{dq.inputs[1].name}' is not positive"
    if any(_is_special(node) for node in (dq, q) if node is not None):
        return "it has blocks, converts to another type, or does not saturate"
    return None if q is None else _why_no_pair(graph, q, dq)


def _why_no_pair(graph: Graph, q: gs.Node, dq: gs.Node) -> str | None:
    """Why Q does not undo DQ exactly, or who else reads the codes."""
    codes = q.outputs[0]
    if q.inputs[1] is not dq.inputs[1] and not np.array_equal(
        _array(q.inputs[1]), _array(dq.inputs[1])
    ):
        return "Q and DQ have different scales"
    if _zero_point(q) != _zero_point(dq):
        return "Q and DQ have different zero points"
    if q.attrs.get("axis", 1) != dq.attrs.get("axis", 1) and _array(dq.inputs[1]).ndim:
        return "Q and DQ have different axes"
    if is_output(graph, codes) or any(node.op != "DequantizeLinear" for node in codes.outputs):
        return "not only DQ reads the codes"
    return None


def _is_special(node: gs.Node) -> bool:
    """Whether a node has blocks of values, computes or returns another type than its scale's, or
    makes NaN of what is too large for FP8.
    """
    return (
        any(node.attrs.get(name) for name in ("block_size", "precision"))
        or (node.op == "DequantizeLinear" and bool(node.attrs.get("output_dtype")))
        or not node.attrs.get("saturate", 1)
    )


def _array(tensor: gs.Tensor) -> NDArray[Any]:
    value = constant_value(tensor)
    return np.empty(0) if value is None else value


def _zero_point(node: gs.Node) -> int | None:
    """The one zero point of all channels; None where they differ or are computed."""
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        return 0
    values = constant_value(node.inputs[2])
    if values is None or values.size == 0:
        return None
    distinct = np.unique(values.astype(np.int64))
    return int(distinct[0]) if len(distinct) == 1 else None


def _limits(pair: QdqPair, narrow: frozenset[str]) -> tuple[int, int] | None:
    if pair.q_node is None and pair.tensor in narrow:
        return QuantDtype.INT4_IN_INT8.qmin, QuantDtype.INT4_IN_INT8.qmax
    return _LIMITS.get(pair.dtype)


_FLOAT8 = "float8_e4m3fn"
"""The FP8 type that TensorRT has; another runs as it is written."""

_LIMITS = {
    _FLOAT8: (QuantDtype.FP8.qmin, QuantDtype.FP8.qmax),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int4": (-8, 7),
    "uint4": (0, 15),
}


class FakeQuantizers:
    """The fake quantizers of a module, and the parameters that they need."""

    def __init__(self, graph: Graph, stored: Collection[int]) -> None:
        """Take the graph, and the ids of the constants that the source graph stores."""
        self.modules: dict[str, FakeQuantize] = {}
        """By quantized tensor's name."""
        self.scales: dict[str, str] = {}
        """Quantized tensor's name -> torch name of its scale parameter."""
        self.codes: dict[str, Codes] = {}
        """Torch name of a weight that the file stores as codes -> how it is stored."""
        self._graph = graph
        found = quantizers(graph, stored)
        self._entries = {k: entry for k, entry in found.items() if isinstance(entry, Quantizer)}
        self.findings = tuple(_as_written(graph, found))
        """The DequantizeLinear nodes that run as they stand."""

    def of(self, node: gs.Node) -> Quantizer | None:
        """The pair of a DequantizeLinear node."""
        return self._entries.get(node.outputs[0].name) if node.outputs else None

    def is_inside(self, node: gs.Node) -> bool:
        """Whether the DQ of a pair stands for this node: its Q, or the Relu before that."""
        readers = node.outputs[0].outputs if node.outputs else []
        if node.op == "QuantizeLinear":
            return bool(readers) and all(self.of(dq) is not None for dq in readers)
        if node.op == "Relu" and len(readers) == 1 and readers[0].op == "QuantizeLinear":
            pairs = [self.of(dq) for dq in readers[0].outputs[0].outputs]
            return any(pair is not None and self.relu_before(pair) is node for pair in pairs)
        return False

    def relu_before(self, entry: Quantizer) -> gs.Node | None:
        """The Relu whose output nothing but this pair reads."""
        made_by = entry.source.inputs
        if not made_by or made_by[0].op != "Relu" or is_output(self._graph, entry.source):
            return None
        readers = entry.source.outputs
        alone = len(readers) == 1 and len(readers[0].outputs[0].outputs) == 1
        return made_by[0] if alone and entry.format.zero_point == 0 else None

    def build(self, entry: Quantizer, scale_name: str, scale: nn.Parameter) -> FakeQuantize:
        """The module of a pair, listed under the name of what it quantizes."""
        offset = entry.format.zero_point
        module = FakeQuantize(
            scale,
            axis=entry.pair.axis,
            qmin=entry.format.qmin - offset,
            qmax=entry.format.qmax - offset,
            is_weight=entry.pair.is_weight,
            is_float8=entry.format.is_float8,
        )
        name = entry.pair.tensor
        if name in self.modules:  # two scales on one tensor: the second goes by its DQ's output
            name = entry.pair.output
        self.modules[name] = module
        self.scales[name] = scale_name
        return module

    def note_codes(self, entry: Quantizer, name: str, module: FakeQuantize) -> None:
        """Keep how the weight of this torch name is stored."""
        scale = module.scale.detach().clone()
        weight = entry.weight(scale)
        self.codes[name] = Codes(module, entry.format.zero_point, weight, scale)
