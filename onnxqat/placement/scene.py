"""The graph as the rules see it: its edges, what they carry, and what is decided so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.core.plan import Placement, Skip
from onnxqat.core.spec import Edge, PerTensor, QuantDtype, QuantFormat, QuantSpec
from onnxqat.graph.query import constant_value, consumers, producer
from onnxqat.placement.choice import chosen_formats, closed_nodes
from onnxqat.placement.config import PlacementConfig
from onnxqat.placement.families import (
    CHOOSES_PART,
    CONVOLUTIONS,
    READS_NO_VALUES,
    VALUE_INPUTS,
    WEIGHTED,
    WITH_SUBGRAPHS,
)

Decision = Placement | Skip


@dataclass(frozen=True)
class Scene:
    """A prepared graph, what the user chose, and what the rules before decided."""

    graph: gs.Graph
    config: PlacementConfig
    decided: Mapping[Edge, Decision] = field(default_factory=dict)

    @cached_property
    def activation(self) -> QuantSpec:
        """The format of a quantized activation: one scale a tensor (L7)."""
        return QuantSpec(self.config.quant_format.activation, PerTensor())

    @cached_property
    def closed(self) -> dict[str, str]:
        """Name -> reason, for each node that the user keeps in float."""
        return closed_nodes(self.graph, self.config)

    @cached_property
    def formats(self) -> dict[str, QuantFormat]:
        """Name -> format, for each node that the user gives one of its own."""
        return chosen_formats(self.graph, self.config)

    def format_of(self, node: gs.Node) -> QuantFormat:
        """The format of a node's operands."""
        return self.formats.get(node.name, self.config.quant_format)

    def activation_on(self, tensor: gs.Tensor) -> QuantSpec:
        """The format of a quantized activation: what those that multiply it ask for.

        A tensor has one format; where they ask for several, it is the one that loses least.
        """
        asked = {
            self.format_of(node).activation
            for node, _ in readers(tensor)
            if node.op in WEIGHTED and node.name not in self.closed
        }
        return QuantSpec(max(asked, key=_PRECISE.index), PerTensor()) if asked else self.activation

    def type_on(self, tensor: gs.Tensor) -> str:
        """The type of a quantized activation, as reasons call it."""
        return _WORDS[self.activation_on(tensor).dtype]

    @cached_property
    def by_name(self) -> dict[str, gs.Node]:
        """The nodes of the main graph, by name."""
        return {node.name: node for node in self.graph.nodes}

    @cached_property
    def outputs(self) -> frozenset[str]:
        """The names of the graph's outputs."""
        return frozenset(output.name for output in self.graph.outputs)

    @cached_property
    def depths(self) -> dict[str, int]:
        """Node -> nodes on the longest way to it from the graph's inputs and constants."""
        depths: dict[str, int] = {}
        pending = list(self.graph.nodes)
        while pending:
            node = pending[-1]
            above = _nodes_above(node)
            unknown = [x for x in above if x.name not in depths]
            if unknown and node.name not in depths:
                pending.extend(unknown)
            else:
                pending.pop()
                depths[node.name] = 1 + max((depths[x.name] for x in above), default=0)
        return depths

    @cached_property
    def has_only_convs_above(self) -> dict[str, bool]:
        """Node -> whether it is a convolution, or nothing but such are the weighted ops nearest
        above it.
        """
        known: dict[str, bool] = {}
        for node in sorted(self.graph.nodes, key=lambda x: self.depths[x.name]):
            if node.op in WEIGHTED:
                known[node.name] = node.op in CONVOLUTIONS
            else:
                known[node.name] = all(known[above.name] for above in _nodes_above(node))
        return known

    def depth(self, tensor: gs.Tensor) -> int:
        """Nodes on the longest way to the tensor; 0 for inputs and constants."""
        node = producer(tensor)
        return 0 if node is None else self.depths[node.name]

    def nodes(self, *ops: str) -> Iterator[gs.Node]:
        """The nodes of these op types in the main graph that the user leaves open."""
        return (x for x in self.graph.nodes if x.op in ops and x.name not in self.closed)

    def edges_on(self, tensor: gs.Tensor) -> tuple[Edge, ...]:
        """The edges of the main graph through which the tensor's values are read, sorted."""
        read = readers(tensor)  # by nodes of subgraphs too, which may have the same names
        return tuple(sorted(edge_at(x, i) for x, i in read if self.by_name.get(x.name) is x))

    def open_edges(self, tensor: gs.Tensor) -> tuple[Edge, ...]:
        """The edges on a tensor that the user leaves open."""
        return tuple(edge for edge in self.edges_on(tensor) if edge.node not in self.closed)

    def is_placed(self, edge: Edge) -> bool:
        """Whether a rule before put Q/DQ on the edge."""
        return isinstance(self.decided.get(edge), Placement)

    def is_quantized(self, tensor: gs.Tensor) -> bool:
        """Whether a rule before put Q/DQ on any edge of the tensor."""
        return any(self.is_placed(edge) for edge in self.edges_on(tensor))

    def is_read_once(self, tensor: gs.Tensor) -> bool:
        """Whether one input of one node is all that reads the tensor's values."""
        return len(readers(tensor)) == 1 and tensor.name not in self.outputs


