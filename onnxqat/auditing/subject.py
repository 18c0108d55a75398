"""What is audited, and the questions that several rules ask about it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.auditing.bare import Wanted, wanted_by_placement
from onnxqat.auditing.config import AuditConfig
from onnxqat.auditing.evidence import NOTHING, Evidence
from onnxqat.auditing.values import input_of, value_of
from onnxqat.core.precision import HEAVY_OPS
from onnxqat.graph import Graph
from onnxqat.graph.graph import all_graphs, is_onnx, subgraphs
from onnxqat.graph.names import Names
from onnxqat.graph.qdq_pairs import DEFAULT_AXIS
from onnxqat.graph.query import consumers, producer

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"

FLOAT16 = 10
"""Its number in onnx.TensorProto.DataType."""

MOVING_OPS = frozenset(
    {"Concat", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Resize"}
    | {"DepthToSpace", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose"}
    | {"Unsqueeze"}
)
"""Operators that only move values, in the forms that networks use them in: TensorRT lets Q and DQ
pass them. Of Concat's inputs the first speaks for all."""


@dataclass(frozen=True, eq=False)
class Subject:
    """The graph under audit, what the user chose, and what was measured."""

    graph: Graph
    config: AuditConfig = field(default_factory=AuditConfig)
    evidence: Evidence = NOTHING

    @cached_property
    def nodes(self) -> tuple[gs.Node, ...]:
        """All nodes, those of subgraphs included."""
        return tuple(node for graph in all_graphs(self.graph) for node in graph.nodes)

    def calls(self, ops: Collection[str]) -> Iterator[gs.Node]:
        """The nodes of some of ONNX's own operators, in the order of the graph."""
        return (node for node in self.nodes if is_onnx(node) and node.op in ops)

    @cached_property
    def quantizers(self) -> tuple[gs.Node, ...]:
        """All QuantizeLinear nodes."""
        return tuple(node for node in self.nodes if node.op == QUANTIZE)

    @cached_property
    def dequantizers(self) -> tuple[gs.Node, ...]:
        """All DequantizeLinear nodes."""
        return tuple(node for node in self.nodes if node.op == DEQUANTIZE)

    def readers(self, index: int) -> Iterator[tuple[gs.Node, gs.Tensor]]:
        """Nodes with their scale (index 1) or zero point (2), one node for each Q/DQ pair.

        That is Q, and DQ too where it stands alone or reads another tensor than its Q.
        """
        for node in (*self.quantizers, *self.dequantizers):
            tensor = input_of(node, index)
            partner = producer(node.inputs[0]) if node.op == DEQUANTIZE else None
            repeats = partner is not None and input_of(partner, index) is tensor
            if tensor is not None and not repeats:
                yield node, tensor

    @cached_property
    def heavy(self) -> tuple[gs.Node, ...]:
        """All nodes that multiply matrices."""
        return tuple(node for node in self.nodes if node.op in HEAVY_OPS)

    @cached_property
    def activations(self) -> tuple[tuple[gs.Node, NDArray[Any]], ...]:
        """Quantizers of tensors that the user's data goes into, with their scales, where known."""
        found = ((node, value_of(input_of(node, 1))) for node in self.quantizers)
        return tuple((n, s) for n, s in found if s is not None and self.is_fed(n.inputs[0]))

    def is_fed(self, tensor: gs.Tensor) -> bool:
        """Whether something that the user feeds goes into a tensor."""
        return id(tensor) in self._fed

    @cached_property
    def _fed(self) -> frozenset[int]:
        """What is downstream of an input, or of a node with subgraphs, whose insides may be."""
        graphs = list(all_graphs(self.graph))
        pending = [tensor for graph in graphs for tensor in graph.inputs]
        pending += [t for node in self.nodes if any(subgraphs(node)) for t in node.outputs]
        seen = {id(tensor) for tensor in pending if not isinstance(tensor, gs.Constant)}
        while pending:
            for node in pending.pop().outputs:
                new = [tensor for tensor in node.outputs if id(tensor) not in seen]
                seen.update(id(tensor) for tensor in new)
                pending.extend(new)
        return frozenset(seen)

    @cached_property
    def outputs(self) -> frozenset[int]:
        """The ids of the tensors that leave a graph, the main one or a nested one."""
        return frozenset(id(t) for graph in all_graphs(self.graph) for t in graph.outputs)

    @cached_property
    def wanted(self) -> Wanted:
        """What placement would do with each edge of the float network in this file."""
        return wanted_by_placement(self.graph, self.config.profile)

    @cached_property
    def names(self) -> Names:
        """Names that are free, for what a repair adds."""
        return Names(self.graph)

    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return int(self.graph.opset or 0)


