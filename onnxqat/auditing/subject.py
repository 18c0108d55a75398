"""What is audited, and the questions that several rules ask about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.core.precision import HEAVY_OPS
from onnxqat.graph import Graph
from onnxqat.graph.graph import all_graphs
from onnxqat.graph.qdq_pairs import DEFAULT_AXIS
from onnxqat.graph.query import constant_value, producer

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"

MOVING_OPS = frozenset(
    {"Concat", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Resize"}
    | {"DepthToSpace", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose"}
    | {"Unsqueeze"}
)
"""Operators that only move values, in the forms that networks use them in: TensorRT lets Q and DQ
pass them. Of Concat's inputs the first speaks for all."""


@dataclass(frozen=True)
class Subject:
    """The graph under audit."""

    graph: Graph

    @cached_property
    def nodes(self) -> tuple[gs.Node, ...]:
        """All nodes, those of subgraphs included."""
        return tuple(node for graph in all_graphs(self.graph) for node in graph.nodes)

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


def label(node: gs.Node) -> str:
    """A node's name; its operator and output where it has none."""
    return str(node.name or f"<{node.op} -> {node.outputs[0].name}>")


def input_of(node: gs.Node, index: int) -> gs.Tensor | None:
    """An input of a node; None where it is left out."""
    if index >= len(node.inputs) or node.inputs[index].is_empty():
        return None
    return node.inputs[index]


def value_of(tensor: gs.Tensor | None) -> NDArray[Any] | None:
    """The array of a tensor that is known at build time, also through a Constant node."""
    if tensor is None:
        return None
    source = producer(tensor)
    if source is not None and source.op == "Constant":
        return _constant_node_value(source)
    return constant_value(tensor)


def _constant_node_value(node: gs.Node) -> NDArray[Any] | None:
    for name, value in node.attrs.items():
        if name == "value":
            return np.asarray(value.values if isinstance(value, gs.Constant) else value)
        if name.startswith("value_"):
            return np.asarray(value)
    return None


def is_known_at_build_time(tensor: gs.Tensor) -> bool:
    """Whether nothing that the user feeds goes into a tensor."""
    seen: set[int] = set()
    pending = [tensor]
    while pending:
        current = pending.pop()
        if isinstance(current, gs.Constant) or current.is_empty() or id(current) in seen:
            continue
        seen.add(id(current))
        source = producer(current)
        if source is None:
            return False
        pending.extend(source.inputs)
    return True


def axis_of(node: gs.Node) -> int:
    """The axis of a Q or DQ node, as it stands: it may be negative."""
    return int(node.attrs.get("axis", DEFAULT_AXIS))


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
        if source.op not in MOVING_OPS:
            return
        tensor = input_of(source, 0)


def stored_codes(node: gs.Node) -> gs.Tensor | None:
    """The codes that a DequantizeLinear reads out of the file; None if a node computes them."""
    codes = input_of(node, 0)
    return codes if codes is not None and value_of(codes) is not None else None