_PRECISE = (QuantDtype.INT4, QuantDtype.FP8, QuantDtype.INT8)
"""The types of activations, from the one that loses most."""

_WORDS = {
    QuantDtype.INT8: "INT8",
    QuantDtype.FP8: "FP8",
    QuantDtype.INT4: "INT4, a simulation that no TensorRT kernel computes",
}


def readers(tensor: gs.Tensor) -> tuple[tuple[gs.Node, int], ...]:
    """The nodes that read the tensor's values, not its shape alone, each with the input's index."""
    return tuple((node, i) for node, i in consumers(tensor) if node.op not in READS_NO_VALUES)


def edge_at(node: gs.Node, index: int) -> Edge:
    """The edge into input `index` of the node."""
    return Edge(node.inputs[index].name, node.name, index)


def float_edges(node: gs.Node) -> Iterator[Edge]:
    """The edges on which Q/DQ could be asked for: float activations, and the weights of the
    weighted ops. All edges of a node with subgraphs, so that something is said about it.
    """
    for index, tensor in enumerate(node.inputs):
        is_data = is_float(tensor) and (node.op in WEIGHTED or not is_constant(tensor))
        is_wanted = is_data and node.op not in READS_NO_VALUES
        if tensor.name and (is_wanted or node.op in WITH_SUBGRAPHS):
            yield edge_at(node, index)


def is_constant(tensor: gs.Tensor) -> bool:
    """Whether the value is stored in the file."""
    return isinstance(tensor, gs.Constant)


def is_float(tensor: gs.Tensor) -> bool:
    """Whether the tensor holds floating-point numbers; an unknown type is taken for one."""
    return type_name(tensor) in ("float16", "bfloat16", "float32", "float64")


def is_float32(tensor: gs.Tensor) -> bool:
    """Whether float32 scales fit the tensor (L9); an unknown type is taken for float32."""
    return type_name(tensor) == "float32"


def type_name(tensor: gs.Tensor) -> str:
    """The type in words; `other` is what numpy lacks (bfloat16, float8), by ONNX's number alone."""
    if tensor.dtype is None:
        return "float32"
    return "other" if isinstance(tensor.dtype, int) else np.dtype(tensor.dtype).name


def value_inputs(node: gs.Node) -> tuple[gs.Tensor, ...]:
    """The inputs whose values the node copies to its outputs; none if it computes new ones."""
    if node.op not in VALUE_INPUTS or not _copies_values(node):
        return ()
    indices = VALUE_INPUTS[node.op]
    return tuple(node.inputs if indices is None else (node.inputs[i] for i in indices))


def chooses_part(node: gs.Node) -> bool:
    """Whether the result may lack most of the values that it is made of."""
    return node.op in CHOOSES_PART


def _copies_values(node: gs.Node) -> bool:
    """Pad by anything but 0 brings in a value of its own; only nearest Resize chooses values."""
    if node.op == "Resize":
        return bool(node.attrs.get("mode", "nearest") == "nearest")
    if node.op == "Pad" and node.attrs.get("mode", "constant") == "constant":
        return len(node.inputs) < 3 or _is_zero_or_absent(node.inputs[2])
    return True


def _is_zero_or_absent(tensor: gs.Tensor) -> bool:
    return not tensor.name or (is_constant(tensor) and not np.any(constant_value(tensor)))


def _nodes_above(node: gs.Node) -> list[gs.Node]:
    return [above for above in map(producer, node.inputs) if above is not None]