def axis_of(node: gs.Node) -> int:
    """The axis of a Q or DQ node, as it stands: it may be negative."""
    return int(node.attrs.get("axis", DEFAULT_AXIS))


def dequantizer_of(tensor: gs.Tensor | None) -> gs.Node | None:
    """The DequantizeLinear that makes a tensor, if one does."""
    source = producer(tensor) if tensor is not None else None
    return source if source is not None and source.op == DEQUANTIZE else None


def dequantizer_behind(tensor: gs.Tensor | None) -> gs.Node | None:
    """The DequantizeLinear whose values a tensor holds, moved about but not changed."""
    return next((node for node in _moved_from(tensor) if node.op == DEQUANTIZE), None)


def movers_between(dequantizer: gs.Node, tensor: gs.Tensor) -> list[gs.Node]:
    """The nodes that move a DequantizeLinear's values on their way to a tensor, last first."""
    return [node for node in _moved_from(tensor) if node is not dequantizer]


def _moved_from(tensor: gs.Tensor | None) -> Iterator[gs.Node]:
    """The nodes that moved a tensor's values, last first, and the one that computed them."""
    while tensor is not None and (source := producer(tensor)) is not None:
        yield source
        if source.op not in MOVING_OPS and not is_cast_to_half(source):
            return
        if source.op == "Concat" and not all(map(dequantizer_behind, source.inputs[1:])):
            return  # only a part of the values are a DequantizeLinear's
        tensor = input_of(source, 0)


def is_cast_to_half(node: gs.Node) -> bool:
    """Whether a node casts to float16, as around float32 Q/DQ in a float16 network.

    TensorRT takes such a Cast behind a DQ into its kernel; one to float32 keeps the kernel in
    float. Measured on TensorRT for RTX 1.7.1.
    """
    return bool(node.op == "Cast" and node.attrs.get("to") == FLOAT16)


def quantizers_behind(tensor: gs.Tensor) -> list[gs.Node]:
    """The QuantizeLinear nodes that read a tensor, or its values moved about but not changed."""
    found, pending, seen = [], [tensor], {id(tensor)}
    while pending:
        for node, index in consumers(pending.pop()):
            if node.op == QUANTIZE and index == 0:
                found.append(node)
            elif node.op in MOVING_OPS and (index == 0 or node.op == "Concat"):
                new = [t for t in node.outputs if id(t) not in seen]
                seen.update(id(t) for t in new)
                pending.extend(new)
    return found


def quantizer_of(dequantizer: gs.Node) -> gs.Node | None:
    """The QuantizeLinear right before a DequantizeLinear; None where the file stores the codes."""
    source = producer(dequantizer.inputs[0])
    return source if source is not None and source.op == QUANTIZE else None


def dequantizers_of(quantizer: gs.Node) -> list[gs.Node]:
    """The DequantizeLinear nodes right behind a QuantizeLinear."""
    return [node for node, i in consumers(quantizer.outputs[0]) if node.op == DEQUANTIZE and i == 0]


def stored_codes(node: gs.Node) -> gs.Tensor | None:
    """The codes that a DequantizeLinear reads out of the file; None if a node computes them."""
    codes = input_of(node, 0)
    return codes if codes is not None and value_of(codes) is not None else None


def scalar_scale(node: gs.Node) -> float | None:
    """The one scale of a Q or DQ node; None where it has several, or none that is known."""
    value = value_of(input_of(node, 1))
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None
